"""The key `align`: the fit follows the template, and fingerprints of SphereFace's crops stay as they were."""

import pytest

from sfplus.artifacts.settings import deciding_settings
from sfplus.recipes.settings.align import AlignSettings


@pytest.mark.parametrize(
    ("settings", "fit"),
    [
        ({}, "image"),
        ({"template": "sphereface-224x192"}, "image"),
        ({"template": "arcface-112x112"}, "template"),
        ({"template": "arcface-128x128"}, "template"),
        ({"template": "arcface-112x112", "fit": "image"}, "image"),
        ({"template": "arcface-112x112", "fit": "source"}, "template"),
        ({"fit": "template"}, "template"),
    ],
)
def test_the_default_fit_is_that_of_the_template(settings: dict[str, str], fit: str) -> None:
    assert AlignSettings(**settings).fit == fit


def test_the_settings_of_spherefaces_crops_keep_their_fingerprint() -> None:
    assert deciding_settings(AlignSettings()) == {
        "template": "sphereface-112x96", "first_pixel": "source", "fit": "image", "interpolation": "bilinear",
        "border": "black", "format": "jpeg", "jpeg_quality": 75,
    }  # fmt: skip
    assert deciding_settings(AlignSettings(fit="source")) == deciding_settings(AlignSettings(fit="image"))
