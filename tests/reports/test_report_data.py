"""The report.json of another run, which anybody may have changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hostile_files import DELETED, json_paths, with_value

from sfplus.errors import ArtefactError
from sfplus.reports.figures import is_finite
from sfplus.reports.metrics import to_json_value
from sfplus.reports.report_data import ReportData, read_report_data, read_report_summary

GOOD: dict[str, Any] = {
    "dataset": "LFW",
    "results": {
        "Net": {
            "protocol": "sphereface", "accuracy": [1.0, 0.5], "threshold": [0.2, 0.3], "scores": [0.9, 0.1, 0.8, 0.2],
            "same": [True, False, True, False], "fold": [0, 0, 1, 1], "ties": "wrong", "mirrored": None,
            "left": ["a/1", "a/1", "b/1", "b/1"], "right": ["a/2", "b/2", "b/2", "a/2"],
        }
    },
    "models": {"Net": {"label": "Net"}},
    "histories": {"Net": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]},
    "protocols": {"Net": {"sphereface": {"mean": 0.9, "standard_error": 0.01}}},
    "hashes": {"pairs: x": "ab"},
    "published": [{"name": "Net", "accuracy": 0.99, "source": "paper"}],
    "verdicts": ["better"],
    "identification": {
        "Net": {
            "people": 2, "probes": 2, "strangers": 1, "enrolled": 1, "left_out": 0,
            "rows": [
                {"distractors": 0, "rank": {"1": 0.5, "5": 1.0}, "rank_1_interval": None,
                 "tpir_at_fpir": {"0.01": None, "0.1": 0.5}, "megaface": None},
                {"distractors": 9, "rank": {"1": 0.5, "5": 0.5}, "rank_1_interval": {"low": 0.1, "high": 0.9},
                 "tpir_at_fpir": {"0.01": None, "0.1": 0.5}, "megaface": 0.5},
            ],
        }
    },
}  # fmt: skip
_VALUES = ("x", -1, 10**400, 1e308, float("nan"), float("inf"), [], [[]], [None], {"a": {}}, DELETED)


@pytest.mark.slow
@pytest.mark.parametrize("path", list(json_paths(GOOD)), ids=lambda path: ".".join(map(str, path)))
def test_a_changed_value_is_an_error_of_one_line_or_a_valid_value(path: tuple[Any, ...], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    for value in _VALUES:
        file.write_text(json.dumps(with_value(GOOD, path, value)))
        try:
            data = read_report_data(file)
        except ArtefactError as error:
            assert str(error).startswith(f"{file}: is damaged (") and len(str(error)) < 500 + len(str(file))
        else:
            for result in data.results.values():
                assert len(result.result.correct) == len(result.scores)
                assert result.pairs is None or len(result.pairs) == len(result.scores)
            for rates in data.identified.values():
                assert len({len(row.rank) for row in rates.rows}) == 1 and 0 <= rates.figures()["rank_1"] <= 1
            rows = data.histories.get("Net", [])
            assert all(is_finite(number) for row in rows for number in row.values() if number is not None)


@pytest.mark.parametrize(
    "text",
    [b"", b"\0" * 100, b"{", b"[" * 100_000, b"9" * 5000, b'{"results": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"null",
     b'{"results": {"Net": NaN}}', b'{"a": 1}'],
    ids=range(10),
)  # fmt: skip
def test_a_damaged_file_is_an_error_of_one_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(ArtefactError, match=r"is damaged .*; give the report\.json of sfplus verify"):
        read_report_data(tmp_path / "report.json")


def test_a_report_keeps_its_values(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(GOOD | {"more": 1}))
    data = read_report_data(tmp_path / "report.json")
    assert isinstance(data, ReportData) and data.results["Net"].model_dump() == GOOD["results"]["Net"]
    assert data.results["Net"].result.correct.tolist() == [True, True, True, True]
    assert to_json_value(data.identified["Net"].to_json()) == GOOD["identification"]["Net"]
    summary = read_report_summary(tmp_path / "report.json")
    assert summary.verdicts == ["better"] and summary.hashes == {"pairs: x": "ab"}
