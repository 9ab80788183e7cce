"""Open a local page: compare faces, and see, name and search the people of a folder."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from sfplus.app.comparison import Comparison
from sfplus.app.people import PeopleFolder
from sfplus.app.uploads import UploadReader
from sfplus.cli.command import App
from sfplus.cli.options import ChooseOne, DetectorName, Device, ModelInputText, ModelName, ModelNetwork, Turned
from sfplus.detection.choose import Rule
from sfplus.detection.registry import MTCNN
from sfplus.embedder import Embedder
from sfplus.errors import DependencyError, UsageError
from sfplus.io.extras import install_command
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.recipes.steps import UserModel

app = App()

_HOST = "127.0.0.1"  # this machine only
_CONNECTIONS = 64


def serve(
    folder: Path | None,
    model: str,
    port: int,
    device: str,
    *,
    network: str = "",
    input: str = "",
    choose: Rule = "centre",
    detector: str = MTCNN,
    turned: bool = False,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        folder: a result of `sfplus group`, whose people are shown; None to compare photos only.
        model: a model, as `Embedder` takes it; empty for that of the folder, or the default model.
        port: the port to listen on; 0 for any.
        device: the device to run on.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`); no threshold applies to another input.
        choose: the face of a photo with several that is used at first.
        detector: the detector (see `Embedder`).
        turned: whether faces are also found that lie on their side or upside down.

    Raises:
        DependencyError: If the extra `app` is not installed.
        UsageError: If there is no such model, it is not that of the folder, the folder is not a result of
            `sfplus group`, or the port is in use.
    """
    try:
        import uvicorn  # an optional extra

        from sfplus.app.server import Site  # imports starlette, of the same extra
    except ImportError as error:
        reason = f"the page needs {error.name}, which is missing"
        raise DependencyError(reason, where="sfplus app", remedy=f"install it: {install_command('app')}") from error
    with _listen(port) as listener, UploadReader() as reader:
        people = PeopleFolder(folder, reader) if folder else None
        source = _find_model(people, model, network, input)
        embedder = Embedder(
            source.name, device, network=source.network, input=source.input, detector=detector, turned=turned
        )
        config = uvicorn.Config(
            Site(Comparison(embedder, choose), reader, people).application(), log_level="critical", access_log=False,
            server_header=False, limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=1, lifespan="off",
        )  # fmt: skip
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        print(f"page: http://{_HOST}:{listener.getsockname()[1]} (Ctrl-C stops it)", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _find_model(people: PeopleFolder | None, model: str, network: str, input: str) -> UserModel:
    """Return the model that was asked for, or else that of the folder, or else the default."""
    if not people:
        return UserModel(model or DEFAULT_MODEL, network, input)
    about = people.grouped.model
    source = UserModel(model, network, input) if model else UserModel(about["name"], about["network"], about["input"])
    if source.content != about["content"]:
        reason, remedy = f"was grouped with another model, {about['name']}", "group it again, or omit --model"
        raise UsageError(reason, where=people.grouped.folder, remedy=remedy)
    return source


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise UsageError(f"cannot listen on {_HOST}:{port}", where="--port", remedy="choose another port") from error


@app.command("app")
def app_command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="The result of `sfplus group`, to see its people.")
    ] = None,
    model: ModelName = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0: any.")] = 7860,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    choose: ChooseOne = "centre",
    detector: DetectorName = MTCNN,
    turned: Turned = False,
    device: Device = "auto",
) -> None:
    """Open a local page: compare the faces of two photos; needs the extra 'app'. Only this machine can use it.

    With FOLDER, the page also shows its people, takes names and corrections, and searches for a person.
    Photos that are chosen in the page are not stored. From another machine: ssh -L 7860:localhost:7860 NAME.

    Example: sfplus app people
    """
    serve(folder, model, port, device, network=network, input=input, choose=choose, detector=detector, turned=turned)
