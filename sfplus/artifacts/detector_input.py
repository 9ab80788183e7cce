"""A detector of the zoo as an input of stages: its model counts."""

from __future__ import annotations

import hashlib

from sfplus.artifacts.inputs import UserInput
from sfplus.weights.detector_models import detector_file, read_detector


class DetectorInput(UserInput):
    """A detector of the zoo.

    Args:
        name: The name of the detector.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @property
    def content(self) -> str:
        """SHA-256 of its model.

        Raises:
            UsageError: If it is not fetched.
            WeightsError: If it was changed.
        """
        self.see(detector_file(self._name))
        return hashlib.sha256(read_detector(self._name)).hexdigest()

    def describe(self) -> str:
        """Return the name."""
        return self._name
