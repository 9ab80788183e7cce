from __future__ import annotations

import numpy as np
import pytest

from sfplus.alignment import DEFAULT_TEMPLATE, TEMPLATE_OF_SIZE, TEMPLATES, Template, find_template
from sfplus.errors import UsageError


def test_sphereface_points_are_the_published_ones_counted_from_0() -> None:
    template = TEMPLATES["sphereface-112x96"]
    assert (template.width, template.height, template.size) == (96, 112, "112x96")
    published = [30.2946, 51.6963, 65.5318, 51.5014, 48.0252, 71.7366, 33.5493, 92.3655, 62.7299, 92.2041]
    np.testing.assert_allclose(template.points.ravel() + 1, published, atol=1e-12)


def test_arcface_points_are_those_of_insightface() -> None:
    template = TEMPLATES["arcface-112x112"]
    assert (template.width, template.height) == (112, 112)
    insightface = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041]
    np.testing.assert_allclose(template.points.ravel(), insightface, atol=1e-12)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_points_are_in_the_crop_and_in_the_order_of_a_face(template: Template) -> None:
    assert (template.points > 0).all()
    assert (template.points < [template.width - 1, template.height - 1]).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = template.points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    with pytest.raises(ValueError, match="read-only"):
        template.points[0, 0] = 0


def test_templates_are_found_by_name_and_size() -> None:
    custom = Template("custom", 10, 10, np.arange(10.0).reshape(5, 2), "a test")
    assert find_template(custom) is custom
    assert {size: template.name for size, template in TEMPLATE_OF_SIZE.items()} == {
        "112x96": DEFAULT_TEMPLATE, "112x112": "arcface-112x112"
    }  # fmt: skip
    assert find_template("arcface-112x112") is TEMPLATES["arcface-112x112"]
    with pytest.raises(UsageError, match="sphereface-112x96"):
        find_template("sphereface")


def test_templates_can_be_counted_from_another_pixel() -> None:
    sphereface, arcface = TEMPLATES["sphereface-112x96"], TEMPLATES["arcface-112x112"]
    np.testing.assert_allclose(sphereface.counted_from(0).points[0], [30.2946, 51.6963])
    np.testing.assert_allclose(arcface.counted_from(1).points[0], [37.2946, 50.6963])
    for template in (sphereface, arcface):
        np.testing.assert_array_equal(template.counted_from(template.first_pixel).points, template.points)
        np.testing.assert_allclose(template.counted_from(0).counted_from(1).points, template.counted_from(1).points)


def test_other_sizes_show_the_same_face() -> None:
    """The corners of the crop, half a pixel beyond the centres of its corner pixels, stay corners."""
    double = find_template("sphereface-224x192")
    assert (double.name, double.height, double.width) == ("sphereface-224x192", 224, 192)
    np.testing.assert_allclose(double.points + 0.5, 2 * (TEMPLATES["sphereface-112x96"].points + 0.5))
    wide = find_template("arcface-112x160")
    np.testing.assert_allclose(wide.points, TEMPLATES["arcface-112x112"].points + np.array([24, 0]))
    assert find_template("sphereface-112x96") is TEMPLATES["sphereface-112x96"]


@pytest.mark.parametrize("name", ["arcface-0x112", "arcface-112", "vggface-112x112", "arcface-112x112x3"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="template"):
        find_template(name)


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.full((5, 2), np.nan)])
def test_invalid_points_are_refused(points: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"template custom.*\(5, 2\)"):
        Template("custom", 10, 10, points, "a test")
