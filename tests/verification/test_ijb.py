from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hostile_files import damaged, read_or_refuse

from sfplus.errors import PairsError
from sfplus.verification.ijb import (
    identify_templates,
    read_template_protocol,
    template_features,
    verify_templates,
)

FACES = "1.jpg 5 10\n2.jpg 5 10\n3.jpg 5 11\n4.jpg 2 12\n5.jpg 9 13\n6.jpg 9 13\n7.jpg 4 10\n"
PAIRS = "5 2 1\n5 9 0\n4 9 1\n"
HEADER = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n"


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    (tmp_path / "ijbc_face_tid_mid.txt").write_text(FACES)
    (tmp_path / "ijbc_template_pair_label.txt").write_text(PAIRS)
    (tmp_path / "ijbc_1N_gallery_G1.csv").write_text(HEADER + "5,100,img/a b.jpg\n5,100,img/2.jpg\n")
    (tmp_path / "ijbc_1N_gallery_G2.csv").write_text(HEADER + "9,200,img/1.jpg\n")
    (tmp_path / "ijbc_1N_probe_mixed.csv").write_text(HEADER + "4,200,img/1.jpg\n2,100,img/1.jpg\n")
    return tmp_path


def test_reads_the_official_layout(meta: Path) -> None:
    protocol = read_template_protocol(meta)
    assert protocol.names == tuple(f"{i}.jpg" for i in range(1, 8))
    assert protocol.template.tolist() == [5, 5, 5, 2, 9, 9, 4] and protocol.media.tolist() == [
        10,
        10,
        11,
        12,
        13,
        13,
        10,
    ]
    assert (protocol.left.tolist(), protocol.right.tolist(), protocol.same.tolist()) == (
        [5, 5, 4],
        [2, 9, 9],
        [True, False, True],
    )
    assert {name: [x.tolist() for x in pair] for name, pair in protocol.galleries.items()} == {
        "G1": [[5], [100]], "G2": [[9], [200]],
    }  # fmt: skip
    assert [x.tolist() for x in protocol.probes or ()] == [[2, 4], [100, 200]]


def test_ijbb_with_a_gallery_without_known_header_and_a_missing_one(meta: Path) -> None:
    for path in list(meta.iterdir()):
        path.rename(meta / path.name.replace("ijbc", "ijbb").replace("_G", "_S"))
    (meta / "ijbb_1N_gallery_S1.csv").write_text("a,b\n5,100\n")
    (meta / "ijbb_1N_gallery_S2.csv").unlink()
    protocol = read_template_protocol(meta)
    assert list(protocol.galleries) == ["S1"] and protocol.galleries["S1"][0].tolist() == [5]


def average_by_loops(features: np.ndarray, template: np.ndarray, media: np.ndarray) -> np.ndarray:
    """Run image2template_feature of insightface's IJB_11.py with its loops."""
    rows = []
    for t in np.unique(template):
        members = template == t
        means = [features[members & (media == m)].mean(0) for m in np.unique(media[members])]
        total = np.sum(means, 0)
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)


def test_templates_equal_the_loops_of_insightface() -> None:
    rng = np.random.default_rng(0)
    template, media = rng.integers(0, 12, 200) * 7, rng.integers(0, 5, 200)
    features = rng.normal(size=(200, 16))
    ids, pooled = template_features(features, template, media)
    assert np.array_equal(ids, np.unique(template)) and pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, average_by_loops(features, template, media), atol=1e-6)
    quality = rng.uniform(0.1, 1, 200)
    weighted = template_features(features, template, media, quality=quality)[1]
    np.testing.assert_allclose(weighted, average_by_loops(features * quality[:, None], template, media), atol=1e-6)
    mirrored = template_features(features, template, media, mirrored=True)[1]
    np.testing.assert_allclose(
        mirrored, average_by_loops(features[:, :8] + features[:, 8:], template, media), atol=1e-6
    )


def test_a_video_has_the_weight_of_a_photo() -> None:
    features = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    _, pooled = template_features(features, np.zeros(4, int), np.array([1, 1, 1, 2]))
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5]], atol=1e-7)


def test_verification_and_identification_of_templates(meta: Path) -> None:
    protocol = read_template_protocol(meta)
    features = np.eye(4)[[0, 0, 1, 0, 2, 2, 2]]
    ids, unit = template_features(features, protocol.template, protocol.media)
    np.testing.assert_allclose(verify_templates(protocol, ids, unit), [0.5**0.5, 0, 1], atol=1e-6)
    results = identify_templates(protocol, ids, unit)
    assert {name: x.rank.tolist() for name, x in results.items()} == {"G1": [1, 0], "G2": [0, 1]}
    assert results["G1"].rate() == 1 and results["G1"].tpir_at_fpir(1.0) == 1


def test_pairs_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch, meta: Path) -> None:
    protocol = read_template_protocol(meta)
    ids, unit = template_features(np.random.default_rng(0).normal(size=(7, 4)), protocol.template, protocol.media)
    expected = verify_templates(protocol, ids, unit)
    monkeypatch.setattr("sfplus.verification.ijb._BLOCK", 2)
    assert np.array_equal(verify_templates(protocol, ids, unit), expected)


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("ijbc_template_pair_label.txt", "5 2 1\n5 9\n", "", "Row #2"),
        ("ijbc_template_pair_label.txt", "5 2 1\n5 x 0\n", "", "Row #2"),
        ("ijbc_template_pair_label.txt", "5 2 1\n5 9 2\n", ":2", "not 0 or 1"),
        ("ijbc_template_pair_label.txt", "5 2 1\n5 77 1\n", "", "1 template has no face, the first is 77"),
        ("ijbc_template_pair_label.txt", "", "", "malformed"),
        ("ijbc_face_tid_mid.txt", "1.jpg 5\n", "", "Row #1"),
        ("ijbc_1N_gallery_G1.csv", "TEMPLATE_ID,SUBJECT_ID\n5,Ada\n", "", "no integer columns"),
        ("ijbc_1N_gallery_G1.csv", "TEMPLATE_ID\n5\n", "", "no integer columns"),
        ("ijbc_1N_probe_mixed.csv", "TEMPLATE_ID,SUBJECT_ID\n6,1\n", "", "the first is 6"),
    ],
)
def test_malformed_metadata_is_refused(meta: Path, name: str, text: str, line: str, message: str) -> None:
    (meta / name).write_text(text)
    with pytest.raises(PairsError, match=message) as caught:
        read_template_protocol(meta)
    assert caught.value.where == f"{meta / name}{line}" and caught.value.remedy


def test_missing_metadata_is_refused(meta: Path) -> None:
    (meta / "ijbc_1N_probe_mixed.csv").unlink()
    protocol = read_template_protocol(meta)
    ids, unit = template_features(np.ones((7, 2)), protocol.template, protocol.media)
    with pytest.raises(PairsError, match="no galleries or probes"):
        identify_templates(protocol, ids, unit)
    (meta / "ijbc_template_pair_label.txt").unlink()
    with pytest.raises(PairsError, match="cannot be read"):
        read_template_protocol(meta)
    with pytest.raises(PairsError, match="name the folder `meta`"):
        read_template_protocol(meta / "nowhere")


def test_features_that_do_not_fit_are_refused() -> None:
    ones, zeros = np.ones(3, int), np.zeros((3, 2))
    with pytest.raises(PairsError, match="1 templates have no finite feature, the first is 1"):
        template_features(zeros, ones, ones)
    with pytest.raises(PairsError, match="no finite feature"):
        template_features(zeros + np.nan, ones, ones)
    for arguments in ((zeros, ones[:2], ones), (np.zeros(3), ones, ones)):
        with pytest.raises(PairsError, match="do not fit"):
            template_features(*arguments)
    with pytest.raises(PairsError, match="do not fit"):
        template_features(zeros, ones, ones, quality=np.ones(2))
    with pytest.raises(PairsError, match="do not fit"):
        template_features(np.ones((3, 3)), ones, ones, mirrored=True)


META = {
    "ijbc_face_tid_mid.txt": "1.jpg 1 1\n2.jpg 1 2\n3.jpg 2 3\n", "ijbc_template_pair_label.txt": "1 2 0\n1 1 1\n",
    "ijbc_1N_gallery_G1.csv": "TEMPLATE_ID,SUBJECT_ID\n1,1\n",
    "ijbc_1N_gallery_G2.csv": "TEMPLATE_ID,SUBJECT_ID\n2,2\n",
    "ijbc_1N_probe_mixed.csv": "TEMPLATE_ID,SUBJECT_ID\n1,1\n2,2\n",
}  # fmt: skip
TEXTS = (
    "\n", "a,b\n", "1\n", "TEMPLATE_ID\n1\n", "TEMPLATE_ID,SUBJECT_ID,TEMPLATE_ID\n1,2,3\n", "a,a\n1,1\n",
    "\xff,a\n1,1\n",
    "TEMPLATE_ID,SUBJECT_ID\n1,99999999999999999999\n", "1.jpg 99999999999999999999 1\n",
    "\xff.jpg 1 1\n", "a\0,b\n1,1\n",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", META)
def test_damaged_metadata_is_one_line(tmp_path: Path, name: str) -> None:
    for file, text in META.items():
        (tmp_path / file).write_text(text)
    cases = [*damaged(META[name].encode(), 80, 20), *(text.encode("latin-1") for text in TEXTS)]
    refused = 0
    for case in cases:
        (tmp_path / name).write_bytes(case)
        refused += read_or_refuse(lambda: read_template_protocol(tmp_path))
    assert len(cases) > 90 and refused > 40
