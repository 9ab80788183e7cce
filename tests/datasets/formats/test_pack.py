from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collection_writers import write_folders

from sfplus.cli.pack import pack
from sfplus.datasets.formats import pack as packed
from sfplus.datasets.formats.pack import Pack
from sfplus.errors import DatasetError

PEOPLE = {"Ben": 3, "Ada": 4, "Cyd": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crops.u8", r"crops\.u8: has 2,870 bytes, not 2,880"),
        ("index.parquet", r"index\.parquet: was changed"),
        ("people.parquet", r"people\.parquet: was changed"),
        ("manifest.json", r"manifest\.json: is damaged"),
    ],
)
def test_truncated_and_missing_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    write_folders(tmp_path / "crops", PEOPLE)
    pack(tmp_path / "crops", tmp_path / "pack")
    path = tmp_path / "pack" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=message):
        Pack(tmp_path / "pack")
    path.unlink()
    with pytest.raises(DatasetError, match=r"is missing; make it again|is not a finished pack"):
        Pack(tmp_path / "pack")


def test_labels_beyond_the_people_are_refused(tmp_path: Path) -> None:
    """The pack was written by hand with correct digests."""
    write_folders(tmp_path / "crops", PEOPLE)
    pack(tmp_path / "crops", tmp_path / "pack")
    manifest = json.loads((tmp_path / "pack" / "manifest.json").read_text())
    index = tmp_path / "pack" / "index.parquet"
    table = pq.read_table(index)
    pq.write_table(table.set_column(1, "label", pa.array([0, 1, 2, 3] * 2)), index)
    manifest["tables"]["index.parquet"] = packed.file_digest(index)
    manifest["content"] = packed.content_digest(manifest["sha256"], manifest["tables"])
    (tmp_path / "pack" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="has labels beyond its 3 people"):
        Pack(tmp_path / "pack")
