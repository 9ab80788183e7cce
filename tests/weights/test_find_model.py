from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfplus.io.resources import shipped_folder, user_folder
from sfplus.weights.find_model import find_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_folders_shipped_and_fetched_models_are_found(home: Path, tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path
    assert find_model("sphereface10-distilled") == shipped_folder("pretrained") / "sphereface10-distilled"
    (home / "sphereface20").mkdir(parents=True)
    (home / "sphereface20" / "model.safetensors").touch()
    assert find_model("sphereface20") == home / "sphereface20"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sphereface10-distiled", "there is no model 'sphereface10-distiled'; did you mean 'sphereface10-distilled'?"),
        ("sphereface-plus-m4", "get it first: sfplus models fetch sphereface-plus-m4"),
        ("../downloads", "give a folder, a file, package.module:function, hf:owner/name"),
    ],
)
def test_unknown_names_get_a_remedy(name: str, message: str, sfplus: Callable, tmp_path: Path) -> None:
    answer = sfplus("embed", tmp_path, tmp_path.parent / "out", "--model", name)
    assert answer.code == 2 and message in answer.err


def test_a_file_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").touch()
    assert find_model(str(tmp_path / "net.caffemodel")) == tmp_path / "net.caffemodel"


def test_fetched_models_are_kept_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SFPLUS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "sfplus"
