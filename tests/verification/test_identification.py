from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import top_k_accuracy_score

from sfplus.errors import DependencyError, PairsError
from sfplus.verification import identification
from sfplus.verification.identification import Identification, identify, megaface, search

Floats = NDArray[np.float32]


def unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def drawn(seed: int, people: int = 30, probes: int = 80, strangers: int = 0, width: int = 8) -> tuple[NDArray, ...]:
    """Return probes, their identities, a gallery and its identities; the last `strangers` probes have no mate in it."""
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(people, width)).astype(np.float32)
    names = rng.permutation(people) + 100
    who = np.concatenate([rng.integers(people, size=probes - strangers), people + rng.integers(9, size=strangers)])
    centres = np.concatenate([gallery, rng.normal(size=(9, width))])
    queries = centres[who] + 1.5 * rng.normal(size=(probes, width))
    ids = np.concatenate([names, np.arange(9)])[who]
    return queries.astype(np.float32), ids, gallery, names


def rank_by_loops(queries: Floats, ids: NDArray, gallery: Floats, names: NDArray) -> list[int]:
    ranks = []
    for query, who in zip(unit(queries), ids.tolist(), strict=True):
        cosines = {name: float(query @ g) for g, name in zip(unit(gallery), names.tolist(), strict=True)}
        ranks.append(sum(c >= cosines[who] for c in cosines.values()) if who in cosines else 0)
    return ranks


@pytest.fixture(params=[False, True], ids=["one block", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(identification, "_PROBES", 7)
        monkeypatch.setattr(identification, "_ROWS", 3)
        monkeypatch.setattr(identification, "_SCORES", 35)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("strangers", [0, 25])
def test_ranks_equal_those_of_loops(strangers: int) -> None:
    data = drawn(0, strangers=strangers)
    result = identify(*data)
    assert result.rank.tolist() == rank_by_loops(*data) and result.gallery_size == 30
    assert result.mated.sum() == 80 - strangers and np.isnan(result.mate_score[~result.mated]).all()
    cosines = unit(data[0]) @ unit(data[2]).T
    mates = data[1][:, None] == data[3]
    np.testing.assert_allclose(result.nonmate_score, np.where(mates, -2, cosines).max(1), atol=1e-6)
    np.testing.assert_allclose(result.mate_score[result.mated], cosines[mates], atol=1e-6)


def test_rates_equal_those_of_scikit_learn() -> None:
    queries, ids, gallery, names = drawn(1)
    result = identify(queries, ids, gallery, names)
    order = np.argsort(names)
    cosines = (unit(queries) @ unit(gallery).T)[:, order]
    expected = [top_k_accuracy_score(ids, cosines, k=k, labels=names[order]) for k in range(1, 30)]
    assert [result.rate(k) for k in range(1, 30)] == pytest.approx(expected)
    assert result.cmc(29).tolist() == pytest.approx(expected)
    assert result.cmc(35)[-1] == 1 and len(result.cmc(35)) == 35


@pytest.mark.parametrize("count", [300, 70_000])
def test_more_distractors_than_a_narrow_number_counts_rank_before_a_mate(count: int) -> None:
    gallery, distractors = np.array([[0, 1]], np.float32), np.ones((count, 2), np.float32)
    assert identify([[1, 0]], [0], gallery, [0], distractors).rank.tolist() == [count + 1]


@pytest.mark.usefixtures("blocks")
def test_distractors_extend_the_gallery() -> None:
    queries, ids, gallery, names = drawn(2)
    strangers = np.random.default_rng(9).normal(size=(50, 8)).astype(np.float32)
    combined = identify(queries, ids, np.concatenate([gallery, strangers]), np.concatenate([names, -1 - np.arange(50)]))
    for distractors in (strangers, [strangers[:20], strangers[20:]], iter([strangers[:49], strangers[49:]])):
        result = identify(queries, ids, gallery, names, distractors)
        assert np.array_equal(result.rank, combined.rank) and result.gallery_size == 80
        np.testing.assert_allclose(result.nonmate_score, combined.nonmate_score, atol=1e-6)


def test_ties_count_against_the_model() -> None:
    gallery = np.random.default_rng(0).normal(size=(3, 600)).astype(np.float32)
    with_copy = np.concatenate([gallery, 2 * gallery[:1]])
    assert identify(gallery[:1], [7], with_copy, [7, 8, 9, 10]).rank.tolist() == [2]
    assert identify(gallery[:1], [7], gallery, [7, 8, 9], 3 * gallery[:1]).rank.tolist() == [2]


def test_open_set_rates_equal_trying_all_thresholds() -> None:
    for seed in range(5):
        result = identify(*drawn(seed, strangers=40))
        wrong, mated = result.nonmate_score[~result.mated], result.mated
        for fpir in (0.025, 0.1, 0.3, 1.0):
            for rank in (1, 3):
                allowed = [t for t in (*wrong, *(wrong + 1e-7)) if np.mean(wrong >= t) <= fpir + 1e-9]
                if fpir == 1.0:
                    allowed.append(-2.0)
                rates = [np.mean((result.mate_score[mated] >= t) & (result.rank[mated] <= rank)) for t in allowed]
                assert result.tpir_at_fpir(fpir, rank) == pytest.approx(max(rates))
        assert result.tpir_at_fpir(0.02) is None, "40 probes without a mate resolve an FPIR of 1 / 40"


def test_the_open_set_rate_is_none_if_all_probes_have_a_mate() -> None:
    assert identify(*drawn(3)).tpir_at_fpir(0.5) is None


@pytest.mark.usefixtures("blocks")
def test_megaface_equals_loops() -> None:
    rng = np.random.default_rng(4)
    people = rng.integers(6, size=25)
    features = (rng.normal(size=(6, 8))[people] + 0.7 * rng.normal(size=(25, 8))).astype(np.float32)
    distractors = rng.normal(size=(300, 8)).astype(np.float32)
    cosines, scores = unit(features) @ unit(features).T, unit(features) @ unit(distractors).T
    expected = {}
    for size in (1, 10, 100, 300):
        hits = [
            cosines[i, j] > scores[i, :size].max()
            for i in range(25) for j in range(25) if i != j and people[i] == people[j]
        ]  # fmt: skip
        expected[size] = np.mean(hits)
    for source in (distractors, iter([distractors[:7], distractors[7:250], distractors[250:]])):
        assert megaface(features, people, source, (300, 1, 10, 100, 1000)) == pytest.approx(expected)
    assert expected[1] > expected[300]


@pytest.mark.parametrize("engine", ["numpy", "faiss"])
@pytest.mark.usefixtures("blocks")
def test_search_finds_what_sorting_finds(engine: str) -> None:
    if engine == "faiss":
        pytest.importorskip("faiss")
    queries, _, gallery, _ = drawn(5, people=200)
    cosines = unit(queries) @ unit(gallery).T
    order = np.argsort(-cosines, axis=1)[:, :12]
    for source in (gallery, [gallery[:5], gallery[5:90], gallery[90:]]):
        result, rows = search(queries, source, 12, engine)  # type: ignore[arg-type]
        assert np.array_equal(rows, order)
        np.testing.assert_allclose(result, np.take_along_axis(cosines, order, 1), atol=1e-6)
    assert search(queries, gallery[:3], 12, engine)[1].shape == (80, 3)  # type: ignore[arg-type]


def test_faiss_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyError, match=r"pip install .*\[faiss\]"):
        search(np.ones((1, 2)), np.ones((1, 2)), 1, "faiss")


def test_memory_does_not_grow_with_the_distractors() -> None:
    queries, ids, gallery, names = drawn(6, width=64)
    rng = np.random.default_rng(0)

    def peak(count: int) -> int:
        tracemalloc.start()
        identify(queries, ids, gallery, names, (rng.random((5000, 64), np.float32) for _ in range(count)))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(20) < 1.2 * peak(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: np.ones((80, 7))}, "do not fit"),
        ({1: np.ones(79)}, "do not fit"),
        ({2: np.ones(30)}, r"gallery must be \(N, d\)"),
        ({3: np.ones(30)}, "in the gallery twice"),
        ({0: np.where(np.arange(80)[:, None] == 4, np.nan, 1.0) * np.ones((80, 8))}, "first in row 4"),
        ({2: np.zeros((30, 8))}, "30 of 30 gallery are zero or not finite"),
        ({4: [np.ones((5, 7))]}, "does not fit probes of width 8"),
        ({4: [np.full((5, 8), np.inf)]}, "not finite"),
    ],
)
def test_wrong_features_are_refused(change: dict[int, object], message: str) -> None:
    arguments = [*drawn(7), ()]
    for at, value in change.items():
        arguments[at] = value
    with pytest.raises(PairsError, match=message):
        identify(*arguments)


def test_megaface_needs_two_photos_of_a_person() -> None:
    with pytest.raises(PairsError, match="no person has two photos"):
        megaface(np.eye(3), [1, 2, 3], np.eye(3))
    with pytest.raises(PairsError, match="do not fit"):
        megaface(np.eye(3), [1, 2], np.eye(3))


def test_rates_leave_out_probes_without_a_mate() -> None:
    result = Identification(np.array([1, 0, 3]), np.zeros(3, np.float32), np.zeros(3, np.float32), 5)
    assert result.rate() == 0.5 and result.cmc(3).tolist() == [0.5, 0.5, 1.0]
