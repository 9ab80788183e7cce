"""The routes of the app: answers to its pages, and to requests that try to get or do something else."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from slow_cases import mostly_slow

from sfplus.app import server
from sfplus.app.comparison import Comparison, encode_feature
from sfplus.app.people import PeopleFolder
from sfplus.app.uploads import UploadReader
from sfplus.people.grouped_photos import GroupedPhotos

testclient = pytest.importorskip("starlette.testclient", reason="pip install -e '.[app]'")


@pytest.fixture(scope="module")
def site(comparison: Comparison, reader: UploadReader) -> server.Site:
    return server.Site(comparison, reader)


def client_of(site: server.Site) -> Any:
    """A client with the token of the page."""
    return testclient.TestClient(
        site.application(), base_url="http://127.0.0.1:7860", headers={"X-Sfplus-Token": site.token},
        raise_server_exceptions=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(site: server.Site) -> Iterator[Any]:
    with client_of(site) as client:
        yield client


@pytest.fixture
def folder_client(comparison: Comparison, reader: UploadReader, grouped: Path) -> Iterator[Any]:
    """A client of a server with a grouped folder."""
    with client_of(server.Site(comparison, reader, PeopleFolder(grouped, reader))) as client:
        yield client


def test_the_page_has_the_token_and_runs_only_its_own_script(client: Any, site: server.Site) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "<h1>Same person?</h1>" in page.text
    assert re.findall('<meta name="token" content="(.*?)">', page.text) == [site.token]
    assert "FAR 1&#8239;%: accepts 1 in 100 pairs" in page.text and "FAR 0.1&#8239;%" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert page.headers["cache-control"] == "no-store" and "set-cookie" not in page.headers
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    assert re.findall('(?:src|href)="(.*?)"', page.text) == ["data:,", "app.js"]


def test_two_uploads_are_compared_and_nothing_is_stored(
    client: Any, two_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    photo = client.post("/faces?name=two%20faces.png", content=two_faces.read_bytes()).json()
    first, second = (face["feature"] for face in photo["faces"])
    same = client.post("/compare", json={"first": first, "second": first}).json()
    assert '<h2 class="same">Same person</h2>' in same["text"] and "<svg" in same["plot"]
    assert "at least this alike; of the same person" in same["text"]
    assert "FAR 0.01: 1 of 100" in client.post("/compare", json={"first": first, "second": second, "far": 0.01}).text
    assert list(tmp_path.iterdir()) == [] and two_faces.exists()


NO_TOKEN = {"X-Sfplus-Token": "x"}
HOSTILE: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/faces", {"content": b"no photo"}, 422, "photo: is not a photo in a known format; convert it to"),
    ("POST", "/faces?name=a.jpg", {"content": b""}, 422, "a.jpg: is empty (0 bytes)"),
    ("POST", "/faces?name=/etc/passwd", {"content": b"x"}, 422, "passwd: is not a photo"),
    ("POST", "/faces?name=../../a%00%0a.jpg", {"content": b"x"}, 422, r"a\x00\n.jpg: is not a photo"),
    ("POST", "/faces?name=film.mp4", {"content": b"x"}, 422, "film.mp4: is a video"),
    ("POST", "/faces?name=a.jpg", {"content": bytes(2**20 + 1)}, 413, "more than 1 MB; make it smaller"),
    ("POST", "/faces?name=a.jpg", {"content": iter([bytes(2**20), b"x"])}, 413, "more than 1 MB; make it smaller"),
    ("POST", "/faces", {"content": b"x", "headers": NO_TOKEN}, 403, "this page is from an earlier start"),
    ("POST", "/faces", {"content": b"x", "headers": {"X-Sfplus-Token": "é".encode()}}, 403, "this page is from"),
    ("POST", "/compare", {"json": {}, "headers": NO_TOKEN}, 403, "this page is from an earlier start"),
    ("POST", "/nothing", {"headers": NO_TOKEN}, 403, "this page is from an earlier start"),
    ("GET", "/", {"headers": {"Host": "evil.example"}}, 400, "Invalid host header"),
    ("GET", "/", {"headers": {"Host": "127.0.0.1.evil.example:7860"}}, 400, "Invalid host header"),
    ("POST", "/faces", {"content": b"x", "headers": {"Host": "evil.example"}}, 400, "Invalid host header"),
    ("GET", "/", {"headers": {"Host": ""}}, 400, "Invalid host header"),
    ("GET", "/faces", {}, 405, "Method Not Allowed"),
    ("DELETE", "/", {}, 405, "Method Not Allowed"),
    ("POST", "/app.js", {}, 405, "Method Not Allowed"),
    ("GET", "/server.py", {}, 404, "Not Found"),
    ("GET", "/../server.py", {}, 404, "Not Found"),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}, 404, "Not Found"),
    ("GET", "//etc/passwd", {}, 404, "Not Found"),
    ("GET", "/app.js%00", {}, 404, "Not Found"),
    ("POST", "/compare", {"content": b"{"}, 422, "the request: Invalid JSON"),
    ("POST", "/compare", {"content": b"[" * 100_000}, 422, "the request: Invalid JSON"),
    ("POST", "/compare", {"content": b"\xff"}, 422, "the request: Invalid JSON"),
    ("POST", "/compare", {"json": {"first": "x"}}, 422, "second: Field required"),
    ("POST", "/compare", {"json": {"first": "x", "second": "", "path": "/etc"}}, 422, "path: Extra inputs"),
    ("POST", "/compare", {"json": {"first": "x", "second": "x"}}, 422, "the face: is not a feature of this model"),
    ("POST", "/compare", {"json": {"first": ["/etc"], "second": ""}}, 422, "first: Input should be a valid string"),
    ("GET", "/people", {}, 404, "Not Found"),
    ("POST", "/search", {"json": {"feature": "x"}}, 404, "Not Found"),
    ("POST", "/compare", {"json": {"first": "x" * 2**20, "second": ""}}, 413, "more than 1 MB"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "request_", "status", "line"), HOSTILE)
def test_hostile_requests_get_one_line_and_change_nothing(
    method: str, path: str, request_: dict[str, Any], status: int, line: str,
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(server, "MAX_BYTES", 2**20)
    answer = client.request(method, path, **request_)
    assert (answer.status_code, answer.text[: len(line)]) == (status, line) and "\n" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("far", mostly_slow([0.001, 0, 2, -1], [0.001]))
def test_a_rate_that_the_pairs_cannot_resolve_is_explained(far: float, client: Any, two_faces: Path) -> None:
    feature = client.post("/faces", content=two_faces.read_bytes()).json()["faces"][0]["feature"]
    answer = client.post("/compare", json={"first": feature, "second": feature, "far": far})
    assert answer.status_code == 422 and answer.text.startswith(f"FAR {far:g}: ")


@pytest.mark.slow
def test_slow_uploads_do_not_block_pages_and_other_uploads(
    client: Any, reader: UploadReader, two_faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, finish = reader.read, threading.Event()
    monkeypatch.setattr(reader, "read", lambda data, name: (name != "slow.jpg" or finish.wait(60)) and read(data, name))
    with ThreadPoolExecutor() as threads:
        slow = [threads.submit(client.post, "/faces?name=slow.jpg", content=b"x") for _ in range(2)]
        assert client.get("/").status_code == 200
        assert client.post("/faces?name=a.png", content=two_faces.read_bytes()).status_code == 200
        assert not any(answer.done() for answer in slow)
        finish.set()
        assert [answer.result().status_code for answer in slow] == [422, 422]


def test_a_fault_of_the_program_is_one_line(
    client: Any, comparison: Comparison, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    two_faces: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(comparison, "examine", lambda photo: 1 / 0)
    answer = client.post("/faces?name=a.png", content=two_faces.read_bytes())
    assert (answer.status_code, answer.text) == (500, "sfplus app failed, /faces: ZeroDivisionError: division by zero")
    assert [record.getMessage() for record in caplog.records if record.name == "sfplus.app.server"] == [
        "/faces: ZeroDivisionError: division by zero"
    ]


def test_people_are_shown_renamed_and_searched(folder_client: Any, grouped: Path) -> None:
    page = folder_client.get("/people")
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"  # the page has a policy of its own
    assert "script-src 'sha256-" in page.text
    save = folder_client.post(
        "/people", json={"names": {"person-00001": "Anna"}, "moves": [["two faces.png", 1, "Ben"]]}
    )
    assert (save.status_code, save.json()) == (200, {})
    assert 'value="Anna"' in folder_client.get("/people").text and "Anna" in (grouped / "people.csv").read_text()
    address = re.findall('href="(photos/.*?)"[^>]*title="two faces.png"', page.text)[0]
    photo = folder_client.get(f"/{address}")
    assert photo.headers["content-type"] == "image/jpeg" and photo.content.startswith(b"\xff\xd8")
    assert "<h1>Search by example</h1>" in folder_client.get("/search").text
    feature = encode_feature(GroupedPhotos.load(grouped).features[0])
    assert 'href="photos/' in folder_client.post("/search", json={"feature": feature}).json()["text"]


HOSTILE_WITH_A_FOLDER: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/photos/", {}, 404, "Not Found"),
    ("GET", "/photos/x", {}, 404, "Not Found"),
    ("GET", "/photos/two%20faces.png", {}, 404, "Not Found"),
    ("GET", "/photos/../out/people.csv", {}, 404, "Not Found"),
    ("GET", "/photos/..%2fout%2fpeople.csv", {}, 404, "Not Found"),
    ("GET", "/photos/%2fetc%2fpasswd", {}, 404, "Not Found"),
    ("GET", "/photos/%00", {}, 404, "Not Found"),
    ("GET", "/photos/%ff", {}, 404, "Not Found"),
    ("GET", "/people", {"headers": {"Host": "evil.example"}}, 400, "Invalid host header"),
    ("GET", "/photos/x", {"headers": {"Host": "evil.example"}}, 400, "Invalid host header"),
    ("POST", "/people", {"json": {"names": {}, "moves": []}, "headers": NO_TOKEN}, 403, "this page is from"),
    ("POST", "/search", {"json": {"feature": ""}, "headers": NO_TOKEN}, 403, "this page is from"),
    ("POST", "/people?token=x", {"content": b"", "headers": NO_TOKEN}, 403, "this page is from"),
    ("POST", "/photos/x", {"content": b""}, 405, "Method Not Allowed"),
    ("DELETE", "/people", {}, 405, "Method Not Allowed"),
    ("POST", "/people", {"json": {"names": {"person-00001": 5}, "moves": []}}, 422, "names.person-00001: Input should"),
    ("POST", "/people", {"json": {"names": {}, "moves": [["x", "y"]]}}, 422, "moves.0.1: Input should be"),
    ("POST", "/people", {"json": {"names": {}, "moves": [["../x", 0, ""]]}}, 422, "../x: has no face 0; reload"),
    ("POST", "/people", {"json": {"names": {"person-77777": "x"}, "moves": []}}, 422, "person-77777: there is no such"),
    ("POST", "/people", {"content": b"names=x"}, 422, "the request: Invalid JSON"),
    ("POST", "/search", {"json": {"feature": "/etc/passwd"}}, 422, "the face: is not a feature of this model"),
]  # fmt: skip


def test_hostile_requests_for_a_folder_get_one_line_and_change_nothing(folder_client: Any, grouped: Path) -> None:
    files = {path: path.read_bytes() for path in grouped.rglob("*") if path.is_file()}
    for method, path, request, status, line in HOSTILE_WITH_A_FOLDER:
        answer = folder_client.request(method, path, **request)
        assert (answer.status_code, answer.text[: len(line)]) == (status, line), (method, path, answer.text)
        assert "\n" not in answer.text
    assert {path: path.read_bytes() for path in grouped.rglob("*") if path.is_file()} == files
