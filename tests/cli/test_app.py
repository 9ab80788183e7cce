"""The command `sfplus app`: its server listens on this machine only, stores nothing and stops when asked."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sfplus.io.extras import install_command


def test_the_extra_is_named_if_a_package_is_missing(sfplus: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    answer = sfplus("app")
    assert answer.code == 1
    assert (
        answer.err
        == f"sfplus: sfplus app: the page needs uvicorn, which is missing; install it: {install_command('app')}\n"
    )


def test_a_port_in_use_and_a_missing_model_are_one_line(sfplus: Callable) -> None:
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answer = sfplus("app", "--port", port)
    assert answer.code == 2
    assert answer.err == f"sfplus: --port: cannot listen on 127.0.0.1:{port}; choose another port\n"
    answer = sfplus("app", "--port", 0, "--model", "nowhere")
    assert answer.code == 2 and "there is no model 'nowhere'" in answer.err and answer.err.count("\n") == 1


def test_a_folder_that_is_not_grouped_is_one_line(sfplus: Callable, tmp_path: Path) -> None:
    answer = sfplus("app", tmp_path, "--port", 0)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"sfplus: {tmp_path}: ") and f"sfplus group PHOTOS {tmp_path}\n" in answer.err


@pytest.fixture
def server(untrained_model: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "sfplus", "app", "--model", untrained_model, "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    assert process.stdout is not None
    line = re.fullmatch(r"page: http://127\.0\.0\.1:(\d+) \(Ctrl-C stops it\)\n", process.stdout.readline())
    assert line
    yield process, int(line[1])
    process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_serves_this_machine_only_and_stores_no_photo(
    stop: signal.Signals, server: tuple[subprocess.Popen, int], drawn: Path, tmp_path: Path
) -> None:
    process, port = server

    def ask(path: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if data is None else "POST", path, data, names)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    token = re.findall('<meta name="token" content="(.*?)">', ask("/")[1])[0]

    def upload(data: bytes) -> tuple[int, str]:
        return ask("/faces?name=a.jpg", data, X_Sfplus_Token=token)

    photo = min(drawn.glob("*/*.jpg")).read_bytes()
    with ThreadPoolExecutor(8) as threads:  # the same photo eight times at once
        answers = list(threads.map(upload, [photo] * 8))
    assert {status for status, _ in answers} == {200} and len(set(answers)) == 1
    assert upload(b"no photo")[0] == 422 and ask("/faces?name=a.jpg", photo)[0] == 403
    assert ask("/", Host=f"localhost:{port}")[0] == 200 and ask("/", Host="evil.example")[0] == 400
    for path in ("/../server.py", "/..%2f..%2fetc/passwd", "//etc/passwd", "/app.js%00", "/\\..\\x"):
        assert ask(path) == (404, "Not Found"), path
    with socket.socket() as outside, pytest.raises(OSError):
        outside.connect(("127.0.0.2", port))  # succeeds if the server listens on all addresses
    assert list(tmp_path.iterdir()) == [], "a photo was stored"
    process.send_signal(stop)
    assert process.wait(30) == 130
    assert process.stderr is not None and process.stderr.read() == "sfplus: stopped; the same command resumes\n"
