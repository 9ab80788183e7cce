"""The pages of grouped people and of found photos."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from sfplus.images import encode_image
from sfplus.reports.people_page import (
    FaceView,
    PeopleTable,
    PeopleTotals,
    PersonView,
    PhotoView,
    photo_link,
    render_matches,
    render_people,
)

EVIL = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"><img src=x onerror=alert(1)> '",
    "\u2028\u2029",
    "line\nbreak\tand\0null",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "=HYPERLINK(1)",
    "\u202eright to left",
    "caf\udce9.jpg",
]
VOID = {"meta", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """The elements of a page, as pairs of tag and attributes, and its text without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.scripts = "", [""]
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {}))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._open.pop()
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif "style" not in self._open:
            self.text = " ".join([self.text, *data.split()])

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def crop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crops") / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (28, 24, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path.write_bytes(encode_image(noise, ".jpg", 90))
    return path


def draw(crop: Path, text: str = "", **options: Any) -> str:
    """Return a page of Anna with 40 photos, a nameless person with 2 and one seen once; `text` is in all strings."""
    faces = [FaceView(f"{text}a/{i}.jpg", 0, crop, f"../a/{i}.jpg", 0.9, others=i) for i in range(3)]
    people = [
        PersonView("person-00001", f"Anna{text}", 40, faces, more=38, link="people/anna"),
        PersonView("person-00002", "", 2, [replace(faces[0], photo=f"{text}b.jpg")], more=1),
        PersonView("person-00003", "", 1, [replace(faces[0], photo=f"{text}a/2.jpg", face=1)]),
    ]
    rows = [(view.person, view.name, view.photos, len(view.faces) + view.more) for view in people]
    rows += [("person-00004", "", 2, 2), ("person-00005", f"Bob{text}", 1, 1)]
    doubtful = [replace(faces[1], person="person-00001", confidence=0.31)]
    both = [replace(faces[2], person="person-00001"), replace(people[2].faces[0], person="person-00003")]
    together = [PhotoView(f"{text}a/2.jpg", "../a/2.jpg", both)]
    totals = PeopleTotals(4321, 5000, 3, 2, faceless=1, failed=7, doubtful=11, together=2)
    table = PeopleTable(rows, [(f"{text}old.jpg", 2, f"Zoe{text}")])
    options = {"doubtful": doubtful, "together": together, "folder": f"out{text}"} | options
    return render_people(f"Holiday{text}", people, totals, table, **options)


def test_the_page_says_what_is_shown_and_what_is_not(crop: Path) -> None:
    text = Page(draw(crop)).text
    for part in [
        "4,321 photos", "5,000 faces", "3 people with at least two photos", "2 people seen once",
        "1 photo without a face", "7 failed", "40 photos, 41 faces", "and 38 more", "2 photos, 2 faces", "and 1 more",
        "1 person is not shown; people.csv lists all.", "10 doubtful faces are not shown.",
        "1 photo with several people is not shown.",
        "Put the files into the folder out and run",
    ]:  # fmt: skip
        assert part in text, part
    assert text.count("not shown") == 4  # of the two people seen once, one


def test_nothing_is_said_about_nothing(crop: Path) -> None:
    view = PersonView("person-00001", "", 2, [FaceView("a.jpg", 0, crop)] * 2)
    page = Page(render_people("x", [view], PeopleTotals(2, 2, 1, 0), PeopleTable([("person-00001", "", 2, 2)])))
    assert "not shown" not in page.text and "more" not in page.text and "Doubtful" not in page.text
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == ["people"]
    empty = Page(render_people("x", [], PeopleTotals(0, 0, 0, 0), PeopleTable([])))
    assert "0 photos" in empty.text and not [tag for tag, _ in empty.elements if tag == "section"]


def test_every_crop_is_a_small_jpeg_that_links_to_its_photo(crop: Path) -> None:
    page = Page(draw(crop))
    faces = [attributes for tag, attributes in page.elements if tag == "li" and attributes.get("class") == "face"]
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(faces) == len(images) == 3 + 1 + 1 + 1 + 2
    assert len([link for link in page.attributes("href") if link.startswith("../a/")]) == len(images) + 1
    for image in images:
        kind, _, data = image["src"].partition(",")
        pixels = Image.open(BytesIO(base64.b64decode(data)))
        assert kind == "data:image/jpeg;base64" and pixels.size == (75, 88)
        assert (image["width"], image["height"], image["loading"]) == ("75", "88", "lazy")


def test_a_missing_crop_leaves_its_link(tmp_path: Path) -> None:
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8 not a photo")
    for name in ("gone.jpg", "damaged.jpg"):
        page = Page(draw(tmp_path / name))
        assert "img" not in dict(page.elements) and "../a/1.jpg" in page.attributes("href") and "a/1.jpg" in page.text


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("save_url", ["", "/save"])
def test_text_from_outside_stays_text(evil: str, save_url: str, crop: Path) -> None:
    text = draw(crop, evil, save_url=save_url and save_url + evil, token=evil)
    page, plain = Page(text), Page(draw(crop, save_url=save_url))
    assert [(tag, [*attributes]) for tag, attributes in page.elements if tag != "wbr"] == [
        (tag, [*attributes]) for tag, attributes in plain.elements if tag != "wbr"
    ]
    assert page.scripts[1] == plain.scripts[1] and len(page.scripts) == 3
    assert not re.search("[<>&\u2028\u2029]", page.scripts[0])
    text.encode()  # no lone surrogates
    assert "49" not in page.text and not re.search(r"[\0\u2028\u2029\u202e]", text)
    if not save_url:
        assert page.data["corrections"] == [[f"{evil}old.jpg", 2, f"Zoe{evil}"]]
        assert page.data["names"] == {"0": f"Anna{evil}", "4": f"Bob{evil}"}
        assert [f"{evil}b.jpg", 0, 1] in page.data["shown"]


@pytest.mark.parametrize("evil", EVIL)
def test_text_from_outside_stays_text_on_the_page_of_matches(evil: str, crop: Path) -> None:
    def page(text: str) -> Page:
        faces = [FaceView(f"{text}{i}.jpg", 0, crop, "a.jpg", i / 10, others=2) for i in (9, 1)]
        return Page(render_matches(f"Anna{text}", faces, faces, note=f"model{text}"))

    tags = [[tag for tag, _ in drawn.elements if tag != "wbr"] for drawn in (page(evil), page(""))]
    assert tags[0] == tags[1] and "script" not in tags[0]


@pytest.mark.parametrize(
    ("link", "is_safe"),
    [
        ("../holiday/a%20b.jpg", True), ("photo/12?face=1#x", True), ("/photos/Zo\u00eb.jpg", True),
        ("a%3Ab.jpg", True), ("file:///home/anna/a.jpg", True), ("", False), ("javascript:alert(1)", False),
        ("JavaScript:alert(1)", False),
        ("java\nscript:alert(1)", False), (" javascript:alert(1)", False), ("\x01javascript:alert(1)", False),
        ("data:text/html,x", False), ("http://example.org/a.jpg", False), ("https:a.jpg", False),
        ("//example.org/a.jpg", False), ("\\\\example.org/a.jpg", False), ("/\\example.org/a.jpg", False),
        ("http://[", False), ("/\t/example.org/a.jpg", False),
    ],
)  # fmt: skip
def test_links_run_nothing_and_lead_nowhere_else(link: str, is_safe: bool, crop: Path) -> None:
    face = FaceView("a.jpg", 0, crop, link)
    page = Page(render_matches("Anna", [face], []))
    assert page.attributes("href") == ([link] if is_safe else [])


@pytest.mark.parametrize(
    "name", ["a b.jpg", "50%.jpg", "a#1?.jpg", "x:y.jpg", "Zo\u00eb.jpg", "caf\udce9.jpg", "'\".jpg"]
)
def test_photo_link_keeps_all_bytes_of_a_name(name: str, tmp_path: Path) -> None:
    link = photo_link(tmp_path / "photos" / name, tmp_path / "out")
    assert re.fullmatch(r"\.\./photos/[\w.%-]+", link)
    assert unquote_to_bytes(link) == os.fsencode(f"../photos/{name}")


@pytest.mark.parametrize("save_url", ["", "/save"])
def test_the_policy_admits_the_script_of_the_page_alone_and_no_address_outside(save_url: str, crop: Path) -> None:
    text = draw(crop, save_url=save_url)
    page = Page(text)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    policy = dict(part.partition(" ")[::2] for part in page.attributes("content")[-1].split("; "))
    expected = {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "base-uri": "'none'",
                "form-action": "'none'", "script-src": f"'sha256-{digest}'"}  # fmt: skip
    assert policy == expected | ({"connect-src": "'self'"} if save_url else {})
    assert not re.search(
        r"https?:|//[\w.]+\.\w|@import|url\(", re.sub(r"data:image[^\"]*", "", text).replace("// ", "")
    )


def test_a_served_page_has_only_the_people_that_it_needs(crop: Path) -> None:
    data = Page(draw(crop, save_url="/save", token="secret")).data
    assert data["ids"] == ["person-00001", "person-00002", "person-00003", "person-00005"]  # shown, or with a name
    assert (data["save"], data["token"], data["corrections"]) == ("/save", "secret", [])


def test_a_face_without_a_number_cannot_be_moved(crop: Path) -> None:
    faces = [FaceView("a.jpg", -1, crop), FaceView("a.jpg", -1, crop), FaceView("b.jpg", 3, crop)]
    view = PersonView("person-00001", "", 2, faces)
    page = Page(render_people("x", [view], PeopleTotals(2, 3, 1, 0), PeopleTable([("person-00001", "", 2, 3)])))
    assert page.data["shown"] == [["b.jpg", 3, 0]]
    assert page.attributes("data-face") == ["0"] and page.attributes("alt") == ["a.jpg", "a.jpg", "face 4 of b.jpg"]


def test_size_grows_by_a_crop_for_each_face_and_a_short_row_for_each_person(crop: Path) -> None:
    def size(faces: int, people: int) -> int:
        views = [FaceView(f"folder/{i}.jpg", 0, crop, f"../folder/{i}.jpg") for i in range(faces)]
        rows = [(f"person-{i:05d}", "", 1, 1) for i in range(people)]
        view = PersonView("person-00000", "", 9, views)
        return len(render_people("x", [view], PeopleTotals(9, 9, 1, 0), PeopleTable(rows)).encode())

    small = size(1, 1)
    assert small < 40_000
    assert size(101, 1) - small < 100 * (4 / 3 * 6_000 + 700)  # noise, which compresses worse than any face
    assert size(1, 100_001) - small < 100_000 * 20


def test_matches_are_divided_at_one_half(crop: Path) -> None:
    chances = [0.999, 0.97, 0.501, 0.4999, 0.4, 0.001]
    faces = [FaceView(f"{chance}.jpg", 0, crop, "a.jpg", chance) for chance in chances]
    text = Page(render_matches("Anna", faces[:1], faces, more=3, note="Model x.")).text
    expected = ["Model x.", "over 99 %", "97 %", "50 %", "less likely than not", "49 %", "40 %", "under 1 %",
                "3 photos are not shown."]  # fmt: skip
    positions = [text.index(part) for part in expected]
    assert positions == sorted(positions)
    assert "less likely" not in Page(render_matches("Anna", faces[:1], faces[:3])).text
    assert "not shown" not in Page(render_matches("Anna", faces[:1], faces[:3])).text


def test_matches_of_a_model_without_probabilities_show_similarities(crop: Path) -> None:
    faces = [FaceView(f"{value}.jpg", 0, crop, "a.jpg", similarity=value) for value in (0.7, 0.2)]
    text = Page(render_matches("Anna", faces[:1], faces)).text
    assert text.index("0.700") < text.index("0.200") and "%" not in text and "less likely" not in text
    assert "No photo has a face" in Page(render_matches("Anna", faces[:1], [])).text
