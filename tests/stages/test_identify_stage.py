"""The stage `identify`: equal to the command, cached by crops and model, in reports and sweeps."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slow_cases import slow
from untrained_models import save_untrained

from sfplus.datasets.portraits import write_portraits
from sfplus.images import list_photos
from sfplus.recipes.load import load_recipe

Sfplus = Callable[..., SimpleNamespace]
STAGES = ("detect", "align", "embed", "identify", "report")


@pytest.fixture
def task(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """People, two folders of distractors, a model and a recipe that identifies."""
    monkeypatch.chdir(tmp_path)
    Path("people").symlink_to(drawn)
    write_portraits(Path("crowd"), 3, 1, seed=7)
    write_portraits(Path("strangers"), 2, 1, seed=8)
    Path("crowd/broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    save_untrained(Path("model"))
    Path("who.yaml").write_text(
        "embed: {model: model}\nidentify: {photos: people, distractors: [crowd, strangers], ranks: [5]}\n"
    )
    return tmp_path


def artefacts() -> dict[str, set[str]]:
    return {stage: {file.parent.name for file in Path("data/cache", stage).glob("*/manifest.json")} for stage in STAGES}


def report(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("data/runs", name, "report.json").read_text())
    return content


@pytest.mark.slow
def test_the_stage_measures_what_the_command_does(task: Path, sfplus: Sfplus) -> None:
    answer = sfplus("run", "who.yaml", "--json", "--device", "cpu")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    (rates,) = report("who")["identification"].values()
    assert rates["left_out"] == 1 and [row["distractors"] for row in rates["rows"]] == [0, 5]
    assert list(rates["rows"][0]["rank"]) == ["1", "5"]
    (identified,) = result["identified"]
    assert identified["rates"] == {f"rank_{k}": rate for k, rate in rates["rows"][-1]["rank"].items()}
    assert (identified["people"], identified["probes"], identified["distractors"]) == (4, 8, 5)

    before = artefacts()
    words = ("--distractors", "crowd", "--distractors", "strangers", "--model", "model", "--device", "cpu")
    answer = sfplus("identify", "people", *words)
    assert answer.code == 0, answer.err
    assert artefacts() == before  # the command uses the features of the recipe
    folder = next(Path("data/runs").glob("identify-*"))
    (command,) = report(folder.name)["identification"].values()
    for row in command["rows"]:
        del row["rank"]["10"]
    assert command == rates
    of_stage = Path(result["artefacts"]["identify/model"], "probes.csv").read_text()
    assert of_stage == (folder / "probes.csv").read_text()
    assert len(list(csv.DictReader(of_stage.splitlines()))) == 8


@pytest.mark.slow
def test_a_second_run_is_fresh_and_a_changed_folder_recomputes_only_its_part(task: Path, sfplus: Sfplus) -> None:
    assert sfplus("run", "who.yaml", "--device", "cpu").code == 0
    first = artefacts()
    assert {stage: len(names) for stage, names in first.items()} == {
        "detect": 3, "align": 3, "embed": 3, "identify": 1, "report": 1,
    }  # fmt: skip
    assert sfplus("run", "who.yaml", "--device", "cpu").code == 0 and artefacts() == first
    rows = json.loads(sfplus("status", "who.yaml", "--json").out)
    assert {row["state"] for row in rows} == {"fresh"} and "identify/model" in [row["stage"] for row in rows]

    write_portraits(Path("strangers"), 3, 1, seed=9)
    states = {row["stage"]: row["state"] for row in json.loads(sfplus("status", "who.yaml", "--json").out)}
    changed = ["detect/distractors-2", "align/distractors-2", "embed/distractors-2/model", "identify/model", "report"]
    assert [name for name, state in states.items() if state == "stale"] == changed
    assert sfplus("run", "who.yaml", "--device", "cpu").code == 0
    assert {stage: len(names - first[stage]) for stage, names in artefacts().items()} == dict.fromkeys(STAGES, 1)

    assert sfplus("run", "who.yaml", "identify.enrol=2", "--device", "cpu").code == 0
    assert {stage: len(names - first[stage]) for stage, names in artefacts().items()} == {
        "detect": 1, "align": 1, "embed": 1, "identify": 2, "report": 2,
    }  # fmt: skip


def test_the_order_of_ranks_and_1_among_them_change_nothing(task: Path) -> None:
    ranks = [load_recipe(Path("who.yaml"), [f"identify.ranks={text}"]).identify for text in ("[5]", "[5,1]", "[1,5]")]
    assert all(settings and settings.ranks == (1, 5) for settings in ranks)


@pytest.mark.slow
def test_reports_show_the_rates_of_each_model(task: Path, tiny: Path, sfplus: Sfplus) -> None:
    """A recipe that verifies and identifies, with a network that it trains and fine-tunes."""
    text = tiny.read_text() + "identify: {photos: people, distractors: [strangers]}\n"
    Path("both.yaml").write_text(text)
    answer = sfplus("run", "both.yaml", "--device", "cpu")
    assert answer.code == 0, answer.err
    content = report("both")
    models = list(content["results"])
    assert len(models) == 2 and list(content["identification"]) == models
    assert "photos of distractors-1: strangers" in content["hashes"]
    page, table = (Path(f"data/runs/both/report.{kind}").read_text() for kind in ("html", "md"))
    assert page.count("8 photos of 4 people are searched") == table.count("8 photos of 4 people are searched") == 2
    for name in models:
        rate = content["identification"][name]["rows"][-1]["rank"]["1"]
        assert f"### {name}\n\n| Distractors | Rank 1 |" in table
        assert f"{name}: rank 1 {100 * rate:.2f} %, rank 5" in answer.out
    assert "identify/finetune" in page

    assert sfplus("run", "who.yaml", "--device", "cpu").code == 0
    answer = sfplus("report", "both", "who", "--out", "combined")
    assert answer.code == 0, answer.err
    combined = json.loads(Path("combined/report.json").read_text())["identification"]
    assert combined == content["identification"] | report("who")["identification"]
    answer = sfplus("report", "who", "--out", "alone")
    assert answer.code == 0 and "<h1>Identification on " in Path("alone/report.html").read_text(), answer.err


@pytest.mark.slow
@pytest.mark.plots
def test_rates_are_outcomes_of_sweeps(task: Path, sfplus: Sfplus) -> None:
    answer = sfplus("sweep", "who.yaml", "identify.enrol=1,2", "identify.ranks=[10,5]", "--device", "cpu")
    assert answer.code == 0 and "[2/2] enrol=2, seed 0: rank 1 " in answer.err, answer.err
    table = json.loads(Path("data/runs/who-sweep/sweep.json").read_text())
    assert table["metric"] == "rank_1"
    rates = {row["label"]: row["metrics"]["rank_1"]["mean"] for row in table["rows"]}
    assert sfplus("run", "who.yaml", "--device", "cpu").code == 0
    (summary,) = report("who")["identification"].values()
    assert rates["enrol=1"] == summary["rows"][-1]["rank"]["1"]
    assert table["rows"][0]["metrics"]["rank_1_megaface"]["mean"] == summary["rows"][-1]["megaface"]
    assert "rank 1, % | rank 5, % | rank 10, %" in Path("data/runs/who-sweep/sweep.md").read_text()


@pytest.mark.slow
@pytest.mark.plots
def test_rates_are_outcomes_of_sweeps_that_verify_too(task: Path, tiny: Path, sfplus: Sfplus) -> None:
    Path("both.yaml").write_text(tiny.read_text() + "identify: {photos: people}\n")
    assert sfplus("sweep", "both.yaml", "finetune.energy.weight=0,1", "--device", "cpu").code == 0
    table = json.loads(Path("data/runs/both-sweep/sweep.json").read_text())
    assert table["metric"] == "accuracy"
    assert all({"accuracy", "rank_1", "rank_10"} <= row["metrics"].keys() for row in table["rows"])


@pytest.mark.slow
def test_the_open_set_rate_is_an_outcome_too(task: Path, drawn: Path, sfplus: Sfplus) -> None:
    """Ten strangers measure the rate at which one of ten of them is taken for somebody."""
    write_portraits(Path("album"), 12, 1, seed=3)
    for photo in list_photos(drawn):
        target = Path("album", f"known-{photo}")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((drawn / photo).read_bytes())
    answer = sfplus("sweep", "who.yaml", "identify.photos=album", "--device", "cpu")
    assert answer.code == 0, answer.err
    (row,) = json.loads(Path("data/runs/who-sweep/sweep.json").read_text())["rows"]
    assert {name for name in row["metrics"] if name.startswith("tpir")} == {"tpir_at_fpir_0.1"}
    assert not {"people", "probes", "strangers", "distractors"} & row["metrics"].keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        slow("identify.photos=nowhere", "nowhere: does not exist"),
        slow("identify.distractors=[crowd,nowhere]", "nowhere: does not exist"),
        ("identify.distractors=[crowd,crowd]", "crowd is given twice"),
        slow("identify.distractors=[people]", "people is given twice"),
        slow("identify.distractors=[empty]", "there is no photo in this folder"),
        ("identify.photos=loose", "these photos are in no person's folder"),
        slow("identify.photos=people/person_000", "these photos are in no person's folder"),
        ("identify.distractors=crowd", "identify.distractors: Input should be a list in brackets, not 'crowd'"),
        slow("identify.ranks=[0]", "a rank is at least 1"),
        ("identify.enrol=3", "no person has more than 3 photos"),
        slow("identify.enroll=3", "identify.enrol"),
        ("detect.choose=all", "identify needs one face per photo"),
        ("embed.model=null", "embed.model is missing"),
    ],
)
def test_bad_input_is_one_line(override: str, message: str, task: Path, sfplus: Sfplus) -> None:
    write_portraits(Path("loose"), 2, 2, seed=1)
    Path("loose/me.jpg").write_bytes(Path("loose", list_photos(Path("loose"))[0]).read_bytes())
    Path("empty").mkdir()
    answer = sfplus("run", "who.yaml", override, "--device", "cpu")
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err, answer.err
    errors = [line for line in answer.err.splitlines() if message in line]
    assert len(errors) == 1
    assert not Path("data/cache/detect").exists()


@pytest.mark.slow
def test_crops_are_not_detected(task: Path, sfplus: Sfplus) -> None:
    assert sfplus("run", "who.yaml", "--device", "cpu").code == 0
    crops = {}
    for manifest in Path("data/cache/align").glob("*/manifest.json"):
        folder = manifest.parent / "crops"
        crops[len(list(folder.rglob("*.jpg")))] = folder
    (identified,) = report("who")["identification"].values()
    answer = sfplus(
        "run", "who.yaml", f"identify.photos={crops[12]}", f"identify.distractors=[{crops[3]},{crops[2]}]",
        "identify.crops=true", "--workspace", "other", "--device", "cpu", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert not Path("other/cache/detect").exists()
    folder = Path(json.loads(answer.out)["artefacts"]["identify/model"])
    assert json.loads((folder / "result.json").read_text()) == identified | {"left_out": 0}
