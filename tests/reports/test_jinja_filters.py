from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from sfplus.errors import one_line
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
        ("{{ value | counts }}", {"test_pairs": 6000, "loss": 0.12345}, "6,000 test pairs, loss: 0.1235"),
        ("{{ value | counts }}", "as text", "as text"),
        ("{{ value }}", "| [a](b) *c* <d> &\n", "\\| \\[a\\](b) \\*c\\* \\<d\\> \\&\\\\n"),
        ("{{ value | block }}", "a\n\tb", "```\na\n    b\n```"),
        ("{{ value | block }}", "```\n# a\n`````", "``````\n```\n# a\n`````\n``````"),
        ("{{ value }}", "- a", "\\- a"),
        ("{{ value }}", " + a", " \\+ a"),
        ("{{ value }}", "===", "\\==="),
        ("{{ value }}", "- -", "\\- -"),
        ("{{ value }}", "12. a", "12\\. a"),
        ("{{ value }}", "-1.5 + 1.5", "-1.5 + 1.5"),
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


_HOSTILE = (
    "# heading", "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "a | b | c", "x\n# heading\n<b>",
    "===", "---", "- a", "1. a", "+ a", "> a", "```", "~~~", "[a](javascript:b)", "![a](b)", "<http://a.b>",
    "&lt;b&gt;", "\\", "\\|", "`a`", "*a*", "__a__", "$a$", "a\u2028# b", "\u202ea", "\x1b[2J", "`" * 40, "|",
    "a\r# b",
)  # fmt: skip


@pytest.mark.parametrize("text", _HOSTILE)
def test_no_text_becomes_markup(text: str) -> None:
    table = "| {{ v }} | b |\n| --- | --- |\n| {{ v }} | {{ v }} |"
    template = f"# A\n\n{{{{ v }}}}\n{{{{ v }}}}\n\n- {{{{ v }}}}\n\n{table}\n\n{{{{ v | block }}}}\n"
    page = markdown_templates().from_string(template).render(v=text)
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)
    kinds = [token.type for token in tokens if not token.type.endswith("_close")]
    row = ["tr_open", "XX_open", "inline", "XX_open", "inline"]
    assert kinds == [
        "heading_open", "inline", "paragraph_open", "inline", "bullet_list_open", "list_item_open", "paragraph_open",
        "inline", "table_open", "thead_open", *(kind.replace("XX", "th") for kind in row), "tbody_open",
        *(kind.replace("XX", "td") for kind in row), "fence",
    ]  # fmt: skip
    inline = [child.type for token in tokens for child in token.children or ()]
    assert set(inline) <= {"text", "softbreak", "text_special"}
    shown = "".join(child.content for child in tokens[4].children or () if child.type != "softbreak")
    assert shown == one_line(text) * 2
