"""Weights on disk: the project's own layout and those of other projects."""

# The files of a model folder; the mean feature of the verification set is subtracted by `sfplus compare`.
MODEL, CONFIG, HEAD, MEAN = "model.safetensors", "config.json", "head.safetensors", "mean.safetensors"
# The same of a network that is not one of the registry: an ONNX graph instead of weights, or a Caffe file beside them.
ONNX_MODEL, PROTOTXT = "model.onnx", "deploy.prototxt"
WEIGHTS_FILES = (MODEL, ONNX_MODEL)
PEOPLE = "people.txt"  # the person of each class, one per line; it is not pushed to the Hub
FOLDER_FILES = (MODEL, CONFIG, HEAD, ONNX_MODEL, PROTOTXT)  # those that decide features
