"""The wheel, installed alone in an empty folder: it has all that commands need, from types to recipes and models."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = (
    "sample.people=6", "sample.photos=4", "sample.verify_people=4", "sample.folds=2", "sample.pairs_per_fold=4",
    "train.max_iter=2", "train.steps=[1]", "train.batch_size=4", "finetune.max_iter=1", "finetune.steps=[]",
    "finetune.batch_size=4",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="the wheel is built with hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir")
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(ROOT), *options, str(folder)], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def sfplus(wheel, tmp_path_factory):
    """Run `sfplus` of the installed wheel; the packages that it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, str(wheel)], check=True)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    work = folder / "empty"
    work.mkdir()

    def run(*arguments):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        command = [folder / "env" / "bin" / "sfplus", *arguments]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_has_types_recipes_and_models(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("sfplus/py.typed", "sfplus/_shipped/pipelines/demo.yaml", "sfplus/_shipped/pretrained/zoo.yaml"):
        assert name in names
    files = [path.relative_to(ROOT) for path in (ROOT / "sfplus").rglob("*") if path.is_file()]
    assert {str(file) for file in files if "__pycache__" not in file.parts} <= set(names)  # also templates and styles
    assert not [name for name in names if name.startswith(("tests/", "data/"))]


def test_commands_run_in_an_empty_folder(sfplus, tmp_path):
    answer = sfplus("recipes", "list")
    assert answer.returncode == 0 and "demo" in answer.stdout, answer.stderr
    answer = sfplus("run", "demo", *DEMO)
    assert answer.returncode == 0, answer.stderr
    photos = next((tmp_path.parent.parent).glob("**/empty/data/cache/sample/*/photos"), None)
    assert photos
    answer = sfplus("align", photos, tmp_path / "crops")
    assert answer.returncode == 0 and (tmp_path / "crops" / "faces.parquet").is_file(), answer.stderr
