"""The command line as a user meets it: help, misuse, recipes, status."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfplus import __main__ as script

COMMANDS = [
    "run", "train", "finetune", "sweep", "status", "detect", "align", "embed", "verify", "report", "compare", "app",
    "sample", "export", "lfw", "doctor", "recipes", "models",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, sfplus: Callable) -> None:
    answer = sfplus(command, "--help")
    assert answer.code == 0 and "Usage" in answer.out
    assert command in ("recipes", "models") or "Example: sfplus" in answer.out


def test_help_imports_neither_torch_nor_numpy_and_answers_at_once() -> None:
    code = (
        "import sys\nsys.argv = ['sfplus', '--help']\nfrom sfplus.__main__ import main\n"
        "try: main()\nfinally: print(sorted({'torch', 'numpy', 'pydantic', 'cv2'} & set(sys.modules)))"
    )
    clock = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]") and "doctor" in done.stdout and time.monotonic() - clock < 5


def test_importing_sfplus_imports_no_torch() -> None:
    code = "import sys, sfplus; assert 'torch' not in sys.modules; sfplus.Detector; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version(sfplus: Callable) -> None:
    assert sfplus("--version").out.startswith("sfplus 0.")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nope"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "demo", "--nope"], "No such option"),
        (["run", "dmo"], "did you mean 'demo'?"),
        (["run", "demo", "--until", "fly"], "this recipe has no stage 'fly'; its stages: sample, detect"),
        (["run", "demo", "train.netwrk=x"], "train.netwrk=x: unknown key 'train.netwrk'; did you mean 'network'?"),
        (["run", "demo", "--device", "gpu"], "no device is called 'gpu'; use auto, cpu, cuda or cuda:N"),
        (["recipes", "check", "nowhere.yaml"], "there is no such recipe file"),
        (["align", "a", "a/b"], "OUT and IN overlap"),
        (["align", "a", "b", "--template", "x"], "no template is called 'x'"),
        (["embed", ".", "../out", "--model", "nope"], "there is no model 'nope'"),
        (["align", "nowhere", "out"], "nowhere: does not exist"),
        (["verify", ".", "nowhere.txt", "--workspace", "../data"], "nowhere.txt: does not exist"),
        (["sample", "x", "--people", "0"], "--people"),
        (["models", "info", "sphereface21"], "the zoo has no model 'sphereface21'; did you mean 'sphereface20'?"),
        (["embed", "a", "b", "--dtype", "float16"], "float16"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    words: list[str], says: str, sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = sfplus(*words)
    assert answer.code == 2 and says in answer.err, answer
    assert "Traceback" not in answer.err and not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_recipe_that_asks_for_a_missing_gpu_starts_nothing(tiny: Path, sfplus: Callable, tmp_path: Path) -> None:
    answer = sfplus("run", tiny, "--device", "cuda", "--workspace", tmp_path / "data")
    assert answer.code == 2 and "'cuda' does not exist, this machine has no GPU" in answer.err
    assert not (tmp_path / "data").exists()


def test_recipes(sfplus: Callable) -> None:
    assert "demo " in sfplus("recipes", "list").out and "sphereface-plus-m4" in sfplus("recipes", "list").out
    assert sfplus("recipes", "show", "demo").out == Path("pipelines/demo.yaml").read_text()
    answer = sfplus("recipes", "check", "demo")
    assert answer.code == 0 and "sample -> detect/train" in answer.out


def test_status_of_a_recipe_that_was_never_run(tiny: Path, sfplus: Callable, tmp_path: Path) -> None:
    lines = sfplus("status", tiny, "--workspace", tmp_path / "data").out.splitlines()
    assert lines[0].split() == ["sample", "missing"] and len(lines) == 12


def test_status_downloads_nothing(sfplus: Callable, tmp_path: Path) -> None:
    words = ["mhe-imbalance-mnist", f"data.root={tmp_path / 'mnist'}", "data.download=true", "--workspace", tmp_path]
    assert sfplus("status", *words).out.split() == [
        "classify",
        "missing",
        "its",
        "images",
        "are",
        "not",
        "downloaded",
        "yet",
    ]
    assert not (tmp_path / "mnist").exists()


def test_doctor_finds_the_packages_and_what_is_wrong(
    sfplus: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = sfplus("doctor", "--workspace", tmp_path)
    assert answer.code == 0 and f"torch            {torch.__version__.split('+')[0]}" in answer.out
    assert "P-, R- and O-Net load" in answer.out and "wrong" not in answer.out
    monkeypatch.setitem(sys.modules, "facenet_pytorch.models.mtcnn", None)
    answer = sfplus("doctor", "--workspace", tmp_path)
    assert answer.code == 1 and "pip install --no-deps facenet-pytorch" in answer.out


def test_a_sweep_runs_in_one_process(tiny: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = sfplus("sweep", tiny)
    assert answer.code == 2 and "a sweep runs in one process" in answer.err


def test_disk_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "data/x")

    monkeypatch.setattr(script, "app", lambda **_: full())
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1
    assert (
        capsys.readouterr().err
        == "sfplus: data/x: No space left on device; free some space; the same command goes on from here\n"
    )


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "app", lambda **_: stop())
    with pytest.raises(SystemExit) as exit_:
        script.main()
    assert exit_.value.code == 130 and "the same command goes on from here" in capsys.readouterr().err


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script, "app", lambda **_: __import__("no_such_package"))
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1 and "the package 'no_such_package' is missing" in capsys.readouterr().err


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        script.main()


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG])
def test_errors_of_paths_are_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "out/x")

    monkeypatch.setattr(script, "app", lambda **_: fail())
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"sfplus: out/x: {os.strerror(number)}; ")


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "photos", "--out", "file"],
        ["verify", "--features", "f.npz", "--pairs", "p.txt", "--out", "file/out"],
        ["export", "demo", "file/model"],
    ],
)
def test_a_file_is_no_folder_for_results(
    words: list[str], sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("file", "pairs.txt"):
        Path(name).touch()
    answer = sfplus(*words)
    assert answer.code == 2 and "file: is not a folder; choose another one" in answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pairs.txt"]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("nodir/m.yaml", "nodir: there is no such folder; create it first"),
        ("mine", "mine: is not the name of a recipe; end it in .yaml"),
    ],
)
def test_where_recipes_are_copied_to(
    file: str, says: str, sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = sfplus("recipes", "copy", "demo", file)
    assert answer.code == 2 and says in answer.err and not list(tmp_path.iterdir())
    answer = sfplus("recipes", "copy", "demo", "my own.yaml")
    assert answer.code == 0 and answer.out == "change it, then: sfplus run 'my own.yaml'\n"


def test_a_recipe_that_is_no_text(sfplus: Callable, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    answer = sfplus("recipes", "show", tmp_path / "bad.yaml")
    assert answer.code == 2 and "bad.yaml: is not UTF-8" in answer.err
