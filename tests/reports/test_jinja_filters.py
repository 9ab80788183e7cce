from __future__ import annotations

import pytest

from sfplus.reports.jinja_filters import data_uri, markdown_templates, page_templates


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{{ value | percent }}", 0.98765, "98.77 %"),
        ("{{ value | percent }}", None, "not measurable"),
        ("{{ value | points('+') }}", -0.0123, "−1.23"),
        ("{{ value | p_value }}", 0.0004, "\\< 0.001"),
        ("{{ value | p_value }}", 0.0567, "0.057"),
        ("{{ value | p_value }}", 0.567, "0.57"),
        ("{{ value | seconds }}", 12.34, "12.3 s"),
        ("{{ value | seconds }}", 125.0, "2 min 05 s"),
        ("{{ value | seconds }}", 3725.0, "1 h 02 min"),
        ("{{ value | seconds }}", None, ""),
        ("{{ value | counts }}", {"test_pairs": 6000, "loss": 0.12345}, "6,000 test pairs, loss 0.1235"),
        ("{{ value | counts }}", "as text", "as text"),
        ("{{ value }}", "| [a](b) *c* <d> &\n", "\\| \\[a\\](b) \\*c\\* \\<d\\> \\&\\\\n"),
        ("{{ value | block }}", "a\n\tb", "    a\n        b"),
    ],
)
def test_markdown(template: str, value: object, text: str) -> None:
    assert markdown_templates().from_string(template).render(value=value) == text


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{{ value | percent }}", 0.5, "50.00&#8239;%"),
        ("{{ value }}", "<b>&\n", "&lt;b&gt;&amp;\\n"),
        ("{{ value | name }}", "Ann/Ann_1", "Ann/<wbr>Ann_<wbr>1"),
        ("{{ value | short }}", "Ann/Ann_1", "Ann_<wbr>1"),
        ("{{ value | short }}", "Ann/1", "Ann/<wbr>1"),
        ("{{ value | block }}", "<a>\n\tb", "&lt;a&gt;\n    b"),
    ],
)
def test_page(template: str, value: object, text: str) -> None:
    assert page_templates().from_string(template).render(value=value) == text


def test_images_are_data_uris_of_their_format() -> None:
    assert data_uri(b"\x89PNG") == "data:image/png;base64,iVBORw=="
    assert data_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="
