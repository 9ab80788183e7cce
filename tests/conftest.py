"""Fixtures of all tests: real photos, small data sets, the command line and small recipes."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the machine
os.environ.setdefault("COLUMNS", "200")  # keeps help and messages on one line
os.environ["SFPLUS_HOME"] = tempfile.mkdtemp(prefix="sfplus-home-")  # tests neither use nor change the user's

import numpy as np
import pytest
from PIL import Image

from sfplus.__main__ import main
from sfplus.datasets import portraits

_homes = itertools.count()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without garbage collection, and leave what they import out of it afterwards.

    Collections look at every object, and the tests with torch are millions that stay: two thirds of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take `device` or `dtype` on every device of the machine, in float32 and in float64."""
    chosen = {name for mark in metafunc.definition.iter_markers("parametrize") for name in _names(mark.args[0])}
    wanted = {"device", "dtype"} & set(metafunc.fixturenames) - chosen
    if not wanted:
        return
    import torch  # not needed by most tests

    if "device" in wanted:
        gpus = [pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)] if torch.cuda.is_available() else []
        metafunc.parametrize("device", [torch.device("cpu"), *gpus], ids=str)
    if "dtype" in wanted:
        metafunc.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def _names(argument: str | list[str]) -> list[str]:
    return [name.strip() for name in argument.split(",")] if isinstance(argument, str) else list(argument)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` on a machine without one."""
    if item.get_closest_marker("gpu"):
        import torch  # not needed by most tests

        if not torch.cuda.is_available():
            pytest.skip("torch finds no GPU on this machine")


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Let torch compute in three threads during the test."""
    import torch  # not needed by most tests

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Let files be written without waiting until the disk has them: no test cuts the power of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a file that is not open is still an error
        yield


@pytest.fixture(scope="session", autouse=True)
def portraits_are_drawn_once() -> Iterator[None]:
    """Draw each portrait once in all tests and recipes that write portraits; those of `draw_portrait` itself draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portraits, "draw_portrait", functools.lru_cache(maxsize=300)(portraits.draw_portrait))
        yield


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a home of its own, so that none finds what another one detected."""
    monkeypatch.setenv("SFPLUS_HOME", f"{os.environ['SFPLUS_HOME']}/{next(_homes)}")


@pytest.fixture(autouse=True)
def own_module_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after each test the folders in which it let sfplus look for modules, and compile none of these to a file.

    Python takes a compiled file for that of a module of the same size and second, which a test may have changed since.
    """
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos, from SFPLUS_SHARED_DATA or next to the checkout; without it the test is skipped."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SFPLUS_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real photos at {folder}; set SFPLUS_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of small images: two classes with four images each for training and two for testing."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("test", 2)):
        for name, shade in (("dark", 60), ("light", 190)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(shade - 40, shade + 40, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@dataclass(frozen=True)
class Answer:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def sfplus(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., Answer]:
    """Run the command line in this process: `sfplus("run", "demo")`.

    All of sfplus runs, but matplotlib leaves the plots empty, whose drawing takes most of the time of a command on a
    few photos. Tests marked `plots` draw them.
    """
    if request.node.get_closest_marker("plots") is None:
        monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda figure, renderer: None)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["sfplus", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Answer(int(stop.value.code or 0), out, err)

    return call


_TINY = """# A recipe for tests.
sample: {people: 8, photos: 4, verify_people: 4, folds: 2, pairs_per_fold: 4}
detect: {min_face: 60, factor: 0.7}
train:
  network: sphereface4
  feature_size: 16
  width: 0.125
  head: {m: 2}
  batch_size: 8
  base_lr: 0.02
  steps: []
  max_iter: 6
  checkpoint_every: 2
  log_every: 2
finetune:
  head: {m: 2, iteration: 2000}
  energy: {power: 1}
  batch_size: 8
  base_lr: 0.01
  steps: []
  max_iter: 4
  checkpoint_every: 2
  log_every: 2
verify: {protocol: sphereface}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small recipe on drawn faces that runs in seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(_TINY)
    return path


@pytest.fixture(scope="session")
def tiny_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe, for a run that several tests share."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    path.write_text(_TINY)
    return path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 4 drawn people with 3 photos each."""
    folder = tmp_path_factory.mktemp("drawn")
    portraits.write_portraits(folder, 4, 3, 0)
    return folder


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights; tests do not change its folder."""
    from untrained_models import save_untrained  # imports torch, which many tests do not need

    folder = tmp_path_factory.mktemp("untrained") / "model"
    save_untrained(folder)
    return folder
