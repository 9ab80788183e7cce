"""The measurements of tests/benchmarks, which the tests do not run."""

import ast
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_what_a_benchmark_imports_from_sfplus_exists(file: Path) -> None:
    """Imports inside functions too, of which a moved name would be noticed minutes after the start."""
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if (node.module or "").partition(".")[0] == "sfplus":
            exec(ast.unparse(node), {})
