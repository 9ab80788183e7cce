"""Open a local page that compares two photos.

An upload is kept in a temporary folder until it is read and is then deleted; images are embedded in the page. The
features of a photo stay in memory and are dropped ten minutes after the page is closed.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import typer
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from sfplus.cli.options import Device, ModelInputText, ModelName, ModelNetwork
from sfplus.detection import choose
from sfplus.embedder import Embedder
from sfplus.errors import DependencyError, SfplusError, UsageError
from sfplus.images import PHOTO_SUFFIXES, encode_image, read_photo
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.reports.jinja_filters import data_uri
from sfplus.reports.plots import decision_plot
from sfplus.verification.decision import explain_similarity

app = typer.Typer(add_completion=False)

MAX_BYTES, MAX_PIXELS = 20 * 2**20, 40_000_000  # per photo
FARS = {"threshold of the verification": None, "FAR 10 %": 0.1, "FAR 1 %": 0.01, "FAR 0.1 %": 0.001}
_SIDE = 720  # pixels of the longer side of the displayed photo
_FORGET = 600  # seconds until the state of a closed page is dropped
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Examination:
    """The result for one photo.

    Attributes:
        html: the text and images to display.
        features: (D,) float32 of its face; None without a face.
    """

    html: str
    features: NDArray[np.float32] | None = None


class Comparison:
    """The computations behind the page, which can be used without it.

    Args:
        model: a model, as `Embedder` takes it; empty for the default. Without a threshold, only similarities are shown.
        device: the device to run on.
        network: network of a file of weights (see `Embedder`).
        input: input of a model that does not describe it (see `Embedder`); no threshold applies to another input.

    Attributes:
        name: name of the model.
        decides: whether the model has a threshold.
    """

    def __init__(self, model: str, device: str, *, network: str = "", input: str = "") -> None:
        self._embedder = Embedder(model or DEFAULT_MODEL, device, network=network, input=input)
        self.name = self._embedder.folder.name
        self._rule = self._embedder.decision_rule
        self.decides = self._rule is not None

    def examine(self, path: str | None) -> Examination:
        """Detect the faces in an uploaded photo, compute their features, and delete the upload."""
        if not path:
            return Examination("")
        try:
            photo = read_photo(Path(path), MAX_PIXELS)
        except SfplusError as error:
            return _error(error.reason, error.remedy)
        finally:
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        (faces,) = self._embedder.faces([photo])
        choice = choose(faces, photo.shape[0], photo.shape[1], "centre")
        image = _image(_shrunk(faces.draw(photo)), "the photo with its faces and landmarks")
        if choice is None:
            return Examination(f"{_paragraph('No face found: choose a photo with a larger, clearer face.')}{image}")
        count = "1 face" if len(faces) == 1 else f"{len(faces)} faces; the one nearest the centre is compared"
        crop = _image(faces.crops[choice.index], "the aligned crop", "width:96px")
        return Examination(f"{image}{_paragraph(count)}{crop}", faces.features[choice.index])

    def decide(self, first: Examination | None, second: Examination | None, far: str) -> str:
        """Return the similarity of two photos and the decision as HTML; empty until both photos have a face.

        Args:
            first: an examined photo.
            second: another one.
            far: a key of FARS.
        """
        left, right = (photo.features if photo else None for photo in (first, second))
        if left is None or right is None:
            return ""
        rule = self._rule
        score = self._embedder.similarity(left, right)
        try:
            explanation = rule.explain(score, FARS.get(far)) if rule else explain_similarity(score, self.name)
        except SfplusError as error:
            return _error(error.reason, error.remedy).html
        headline, *details = explanation.split("\n")
        text = Markup("<h2>{}</h2>").format(headline) + Markup("").join(_paragraph(line) for line in details)
        if not rule or not len(rule.same):
            return text
        plot = decision_plot(rule.same, rule.different, score)
        return text + Markup('<div style="max-width:36rem">{}</div>').format(Markup(plot))


def build(comparison: Comparison) -> Any:
    """Return the page as a `gradio.Blocks`.

    Raises:
        DependencyError: If gradio is not installed.
    """
    gradio = _gradio()
    with gradio.Blocks(title="sfplus", analytics_enabled=False, delete_cache=(60, _FORGET)) as page:
        gradio.Markdown(
            f"## Same person?\nTwo photos, compared by {comparison.name}. "
            "They stay on this machine and are deleted as soon as they have been read."
        )
        photos, states, views = [], [], []
        with gradio.Row():
            for label in ("First photo", "Second photo"):
                with gradio.Column():
                    photos.append(
                        gradio.File(label=label, file_types=sorted(PHOTO_SUFFIXES), type="filepath", height=120)
                    )
                    views.append(gradio.HTML())
                    states.append(gradio.State(time_to_live=_FORGET))
        far = gradio.Radio(list(FARS), value=next(iter(FARS)), label="Decide at", visible=comparison.decides)
        verdict = gradio.HTML()

        def examine(path: str | None) -> tuple[Examination, str]:
            examination = comparison.examine(path)
            return examination, examination.html

        decide = {"fn": comparison.decide, "inputs": [*states, far], "outputs": verdict, "show_progress": "hidden"}
        for name, photo, state, view in zip(("first", "second"), photos, states, views, strict=True):
            photo.change(examine, photo, [state, view], api_name=name).then(**decide, api_name=False)
        far.change(**decide, api_name="decide")
    return page


def serve(model: str, host: str, port: int, device: str, *, network: str = "", input: str = "") -> None:
    """Serve the page until Ctrl-C.

    Args:
        model: as in `Comparison`.
        host: the address to listen on.
        port: the port to listen on.
        device: the device to run on.
        network: as in `Comparison`.
        input: as in `Comparison`.

    Raises:
        DependencyError: If gradio is not installed.
        UsageError: If there is no such model, or the port is in use.
    """
    _gradio()
    comparison = Comparison(model, device, network=network, input=input)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, to delete the folder
    with tempfile.TemporaryDirectory(prefix="sfplus-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads are deleted with it
        page = build(comparison)
        try:
            launch(page, host, port)
            print(f"page: http://{host}:{port} (Ctrl-C stops it)", flush=True)
            if not _is_loopback(host):
                print(f"warning: every machine that can reach {host} can use this page", file=sys.stderr)
            while True:
                time.sleep(3600)
        finally:
            page.close()


def launch(page: Any, host: str, port: int) -> None:
    """Start the server of a page with gradio's sharing, monitoring and API extras switched off.

    Args:
        page: a `gradio.Blocks`.
        host: the address to listen on.
        port: the port to listen on.

    Raises:
        UsageError: If the port is in use.
    """
    try:
        page.launch(
            server_name=host, server_port=port, max_file_size=MAX_BYTES, share=False, enable_monitoring=False,
            run_history=False, footer_links=[], pwa=False, mcp_server=False, ssr_mode=False, quiet=True,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}", where="--port", remedy="choose another port") from error


def _gradio() -> ModuleType:
    os.environ |= _QUIET
    try:
        import gradio
    except ImportError as error:
        remedy = "install it: pip install 'sfplus[app]'"
        raise DependencyError("the page needs gradio, which is missing", where="sfplus app", remedy=remedy) from error
    return gradio


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _error(reason: str, remedy: str) -> Examination:
    return Examination(_paragraph(f"{reason}; {remedy}" if remedy else reason))


def _paragraph(text: str) -> Markup:
    return Markup("<p>{}</p>").format(text)


def _image(pixels: NDArray[np.uint8], alt: str, style: str = "width:100%;max-width:24rem") -> Markup:
    image = Markup('<img src="{}" alt="{}" style="{};height:auto;border-radius:6px">')
    return image.format(data_uri(encode_image(pixels, ".jpg", 90)), alt, style)


def _shrunk(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(photo)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


@app.command("app")
def app_command(
    model: ModelName = "",
    host: Annotated[str, typer.Option("--host", help="127.0.0.1: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 7860,
    network: ModelNetwork = "",
    input: ModelInputText = "",
    device: Device = "auto",
) -> None:
    """Open a local page that compares two photos; needs the extra 'app'. Nothing is stored or sent anywhere.

    Example: sfplus app --model sphereface10-small
    """
    serve(model, host, port, device, network=network, input=input)
