"""`sfplus detect` writes tables of faces and photos."""

from collections.abc import Callable
from pathlib import Path

from result_files import read_parquet

Command = Callable[..., object]


def test_detect_writes_tables_of_faces_and_photos(drawn: Path, tmp_path: Path, sfplus: Command) -> None:
    answer = sfplus("detect", drawn, tmp_path / "out")
    assert answer.code == 0 and "in 12 photos" in answer.out
    faces = read_parquet(tmp_path / "out/faces.parquet")
    assert (
        set(faces) == {"photo", "face", "chosen", "reason", "score", "box", "landmarks"}
        and len(faces["landmarks"][0]) == 10
    )
    assert read_parquet(tmp_path / "out/photos.parquet")["width"] == [250] * 12
