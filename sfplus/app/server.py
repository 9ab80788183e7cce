"""The server of the page: routes, and what a request must have to be answered."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfplus.app.comparison import Comparison
from sfplus.app.people import PHOTOS, PeopleFolder
from sfplus.app.uploads import MAX_BYTES, UploadReader
from sfplus.errors import SfplusError, one_line
from sfplus.images import PHOTO_SUFFIXES
from sfplus.io.loggers import get_logger
from sfplus.reports.jinja_filters import page_templates

_log = get_logger(__name__)

Result = TypeVar("Result")
Body = TypeVar("Body", bound=BaseModel)

_FOLDER = Path(__file__).parent
_HOSTS = ["127.0.0.1", "localhost"]  # also through a tunnel; any other name may be a site that was pointed here
_JSON_BYTES = 2**20
_UPLOAD_SECONDS = 120
_AT_A_TIME = 4  # uploads, and as many pages and photos
_HINT = "To see the people of a folder here: sfplus group PHOTOS FOLDER, then sfplus app FOLDER."
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Pair(BaseModel):
    """The body of a request to compare two faces: their features, as the page got them."""

    model_config = ConfigDict(extra="forbid")

    first: str
    second: str
    far: float | None = None


class Example(BaseModel):
    """The body of a request to search for a face: its feature."""

    model_config = ConfigDict(extra="forbid")

    feature: str


class Changes(BaseModel):
    """The body of a request to save names by id, and faces that were moved: photo, face, person."""

    model_config = ConfigDict(extra="forbid")

    names: dict[str, str]
    moves: list[tuple[str, int, str]]


class Site:
    """The pages and routes.

    Args:
        comparison: computes faces and similarities.
        reader: decodes uploads.
        people: the grouped folder to show; None for none.

    Attributes:
        token: what the pages send with each request that is not a GET, so that no other page can.
    """

    def __init__(self, comparison: Comparison, reader: UploadReader, people: PeopleFolder | None = None) -> None:
        self._comparison = comparison
        self._reader = reader
        self._people = people
        # Others wait: slow uploads do not keep pages and photos from being served.
        self._uploads, self._views = anyio.CapacityLimiter(_AT_A_TIME), anyio.CapacityLimiter(_AT_A_TIME)
        self.token = secrets.token_urlsafe()

    def application(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self._show_compare),
            Route("/app.js", lambda request: FileResponse(_FOLDER / "app.js")),
            Route("/faces", self._examine, methods=["POST"]),
            Route("/compare", self._compare, methods=["POST"]),
        ]
        if people := self._people:
            routes += [
                Route("/people", partial(self._show_people, people)),
                Route("/people", partial(self._save, people), methods=["POST"]),
                Route("/search", partial(self._show_search, people)),
                Route("/search", partial(self._search, people), methods=["POST"]),
                Route(f"/{PHOTOS}{{digest}}", partial(self._show_photo, people)),
            ]
        handlers: dict[Any, Callable[..., Response]] = {
            SfplusError: lambda request, error: PlainTextResponse(str(error), 422),
            ClientDisconnect: lambda request, error: PlainTextResponse("the request was cut off", 400),
            Exception: _report_fault,
        }
        middleware = [
            Middleware(_Guard, token=self.token),
            Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS, www_redirect=False),
        ]
        return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)

    def _page(self, title: str, summary: str, tab: str) -> HTMLResponse:
        context = {
            "title": title,
            "summary": summary,
            "hint": "" if self._people else _HINT,
            "tab": tab,
            "tabs": self._tabs(tab),
            "token": self.token,
            "max_bytes": MAX_BYTES,
            "suffixes": sorted(PHOTO_SUFFIXES),
            "fars": self._comparison.fars,
        }
        return HTMLResponse(page_templates(_FOLDER).get_template("app.html.jinja").render(context))

    def _tabs(self, current: str) -> list[tuple[str, str]]:
        tabs = [(".", "Compare"), ("people", "People"), ("search", "Search")] if self._people else []
        return [("" if label == current else address, label) for address, label in tabs]

    def _show_compare(self, request: Request) -> Response:
        summary = f"Two faces, compared by {self._comparison.name}. The photos stay on this machine and are not kept."
        return self._page("Same person?", summary, "Compare")

    async def _examine(self, request: Request) -> Response:
        data = await _read_body(request, MAX_BYTES)
        name = request.query_params.get("name", "")
        return JSONResponse(
            await _in_thread(self._uploads, lambda: self._comparison.examine(self._reader.read(data, name)))
        )

    async def _compare(self, request: Request) -> Response:
        pair = await _read_json(request, Pair)
        return JSONResponse(await _in_thread(self._views, lambda: self._decide(pair)))

    def _decide(self, pair: Pair) -> dict[str, str]:
        first, second = (self._comparison.decode_feature(text) for text in (pair.first, pair.second))
        verdict = self._comparison.decide(first, second, pair.far)
        text = page_templates(_FOLDER).get_template("verdict.html.jinja").render(verdict=verdict)
        return {"text": text, "plot": verdict.plot}

    async def _show_people(self, people: PeopleFolder, request: Request) -> Response:
        page = await _in_thread(self._views, lambda: people.page("people", self.token, self._tabs("People")))
        # The page has a policy of its own, which allows its script only.
        return HTMLResponse(page, headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    async def _save(self, people: PeopleFolder, request: Request) -> Response:
        changes = await _read_json(request, Changes)
        await _in_thread(self._views, lambda: people.save(changes.names, changes.moves))
        return JSONResponse({})

    async def _show_photo(self, people: PeopleFolder, request: Request) -> Response:
        photo = await _in_thread(self._views, lambda: people.photo(request.path_params["digest"]))
        if photo is None:
            raise HTTPException(404)
        return Response(photo, media_type="image/jpeg")

    def _show_search(self, people: PeopleFolder, request: Request) -> Response:
        photos = people.grouped.photos
        summary = f"The photos of a person in the folder {photos.name or photos}. The photo you choose is not kept."
        return self._page("Search by example", summary, "Search")

    async def _search(self, people: PeopleFolder, request: Request) -> Response:
        example = await _read_json(request, Example)
        feature = self._comparison.decode_feature(example.feature)
        return JSONResponse({"text": await _in_thread(self._views, lambda: people.search(feature))})


class _Guard:
    """Refuses requests that change something without the token, and adds the security headers to each answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in _HEADERS.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        app = self._app
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            token = dict(scope["headers"]).get(b"x-sfplus-token", b"")
            if not secrets.compare_digest(token, self._token):
                app = PlainTextResponse("this page is from an earlier start of sfplus app; reload it", 403)
        await app(scope, receive, send_headers)


def _report_fault(request: Request, error: Exception) -> Response:
    text = f"{request.url.path}: {type(error).__name__}: {one_line(error)}"
    _log.error("%s", text, exc_info=error)
    return PlainTextResponse(f"sfplus app failed, {text}", 500)


async def _in_thread(limiter: anyio.CapacityLimiter, function: Callable[[], Result]) -> Result:
    return await anyio.to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=True)


async def _read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: If it is too long or arrives too slowly.
    """
    body = bytearray()
    try:
        with anyio.fail_after(_UPLOAD_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise HTTPException(413, f"more than {limit >> 20} MB; make it smaller")
    except TimeoutError:
        raise HTTPException(408, f"the upload takes more than {_UPLOAD_SECONDS} s") from None
    return bytes(body)


async def _read_json(request: Request, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await _read_body(request, _JSON_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise HTTPException(422, f"{where}: {first['msg']}") from None
