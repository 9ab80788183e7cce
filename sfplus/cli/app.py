"""Open a local page that compares two photos."""

from __future__ import annotations

import signal
import socket
from typing import Annotated

import typer

from sfplus.app.comparison import Comparison
from sfplus.app.uploads import UploadReader
from sfplus.cli.options import ChooseOne, Device, ModelInputText, ModelName, ModelNetwork
from sfplus.detection.choose import Rule
from sfplus.embedder import Embedder
from sfplus.errors import DependencyError, UsageError
from sfplus.io.resources import DEFAULT_MODEL

app = typer.Typer(add_completion=False)

_HOST = "127.0.0.1"  # this machine only
_CONNECTIONS = 64


def serve(model: str, port: int, device: str, *, network: str = "", input: str = "", choose: Rule = "centre") -> None:
    """Serve the page until Ctrl-C.

    Args:
        model: a model, as `Embedder` takes it; empty for the default model.
        port: the port to listen on; 0 for any.
        device: the device to run on.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`); no threshold applies to another input.
        choose: the face of a photo with several that is used at first.

    Raises:
        DependencyError: If the extra `app` is not installed.
        UsageError: If there is no such model, or the port is in use.
    """
    try:
        import uvicorn  # an optional extra

        from sfplus.app.server import Site  # imports starlette, of the same extra
    except ImportError as error:
        reason, remedy = f"the page needs {error.name}, which is missing", "install it: pip install 'sfplus[app]'"
        raise DependencyError(reason, where="sfplus app", remedy=remedy) from error
    with _listen(port) as listener:
        embedder = Embedder(model or DEFAULT_MODEL, device, network=network, input=input)
        comparison, reader = Comparison(embedder, choose), UploadReader()
        config = uvicorn.Config(
            Site(comparison, reader).application(), log_level="critical", access_log=False, server_header=False,
            limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=5, lifespan="off",
        )  # fmt: skip
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        print(f"page: http://{_HOST}:{listener.getsockname()[1]} (Ctrl-C stops it)", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            reader.close()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise UsageError(f"cannot listen on {_HOST}:{port}", where="--port", remedy="choose another port") from error


@app.command("app")
def app_command(
    model: ModelName = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0: any.")] = 7860,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    choose: ChooseOne = "centre",
    device: Device = "auto",
) -> None:
    """Open a local page that compares two photos; needs the extra 'app'. Only this machine can use it.

    Photos are not stored and not sent anywhere. From another machine: ssh -L 7860:localhost:7860 NAME.

    Example: sfplus app --model sphereface10-small
    """
    serve(model, port, device, network=network, input=input, choose=choose)
