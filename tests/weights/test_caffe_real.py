"""The Caffe files of MTCNN's authors, compared with OpenCV's importer and the weights of facenet-pytorch."""

from __future__ import annotations

import itertools
from pathlib import Path

import caffe_torch
import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

from sfplus.images import list_photos, read_photo
from sfplus.weights.caffe import read_caffemodel, write_caffemodel
from sfplus.weights.prototxt import read_prototxt, write_prototxt

NAMES = ["det1", "det2", "det3", "det4"]
REFERENCES = {"det1": PNet, "det2": RNet, "det3": ONet}
SIZES = {"det1": 12, "det2": 24, "det3": 48, "det4": 24}


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "caffe"


@pytest.mark.parametrize("name", NAMES)
def test_blobs_equal_those_that_opencv_reads(name: str, folder: Path) -> None:
    model = read_caffemodel(folder / f"{name}.caffemodel")
    net = cv2.dnn.readNetFromCaffe(str(folder / f"{name}.prototxt"), str(folder / f"{name}.caffemodel"))
    layers = set(net.getLayerNames()) & set(model.blobs)
    described = read_prototxt(folder / f"{name}.prototxt").layer
    assert {layer.name for layer in described if layer.type in ("Convolution", "InnerProduct", "PReLU")} == layers
    for layer in layers:
        for index, blob in enumerate(model.blobs[layer]):
            assert blob.dtype == np.float32 and np.isfinite(blob).all()
            np.testing.assert_array_equal(net.getParam(layer, index).reshape(blob.shape), blob)


@pytest.mark.parametrize("name", REFERENCES)
def test_weights_equal_those_of_facenet_pytorch(name: str, folder: Path) -> None:
    """Caffe gets the transposed image: kernels are transposed, and a flattened C, W, H is W, H, C there."""
    blobs = itertools.chain.from_iterable(read_caffemodel(folder / f"{name}.caffemodel").blobs.values())
    for key, expected in REFERENCES[name]().state_dict().items():
        blob = torch.from_numpy(next(blobs).copy())
        if blob.dim() == 4:
            blob = blob.transpose(2, 3)
        elif blob.dim() == 2 and blob.shape[1] in (576, 1152):
            blob = blob.unflatten(1, (-1, 3, 3)).permute(0, 2, 3, 1).flatten(1)
        assert torch.equal(blob, expected), key


@pytest.mark.parametrize("name", NAMES)
def test_outputs_on_real_photos_agree_with_opencv(name: str, folder: Path, shared_data: Path) -> None:
    root = shared_data / "lfw" / "photos"
    faces = [read_photo(root / photo)[50:200, 50:200] for photo in list_photos(root)[::400]]
    size = SIZES[name]
    data = np.stack([cv2.resize(face, (size, size)) for face in faces]).transpose(0, 3, 1, 2)
    data = (data.astype(np.float32) - 127.5) / 128
    if name == "det4":  # five patches of three channels
        data = np.concatenate([data, -data, data[::-1], data * 0.5, data * 2], axis=1)
    description = read_prototxt(folder / f"{name}.prototxt")
    actual = caffe_torch.run(description, read_caffemodel(folder / f"{name}.caffemodel").blobs, data)
    net = cv2.dnn.readNetFromCaffe(str(folder / f"{name}.prototxt"), str(folder / f"{name}.caffemodel"))
    net.setInput(data)
    names = net.getUnconnectedOutLayersNames()
    for name_of_output, expected in zip(names, net.forward(names), strict=True):
        top = next(layer.top[0] for layer in description.layer if layer.name == name_of_output)
        np.testing.assert_allclose(expected.reshape(actual[top].shape), actual[top].numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_written_files_equal_the_originals(name: str, folder: Path, tmp_path: Path) -> None:
    """They have the same fields, including those that the schema does not list, and OpenCV reads them."""
    binary, text = tmp_path / "x.caffemodel", tmp_path / "x.prototxt"
    model = read_caffemodel(folder / f"{name}.caffemodel")
    write_caffemodel(binary, model)
    again = read_caffemodel(binary)
    assert again.net.SerializeToString() == model.net.SerializeToString() and list(again.blobs) == list(model.blobs)
    for layer, blobs in model.blobs.items():
        for expected, actual in zip(blobs, again.blobs[layer], strict=True):
            assert actual.shape == expected.shape and actual.tobytes() == expected.tobytes()
    assert binary.stat().st_size == (folder / f"{name}.caffemodel").stat().st_size
    write_prototxt(text, read_prototxt(folder / f"{name}.prototxt"))
    assert read_prototxt(text) == read_prototxt(folder / f"{name}.prototxt")
    net = cv2.dnn.readNetFromCaffe(str(text), str(binary))
    first = next(layer for layer in net.getLayerNames() if layer in model.blobs)
    np.testing.assert_array_equal(net.getParam(first, 0), model.blobs[first][0])
