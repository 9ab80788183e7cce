"""Hook of MkDocs: adds the pages and plots of `pipelines/results`, which `docs/` links as `../pipelines/results`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "pipelines" / "results"


def on_files(files: Files, config: Any) -> Files:
    """Add the Markdown and the images of the results to the site."""
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in (".md", ".png", ".svg", ".json"):
            name = f"results/{path.relative_to(RESULTS).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links between guides and results stay within the site; other files of the repository become plain text."""
    depth = page.file.src_uri.count("/")
    inside = "../" * depth
    text = re.sub(r"\]\((?:\.\./)+pipelines/results/", f"]({inside}results/", markdown)
    text = re.sub(r"\]\((?:\.\./)+docs/", f"]({inside}", text)
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?!results/)(?:README|pipelines|data|sfplus|tests)[^)]*\)", r"\1", text)
