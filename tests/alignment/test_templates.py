from __future__ import annotations

import numpy as np
import pytest

from sfplus.alignment import TEMPLATES, Template, find_template
from sfplus.errors import UsageError


def test_sphereface_points_are_the_published_ones_counted_from_0() -> None:
    template = TEMPLATES["sphereface-112x96"]
    assert (template.width, template.height) == (96, 112)
    published = [30.2946, 51.6963, 65.5318, 51.5014, 48.0252, 71.7366, 33.5493, 92.3655, 62.7299, 92.2041]
    np.testing.assert_allclose(template.points.ravel() + 1, published, atol=1e-12)


def test_arcface_points_are_insightfaces() -> None:
    template = TEMPLATES["arcface-112x112"]
    assert (template.width, template.height) == (112, 112)
    insightface = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041]
    np.testing.assert_allclose(template.points.ravel(), insightface, atol=1e-12)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_points_lie_in_the_crop_in_the_order_of_a_face(template: Template) -> None:
    assert (template.points > 0).all()
    assert (template.points < [template.width - 1, template.height - 1]).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = template.points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    with pytest.raises(ValueError, match="read-only"):
        template.points[0, 0] = 0


def test_lookup() -> None:
    own = Template("own", 10, 10, np.arange(10.0).reshape(5, 2), "a test")
    assert find_template(own) is own
    assert find_template("arcface-112x112") is TEMPLATES["arcface-112x112"]
    with pytest.raises(UsageError, match="sphereface-112x96"):
        find_template("sphereface")


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.full((5, 2), np.nan)])
def test_bad_points_are_refused(points: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"template own.*\(5, 2\)"):
        Template("own", 10, 10, points, "a test")
