"""Open a local page that compares two photos.

An upload lies in a folder of this run until it is read, and is then deleted; pictures go back inside the page. What the
page remembers of a photo, its features, stays in memory, and goes ten minutes after the page is closed.
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

from sfplus.alignment import align
from sfplus.cli.options import Device, ModelName
from sfplus.detection import Detector, choose
from sfplus.device import choose_device
from sfplus.embedder import Embedder
from sfplus.errors import DependencyError, SfplusError, UsageError
from sfplus.images import encode_image, read_photo
from sfplus.io.resources import DEFAULT_MODEL
from sfplus.reports.jinja_filters import data_uri
from sfplus.reports.plots import standing_plot
from sfplus.verification.decision import Judge, similarity
from sfplus.weights.model_folder import crop_template

app = typer.Typer()

MAX_BYTES, MAX_PIXELS = 20 * 2**20, 40_000_000  # of one photo
FARS = {"threshold of the verification": None, "FAR 10 %": 0.1, "FAR 1 %": 0.01, "FAR 0.1 %": 0.001}
_SIDE = 720  # the longer side of a photo as it is shown
_FORGET = 600  # seconds
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Seen:
    """What the page shows of a photo, and the features (D,) of its face, None where there is none."""

    html: str
    features: NDArray[np.float32] | None = None


class Comparison:
    """The page's work, apart from the page.

    Args:
        model: a folder with a model, or the name of one; it must have been verified (`sfplus export`).
        device: what to run on.
    """

    def __init__(self, model: str, device: str) -> None:
        self._embedder = Embedder(model or DEFAULT_MODEL, device)
        self.name = self._embedder.folder.name
        self._judge = Judge.load(self._embedder.folder, self._embedder.config)
        self._template = crop_template(self._embedder.config, self._embedder.folder)
        self._detector = Detector(device=choose_device(device))

    def examine(self, path: str | None) -> Seen:
        """Find the faces of an uploaded photo, and delete it."""
        if not path:
            return Seen("")
        try:
            photo = read_photo(Path(path), MAX_PIXELS)
        except SfplusError as error:
            return _fault(error.reason, error.remedy)
        finally:
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        (faces,) = self._detector.detect([photo])
        choice = choose(faces, photo.shape[0], photo.shape[1], "centre")
        shown = _picture(_small(faces.draw(photo)), "the photo with its faces and landmarks")
        if choice is None:
            return Seen(f"{_paragraph('No face found: choose a photo with a larger, clearer face.')}{shown}")
        crop = align(photo, faces.landmarks[choice.index], self._template)
        found = "1 face" if len(faces) == 1 else f"{len(faces)} faces, of which the one nearest the centre is compared"
        features = self._embedder.features([crop])[0]
        return Seen(f"{shown}{_paragraph(found)}{_picture(crop, 'the aligned crop', 'width:96px')}", features)

    def decide(self, first: Seen | None, second: Seen | None, far: str) -> str:
        """The similarity of two photos against the verification's scores, and the decision."""
        one, two = (seen.features if seen else None for seen in (first, second))
        if one is None or two is None:
            return ""
        score = float(similarity(one, two, self._judge.mean))
        try:
            said = self._judge.say(score, FARS.get(far))
        except SfplusError as error:
            return _fault(error.reason, error.remedy).html
        headline, *rest = said.split("\n")
        text = Markup("<h2>{}</h2>").format(headline) + Markup("").join(_paragraph(line) for line in rest)
        if not len(self._judge.same):
            return text
        plot = standing_plot(self._judge.same, self._judge.different, score)
        return text + Markup('<div style="max-width:36rem">{}</div>').format(Markup(plot))


def build(comparison: Comparison) -> Any:
    """The page, as a `gradio.Blocks`.

    Raises:
        DependencyError: gradio is missing.
    """
    gradio = _gradio()
    kinds = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"]
    with gradio.Blocks(title="sfplus", analytics_enabled=False, delete_cache=(60, _FORGET)) as page:
        gradio.Markdown(
            f"## Are these one person?\nTwo photos, compared by {comparison.name}. "
            "They stay on this machine, and are deleted once they are read."
        )
        photos, seen, views = [], [], []
        with gradio.Row():
            for label in ("First photo", "Second photo"):
                with gradio.Column():
                    photos.append(gradio.File(label=label, file_types=kinds, type="filepath", height=120))
                    views.append(gradio.HTML())
                    seen.append(gradio.State(time_to_live=_FORGET))
        far = gradio.Radio(list(FARS), value=next(iter(FARS)), label="Decide at")
        verdict = gradio.HTML()

        def examine(path: str | None) -> tuple[Seen, str]:
            found = comparison.examine(path)
            return found, found.html

        decide = {"fn": comparison.decide, "inputs": [*seen, far], "outputs": verdict, "show_progress": "hidden"}
        for name, photo, state, view in zip(("first", "second"), photos, seen, views, strict=True):
            photo.change(examine, photo, [state, view], api_name=name).then(**decide, api_name=False)
        far.change(**decide, api_name="decide")
    return page


def serve(model: str, host: str, port: int, device: str) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        DependencyError: gradio is missing.
        UsageError: the model has no verification, or the port is taken.
    """
    _gradio()
    comparison = Comparison(model, device)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the folder goes
    with tempfile.TemporaryDirectory(prefix="sfplus-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # all uploads go there, and with it
        page = build(comparison)
        try:
            launch(page, host, port)
            print(f"page: http://{host}:{port} (Ctrl-C stops it)", flush=True)
            if not _is_loopback(host):
                print(f"warning: every machine that reaches {host} can use this page", file=sys.stderr)
            while True:
                time.sleep(3600)
        finally:
            page.close()


def launch(page: Any, host: str, port: int) -> None:
    """Start the server of a page, open to nothing but the page.

    Raises:
        UsageError: the port is taken.
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


def _fault(reason: str, remedy: str) -> Seen:
    return Seen(_paragraph(f"{reason}; {remedy}" if remedy else reason))


def _paragraph(text: str) -> Markup:
    return Markup("<p>{}</p>").format(text)


def _picture(pixels: NDArray[np.uint8], alt: str, style: str = "width:100%;max-width:24rem") -> Markup:
    image = Markup('<img src="{}" alt="{}" style="{};height:auto;border-radius:6px">')
    return image.format(data_uri(encode_image(pixels, ".jpg", 90)), alt, style)


def _small(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(photo)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


@app.command("app")
def app_command(
    model: ModelName = "",
    host: Annotated[str, typer.Option("--host", help="127.0.0.1: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 7860,
    device: Device = "auto",
) -> None:
    """Open a local page that compares two photos; needs the extra 'app'. Nothing is stored or sent anywhere.

    Example: sfplus app --model sphereface10-small
    """
    serve(model, host, port, device)
