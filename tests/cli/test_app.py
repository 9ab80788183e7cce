"""The local page compares photos, stores none of them and only accepts connections from this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfplus.cli import app
from sfplus.cli.app import FARS, Comparison, Examination
from sfplus.errors import DependencyError
from sfplus.networks import create
from sfplus.verification.decision import DecisionRule
from sfplus.weights.model_folder import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with 100 scores of each kind."""
    folder = tmp_path_factory.mktemp("app") / "model"
    torch.manual_seed(0)
    verification = {"threshold": 0.25, "accuracy": 0.9, "pairs": "200 pairs of pairs.txt", "protocol": "sphereface"}
    config = {"network": "sphereface4", "feature_size": 4, "width": 0.125, "template": "sphereface-112x96"}
    save_model(folder, create("sphereface4", feature_size=4, width=0.125), config | {"verification": verification})
    scores = np.linspace(-1, 1, 100, dtype=np.float32)
    DecisionRule(np.zeros(8, np.float32), np.sqrt((scores + 1) / 2), scores, verification).save(folder)
    return folder


@pytest.fixture(scope="module")
def comparison(model: Path) -> Comparison:
    return Comparison(str(model), "cpu")


def upload(photo: Path, tmp_path: Path) -> Path:
    """Copy a photo to a new folder, as gradio does."""
    (tmp_path / "upload").mkdir()
    return Path(shutil.copy(photo, tmp_path / "upload"))


def test_a_photo_is_examined_and_deleted(comparison: Comparison, drawn: Path, tmp_path: Path) -> None:
    examination = comparison.examine(str(upload(min(drawn.glob("*/*.jpg")), tmp_path)))
    assert examination.features is not None and examination.features.shape == (8,)
    assert examination.html.count('<img src="data:image/jpeg;base64,') == 2 and "1 face" in examination.html
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("<b>.jpg", b"no photo", "is not a photo in a known format; convert it to JPEG or PNG"),
        ("empty.jpg", b"", "is empty (0 bytes)"),
        ("film.mp4", b"x", "is a video"),
    ],
)
def test_uploads_that_are_not_photos_are_reported_and_deleted(
    name: str, data: bytes, message: str, comparison: Comparison, tmp_path: Path
) -> None:
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / name).write_bytes(data)
    examination = comparison.examine(str(tmp_path / "upload" / name))
    assert message in examination.html and examination.features is None and "<b>" not in examination.html
    assert list(tmp_path.iterdir()) == []


def test_photos_without_a_face_or_with_too_many_pixels_are_reported(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (300, 300), "grey").save(tmp_path / "grey.png")
    assert "No face found" in comparison.examine(str(upload(tmp_path / "grey.png", tmp_path))).html
    monkeypatch.setattr(app, "MAX_PIXELS", 300 * 300 - 1)
    assert "too many pixels" in comparison.examine(str(upload(tmp_path / "grey.png", tmp_path))).html
    assert comparison.examine(None) == Examination("")


def test_two_photos_are_compared_at_the_threshold_and_at_a_far(
    comparison: Comparison, drawn: Path, tmp_path: Path
) -> None:
    photos = sorted(drawn.glob("*/*.jpg"))
    photo = comparison.examine(str(upload(photos[0], tmp_path)))
    names = list(FARS)
    same = comparison.decide(photo, photo, names[0])
    assert "<h2>similarity 1.000: same person</h2>" in same and "<svg" in same and "these photos, 1.000" in same
    assert "1 of 100 pairs of different people are accepted" in comparison.decide(photo, photo, "FAR 1 %")
    assert "cannot resolve a rate below 0.01" in comparison.decide(photo, photo, "FAR 0.1 %")
    assert comparison.decide(photo, None, names[0]) == comparison.decide(photo, Examination(""), names[0]) == ""


def test_a_model_without_a_threshold_gives_the_similarity(untrained_model: Path, drawn: Path, tmp_path: Path) -> None:
    comparison = Comparison(str(untrained_model), "cpu")
    photo = comparison.examine(str(upload(min(drawn.glob("*/*.jpg")), tmp_path)))
    html = comparison.decide(photo, photo, next(iter(FARS)))
    assert not comparison.decides and "<h2>similarity 1.000: the cosine of the features" in html
    assert "has no threshold to decide at" in html and "sfplus calibrate" in html and "<svg" not in html


def test_the_extra_is_named_if_gradio_is_missing(
    model: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(DependencyError, match=r"pip install 'sfplus\[app\]'"):
        app.serve(str(model), "127.0.0.1", 7860, "cpu")
    answer = sfplus("app", "--model", model)
    assert answer.code == 1 and "the page needs gradio, which is missing; install it" in answer.err


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sfplus", "app", "--model", str(model), "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == f"page: http://127.0.0.1:{port} (Ctrl-C stops it)\n"
    yield process, port
    process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_only_serves_this_machine_and_stores_no_photo(
    stop: signal.Signals, server: tuple[subprocess.Popen, int], drawn: Path, tmp_path: Path
) -> None:
    client = pytest.importorskip("gradio_client")
    process, port = server
    (folder,) = tmp_path.glob("sfplus-*")
    page = client.Client(f"http://127.0.0.1:{port}", verbose=False)
    for name, photo in zip(("/first", "/second"), sorted(drawn.glob("*/*.jpg"))[:2], strict=True):
        assert "1 face" in page.predict(client.handle_file(photo), api_name=name)
    decision = page.predict("FAR 1 %", api_name="/decide")
    assert re.search(r"similarity -?\d\.\d{3}: ", decision) and "FAR 0.01: 1 of 100" in decision
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size], "a photo was stored"
    with socket.socket() as outside, pytest.raises(OSError):
        outside.connect(("127.0.0.2", port))  # succeeds if the server listens on all addresses
    large = {"files": ("large.jpg", bytes(app.MAX_BYTES + 1))}
    answer = pytest.importorskip("httpx").post(f"http://127.0.0.1:{port}/gradio_api/upload", files=large)
    assert answer.status_code == 413
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size], "a photo was stored"
    process.send_signal(stop)
    assert process.wait(30) == 130 and not folder.exists()
    assert "stopped" in process.stderr.read()
