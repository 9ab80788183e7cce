"""A web server on the loopback device for tests of downloads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `files`: status, body and declared length by path; `requests` lists the requested paths."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, tuple[int, bytes, int]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []

    def put(self, path: str, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> str:
        """Serve a body and return its address."""
        self.files[path] = (status, body, len(body) if length is None else length)
        self.headers[path] = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.address + path


@contextmanager
def serve() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            server.requests.append(path)
            status, body, length = server.files.get(path, (404, b"no such file", 12))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            for name, value in server.headers.get(path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_address[1]}")
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()
