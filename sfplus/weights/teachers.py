"""The teachers that a model was distilled from, as its `config.json` states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sfplus.errors import one_line

UNKNOWN = "unknown"
_MAX_TEXT = 200  # characters


def read_teachers(config: Mapping[str, object]) -> list[dict[str, str]]:
    """Return name, SHA-256 and licence of each teacher in a config, which anybody may have written."""
    teachers = config.get("teachers")
    rows = [row for row in teachers if isinstance(row, Mapping)] if isinstance(teachers, list | tuple) else []
    keys = {"name": "a model without a name", "sha256": UNKNOWN, "licence": UNKNOWN}
    return [{key: one_line(row.get(key) or default)[:_MAX_TEXT] for key, default in keys.items()} for row in rows]


def describe_teachers(teachers: Sequence[Mapping[str, str]]) -> str:
    """Return a sentence such as `Distilled from t.onnx (licence: MIT, SHA-256 0123456789ab).`, or an empty text."""
    described = [f"{row['name']} (licence: {row['licence']}, SHA-256 {row['sha256'][:12]})" for row in teachers]
    return f"Distilled from {' and '.join(described)}." if described else ""
