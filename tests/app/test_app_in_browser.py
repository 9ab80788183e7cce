"""The pages of the app in headless Chromium: photos are uploaded, faces clicked, answers read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chromium import CHROMIUM, MISSING, Tab, browse

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=MISSING)]

FIRST, SECOND = ".panel:nth-of-type(1)", ".panel:nth-of-type(2)"


@contextmanager
def serve(*words: object) -> Iterator[str]:
    """Run `sfplus app` and yield the address of its page."""
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "sfplus", "app", *words, "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address(decided_model: Path) -> Iterator[str]:
    with serve("--model", decided_model) as address:
        yield address


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with browse(tmp_path / "profile", seconds=300) as tab:
        yield tab


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_two_photos_are_compared_and_another_face_is_chosen(
    width: int, scheme: str, tab: Tab, address: str, two_faces: Path
) -> None:
    tab.open(address, width, scheme)
    for panel in (FIRST, SECOND):
        tab.upload(f"{panel} input[type=file]", two_faces)
    tab.wait("document.querySelector('#plot svg')")
    assert tab.run("decision.innerText").startswith("Same person\n")
    assert tab.run("document.querySelectorAll('.box').length") == 4
    used = tab.run(f"document.querySelector('{FIRST} .used').innerText")
    other = {"1": 2, "2": 1}[used]

    tab.run("decision.replaceChildren()")
    tab.click(f"{FIRST} .box:nth-of-type({other})")
    tab.wait("decision.querySelector('h2')")
    verdict = tab.run("decision.innerText")
    assert verdict.startswith(("Same person\n", "Different people\n")) and "Similarity 1.000" not in verdict
    assert f"2 faces; face {other} is used." in tab.run(f"document.querySelector('{FIRST}').innerText")

    tab.run(f"document.querySelector('{SECOND} [type=radio]:checked').focus()")
    tab.press(str(other), str(other))  # the number of the same face in the other photo
    tab.wait("decision.innerText.includes('Similarity 1.000')")
    tab.press("ArrowRight")  # to the other one, and back with the mouse on its crop
    tab.wait("!decision.innerText.includes('Similarity 1.000')")
    tab.click(f"{SECOND} .crops li:nth-of-type({other}) label")
    tab.wait("decision.innerText.includes('Similarity 1.000')")

    tab.click("[name=far][value='0.01']")
    tab.wait("decision.innerText.includes('FAR 0.01: 1 of 100 pairs of different people')")
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run("document.querySelectorAll('a').length") == 0, "a link to an upload"
    assert tab.console == []


def test_what_is_not_a_photo_or_shows_no_face_is_said_on_the_page(tab: Tab, address: str, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "<b>text.jpg").write_text("no photo")
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "grey.png")
    tab.open(address)
    tab.upload(f"{FIRST} input[type=file]", tmp_path / "<b>text.jpg")
    tab.upload(f"{SECOND} input[type=file]", tmp_path / "grey.png")
    tab.wait("document.querySelectorAll('.problem').length == 2")
    messages = tab.run("[...document.querySelectorAll('.message')].map((e) => e.innerText)")
    assert messages == [
        "<b>text.jpg: is not a photo in a known format; convert it to JPEG or PNG",
        "grey.png: no face found; choose a photo with a larger, clearer face",
    ]
    assert tab.run("verdict.hidden")


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(tab: Tab, address: str, two_faces: Path) -> None:
    tab.open(address)
    tab.upload(f"{FIRST} input[type=file]", two_faces)
    tab.wait("document.querySelector('.box')")
    tab.call("Accessibility.enable")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in ("radio", "radiogroup", "region", "image", "button")
    }
    assert {("radio", "Face 1"), ("radio", "Face 2"), ("radiogroup", "Face in first photo")} <= named
    assert ("region", "Second photo") in named and ("image", "two faces.png") in named
    assert all(name for _, name in named), named
    focused = []
    for _ in range(4):
        tab.press("Tab")
        focused.append(tab.run("document.activeElement.type"))
    assert focused[0] == "file" and "radio" in focused


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_a_person_is_named_and_searched_in_a_grouped_folder(
    width: int, scheme: str, tab: Tab, grouped: Path, two_faces: Path
) -> None:
    with serve(grouped) as address:
        tab.open(address, width, scheme)
        tab.click(".tabs a[href=people]")
        tab.wait("document.title.startsWith('People in') && document.querySelector('input.name')")
        tab.click("input.name")
        tab.call("Input.insertText", text="Anna")
        tab.click("#save")
        tab.wait("document.querySelector('input.name')?.defaultValue == 'Anna'")
        assert "Anna" in (grouped / "people.csv").read_text()
        tab.open(f"{address}/people?again", width, scheme)
        assert tab.run("document.querySelector('input.name').value") == "Anna"
        assert tab.run("document.documentElement.scrollWidth") == width
        link = "document.querySelector('.face a[title=\"two faces.png\"]').href"
        photo = tab.run(f"fetch({link}).then((answer) => answer.blob()).then((blob) => blob.type)")
        assert photo == "image/jpeg"

        tab.click(".tabs a[href=search]")
        tab.wait("document.readyState == 'complete' && document.querySelector('.panel')")
        tab.upload(".panel input[type=file]", two_faces)
        best = "[...document.querySelectorAll('#matches .face')].slice(0, 3).map((e) => e.innerText).join()"
        for face in range(2):  # both people are in three photos: their own, this one and its copy
            tab.wait("document.querySelector('#matches .face')")
            assert "two faces.png" in tab.run(best), face
            tab.run("matches.replaceChildren()")
            tab.click(".box:not(:has(:checked))")
        tab.wait("document.querySelector('#matches .face')")
        assert tab.run("document.documentElement.scrollWidth") == width
        assert tab.console == []
