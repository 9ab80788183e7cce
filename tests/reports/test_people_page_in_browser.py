"""The page of people in headless Chromium: names, faces moved to other people, and what is saved."""

from __future__ import annotations

import csv
import json
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, MISSING, Tab, browse

from sfplus.images import encode_image
from sfplus.reports.people_page import (
    FaceView,
    PeopleTable,
    PeopleTotals,
    PersonView,
    PhotoView,
    render_matches,
    render_people,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=MISSING)]

PHOTOS = ["a/1.jpg", '=x,"y";z.jpg', " Zo\u00eb\u2028\n.jpg", "</script>.jpg"]
EVE = 'Eve\u0301, "E"'  # e and a combining accent, as macOS writes names
TYPE = """(selector, text, index = 0) => {
  const field = document.querySelectorAll(selector)[index]
  field.focus(); field.value = text; field.dispatchEvent(new Event('input'))
}"""


def draw(folder: Path, **options: Any) -> str:
    """Return a page of three people with two photos, Zoe, who is seen once, and others that are not shown."""
    crop = folder / "crop.jpg"
    crop.write_bytes(encode_image(np.full((112, 96, 3), 99, np.uint8), ".jpg", 90))
    face = [FaceView(photo, 1, crop, "crop.jpg", 0.9, person=f"person-{i % 2:05d}") for i, photo in enumerate(PHOTOS)]
    people = [PersonView("person-00000", "", 2, face[0::2]), PersonView("person-00001", "Ben", 30, face[1::2], more=28)]
    people += [PersonView("person-00002", "", 2, [FaceView(f"c/{i}.jpg", 0, crop, "crop.jpg") for i in range(12)])]
    people += [PersonView("person-00003", "Zo\u00eb", 1, [FaceView("d.jpg", 0, crop, "crop.jpg")])]
    rows = [(view.person, view.name, view.photos, len(view.faces) + view.more) for view in people]
    rows += [("person-00004", "Ben", 0, 0), ("person-00005", "", 2, 2), ("person-00006", EVE, 5, 6)]
    table = PeopleTable(rows, [("old.jpg", 0, "Zo\u00eb"), (PHOTOS[0], 1, "person-00001"), (PHOTOS[0], 2, "")])
    totals = PeopleTotals(9, 20, 5, 1, doubtful=9, together=1)
    options |= {"doubtful": [face[1], face[2]], "together": [PhotoView(PHOTOS[0], "crop.jpg", [face[0], face[1]])]}
    return render_people("Holiday", people, totals, table, folder="out", **options)


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with browse(tmp_path / "profile") as tab:
        yield tab


@pytest.fixture
def page(tab: Tab, tmp_path: Path) -> Tab:
    """The page opened as a file."""
    path = tmp_path / "people.html"
    path.write_text(draw(tmp_path), "utf-8")
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
    tab.open(path.as_uri())
    return tab


def type_text(tab: Tab, selector: str, text: str, index: int = 0) -> None:
    tab.run(f"({TYPE})({json.dumps(selector)}, {json.dumps(text)}, {index})")


def select(tab: Tab, face: int) -> None:
    tab.run(f"document.querySelector('[data-face=\"{face}\"] .tick input').click()")


def move(tab: Tab, *faces: int, to: str) -> None:
    """Select faces by their number in the page and say whose they are."""
    for face in faces:
        select(tab, face)
    type_text(tab, "#target", to)
    tab.run("document.querySelector('#selection button').click()")


def face_number(tab: Tab, photo: str, face: int = 1) -> int:
    shown = tab.run("JSON.parse(document.getElementById('data').textContent).shown")
    return next(number for number, row in enumerate(shown) if row[:2] == [photo, face])


def downloaded(folder: Path, name: str) -> list[list[str]]:
    """Return the rows of a file when it is complete."""
    deadline = time.monotonic() + 20
    while not (folder / "downloads" / name).is_file():
        assert time.monotonic() < deadline, f"{name} was not downloaded"
        time.sleep(0.05)
    with (folder / "downloads" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def visible(tab: Tab, selector: str) -> list[str]:
    """Return the text of the visible elements."""
    script = f"[...document.querySelectorAll({json.dumps(selector)})].filter((e) => e.checkVisibility())"
    return tab.run(f"{script}.map((e) => e.textContent)")


def is_unsaved(tab: Tab) -> bool:
    """Return whether the page asks before it is left."""
    return not tab.run("dispatchEvent(new Event('beforeunload', {cancelable: true}))")


def test_an_unchanged_page_offers_nothing_and_logs_nothing(page: Tab) -> None:
    assert visible(page, "#bar button") == [] and not is_unsaved(page) and page.console == []


def test_equal_names_are_said_to_be_joined(page: Tab) -> None:
    type_text(page, ".name", "  Ben ")
    assert visible(page, ".joined") == ["will be joined with person-00001 (30 photos)",
                                        "will be joined with person-00000 (2 photos)"]  # fmt: skip
    type_text(page, ".name", EVE)  # who is not on the page
    assert visible(page, ".joined") == ["will be joined with person-00006 (5 photos)"]
    type_text(page, ".name", "Zoe\u0308", 2)  # e and a combining diaeresis
    assert "will be joined with person-00003 (1 photo)" in visible(page, ".joined")
    type_text(page, ".name", "person-00001")
    assert "not a name" in visible(page, ".joined")[0]
    type_text(page, ".name", "", 1)
    assert "no longer Ben" in visible(page, ".joined")
    for index, text in enumerate(["", "Ben", ""]):
        type_text(page, ".name", text, index)
    assert visible(page, ".joined") == [] and visible(page, "#bar button") == [] and not is_unsaved(page)


def test_people_csv_has_all_people_and_their_new_names(page: Tab, tmp_path: Path) -> None:
    type_text(page, ".name", ' Anna  "A", M\u00fcller; ')
    type_text(page, ".name", "Benjamin", 1)
    type_text(page, ".name", unicodedata.normalize("NFC", EVE), 2)
    type_text(page, ".name", "-1", 3)
    assert visible(page, "#bar button") == ["Save people.csv"] and is_unsaved(page)
    assert visible(page, "#changed") == ["4 names changed"]
    page.click("#save-people")
    assert downloaded(tmp_path, "people.csv") == [
        ["person", "name", "photos", "faces"],
        ["person-00000", 'Anna "A", M\u00fcller;', "2", "2"],
        ["person-00001", "Benjamin", "30", "30"],
        ["person-00002", EVE, "2", "12"],
        ["person-00003", "-1", "1", "1"],
        ["person-00004", "Benjamin", "0", "0"],  # had the same name and thus was the same person
        ["person-00005", "", "2", "2"],
        ["person-00006", EVE, "5", "6"],
    ]
    assert not is_unsaved(page) and visible(page, "#changed") == ["4 names changed, saved"] and page.console == []
    for index, text in enumerate(["", "Ben", "", "Zo\u00eb"]):
        type_text(page, ".name", text, index)
    assert is_unsaved(page) and visible(page, "#bar button") == ["Save people.csv"]  # the saved file has the new names


def test_corrections_csv_has_earlier_and_new_moves(page: Tab, tmp_path: Path) -> None:
    numbers = [face_number(page, photo) for photo in PHOTOS]
    move(page, numbers[0], to="Ben")
    move(page, numbers[1], to="")
    assert visible(page, "#message") == ["Type a name, or choose “Somebody else”."]
    page.run("document.getElementById('nobody').click()")
    move(page, numbers[2], to="person-00099")
    assert visible(page, "#message") == ["There is no person-00099."]
    move(page, to="Mia, new")
    move(page, numbers[3], to="person-00002")
    move(page, face_number(page, "d.jpg", 0), to="Ben")
    select(page, face_number(page, "d.jpg", 0))
    page.click("#undo")
    notes = visible(page, ".moved")
    assert set(notes) == {"moves to Ben", "somebody else", "moves to Mia, new", "moves to person-00002"}
    assert len(notes) == 8  # PHOTOS[0], [1] and [2] are on the page twice or more
    assert visible(page, "#bar button") == ["Save corrections.csv"] and is_unsaved(page)
    page.click("#save-corrections")
    assert downloaded(tmp_path, "corrections.csv") == [
        ["photo", "face", "person"],
        ["old.jpg", "0", "Zo\u00eb"],
        [PHOTOS[0], "1", "person-00001"],
        [PHOTOS[0], "2", ""],
        [PHOTOS[1], "1", ""],
        [PHOTOS[2], "1", "Mia, new"],
        [PHOTOS[3], "1", "person-00002"],
    ]
    assert not is_unsaved(page) and page.console == []


def test_search_filters_by_name_without_accents_and_names_people_that_are_not_shown(page: Tab) -> None:
    rows = "[data-people]:not([hidden])"
    type_text(page, "#search", "zoe")
    assert len(visible(page, rows)) == 1 and visible(page, "h2") == ["Seen once"]
    assert visible(page, "#found") == ["1 person"]
    type_text(page, "#search", "eve")
    assert visible(page, "#found") == [f"0 people here, and not on this page: {EVE} (person-00006)"]
    type_text(page, "#search", "BEN")
    assert visible(page, "h2") == ["People", "Doubtful faces", "Photos with several people"]
    type_text(page, "#search", "")
    assert len(visible(page, "h2")) == 4 and visible(page, "#found") == []


def test_a_click_opens_the_photo_until_a_face_is_selected(page: Tab) -> None:
    def opens(link: int) -> bool:
        click = "dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"
        return page.run(f"document.querySelectorAll('.face a')[{link}].{click}, window.opens")

    page.run("""addEventListener('click', (event) => {
      if (!event.target.closest('a')) return
      window.opens = !event.defaultPrevented
      event.preventDefault()
    })""")
    assert opens(1) and visible(page, "#selected") == []
    page.click(".tick input")
    assert not opens(1) and visible(page, "#selected") == ["2 faces selected"]
    page.press("Escape")
    assert opens(1) and visible(page, "#selected") == []


def test_keyboard_alone_moves_a_face(page: Tab) -> None:
    page.run("document.querySelector('.tick input').focus()")
    page.press(" ", " ")
    assert visible(page, "#selected") == ["1 face selected"]
    page.run("document.getElementById('target').focus()")
    page.call("Input.insertText", text="Mia")
    assert visible(page, "#target-note") == ["a new person"]
    page.press("Enter", "\r")
    assert set(visible(page, ".moved")) == {"moves to Mia"}
    move(page, 0, to="person-00000")
    assert set(visible(page, ".moved")) == {"stays with person-00000"}
    unlabelled = "[...document.querySelectorAll('input')].filter((e) => !e.ariaLabel && !e.labels.length).length"
    assert page.run(unlabelled) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_pages_fit(width: int, scheme: str, tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "people.html").write_text(draw(tmp_path), "utf-8")
    faces = [FaceView(f"folder/{'long' * 20}_{i}.jpg", 0, tmp_path / "crop.jpg", "a.jpg", i / 20) for i in range(20)]
    (tmp_path / "found.html").write_text(render_matches("Anna", faces[:1], faces[::-1]), "utf-8")
    for name in ("found", "people"):
        tab.open((tmp_path / f"{name}.html").as_uri(), width, scheme)
        if name == "people":
            move(tab, 0, to="a rather long name of somebody")
            tab.run("document.querySelector('.tick input').click()")
        assert tab.run("document.documentElement.scrollWidth") == width
        colour = tab.run("getComputedStyle(document.body).backgroundColor")
        assert colour == ("rgb(252, 251, 248)" if scheme == "light" else "rgb(20, 23, 26)")
    assert tab.console == []


@dataclass
class App:
    """A server of the page that records what is saved.

    Attributes:
        address: address of the page.
        saved: the tokens and bodies that were sent.
        loads: the number of times the page was loaded.
        error: answer of the next request to save, with status 400; empty for success.
    """

    page: str
    address: str = ""
    saved: list[tuple[str | None, Any]] = field(default_factory=list)
    loads: int = 0
    error: str = ""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(draw(tmp_path, save_url="/save", token="token"))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            app.loads += self.path == "/"
            self._answer(200, app.page if self.path == "/" else "")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            app.saved.append((self.headers["X-Sfplus-Token"], body))
            self._answer(400 if app.error else 200, app.error)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    app.address = f"http://127.0.0.1:{server.server_port}/"
    yield app
    server.shutdown()


def test_a_served_page_posts_changes_and_reloads(app: App, tab: Tab) -> None:
    tab.open(app.address)
    type_text(tab, ".name", "Anna")
    move(tab, face_number(tab, PHOTOS[2]), to="Zo\u00eb")
    assert visible(tab, "#bar button") == ["Save"] and visible(tab, "#changed") == ["1 name and 1 face changed"]
    app.error = "people.csv: is damaged;\n run sfplus group again <b>"
    tab.click("#save")
    tab.wait("document.getElementById('message').textContent.includes('damaged')")
    assert visible(tab, "#message") == ["people.csv: is damaged; run sfplus group again <b>"] and is_unsaved(tab)
    app.error = ""
    tab.click("#save")
    tab.wait("document.querySelector('.ready #bar:not(.open)')")
    body = {"names": {"person-00000": "Anna"}, "moves": [[PHOTOS[2], 1, "person-00003"]]}
    assert app.saved == [("token", body)] * 2 and app.loads == 2


def test_a_server_that_ended_is_said(app: App, tab: Tab) -> None:
    tab.open(app.address)
    type_text(tab, ".name", "Anna")
    tab.run("fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    tab.click("#save")
    tab.wait("document.getElementById('message').textContent.includes('does not answer')")
    assert is_unsaved(tab) and tab.run("document.getElementById('save').disabled") is False
