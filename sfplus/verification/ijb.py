"""IJB-B and IJB-C: templates of several photos and video frames, verified 1:1 and identified 1:N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfplus.errors import PairsError
from sfplus.verification.identification import Identification, identify

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_BLOCK = 1 << 16  # pairs whose features are in memory at a time
_GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}


@dataclass(frozen=True, eq=False)
class TemplateProtocol:
    """The metadata of IJB-B or IJB-C.

    Attributes:
        names: (N,) names of the face images, in the order of their features.
        template: (N,) int64, the template of each face.
        media: (N,) int64, the photo or video that it comes from.
        left: (P,) int64, the left template of each pair.
        right: (P,) int64, the right one.
        same: (P,) bool.
        galleries: templates and their subjects, two arrays (G,), of each gallery; none where the CSV files are missing.
        probes: templates and subjects of the mixed probes, two arrays (M,), or None.
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
    """Read the `meta` folder of IJB-B or IJB-C as insightface hands it out.

    `ijbc_face_tid_mid.txt` (lines `name template media`), `ijbc_template_pair_label.txt` (`template template label`)
    and, for identification, `ijbc_1N_gallery_G1.csv`, `ijbc_1N_gallery_G2.csv` and `ijbc_1N_probe_mixed.csv` (with
    a header; columns TEMPLATE_ID and SUBJECT_ID, or the first two); IJB-B's are called `ijbb` and S1, S2.

    Raises:
        PairsError: a file is missing or malformed, or names templates that have no face.
    """
    kinds = [kind for kind in _GALLERIES if (folder / f"{kind}_face_tid_mid.txt").is_file()]
    if not kinds:
        remedy = "name the folder `meta` of IJB-B or IJB-C"
        raise PairsError("holds no ijbb_face_tid_mid.txt or ijbc_face_tid_mid.txt", where=folder, remedy=remedy)
    kind = kinds[-1]
    names, template, media = _columns(folder / f"{kind}_face_tid_mid.txt", ("string", "int64", "int64"))
    pairs = folder / f"{kind}_template_pair_label.txt"
    left, right, label = _columns(pairs, ("int64", "int64", "int64"))
    if not np.isin(label, (0, 1)).all():
        line = int(np.flatnonzero(~np.isin(label, (0, 1)))[0]) + 1
        raise PairsError("the label is not 0 or 1", where=f"{pairs}:{line}", remedy="get the file again")
    found = {part: folder / f"{kind}_1N_gallery_{part}.csv" for part in _GALLERIES[kind]}
    galleries = {part: _subjects(path) for part, path in found.items() if path.is_file()}
    mixed = folder / f"{kind}_1N_probe_mixed.csv"
    probes = _subjects(mixed) if mixed.is_file() else None
    for path, templates in (
        (pairs, left), (pairs, right), *((found[part], ids) for part, (ids, _) in galleries.items()),
        *(((mixed, probes[0]),) if probes else ()),
    ):  # fmt: skip
        unknown = np.flatnonzero(~np.isin(templates, template))
        if len(unknown):
            reason = f"{len(unknown)} templates have no face, the first is {templates[unknown[0]]}"
            raise PairsError(reason, where=path, remedy="get the metadata again")
    return TemplateProtocol(tuple(names.tolist()), template, media, left, right, label == 1, galleries, probes)


def template_features(
    features: ArrayLike, template: _Ints, media: _Ints, *, mirrored: bool = False, quality: ArrayLike | None = None
) -> tuple[_Ints, NDArray[np.float32]]:
    """Features of templates: faces of one photo or video are averaged, then those averages, then normalised.

    So a video counts as much as a photo, whatever its length (Maze et al., ICB 2018; insightface's `IJB_11.py`).

    Args:
        features: (N, d) features of faces, not normalised unless you want them so.
        template: (N,) of each face.
        media: (N,) of each face.
        mirrored: whether features are those of the face and of its mirror image joined; the halves are then added.
        quality: (N,) a weight of each face, such as the detector's score; the features are multiplied by it.

    Returns:
        The templates (T,), rising, and their unit features (T, d) in single precision.

    Raises:
        PairsError: shapes do not fit, or a template's feature is not finite or has no direction.
    """
    faces = np.asarray(features, np.float32)
    if faces.ndim != 2 or template.shape != (len(faces),) or media.shape != template.shape or not faces.size:
        raise PairsError(f"features {faces.shape}, templates {template.shape}, media {media.shape} do not fit")
    weights = np.ones(len(faces)) if quality is None else np.asarray(quality, np.float64)
    if weights.shape != template.shape or (mirrored and faces.shape[1] % 2):
        raise PairsError(f"quality {weights.shape} or features {faces.shape} do not fit")
    from scipy.sparse import csr_array

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
        raise PairsError(reason, remedy="check the model and the crops of its faces")
    return ids, np.asarray(pooled / norms[:, None], np.float32)


def verify_templates(protocol: TemplateProtocol, ids: _Ints, features: NDArray[np.float32]) -> _Floats:
    """Cosine (P,) of each pair of templates of the 1:1 protocol; see `curves` for rates at a FAR.

    Args:
        protocol: the metadata.
        ids: the templates, as `template_features` gives them.
        features: their unit features.
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
    """The 1:N protocol: the mixed probes searched for in each gallery, where people of the other one are strangers.

    The figures of IJB are means over the two galleries (Whitelam et al., CVPR Workshops 2017).

    Raises:
        PairsError: the metadata lacks galleries or probes, or a person has two templates in a gallery.
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
    """Templates and subjects of a CSV file, each template once."""
    table = _read(path, ",", None)
    lower = {name.strip().lower(): name for name in table.column_names}
    chosen = [lower.get(name) for name in ("template_id", "subject_id")]
    names = chosen if all(chosen) else table.column_names[:2]
    columns = [table[name].to_numpy() for name in names]
    if len(columns) < 2 or any(column.dtype.kind != "i" for column in columns):
        remedy = "its columns must be TEMPLATE_ID,SUBJECT_ID"
        raise PairsError("has no whole numbers of templates and subjects", where=path, remedy=remedy)
    templates, first = np.unique(columns[0], return_index=True)
    return templates.astype(np.int64), columns[1][first].astype(np.int64)


def _columns(path: Path, kinds: Sequence[str]) -> list[NDArray[Any]]:
    """The columns of a file without header, separated by spaces."""
    table = _read(path, " ", kinds)
    return [column.to_numpy() for column in table.columns]


def _read(path: Path, separator: str, kinds: Sequence[str] | None) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    names = [f"column {i}" for i in range(len(kinds))] if kinds else None
    try:
        return csv.read_csv(
            path,
            csv.ReadOptions(column_names=names, use_threads=False),  # then a message names the row
            csv.ParseOptions(delimiter=separator, quote_char=False if kinds else '"'),
            csv.ConvertOptions(
                column_types=dict(zip(names, kinds, strict=True)) if names and kinds else None, null_values=[]
            ),
        )
    except OSError as error:
        raise PairsError(f"cannot be read ({error.strerror or error})", where=path, remedy="check the path") from error
    except pa.ArrowInvalid as error:
        raise PairsError(f"is malformed ({error})", where=path, remedy="get the file again") from error
