"""Compare ways to group faces by person: quality on photos of known people, time and memory by number of faces.

    grouping.py                                 drawn features, all methods
    grouping.py compare FEATURES[:OTHER] ...    features as `sfplus embed` writes them; the person is the photo's folder
    grouping.py choose FEATURES[:OTHER] ...     grid of settings on sets made of these, and the best of each method
    grouping.py settings FEATURES[:OTHER] ...   label propagation by number of neighbours and threshold
    grouping.py order FEATURES[:OTHER] ...      label propagation on shuffled photos
    grouping.py scale FEATURES[:OTHER] --faces N   time and memory with N features made from these

The mean feature and the scores of different people are those of `mean.safetensors` if the model has it, else those of
the features in OTHER. Seconds are processor time of one thread; memory is the growth of the peak of a process of its
own. `--seen 2` leaves out people with one photo, `--json FILE` adds the numbers to a file.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import pickle
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grouping_faces import Faces, Rule, development_sets, drawn, load, multiply, select, similarities_of_pairs
from grouping_methods import METHODS, RULES, grid
from racing import peak_memory
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix

from sfplus.people.neighbours import find_neighbours
from sfplus.verification.identification import search

FIRST, MOST_FOR_ALL_PAIRS = next(iter(METHODS)), 25_000


def quality(person: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    (_, wrong), (missed, right) = pair_confusion_matrix(person, labels)
    table = contingency_matrix(person, labels, sparse=True).astype(np.float64)
    squares = table.multiply(table)
    people, groups = np.asarray(table.sum(1)).ravel(), np.asarray(table.sum(0)).ravel()
    b3_precision = float((squares @ (1 / groups)).sum() / len(person))
    b3_recall = float((squares.T @ (1 / people)).sum() / len(person))
    return {
        "precision": float(right / max(right + wrong, 1)),
        "recall": float(right / max(right + missed, 1)),
        "f": float(2 * right / max(2 * right + wrong + missed, 1)),
        "b3_f": 2 * b3_precision * b3_recall / (b3_precision + b3_recall),
        "people": len(groups),
        "seen_twice": int((groups > 1).sum()),
    }


def measure(method: str, faces: Faces, rule: Rule) -> dict[str, float]:
    """Group in a new process; return the quality, processor seconds and the growth of the peak memory in MB."""
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file, multiprocessing.get_context("fork").Pool(1) as pool:
        pickle.dump(faces, file)
        file.flush()
        return pool.apply(_measure, (method, file.name, rule))


def _measure(method: str, file: str, rule: Rule) -> dict[str, float]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    faces: Faces = pickle.loads(Path(file).read_bytes())
    METHODS[method](small(faces), rule)  # loads what the first call loads
    reset_peak()
    before, clock = peak_memory(), time.process_time()
    labels = METHODS[method](faces, rule)
    seconds, megabytes = time.process_time() - clock, peak_memory() - before
    return quality(faces.person, labels) | {"seconds": seconds, "megabytes": megabytes}


def reset_peak() -> None:
    """Return free memory to the system, so that it is not used unseen, and reset the peak (Linux, glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def small(faces: Faces) -> Faces:
    return select(faces, np.arange(min(200, len(faces.person))))


def compare(faces: Faces, methods: list[str]) -> dict[str, dict[str, float]]:
    """Print a row for each method with its fixed rule."""
    counts = np.bincount(faces.person)
    print(f"\n{counts.sum():,} faces of {len(counts):,} people, {(counts > 1).sum():,} with at least two photos")
    print(f"scores of different people {faces.mean:.3f} +- {faces.deviation:.3f}\n")
    print("| | precision | recall | F | B-cubed F | people | with two photos | s | MB |")
    print("| --- " + "| ---: " * 8 + "|")
    results = {}
    for method in methods:
        if method == "average linkage, all pairs" and len(faces.person) > MOST_FOR_ALL_PAIRS:
            continue
        results[method] = row = measure(method, faces, RULES[method])
        shares = " | ".join(f"{row[key]:.4f}" for key in ("precision", "recall", "f", "b3_f"))
        costs = f"{row['seconds']:.2f} | {row['megabytes']:,.0f}"
        print(f"| {method} | {shares} | {row['people']:,} | {row['seen_twice']:,} | {costs} |", flush=True)
    return results


def choose(sets: dict[str, Faces], methods: list[str]) -> dict[str, Any]:
    """Print the best settings of each method: the most precise of those that are nearly the best.

    These are within 0.005 of the best mean over the sets of F and B-cubed F. A person in two groups is repaired by
    giving both the same name, but a group of two people photo by photo.
    """
    results: dict[str, Any] = {}
    for method in methods:
        rows = []
        for rule in grid(method):
            row: dict[str, Any] = {
                name: quality(faces.person, METHODS[method](faces, rule)) for name, faces in sets.items()
            }
            row["mean"] = float(np.mean([[row[name]["f"], row[name]["b3_f"]] for name in sets]))
            row["precision"] = float(np.mean([row[name]["precision"] for name in sets]))
            rows.append({"rule": asdict(rule)} | row)
        best = max(row["mean"] for row in rows)
        rows.sort(key=lambda row: (row["mean"] > best - 0.005, row["precision"], row["mean"]), reverse=True)
        results[method] = rows
        for row in rows[:3]:
            parts = ", ".join(f"{name} {row[name]['f']:.3f} / {row[name]['b3_f']:.3f}" for name in sets)
            print(f"{method}: {row['mean']:.4f}, precision {row['precision']:.3f}, {row['rule']}: {parts}", flush=True)
    return results


def settings(faces: Faces, methods: list[str]) -> dict[str, Any]:
    """Print F and B-cubed F by number of neighbours and threshold."""
    results = {}
    for method in methods:
        print(f"\n| {method}: c | 16 neighbours | 32 | 64 |\n| ---: | ---: | ---: | ---: |")
        for chance in (1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
            rules = [replace(RULES[method], chance=chance, per_face=True, neighbours=size) for size in (16, 32, 64)]
            rows = [quality(faces.person, METHODS[method](faces, rule)) for rule in rules]
            print(
                f"| {chance} | " + " | ".join(f"{row['f']:.4f} / {row['b3_f']:.4f}" for row in rows) + " |", flush=True
            )
            results[f"{method}, c = {chance}"] = rows
    return results


def order(faces: Faces, methods: list[str]) -> dict[str, Any]:
    """Print F on the photos sorted by name, and on those shuffled with five seeds."""
    results = {}
    for method in methods:
        sets = [faces]
        sets += [select(faces, np.random.default_rng(seed).permutation(len(faces.person))) for seed in range(5)]
        rows = [quality(each.person, METHODS[method](each, RULES[method])) for each in sets]
        first, *others = (row["f"] for row in rows)
        print(f"| {method} | {first:.4f} | {min(others):.4f} to {max(others):.4f} |", flush=True)
        results[method] = rows
    return results


def scale(faces: Faces, methods: list[str], count: int, limit: float) -> dict[str, Any]:
    """Print time and memory of the search for neighbours and of each method with many features."""
    made = multiply(faces, count)
    print(f"\n{count:,} features of {made.features.shape[1]} numbers")
    for name, each in (("real", faces), ("made", made)):
        same, different = similarities_of_pairs(each.features, each.person)
        print(f"{name}: similarities of the same person {same}, of different people {different}", flush=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.pickle"
        path.write_bytes(pickle.dumps(made))
        for method, run in [("neighbours", measure_search), *((name, _measure) for name in methods)]:
            if method == "average linkage, all pairs" and count > MOST_FOR_ALL_PAIRS:
                continue
            results[method] = row = in_time(limit, run, method, str(path), RULES.get(method))
            shown = [f"{key} {value:,.3f}" for key, value in row.items()] if isinstance(row, dict) else [row]
            print(f"| {method} | {' | '.join(shown)} |", flush=True)
            if method == "neighbours" and row == shown[0]:
                break
    return results


def in_time(limit: float, run: Any, *arguments: Any) -> dict[str, float] | str:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        try:
            return pool.apply_async(run, arguments).get(limit)
        except multiprocessing.TimeoutError:
            return f"stopped after {limit:.0f} s"


def measure_search(_: str, file: str, rule: Rule | None) -> dict[str, float]:
    """Search for the neighbours with sfplus, add them to the file, and compare some with an exact search."""
    torch.set_num_threads(1)
    faces: Faces = pickle.loads(Path(file).read_bytes())
    find_neighbours(faces.features[:1000])
    reset_peak()
    before, clock = peak_memory(), time.process_time()
    faces.neighbours = find_neighbours(faces.features)
    seconds, megabytes = time.process_time() - clock, peak_memory() - before
    Path(file).write_bytes(pickle.dumps(faces))
    sample = np.random.default_rng(0).choice(len(faces.person), 1000, False)
    exact_similarities, exact = search(faces.features[sample], faces.features, 33)
    recall = np.mean([np.isin(exact[i], [row, *faces.neighbours.rows[row]]) for i, row in enumerate(sample)])
    is_link = exact_similarities > faces.threshold(RULES[FIRST])
    hits = [np.isin(exact[i], [row, *faces.neighbours.rows[row]])[is_link[i]] for i, row in enumerate(sample)]
    return {
        "seconds": seconds,
        "megabytes": megabytes,
        "recall": float(recall),
        "recall_of_links": float(np.concatenate(hits).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "mode", nargs="?", default="compare", choices=["compare", "choose", "settings", "order", "scale"]
    )
    parser.add_argument("folders", nargs="*", metavar="FEATURES[:OTHER]")
    parser.add_argument("--seen", type=int, default=1)
    parser.add_argument("--faces", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each method, of scale")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    methods = given.methods or ([FIRST] if given.mode in ("settings", "order") else list(METHODS))
    pairs = [list(map(Path, folder.split(":"))) for folder in given.folders]
    results: dict[str, Any] = {}
    if given.mode == "choose":
        sets = development_sets({pair[0].name: load(*pair) for pair in pairs})
        results["choose"] = choose(sets, methods)
    for pair in pairs if given.mode != "choose" else []:
        print(f"\n{given.mode}: {pair[0].name}" + f", people with {given.seen} photos or more" * (given.seen > 1))
        key = f"{given.mode} {pair[0].name}" + f" seen {given.seen}" * (given.seen > 1)
        if given.mode == "scale":
            results[f"{key} {given.faces}"] = scale(load(*pair), methods, given.faces, given.limit)
        else:
            modes = {"compare": compare, "settings": settings, "order": order}
            results[key] = modes[given.mode](load(*pair, seen=given.seen), methods)
    if not pairs:
        results["drawn"] = compare(drawn(), methods)
    if given.json:
        stored = json.loads(given.json.read_text()) if given.json.exists() else {}
        given.json.write_text(json.dumps(stored | results, indent=1))


if __name__ == "__main__":
    main()
