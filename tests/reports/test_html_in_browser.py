"""The page in headless Chromium, for which every host name resolves to a local server that records all requests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from samples import full

from sfplus.reports.html import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine; apt-get install chromium"),
]
_FRAME = """<!DOCTYPE html><title>measure</title><iframe id="f" style="border:0;width:{width}px;height:800px"></iframe>
<script>
f.onload = () => {{
  const page = f.contentDocument, root = page.documentElement, width = root.clientWidth
  const over = (e) => e.getBoundingClientRect().right > width + 0.5 && !e.closest('.scroll, svg')
  const visible = (e) => e.getBoundingClientRect().height > 40 && e.getBoundingClientRect().width > 100
  document.documentElement.dataset.measured = JSON.stringify({{
    width, scroll: root.scrollWidth, over: [...page.body.querySelectorAll('*')].filter(over).map((e) => e.outerHTML),
    figures: [...page.querySelectorAll('figure')].filter((e) => visible(e.querySelector('svg, img'))).map((e) => e.id),
    images: [...page.images].map((e) => e.naturalWidth),
  }})
}}
f.src = 'report.html'
</script>"""


@dataclass(frozen=True)
class Site:
    """A served folder with a report.

    Attributes:
        folder: the folder.
        port: the port of the server.
        requests: requests that pages made, other than for themselves.
    """

    folder: Path
    port: int
    requests: list[str]

    def browse(self, page: str, tmp_path: Path, *options: str) -> tuple[str, list[str], list[str]]:
        """Return the document after its scripts ran, the messages of the console and the requests of the page."""
        self.requests.clear()
        done = subprocess.run(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={tmp_path / 'profile'}", f"--host-resolver-rules=MAP * 127.0.0.1:{self.port}",
             "--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1600,1000", "--dump-dom", *options,
             f"http://127.0.0.1:{self.port}/{page}"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout, re.findall(r"CONSOLE[^\"]*\"(.*?)\", source", done.stderr), list(self.requests)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, requests = tmp_path_factory.mktemp("site"), []
    render(full(), folder)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/favicon.ico":  # requested by the browser, not by the page
                self.send_response(204)
                self.end_headers()
                return
            if self.headers["Referer"]:
                requests.append(f"{self.headers['Host']}{self.path}")
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(folder, server.server_port, requests)
    server.shutdown()


def test_page_logs_nothing_and_requests_nothing(site: Site, tmp_path: Path) -> None:
    text, console, requests = site.browse("report.html", tmp_path)
    assert "<h1>LFW, aligned</h1>" in text and console == [] and requests == []


def test_a_page_with_a_request_is_blocked_and_would_be_noticed(site: Site, tmp_path: Path) -> None:
    text = (site.folder / "report.html").read_text("utf-8")
    text = text.replace("</main>", '<img src="http://example.org/x.png"></main>')
    (site.folder / "blocked.html").write_text(text, "utf-8")
    _, console, requests = site.browse("blocked.html", tmp_path)
    assert len(console) == 1 and "Content Security Policy" in console[0] and requests == []
    (site.folder / "unprotected.html").write_text(re.sub(r'<meta http-equiv="Content-Sec[^>]*>', "", text), "utf-8")
    assert site.browse("unprotected.html", tmp_path)[2] == ["example.org/x.png"]


@pytest.mark.parametrize("width", [360, 1400])
def test_page_fits_and_shows_every_figure(width: int, site: Site, tmp_path: Path) -> None:
    (site.folder / f"{width}.html").write_text(_FRAME.format(width=width), "utf-8")
    text, console, _ = site.browse(f"{width}.html", tmp_path)
    measured = json.loads(unescape(re.findall(r'data-measured="([^"]*)"', text)[0]))
    assert console == [] and measured["width"] == width
    assert measured["scroll"] == width and measured["over"] == []
    plots = ["folds", "roc", "det", "histogram-0", "histogram-1", "angles", "history-loss", "history-accuracy",
             "history-energy"]  # fmt: skip
    assert [name for name in measured["figures"] if name] == [f"figure-{name}" for name in plots]
    assert len(measured["images"]) == 5 and all(measured["images"])


def test_page_can_be_printed(site: Site, tmp_path: Path) -> None:
    site.browse("report.html", tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    pages = (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n")
    assert 3 <= pages <= 12
