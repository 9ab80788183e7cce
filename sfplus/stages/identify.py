"""Stage `identify`: features of people and of distractors to identification rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfplus.artifacts.artefact import Artefact
from sfplus.artifacts.layout import FEATURE_COLUMNS, FEATURE_INDEX, RESULT, read_features
from sfplus.artifacts.stage import Job
from sfplus.io.console import quantity
from sfplus.io.files import write_atomically, write_json
from sfplus.io.tables import read_failures, read_parquet
from sfplus.recipes.settings.identify import IdentifySettings
from sfplus.verification.identification_sets import PROBES_CSV, FeatureSet, identify_sets


def build(job: Job[IdentifySettings]) -> dict[str, Any]:
    """Search for the photos in the gallery, and write the rates and a line per photo."""
    settings = job.settings
    photos, *distractors = (_read(job, name, folder.root) for name, folder in settings.photo_folders.items())
    rates, probes = identify_sets(photos, distractors, settings.people, settings.enrol, settings.ranks)
    write_json(job.folder / RESULT, rates.to_json(), indent=1)
    write_atomically(job.folder / PROBES_CSV, probes.encode())
    size = rates.rows[-1].distractors
    note = f"rank 1: {100 * rates.rows[-1].rank[0]:.2f} % of {quantity(rates.probes, 'photo')}"
    job.context.progress.note = note + f" among {quantity(size, 'distractor')}" * bool(size)
    amounts = {"people": rates.people, "probes": rates.probes, "strangers": rates.strangers, "distractors": size}
    return amounts | rates.figures()


def _read(job: Job[IdentifySettings], name: str, path: Path) -> FeatureSet:
    embedded = job.input(f"features/{name}", Artefact)
    source = job.inputs.get(f"crops/{name}", embedded)  # the artefact that lists the photos that were not used
    assert isinstance(source, Artefact)
    missed, failed = read_failures(source.folder)
    index = read_parquet(embedded.folder / FEATURE_INDEX, FEATURE_COLUMNS)
    return FeatureSet(path, index["photo"], read_features(embedded.folder)[0], len(missed) + len(failed))
