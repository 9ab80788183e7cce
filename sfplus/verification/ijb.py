"""IJB-B and IJB-C: 1:1 verification and 1:N identification of templates, sets of photos and frames of a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyarrow import csv
from scipy.sparse import csr_array

from sfplus.errors import PairsError, explain_damage
from sfplus.io.console import quantity
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit
from sfplus.verification.identification import Identification, identify

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_BLOCK = 1 << 16  # pairs whose features are in memory at a time
_GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}


@dataclass(frozen=True, eq=False)
class TemplateProtocol:
    """The metadata of IJB-B or IJB-C.

    Attributes:
        names: N names of the face images, in the order of their features.
        template: (N,) int64, the template of each face.
        media: (N,) int64, the photo or video of each face.
        left: (P,) int64, the first template of each pair.
        right: (P,) int64, the second template of each pair.
        same: (P,) bool.
        galleries: templates and subjects, two arrays (G,), by name of the gallery; empty if the CSV files are missing.
        probes: templates and subjects of the mixed probes, two arrays (M,), or None if the CSV file is missing.
    """

    names: tuple[str, ...]
    template: _Ints
    media: _Ints
    left: _Ints
    right: _Ints
    same: NDArray[np.bool_]
    galleries: dict[str, tuple[_Ints, _Ints]]
    probes: tuple[_Ints, _Ints] | None


def read_template_protocol(folder: Path) -> TemplateProtocol:
    """Read the `meta` folder of IJB-B or IJB-C in the layout that insightface distributes.

    The files are `ijbc_face_tid_mid.txt` (lines `name template media`), `ijbc_template_pair_label.txt` (lines `template
    template label`) and, for identification, `ijbc_1N_gallery_G1.csv`, `ijbc_1N_gallery_G2.csv` and
    `ijbc_1N_probe_mixed.csv` (with a header; columns TEMPLATE_ID and SUBJECT_ID, or the first two). IJB-B uses the
    names `ijbb` and S1, S2.

    Args:
        folder: the folder `meta`.

    Raises:
        PairsError: If a file is missing or malformed, or names templates without a face.
    """
    kinds = [kind for kind in _GALLERIES if (folder / f"{kind}_face_tid_mid.txt").is_file()]
    if not kinds:
        remedy = "name the folder `meta` of IJB-B or IJB-C"
        raise PairsError("has no ijbb_face_tid_mid.txt or ijbc_face_tid_mid.txt", where=folder, remedy=remedy)
    kind = kinds[-1]
    names, template, media = _columns(folder / f"{kind}_face_tid_mid.txt", ("string", "int64", "int64"))
    pairs = folder / f"{kind}_template_pair_label.txt"
    left, right, label = _columns(pairs, ("int64", "int64", "int64"))
    if not np.isin(label, (0, 1)).all():
        line = int(np.flatnonzero(~np.isin(label, (0, 1)))[0]) + 1
        raise PairsError("the label is not 0 or 1", where=f"{pairs}:{line}", remedy="download the file again")
    files = {part: folder / f"{kind}_1N_gallery_{part}.csv" for part in _GALLERIES[kind]}
    galleries = {part: _subjects(path) for part, path in files.items() if path.is_file()}
    mixed = folder / f"{kind}_1N_probe_mixed.csv"
    probes = _subjects(mixed) if mixed.is_file() else None
    for path, templates in (
        (pairs, left), (pairs, right), *((files[part], ids) for part, (ids, _) in galleries.items()),
        *(((mixed, probes[0]),) if probes else ()),
    ):  # fmt: skip
        unknown = np.flatnonzero(~np.isin(templates, template))
        if len(unknown):
            reason = f"{quantity(len(unknown), 'template has', 'templates have')} no face"
            raise PairsError(
                f"{reason}, the first is {templates[unknown[0]]}", where=path, remedy="download the metadata again"
            )
    return TemplateProtocol(tuple(names.tolist()), template, media, left, right, label == 1, galleries, probes)


def template_features(
    features: ArrayLike, template: _Ints, media: _Ints, *, mirrored: bool = False, quality: ArrayLike | None = None
) -> tuple[_Ints, NDArray[np.float32]]:
    """Average the features of each template: over the faces of each photo or video, then over these; then normalise.

    A video thus has the same weight as a photo, regardless of its length (Maze et al., ICB 2018; insightface's
    `IJB_11.py`).

    Args:
        features: (N, d) features of faces; they are averaged as they are, without normalisation.
        template: (N,) int, the template of each face.
        media: (N,) int, the photo or video of each face.
        mirrored: whether each feature is the concatenation of those of the face and its mirror image, whose halves are
            then added.
        quality: (N,) a weight for each face, such as the detector's score, by which its features are multiplied.

    Returns:
        The templates (T,), ascending, and their unit features (T, d) float32.

    Raises:
        PairsError: If shapes do not fit, or the feature of a template is not finite or zero.
    """
    faces = np.asarray(features, np.float32)
    if faces.ndim != 2 or template.shape != (len(faces),) or media.shape != template.shape or not faces.size:
        raise PairsError(f"features {faces.shape}, templates {template.shape}, media {media.shape} do not fit")
    weights = np.ones(len(faces)) if quality is None else np.asarray(quality, np.float64)
    if weights.shape != template.shape or (mirrored and faces.shape[1] % 2):
        raise PairsError(f"quality {weights.shape} or features {faces.shape} do not fit")
    ids, row = np.unique(template, return_inverse=True)
    _, group, count = np.unique(np.stack([row, media]), axis=1, return_inverse=True, return_counts=True)
    order = np.argsort(row, kind="stable")
    bounds = np.searchsorted(row[order], np.arange(len(ids) + 1))
    share = (weights / count[group.ravel()])[order].astype(np.float32)
    pooled = csr_array((share, order, bounds), shape=(len(ids), len(faces))) @ faces
    if mirrored:
        pooled = pooled[:, : pooled.shape[1] // 2] + pooled[:, pooled.shape[1] // 2 :]
    norms = np.sqrt(np.einsum("ij,ij->i", pooled, pooled, dtype=np.float64))
    bad = ~(np.isfinite(norms) & (norms > 0))
    if bad.any():
        reason = f"{int(bad.sum())} templates have no finite feature, the first is {ids[bad.argmax()]}"
        raise PairsError(reason, remedy="check the model and the crops of these faces")
    return ids, np.asarray(pooled / norms[:, None], np.float32)


def verify_templates(protocol: TemplateProtocol, ids: _Ints, features: NDArray[np.float32]) -> _Floats:
    """Compute the cosine (P,) of each pair of the 1:1 protocol; see `curves` for rates at a FAR.

    Args:
        protocol: the metadata.
        ids: (T,) the templates, as `template_features` returns them.
        features: (T, d) their unit features.
    """
    left, right = np.searchsorted(ids, protocol.left), np.searchsorted(ids, protocol.right)
    scores = np.empty(len(left))
    for start in range(0, len(left), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores[rows] = np.einsum("ij,ij->i", features[left[rows]], features[right[rows]])
    return scores


def identify_templates(
    protocol: TemplateProtocol, ids: _Ints, features: NDArray[np.float32]
) -> dict[str, Identification]:
    """Search for the mixed probes of the 1:N protocol in each gallery; people of the other gallery form the open set.

    The figures of IJB are means over the two galleries (Whitelam et al., CVPR Workshops 2017).

    Args:
        protocol: the metadata.
        ids: (T,) the templates, as `template_features` returns them.
        features: (T, d) their unit features.

    Returns:
        The result by name of the gallery.

    Raises:
        PairsError: If the metadata has no galleries or probes, or a person has two templates in a gallery.
    """
    if not protocol.galleries or protocol.probes is None:
        raise PairsError("the metadata has no galleries or probes", remedy="add the 1N CSV files to the folder")
    templates, subjects = protocol.probes
    probes = features[np.searchsorted(ids, templates)]
    return {
        name: identify(probes, subjects, features[np.searchsorted(ids, gallery)], people)
        for name, (gallery, people) in protocol.galleries.items()
    }


def _subjects(path: Path) -> tuple[_Ints, _Ints]:
    """Read the templates and subjects of a CSV file, without duplicate templates."""
    table = _read(path, ",", None)
    number_of = {name.strip().lower(): number for number, name in enumerate(table.column_names)}
    chosen = [number_of.get(name, -1) for name in ("template_id", "subject_id")]
    numbers = chosen if min(chosen) >= 0 else range(min(2, table.num_columns))
    columns = [table.column(number).to_numpy() for number in numbers]
    if len(columns) < 2 or any(column.dtype.kind != "i" for column in columns):
        remedy = "its columns must be TEMPLATE_ID,SUBJECT_ID"
        raise PairsError("has no integer columns of templates and subjects", where=path, remedy=remedy)
    templates, first = np.unique(columns[0], return_index=True)
    return templates.astype(np.int64), columns[1][first].astype(np.int64)


def _columns(path: Path, kinds: Sequence[str]) -> list[NDArray[Any]]:
    """Read the columns of a file without header, separated by spaces."""
    table = _read(path, " ", kinds)
    return [column.to_numpy() for column in table.columns]


def _read(path: Path, separator: str, kinds: Sequence[str] | None) -> Any:
    names = [f"column {i}" for i in range(len(kinds))] if kinds else None
    with explain_damage(path, remedy="download the file again", error=PairsError):
        check_limit("feature_bytes", file_size(path), path, error=PairsError)
        table = csv.read_csv(
            path,
            csv.ReadOptions(column_names=names, use_threads=False),  # so that messages name the row
            csv.ParseOptions(delimiter=separator, quote_char=False if kinds else '"'),
            csv.ConvertOptions(
                column_types=dict(zip(names, kinds, strict=True)) if names and kinds else None, null_values=[]
            ),
        )
        check_limit("table_columns", table.num_columns, path, error=PairsError)
        if not all(name.isprintable() for name in table.column_names):
            raise ValueError("its header is not text")
        table.validate(full=True)
        return table
