"""Check and measure sfplus on a GPU, in one command and under eight minutes: make gpu

It runs the tests marked `gpu`, and the measurements of `gpu_measurements.py`, each in a process of its own. Times are
medians over five rounds in which the ways of doing the same work take turns. Results go to pipelines/results/gpu/ as
JSON and Markdown. Without a GPU, `--device cpu` tries everything at small sizes and writes to data/gpu.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sfplus.device import choose_device
from sfplus.errors import SfplusError
from sfplus.io.files import write_atomically

ROOT = Path(__file__).parents[2]
KINDS = ("rates", "detection", "alignment", "embedding", "training", "energies", "class_parallel", "image_tasks")
SECONDS = {"tests": 90, "training": 120, "alignment": 20}  # limits on a GPU, eight minutes in all
OTHER_SECONDS, CPU_SECONDS = 40, 600
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check and measure sfplus on a GPU.")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, or cpu to try the suite at small sizes")
    parser.add_argument("--out", type=Path, help="folder of the results; default pipelines/results/gpu")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except SfplusError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    if not device.is_cuda and options.device != "cpu":
        print("gpu: this machine has no GPU that torch can use; try the suite with DEVICE=cpu", file=sys.stderr)
        return 2
    out = options.out or ROOT / ("pipelines/results/gpu" if device.is_cuda else "data/gpu")
    started = time.monotonic()
    report: Row = {"machine": describe_machine(device), "tests": run_tests(device), "figures": {}, "failures": {}}
    for kind in KINDS:
        rows, failure = measure(kind, device)
        report["figures"][kind] = rows
        if failure:
            report["failures"][kind] = failure
    report["seconds"] = round(time.monotonic() - started)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "gpu.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(out / "README.md", render(report).encode())
    print(f"\n{render(report)}\n{out / 'README.md'}")
    return 1 if report["failures"] or report["tests"]["failed"] else 0


def describe_machine(device: Any) -> Row:
    machine = {"device": device.describe(), "quick": not device.is_cuda, "torch": torch.__version__}
    machine |= {"python": platform.python_version(), "processors": os.cpu_count()}
    if device.is_cuda:
        properties = torch.cuda.get_device_properties(device.torch)
        machine |= {"memory_gb": round(properties.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        machine |= {"capability": f"{properties.major}.{properties.minor}"}
    return machine


def run_tests(device: Any) -> Row:
    """Run the tests marked `gpu`; without a GPU they are only collected, and skipped with their reason."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests")]
    output, failure = start("tests", command, device)
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if failure and not failed:
        failed = [failure]
    return {"summary": last.strip("= "), "failed": failed}


def measure(kind: str, device: Any) -> tuple[list[Row], str]:
    """Return the figures of one kind of work, and the reason if it failed."""
    size = "full" if device.is_cuda else "quick"
    script = str(Path(__file__).with_name("gpu_measurements.py"))
    output, failure = start(kind, [sys.executable, script, kind, str(device), size], device)
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return rows, failure


def start(name: str, command: list[str], device: Any) -> tuple[str, str]:
    """Run a command with a limit of time; return what it printed, and why it failed or an empty text."""
    print(f"gpu: {name} ...", flush=True)
    limit = SECONDS.get(name, OTHER_SECONDS) if device.is_cuda else CPU_SECONDS
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return output, f"stopped after {limit} s"
    if process.returncode == 5 and name == "tests":  # pytest: no test was selected
        return output, ""
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return output, "" if process.returncode == 0 else f"exit status {process.returncode}: {last}"


def render(report: Row) -> str:
    """Write the results as Markdown."""
    machine, rows = report["machine"], [row for rows in report["figures"].values() for row in rows]
    products = {
        row["work"].rpartition(", ")[2]: row
        for row in report["figures"].get("rates", ())
        if row["unit"] == "operations"
    }
    lines = ["# sfplus on a GPU", ""]
    if machine["quick"]:
        lines += ["Tried on a CPU at small sizes: the figures say only that everything runs.", ""]
    lines += ["Made by `make gpu` in " + f"{report['seconds']} s; the figures are in `gpu.json`.", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items() if name != "quick"]
    lines += [f"- tests marked `gpu`: {report['tests']['summary']}"]
    lines += [f"  - {line}" for line in report["tests"]["failed"]]
    lines += [f"- **{kind} failed**: {reason}" for kind, reason in report["failures"].items()]
    lines += [
        "",
        "Speed relative to the other way of doing the same, in the same rounds; the share of the rate of this",
    ]
    lines += ["card's matrix products in the same arithmetic; the peak of GPU memory.", ""]
    lines += [
        "| work | speed | relative speed | share of the matrix product | memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        product = products.get(row["rate"]) if row["operations"] else None
        share = ""
        if product:
            share = f"{100 * row['operations'] / row['seconds'] / (product['count'] / product['seconds']):.0f} %"
        ratio = f"{row['ratio']:.2f} x {row['peer']}" if row["ratio"] else ""
        memory = f"{row['peak_mb']:,.0f} MB" if row["peak_mb"] else ""
        lines.append(f"| {row['work']} | {describe_speed(row)} | {ratio} | {share} | {memory} |")
    return "\n".join(lines) + "\n"


def describe_speed(row: Row) -> str:
    speed, unit = row["count"] / row["seconds"], row["unit"]
    if unit == "operations":
        return f"{speed / 1e12:.3g} TFLOP/s"
    if unit == "bytes":
        return f"{speed / 1e9:.3g} GB/s"
    if unit == "pairs":
        return f"{1000 * row['seconds']:.3g} ms"
    return f"{speed:,.0f} {unit}/s ({1000 * row['seconds']:.3g} ms)"


if __name__ == "__main__":
    sys.exit(main())
