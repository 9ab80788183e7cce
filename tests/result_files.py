"""Readers of result files for tests, which check what is in them anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sfplus.io import tables


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Return all columns of a Parquet file as lists."""
    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return columns


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return tables.read_json_lines(path, dict[str, Any])
