"""A rerun works on new photos only, and gives what a run from nothing gives."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_files import read_parquet
from safetensors.numpy import load_file

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.result_index import ResultIndex
from sfplus.detection import Detector
from sfplus.images import list_photos
from sfplus.io.files import file_digest


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    shutil.copytree(drawn, tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Counts the photos that are detected, the crops that are cut and the crops that are embedded."""
    import sfplus.stages.align
    import sfplus.stages.embed

    counts = dict.fromkeys(("detected", "cut", "embedded"), 0)
    detect, cut, embed = Detector.detect, sfplus.stages.align._cut, sfplus.stages.embed.embed_batches

    def count_detected(self, photos, *rest, **options):
        counts["detected"] += len(photos)
        return detect(self, photos, *rest, **options)

    def count_cut(*arguments):
        counts["cut"] += 1
        return cut(*arguments)

    def count_embedded(*arguments):
        for features in embed(*arguments):
            counts["embedded"] += len(features)
            yield features

    monkeypatch.setattr(Detector, "detect", count_detected)
    monkeypatch.setattr(sfplus.stages.align, "_cut", count_cut)
    monkeypatch.setattr(sfplus.stages.embed, "embed_batches", count_embedded)
    return counts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("person*/*.jpg")}


def test_only_new_photos_are_detected_cut_and_embedded(
    photos: Path,
    untrained_model: Path,
    work: dict[str, int],
    tmp_path: Path,
    sfplus: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("embed", photos, tmp_path / "out", "--model", untrained_model)
    assert sfplus(*words).code == 0
    assert work == {"detected": 12, "cut": 12, "embedded": 12}
    first = next(photos.rglob("*.jpg"))
    shutil.copy(first, photos / "moved.jpg")  # known content under another name
    first.unlink()
    Image.open(photos / "moved.jpg").rotate(3).save(photos / "new.jpg")
    assert sfplus(*words).code == 0
    assert work == {"detected": 13, "cut": 13, "embedded": 13}
    again = load_file(tmp_path / "out/features.safetensors")["features"]
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "empty"))
    assert sfplus(*words).code == 0
    assert work == {"detected": 26, "cut": 26, "embedded": 26}
    np.testing.assert_allclose(again, load_file(tmp_path / "out/features.safetensors")["features"], atol=1e-6)


def test_known_photos_are_not_written_to_the_index_again(
    photos: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, put = list[str](), ResultIndex.put

    def count(index: ResultIndex, results: Iterable[tuple[str, str]]) -> None:
        rows = list(results)
        written.extend(key for key, _ in rows)
        put(index, rows)

    monkeypatch.setattr(ResultIndex, "put", count)
    assert sfplus("detect", photos, tmp_path / "out").code == 0 and len(written) == 12
    Image.open(next(photos.rglob("*.jpg"))).rotate(3).save(photos / "new.jpg")
    (photos / "broken.jpg").write_text("text")
    assert sfplus("detect", photos, tmp_path / "out").code == 1 and len(written) == 13
    assert len(set(written)) == 13


@pytest.mark.slow
def test_crops_and_tables_are_those_of_a_run_from_nothing(
    photos: Path, work: dict[str, int], tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = sorted(photos.rglob("*.jpg"))[5]
    aside = kept.read_bytes()
    kept.unlink()
    assert sfplus("align", photos, tmp_path / "out").code == 0
    kept.write_bytes(aside)
    assert sfplus("align", photos, tmp_path / "out").code == 0
    assert work["detected"] == work["cut"] == 12
    monkeypatch.setenv("SFPLUS_HOME", str(tmp_path / "empty"))
    assert sfplus("align", photos, tmp_path / "fresh").code == 0 and work["detected"] == 24
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    tables = (read_parquet(tmp_path / name / "faces.parquet") for name in ("out", "fresh"))
    first, second = ({key: np.array(column).tolist() for key, column in table.items()} for table in tables)
    assert first == second


@pytest.mark.slow
def test_detections_are_shared_by_commands_recipes_and_choices(
    photos: Path, work: dict[str, int], tmp_path: Path, sfplus: Callable
) -> None:
    assert sfplus("align", photos, tmp_path / "one").code == 0
    assert sfplus("align", photos, tmp_path / "all", "--choose", "all").code == 0
    assert sfplus("detect", photos, tmp_path / "faces").code == 0
    assert work["detected"] == 12
    assert sfplus("detect", photos, tmp_path / "large", "--min-face", "40").code == 0
    assert work["detected"] == 24
    assert sfplus("align", photos, tmp_path / "png", "--format", "png").code == 0
    assert work["detected"] == 24 and len(list((tmp_path / "png").glob("person*/*.png"))) == 12


def test_nothing_is_read_or_fitted_again_for_known_crops(
    photos: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sfplus.stages.align as stage

    read, fitted = list[Path](), list[int]()
    read_photo, fit = stage.read_photo, stage.fit_similarity
    monkeypatch.setattr(stage, "read_photo", lambda path, **options: read.append(path) or read_photo(path, **options))
    monkeypatch.setattr(stage, "fit_similarity", lambda points, *rest: fitted.append(len(points)) or fit(points, *rest))
    assert sfplus("align", photos, tmp_path / "out").code == 0 and len(read) == sum(fitted) == 12
    Image.open(next(photos.rglob("*.jpg"))).rotate(3).save(photos / "new.jpg")
    assert sfplus("align", photos, tmp_path / "out").code == 0
    assert read[12:] == [photos / "new.jpg"] and sum(fitted) == 13


@pytest.mark.slow
def test_known_crops_are_neither_digested_nor_flushed_again(
    photos: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested, flushed = list[Path](), set[int]()
    for module in ("sfplus.artifacts.file_record", "sfplus.stages.embed"):
        monkeypatch.setattr(f"{module}.file_digest", lambda path: digested.append(Path(path)) or file_digest(path))
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    words = ("embed", photos, tmp_path / "out")
    assert sfplus(*words).code == 0
    first = flushed.copy()
    digested.clear()
    flushed.clear()
    known = next(photos.rglob("*.jpg"))
    Image.open(known).rotate(3).save(known.with_name("new.jpg"))
    assert sfplus(*words).code == 0
    assert {path.name for path in digested if path.suffix == ".jpg"} == {"new.jpg"}
    (artefact,) = (tmp_path / "out/.sfplus/cache/align").glob("*/")
    inodes = {path.name: path.stat().st_ino for path in artefact.rglob("*.jpg")}
    assert len(inodes) == 13 and {name for name, inode in inodes.items() if inode in flushed} == {"new.jpg"}
    assert {*inodes.values()} <= first | flushed
    crops = artefact / "crops" / known.parent.relative_to(photos)
    folders = {path for path in (artefact, *artefact.rglob("*/")) if path.stat().st_ino in flushed}
    assert folders == {artefact, artefact / "crops", crops}, "those in which the name of the new crop could be lost"
    assert Artefact.open(artefact).find_damage(all_content=True) == ""
    next(path for path in artefact.rglob("*.jpg") if path.parent != crops).unlink()  # by a power cut
    assert sfplus(*words).code == 0 and Artefact.open(artefact).find_damage(all_content=True) == ""


@pytest.mark.slow
def test_on_a_disk_without_links_known_crops_are_copied_and_flushed(
    photos: Path, work: dict[str, int], tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    flushed = set[int]()
    monkeypatch.setattr(os, "link", link)
    assert sfplus("align", photos, tmp_path / "out").code == 0
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    Image.open(next(photos.rglob("*.jpg"))).rotate(3).save(photos / "new.jpg")
    assert sfplus("align", photos, tmp_path / "out").code == 0
    (artefact,) = (tmp_path / "out/.sfplus/cache/align").glob("*/")
    assert work["cut"] == len(list(artefact.rglob("*.jpg"))) == 13
    assert {path.stat().st_ino for path in artefact.rglob("*.jpg")} <= flushed
    assert Artefact.open(artefact).find_damage(all_content=True) == ""


def test_photos_are_listed_once_for_all_steps(
    photos: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list[Path]()
    monkeypatch.setattr("sfplus.artifacts.inputs.list_photos", lambda root: listed.append(root) or list_photos(root))
    assert sfplus("align", photos, tmp_path / "out").code == 0 and listed == [photos]


def test_a_photo_that_is_changed_between_two_steps_is_noticed(
    photos: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The landmarks of the old photo would be used for the new one."""
    first = next(photos.rglob("*.jpg"))
    monkeypatch.setattr("sfplus.pipeline.execute.return_freed_memory", lambda: Image.new("RGB", (99, 99)).save(first))
    answer = sfplus("align", photos, tmp_path / "out")
    assert answer.code == 1 and f"{first}: was changed while it was read; run again" in answer.err, answer


def test_torch_is_not_imported_for_unchanged_photos(photos: Path, tmp_path: Path, sfplus: Callable) -> None:
    words = ("embed", photos, tmp_path / "out")
    assert sfplus(*words).code == 0
    code = f"""import sys; from sfplus.__main__ import main
sys.argv = ["sfplus", *{[*map(str, words)]}]
try:
    main()
finally:
    print("torch" in sys.modules)"""
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert again.returncode == 0 and again.stderr.count("fresh") == 3 and again.stdout.endswith("False\n"), again


@pytest.mark.slow
def test_an_older_artefact_is_no_artefact_while_it_is_deleted(
    photos: Path, tmp_path: Path, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed then would leave a complete manifest beside half of the crops."""
    monkeypatch.setattr("sfplus.cli.photo_folders.remove_folder", lambda _: None)
    assert sfplus("align", photos, tmp_path / "out").code == 0
    (first,) = (tmp_path / "out/.sfplus/cache/align").glob("*/")
    next(photos.rglob("*.jpg")).unlink()
    assert sfplus("align", photos, tmp_path / "out").code == 0
    assert (first / "crops").is_dir() and Artefact.open(first) is None


@pytest.mark.slow
def test_crops_that_were_deleted_are_cut_again(
    photos: Path, untrained_model: Path, work: dict[str, int], tmp_path: Path, sfplus: Callable
) -> None:
    words = ("embed", photos, tmp_path / "out", "--model", untrained_model)
    assert sfplus(*words).code == 0
    for stage in ("align", "embed"):
        shutil.rmtree(tmp_path / "out/.sfplus/cache" / stage)
    assert sfplus(*words).code == 0
    assert work == {"detected": 12, "cut": 24, "embedded": 24}
