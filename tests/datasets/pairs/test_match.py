"""The names in a list are matched with the photos of a folder: every layout, and nothing by guess."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfplus.datasets.pairs import match_photos
from sfplus.errors import PairsError

LFW = ["Ada/Ada_0001", "Ada/Ada_0002", "Max Planck/Max Planck_0010"]


@pytest.mark.parametrize(
    ("names", "photos"),
    [
        (LFW, ["Ada/Ada_0001.jpg", "Ada/Ada_0002.PNG", "Max Planck/Max Planck_0010.jpeg"]),
        (LFW, ["photos/Ada/Ada_0001.jpg", "photos/Ada/Ada_0002.jpg", "photos/Max Planck/Max Planck_0010.jpg"]),
        (LFW, ["Ada/1.jpg", "Ada/2.jpg", "Max Planck/10.jpg"]),
        (LFW, ["Ada/0001.jpg", "Ada/0002.jpg", "Max Planck/0010.jpg"]),
        (LFW, ["Ada_0001.jpg", "Ada_0002.jpg", "Max Planck_0010.jpg"]),
        (LFW, ["photos/Ada_0001.jpg", "photos/Ada_0002.jpg", "photos/Max Planck_0010.jpg"]),
        (LFW, LFW),
        (["Ada_0001", "Ada_0002", "Max Planck_0010"], [f"{name}.jpg" for name in LFW]),
        (["Ada/1", "Ada/2", "Max Planck/10"], [f"{name}.jpg" for name in LFW]),
        (["Ada/1.jpg", "Ada/2.jpg", "Max Planck/10.jpg"], ["Ada/1.JPG", "Ada/2.JPG", "Max Planck/10.JPG"]),
        (["Ada/1.png", "Ada/2.png", "Max Planck/10.png"], ["Ada/1.jpg", "Ada/2.jpg", "Max Planck/10.jpg"]),
        (["1", "2", "10"], ["Ada/1.jpg", "Ada/2.jpg", "Max Planck/10.jpg"]),
        (["a/x/1", "a/y/2", "a/z/3"], ["x/1.jpg", "y/2.jpg", "z/3.jpg"]),
        (["home/me/lfw/x/1.jpg", "home/me/lfw/y/2.jpg"], ["photos/x/1.jpg", "photos/y/2.jpg"]),
        (["a/1", "b/2"], ["1.jpg", "2.jpg"]),
        (["Zoe\u0308/1"], ["Zo\u00eb/1.jpg"]),
        (["x.y/1.5"], ["x.y/1.5.jpg"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("extra", [[], ["unused/7.jpg"]])
def test_layouts(names: list[str], photos: list[str], extra: list[str]) -> None:
    if extra and photos[0] in ("1.jpg", "photos/Ada_0001.jpg"):
        return  # only where there is no other folder
    match = match_photos(names, [*extra, *photos])
    assert match.photo == dict(zip(names, photos, strict=True)) and not match.ambiguous and not match.missing
    match.check(photos, "pairs.txt", "photos")


def test_photos_that_differ_in_their_extension_need_it_only_where_a_name_leaves_it_out() -> None:
    photos = ["a/1.jpg", "a/1.png", "a/2.jpg", "a/3.JPG", "a/3.png", "a/4.jpg", "a/4.JPG"]
    match = match_photos(["a/1.png", "a/1.jpg", "a/2", "a/3.jpg", "a/4.JPG"], photos)
    assert match.photo == {
        "a/1.png": "a/1.png", "a/1.jpg": "a/1.jpg", "a/2": "a/2.jpg", "a/3.jpg": "a/3.JPG", "a/4.JPG": "a/4.JPG"
    }  # fmt: skip
    match = match_photos(["a/1", "a/2"], photos)
    assert match.ambiguous == {"a/1": ("a/1.jpg", "a/1.png")} and match.photo == {"a/2": "a/2.jpg"}
    with pytest.raises(PairsError, match=r"1 of its 2 names could mean several photos: a/1 is a/1.jpg or a/1.png"):
        match.check(photos, "pairs.txt", "photos")


@pytest.mark.parametrize(
    ("names", "photos", "missing"),
    [
        # a missing photo is never replaced by one of the same number, of another person or in another folder
        (["Ada/1", "Bob/2", "Bob/3"], ["Ada/1.jpg", "Bob/2.jpg", "Eve/3.jpg"], ["Bob/3"]),
        (["Ada/1", "Bob/2"], ["Ada/1.jpg", "old/Ada/1.jpg", "old/Bob/2.jpg"], ["Bob/2"]),
        (["Ada/i_1", "Bob/i_2"], ["Ada/i_1.jpg", "Eve/i_2.jpg"], ["Bob/i_2"]),
        (["Ada/1", "Bob/1"], ["1.jpg", "2.jpg"], ["Ada/1", "Bob/1"]),
        (["Ada/1", "Cleo/2"], ["Bob/1.jpg", "Bob/2.jpg"], ["Ada/1", "Cleo/2"]),
        (["Ada/1.jpg", "Bob/1.jpg"], ["x/Ada/1.jpg"], ["Bob/1.jpg"]),
        (["ada/1"], ["Ada/1.jpg"], ["ada/1"]),
    ],
)
def test_missing_photos_are_not_guessed(names: list[str], photos: list[str], missing: list[str]) -> None:
    match = match_photos(names, photos)
    assert match.missing == missing and not match.ambiguous


def test_names_that_fit_two_folders_are_ambiguous() -> None:
    photos = ["crops/Ada/1.jpg", "crops/Bob/1.jpg", "photos/Ada/1.jpg", "photos/Bob/1.jpg"]
    match = match_photos(["Ada/1", "Bob/1"], photos)
    with pytest.raises(
        PairsError, match=r"Ada/1 is crops/Ada/1.jpg or photos/Ada/1.jpg; .* give the folder that holds"
    ):
        match.check(photos, "pairs.txt", "lfw")


def test_a_message_shows_three_names_of_each_side() -> None:
    photos = [f"x{i}.jpg" for i in range(5)]
    match = match_photos([f"n{i}" for i in range(5)], photos)
    with pytest.raises(PairsError) as caught:
        match.check(photos, Path("pairs.txt"), "data/lfw")
    assert caught.value.where == "pairs.txt" and caught.value.reason == (
        "5 of its 5 names match no photo of data/lfw: n0, n1, n2 and 2 more "
        "(it holds x0.jpg, x1.jpg, x2.jpg and 2 more)"
    )
    assert "undetected" not in caught.value.remedy
    with pytest.raises(PairsError):
        match.check(photos, "pairs.txt", "data/lfw", may_miss=True)
    match = match_photos(["x0", "n1"], photos)
    with pytest.raises(PairsError, match=r"1 of its 2 names .*: n1 .it also holds x1.jpg, x2.jpg, x3.jpg .*undetected"):
        match.check(photos, "pairs.txt", "data/lfw")
    match.check(photos, "pairs.txt", "data/lfw", may_miss=True)


_part = st.sampled_from(["a", "b", "a_1", "a_0001", "1", "0001", "2"])
_name = st.lists(_part, min_size=1, max_size=3).map("/".join)


@given(st.lists(_name, min_size=1), st.lists(_name.map(lambda name: f"{name}.jpg"), unique=True))
def test_names_are_matched_one_to_one(names: list[str], photos: list[str]) -> None:
    match = match_photos(names, photos)
    assert set(match.photo) | set(match.ambiguous) | set(match.missing) == set(names)
    assert len(set(match.photo.values())) == len(match.photo) and set(match.photo.values()) <= set(photos)
    if {f"{name}.jpg" for name in names} <= set(photos):
        assert match.photo == {name: f"{name}.jpg" for name in names}
