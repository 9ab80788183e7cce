"""Public data sets by the folder that recipes expect them in: content, size, licence, and how to get them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

KNOWN_SETS = MappingProxyType(
    {
        "lfw": "LFW, 13,233 photos, 0.2 GB, for research: sfplus lfw data/lfw",
        "casia-webface": "CASIA-WebFace, 494,414 photos of 10,575 people, about 4 GB, for research, on request from "
        "its authors (CASIA)",
        "cifar-10": "CIFAR-10, 0.2 GB: add data.download=true",
        "cifar-100": "CIFAR-100, 0.2 GB: add data.download=true",
        "mnist": "MNIST, 0.01 GB: add data.download=true",
        "imagenet": "ImageNet (ILSVRC2012), 150 GB, for research, after registration at image-net.org",
        "train_photos": "your own photos, a folder for each person",
        "teacher.onnx": "the teacher, any model that sfplus can load",
    }
)
"""Descriptions by name in lower case; data/README.md says more."""


def describe_missing(paths: Iterable[Path]) -> str:
    """Return how to get the public sets that paths belong to; empty if there is none among them."""
    names = [part.lower() for path in paths for part in path.parts if part.lower() in KNOWN_SETS]
    return "; ".join(KNOWN_SETS[name] for name in dict.fromkeys(names))
