"""Weights on disk: the project's own layout and those of other projects."""

# The files of a model folder; the mean feature of the verification set is subtracted by `sfplus compare`.
MODEL, CONFIG, HEAD, MEAN = "model.safetensors", "config.json", "head.safetensors", "mean.safetensors"
