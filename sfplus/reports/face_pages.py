"""What the pages of faces share: crops as small images, safe links, and a policy that keeps the page to itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from markupsafe import Markup
from PIL import Image

from sfplus.errors import PhotoError
from sfplus.images import encode_image, read_photo
from sfplus.reports.jinja_filters import data_uri, page_templates

_HEIGHT, _QUALITY = 88, 80  # pixels and JPEG quality of a crop


def render_page(template: str, script: str = "", **context: Any) -> str:
    """Render a template as a page that requests nothing, and in which no other script than the given one can run.

    Args:
        template: name of the template.
        script: name of the file of the script; "" for none.
        context: variables of the template. With `save_url`, the script may send requests to the server of the page.
    """
    text = (Path(__file__).parent / script).read_text("utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    policy += ["base-uri 'none'", "form-action 'none'"]
    policy += [f"script-src 'sha256-{digest}'"] if script else []
    policy += ["connect-src 'self'"] if context.get("save_url") else []
    tools = {"crop": _Crops().attributes, "safe_link": _safe_link, "chance": _chance, "count": _count}
    page = {"security": Markup("; ".join(policy)), "script": Markup(text)}
    return page_templates().get_template(template).render(context | tools | page)


def script_json(data: Mapping[str, Any]) -> Markup:
    """Return JSON that cannot end the `script` element around it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII, so that U+2028 is escaped
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


class _Crops:
    """Small JPEG images of crops; each crop is read once."""

    def __init__(self) -> None:
        self._attributes: dict[Path, Markup] = {}

    def attributes(self, crop: Path) -> Markup:
        """Return `src`, `width` and `height` of an `img` element; nothing if the crop is missing or damaged."""
        if crop not in self._attributes:
            self._attributes[crop] = _image_attributes(crop)
        return self._attributes[crop]


def _image_attributes(crop: Path) -> Markup:
    try:
        image = Image.fromarray(read_photo(crop))
    except PhotoError:  # deleted since
        return Markup("")
    width = max(1, round(image.width * _HEIGHT / image.height))
    small = np.asarray(image.resize((width, _HEIGHT), Image.Resampling.LANCZOS))
    uri = data_uri(encode_image(small, ".jpg", _QUALITY))
    return Markup('src="{}" width="{}" height="{}"').format(uri, width, _HEIGHT)


def _safe_link(link: str) -> str:
    """Return a relative or file URL; "" for any other, because a link must not run a script or leave this machine."""
    try:
        is_local = urlsplit(link).scheme in ("", "file")
    except ValueError:
        return ""
    return link if is_local and link.isprintable() and not link.startswith(("//", " ")) and "\\" not in link else ""


def _count(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun, e.g. "1 photo" or "1,200 photos"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _chance(probability: float) -> str:
    """Format a probability in whole per cent, so that none is rounded to certainty or across one half."""
    if probability >= 0.995 or probability <= 0.005:
        return "over 99 %" if probability > 0.5 else "under 1 %"
    rounded = round(100 * probability)
    return f"{max(50, rounded) if probability >= 0.5 else min(49, rounded)} %"
