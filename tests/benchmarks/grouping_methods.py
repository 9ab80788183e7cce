"""The rivals of tests/benchmarks/grouping.py: ways to group faces from their nearest neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from grouping_faces import Faces, Rule
from scipy import sparse
from scipy.cluster.hierarchy import average, fcluster
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering

from sfplus.people.grouping import group_faces
from sfplus.people.neighbours import Neighbours


def sfplus_groups(faces: Faces, rule: Rule) -> np.ndarray:
    nearest = faces.neighbours
    columns = slice(rule.neighbours)
    return group_faces(
        Neighbours(nearest.rows[:, columns], nearest.similarities[:, columns], nearest.keys), faces.threshold(rule)
    )


def equal_votes(faces: Faces, rule: Rule) -> np.ndarray:
    """Label propagation of scikit-network 0.33 without weights, which its votes take from unrelated links."""
    links = faces.links(rule)
    from sknetwork.clustering import PropagationClustering  # installed for this benchmark only

    propagation = PropagationClustering(
        n_iter=100, weighted=False, node_order="decreasing", sort_clusters=False, return_probs=False
    )
    return propagation.fit_predict(links) if links.nnz else np.arange(len(faces.person))


def louvain(faces: Faces, rule: Rule) -> np.ndarray:
    """Louvain's method for the constant Potts model; the option is its resolution, in similarity per pair of faces."""
    from sknetwork.clustering import Louvain

    links, size = faces.links(rule), len(faces.person)
    if not links.nnz:
        return np.arange(size)
    resolution = float(rule.option) * size**2 / links.sum()
    return Louvain(resolution, "potts", random_state=0, sort_clusters=False, return_probs=False).fit_predict(links)


def components(faces: Faces, rule: Rule) -> np.ndarray:
    """Connected components, which are the clusters of DBSCAN with 2 samples."""
    return connected_components(faces.links(rule), directed=False)[1]


def dbscan(faces: Faces, rule: Rule) -> np.ndarray:
    links = faces.links(rule, distances=True)
    return alone(DBSCAN(eps=2, min_samples=int(rule.option), metric="precomputed").fit(links).labels_)


def hdbscan(faces: Faces, rule: Rule) -> np.ndarray:
    """HDBSCAN on the links; the option is how clusters are selected from the tree."""
    links = joined(faces.links(rule, distances=True), 3.0)
    clusters = HDBSCAN(2, 1, metric="precomputed", cluster_selection_method=str(rule.option), copy=False)
    return alone(clusters.fit(links).labels_)


def average_on_links(faces: Faces, rule: Rule) -> np.ndarray:
    """Average linkage of linked clusters only; the graph has all 32 neighbours, the rule is where merging ends."""
    graph = joined(faces.links(replace(rule, chance=None)), 1.0)
    tree = AgglomerativeClustering(None, metric="cosine", linkage="average", connectivity=graph, distance_threshold=0)
    clusters = _once(faces, "tree_of_links", lambda: tree.fit(faces.features))
    size, merges = len(faces.person), int((clusters.distances_ < 1 - faces.threshold(rule)).sum())
    rows, columns = np.repeat(np.arange(merges) + size, 2), clusters.children_[:merges].ravel()
    merged = sparse.csr_matrix((np.ones(2 * merges), (rows, columns)), (2 * size, 2 * size))
    return connected_components(merged, directed=False)[1][:size]


def average_of_all(faces: Faces, rule: Rule) -> np.ndarray:
    tree = _once(faces, "tree_of_all", lambda: average(pdist(faces.features, "cosine")))
    return fcluster(tree, 1 - faces.threshold(rule), "distance")


def _once(faces: Faces, name: str, compute: Callable[[], Any]) -> Any:
    """Keep the tree of all merges, from which any threshold follows."""
    if name not in vars(faces):
        setattr(faces, name, compute())
    return getattr(faces, name)


def alone(labels: np.ndarray) -> np.ndarray:
    """Give a label of its own to each face that is noise."""
    return np.where(labels < 0, labels.max() + 1 + np.arange(len(labels)), labels)


def joined(links: sparse.csr_matrix, value: float) -> sparse.csr_matrix:
    """Link the first faces of successive components, because scikit-learn needs a connected graph."""
    first = np.unique(connected_components(links, directed=False)[1], return_index=True)[1]
    chain = sparse.csr_matrix((np.full(len(first) - 1, value, np.float32), (first[:-1], first[1:])), links.shape)
    return (links + chain + chain.T).tocsr()


METHODS: dict[str, Callable[[Faces, Rule], np.ndarray]] = {
    "label propagation (sfplus)": sfplus_groups,
    "label propagation, equal votes": equal_votes,
    "Louvain, constant Potts": louvain,
    "connected components": components,
    "DBSCAN": dbscan,
    "HDBSCAN": hdbscan,
    "average linkage on links": average_on_links,
    "average linkage, all pairs": average_of_all,
}
if find_spec("sknetwork") is None:
    print("without scikit-network: pip install scikit-network")
    del METHODS["label propagation, equal votes"], METHODS["Louvain, constant Potts"]
SHARES: list[tuple[float | None, bool]] = [(chance, True) for chance in (1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)]
SHARES += [(chance, False) for chance in (1e-2, 3e-3, 1e-3, 3e-4, 1e-5, 1e-6, 1e-7)]
OPTIONS: dict[str, tuple[float | str, ...]] = {
    "Louvain, constant Potts": (0.01, 0.02, 0.05, 0.1),
    "DBSCAN": (3, 4),
    "HDBSCAN": ("eom", "leaf"),
}
RULES = {  # the best settings: grouping.py choose train_photos:lfw vgg:lfw, with the features of MobileFaceNet
    "label propagation (sfplus)": Rule(0.003),
    "label propagation, equal votes": Rule(0.001),
    "Louvain, constant Potts": Rule(0.003, option=0.01),
    "connected components": Rule(1e-7, per_face=False),
    "DBSCAN": Rule(1e-7, per_face=False, option=4),
    "HDBSCAN": Rule(0.001, option="eom"),
    "average linkage on links": Rule(0.003),
    "average linkage, all pairs": Rule(0.001, per_face=False),
}


def grid(method: str) -> list[Rule]:
    shares = [*SHARES, *([(None, True)] if method == "HDBSCAN" else [])]
    choices = itertools.product(shares, OPTIONS.get(method, (0.0,)))
    return [Rule(chance, per_face, option=option) for (chance, per_face), option in choices]
