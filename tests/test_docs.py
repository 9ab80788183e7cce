"""The documentation agrees with the code: generated pages, snippets, commands, and the site."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from markdown_it import MarkdownIt

from sfplus.datasets.portraits import draw_portrait
from sfplus.recipes.key_reference import list_keys

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PAGES = [
    *GUIDES,
    ROOT / "CONTRIBUTING.md",
    *sorted(page for folder in ("docs/reference", "pipelines", "pretrained") for page in (ROOT / folder).rglob("*.md")),
]
SNIPPETS = [
    (name, snippet)
    for name in ("align-photos", "energy-in-your-network", "sphere-convolution")
    for snippet in ["\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / f"{name}.md").read_text(), re.S | re.M))]
]


def _commands(page):
    """Return the command lines of a page, in words, without what stands before `sfplus`."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ *(?:sfplus|find .*\| sfplus|(?:torchrun|accelerate) .*-m sfplus) (\w.*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in lines if not re.match(r"(COMMAND|RECIPE)\b", line)]


COMMANDS = [(page.name, words) for page in GUIDES for words in _commands(page)]


def test_the_reference_is_that_of_the_code():
    write = runpy.run_path(str(DOCS / "write_reference.py"))
    for name in ("recipe_keys", "commands", "limits", "json_results"):
        page = DOCS / "reference" / f"{name.replace('_', '-')}.md"
        assert page.read_text("utf-8") == write[name](), f"{page} is old; run: make docs"


@pytest.mark.parametrize(("name", "snippet"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_snippets_run(name, snippet):
    torch.manual_seed(0)
    photo = draw_portrait(0, 0).jpeg()
    exec(snippet, {"images": torch.randn(2, 3, 32, 32), "labels": torch.tensor([1, 2]), "photo": photo})


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_tables_are_rendered_as_tables(page):
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))
    texts = [token.content for token in tokens if token.type == "inline"]
    assert not [line for text in texts for line in text.splitlines() if line.startswith("|")]  # no header above it


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 45
    assert {"align", "run", "overlap", "pack", "verify"} <= {words[0] for _, words in COMMANDS}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {shlex.join(words)}" for page, words in COMMANDS])
def test_commands_parse(page, words):
    name, *arguments = words
    command = typer.main.get_command(importlib.import_module(f"sfplus.cli.{name}").app)
    while inner := getattr(command, "commands", None):
        command, arguments = inner[arguments[0]], arguments[1:]
    command.make_context(name, arguments)  # an unknown option or a missing argument fails here
    for override in [value for value in arguments if re.match(r"[a-z]+\.[\w.]+=", value)]:
        for key in override.partition("=")[0].split("+"):
            assert list_keys(key)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    page = (tmp_path / "site" / "reference" / "python" / "index.html").read_text("utf-8")
    assert "half_space" in page and "margin" in page
    assert (tmp_path / "site" / "results" / "index.html").is_file()
