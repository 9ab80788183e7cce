"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest
from unusual_photos import write_unusual_photos


@pytest.fixture(scope="session")
def unusual_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of all formats and damaged files."""
    folder = tmp_path_factory.mktemp("unusual") / "in"
    write_unusual_photos(folder)
    return folder
