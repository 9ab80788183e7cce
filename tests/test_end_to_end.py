"""The whole pipeline on drawn faces: its results, a second run, kill -9 in every stage, Ctrl-C."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sfplus.io.files import digest_json, walk_files

STAGES = ["sample", "detect", "align", "train", "finetune", "embed", "verify", "report"]


def contents(workspace: Path) -> dict[str, str]:
    """Return the content digest of each step."""
    digests = {}
    for step, identity in json.loads((workspace / "runs/tiny/run.json").read_text()).items():
        folder = workspace / "cache" / identity["stage"] / digest_json(identity)[:20]
        digests[step] = json.loads((folder / "manifest.json").read_text())["content"]
    return digests


@pytest.mark.plots
def test_the_whole_pipeline_runs_and_a_second_run_is_fresh(tiny: Path, tmp_path: Path, sfplus: Callable) -> None:
    answer = sfplus("run", tiny, "--workspace", tmp_path / "data", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "device: cpu" in answer.err and answer.err.count("done") == 12
    start, plus = names = ["SphereFace (A-Softmax, m = 2)", "SphereFace+ (m = 2, MHE s = 1, weight 1)"]
    for name in names:
        assert re.search(rf"^{re.escape(name)}: .* \(sphereface protocol, 16 pairs\)$", answer.out, re.MULTILINE)

    report = tmp_path / "data/runs/tiny/report.html"
    assert answer.out.splitlines()[-1] == f"report: {report}"
    page = report.read_text()
    HTMLParser().feed(page)
    assert "These are drawn faces" in page and "SphereFace+" in page and "astronaut" in page and "sfplus run" in page
    report_data = json.loads((tmp_path / "data/runs/tiny/report.json").read_text())
    assert list(report_data["results"]) == [start, plus]
    assert all(len(result["accuracy"]) == 2 for result in report_data["results"].values())
    assert {row["stage"] for row in report_data["stages"]} >= {"detect", "align", "train", "finetune", "verify/train"}
    assert set(report_data["histories"]) == {start, plus}

    for identity in json.loads((tmp_path / "data/runs/tiny/run.json").read_text()).values():
        assert identity["stage"] in STAGES
    for folder in (tmp_path / "data/cache/train").glob("*/"):
        names = set(walk_files(folder))
        assert {"model.safetensors", "config.json", "head.safetensors", "history.jsonl", "manifest.json"} <= names
        assert not any("checkpoint" in name for name in names)

    clock = time.process_time()
    again = sfplus("run", tiny, "--workspace", tmp_path / "data", "--device", "cpu")
    assert again.err.count("fresh") == 12 and "done" not in again.err and time.process_time() - clock < 2
    assert again.out == answer.out

    until = sfplus("run", tiny, "finetune.energy.weight=0", "--until", "finetune", "--workspace", tmp_path / "data")
    assert until.err.count("fresh") == 4 and until.err.count("done") == 1
    status = sfplus("status", tiny, "finetune.energy.weight=0.5", "--workspace", tmp_path / "data").out
    assert "train              fresh" in status and "stale    energy.weight: 0.0 -> 0.5" in status


@pytest.mark.slow
def test_a_trained_model_is_exported_and_compares_two_photos(
    tiny: Path, tmp_path: Path, drawn: Path, sfplus: Callable
) -> None:
    assert sfplus("export", tiny, tmp_path / "model", "--workspace", tmp_path / "data").code == 0
    assert {"model.safetensors", "config.json", "mean.safetensors"} <= set(walk_files(tmp_path / "model"))
    again = sfplus("export", tiny, tmp_path / "model", "--workspace", tmp_path / "data")
    assert again.code == 2 and "already exists" in again.err
    verification = json.loads((tmp_path / "model/config.json").read_text())["verification"]
    assert verification["protocol"] == "sphereface" and -1 <= verification["threshold"] <= 1
    first, second = sorted(drawn.glob("*/*.jpg"))[:2]
    answer = sfplus("compare", first, second, "--model", tmp_path / "model")
    assert answer.code == 0 and "decided at" in answer.out


def command(tiny: Path, workspace: Path) -> list[str]:
    return [sys.executable, "-m", "sfplus", "run", str(tiny), "--workspace", str(workspace), "--device", "cpu"]


@pytest.fixture(scope="module")
def uninterrupted(tiny_once: Path) -> dict[str, str]:
    workspace = tiny_once.with_name("data")
    subprocess.run(command(tiny_once, workspace), check=True, capture_output=True)
    return contents(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_killed_in_any_stage_resumes_to_the_same_artefacts(
    stage: str, tiny: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    workspace = tmp_path / "data"
    process = subprocess.Popen(command(tiny, workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((workspace / "cache" / stage).glob("*.partial")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    if stage in ("detect", "train", "finetune"):
        time.sleep(0.7)  # somewhere in the middle
    process.kill()
    assert process.wait() == -signal.SIGKILL, f"{stage} ended before it could be killed"
    resumed = subprocess.run(command(tiny, workspace), capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert contents(workspace) == uninterrupted
    assert not list((workspace / "cache").glob("*/*.partial"))


INTERRUPT_AFTER_ONE_PART = """
import signal
from sfplus.__main__ import main
from sfplus.artifacts.work_sharing import SharedWork

finish = SharedWork.finish

def finish_and_interrupt(work, *arguments):
    finish(work, *arguments)
    signal.raise_signal(signal.SIGINT)

SharedWork.finish = finish_and_interrupt
main()
"""


@pytest.mark.slow
def test_a_run_that_is_stopped_by_ctrl_c_prints_one_line_and_resumes(
    tiny: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    workspace = tmp_path / "data"
    python, *arguments = command(tiny, workspace)
    interrupting = [python, "-c", INTERRUPT_AFTER_ONE_PART, *arguments[2:]]
    stopped = subprocess.run(interrupting, stderr=subprocess.PIPE, text=True, check=False)
    assert stopped.returncode == 130
    assert "the same command resumes" in stopped.stderr and "Traceback" not in stopped.stderr
    assert list((workspace / "cache/detect").glob("*.parts/*.jsonl"))
    resumed = subprocess.run(command(tiny, workspace), capture_output=True, text=True, check=True)
    assert "continues an interrupted run" in resumed.stderr
    assert contents(workspace) == uninterrupted
