"""Code of the user's by its import path: found, read for its digest, imported, and its options checked."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sfplus.errors import UsageError
from sfplus.io.import_path import bind_options, find_sources, import_object, is_import_path, source_digest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules, one of which would fail if it were run; their names are of this test alone."""
    texts = {
        "plain_one.py": "import sys, json, rich\nfrom plain_two import depth\ndef build(size=depth): return size\n",
        "plain_two.py": "depth = 3\n",
        "plain_other.py": "unused = 1\n",
        "grouped/__init__.py": "",
        "grouped/inner/__init__.py": "from . import blocks\n",
        "grouped/inner/blocks.py": "import sfplus\nfrom ..shared import x\n",
        "grouped/shared.py": "x = 1\n",
        "grouped/unused.py": "y = 1\n",
        "fails.py": "raise RuntimeError('was\\nrun')\n",
        "leaves.py": "import sys\nsys.exit(3)\n",
        "lacks.py": "import no_such_package_at_all\n",
        "broken.py": "def :\n",
        "late.py": "def build():\n    from plain_two import depth\n    return depth\n",
        "nameless/blocks.py": "from . import layers\nfrom .deep import ends\n",
        "nameless/layers.py": "",
        "nameless/deep/ends.py": "",
        "uses_nameless.py": "import nameless\nfrom nameless import layers\nx = 1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    tops = {name.partition("/")[0].removesuffix(".py") for name in texts}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["a:b", "a.b:c", "package.module:Class.method", "_a1:b_"])
def test_import_paths(name: str) -> None:
    assert is_import_path(name)


@pytest.mark.parametrize(
    "name", ["", "a", "a:", ":b", "a:b:c", "a/b:c", "a-b:c", "1a:b", "a.:b", "a: b", "hf:o/n", "a:b\n"]
)
def test_other_names_are_not_import_paths(name: str) -> None:
    assert not is_import_path(name)


def test_an_object_is_imported_from_the_current_folder(project: Path) -> None:
    before = sys.path.copy()
    assert import_object("plain_one:build")() == 3 and import_object("grouped.inner:blocks.x") == 1
    assert sys.path == [*before, str(project)]  # last, so that nothing installed is replaced
    assert import_object("late:build")() == 3


def test_a_search_that_has_the_folder_is_unchanged(project: Path) -> None:
    sys.path.insert(0, str(project))
    before = sys.path.copy()
    import_object("plain_one:build")
    find_sources("grouped:x")
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:x", "cannot be imported (No module named 'no_such_module'); run the command in the folder"),
        ("grouped.no_such:x", "cannot be imported (No module named 'grouped.no_such'); run the command in the folder"),
        ("lacks:x", "cannot be imported (No module named 'no_such_package_at_all'); install what the module imports"),
        ("fails:x", "cannot be imported (RuntimeError: was); mend this module"),
        ("leaves:x", "cannot be imported (SystemExit: 3); mend this module"),
        ("broken:x", "cannot be imported (SyntaxError: invalid syntax"),
        ("plain_one:biuld", "plain_one has no 'biuld'; did you mean 'build'?"),
        ("plain_one:build.x.y", "plain_one has no 'build.x.y'; check the name"),
    ],
)
def test_what_cannot_be_imported_is_one_line(project: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        import_object(name)
    assert str(caught.value).startswith(f"{name}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("plain_one:build", ["plain_one", "plain_two"]),
        ("plain_two:x", ["plain_two"]),
        ("grouped.inner:blocks", ["grouped", "grouped.inner", "grouped.inner.blocks", "grouped.shared"]),
        ("nameless.blocks:x", ["nameless.blocks", "nameless.deep.ends", "nameless.layers"]),
        ("uses_nameless:x", ["nameless.layers", "uses_nameless"]),
        ("nameless:x", []),
        ("fails:x", ["fails"]),  # is read, not run
        ("leaves:x", ["leaves"]),
    ],
)
def test_the_sources_are_the_imported_files_of_the_project(project: Path, name: str, modules: list[str]) -> None:
    before = sys.path.copy()
    sources = find_sources(name)
    assert sys.path == before
    assert list(sources) == modules and all(file.is_relative_to(project) for file in sources.values())


def test_the_sources_of_an_installed_package_are_its_files() -> None:
    sources = find_sources("rich.console:Console")
    assert {"rich.__init__", "rich.console", "rich.table"} <= set(sources)
    assert all(name.startswith("rich.") for name in sources)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:x", "there is no such module; run the command in the folder"),
        ("grouped.no_such:x", "there is no such module; run the command in the folder"),
        ("sys:exit", "is built into Python; name a module of your own"),
        ("broken:x", "cannot be read (SyntaxError: invalid syntax"),
    ],
)
def test_what_has_no_source_is_one_line(project: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_sources(name)
    assert str(caught.value).startswith(f"{name}: {message}") and "\n" not in str(caught.value)


def test_the_digest_follows_what_is_imported_and_nothing_else(project: Path, tmp_path: Path) -> None:
    digest = source_digest("plain_one:build")
    (project / "plain_other.py").write_text("unused = 2\n")
    assert source_digest("plain_one:build") == digest
    (project / "plain_two.py").write_text("depth = 4\n")
    assert source_digest("plain_one:build") != digest


@pytest.mark.parametrize("changed", ["plain_one.py", "plain_two.py"])
@pytest.mark.parametrize("other", ["plain_one:build", "plain_one:depth", "plain_two:depth"])
def test_code_that_was_changed_after_its_import_has_no_digest(project: Path, changed: str, other: str) -> None:
    digest = source_digest("plain_one:build")
    import_object("plain_one:build")
    assert source_digest("plain_one:build") == digest
    old = (project / changed).read_text()
    (project / changed).write_text(f"{old}new = 1\n")
    import_object(other)  # from memory
    with pytest.raises(UsageError, match=f"{changed}: was changed since it was imported; run the command again"):
        source_digest("plain_one:build")
    (project / changed).write_text(old)
    assert source_digest("plain_one:build") == digest


def test_the_digest_does_not_depend_on_the_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = source_digest("grouped.inner:blocks")
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    assert source_digest("grouped.inner:blocks") == digest


class _Network:
    def __init__(
        self, feature_size: int, depth: int = 2, sizes: tuple[int, ...] = (), shape: str | None = None
    ) -> None:
        self.options = depth, sizes, shape


def _unannotated(feature_size, depth=2):  # type: ignore[no-untyped-def]
    return depth


def _unknown_types(feature_size: int, table: NoSuchType = None) -> None: ...  # type: ignore[name-defined] # noqa: F821


def _anything(**options: Any) -> None: ...


def _required(feature_size: int, depth: int) -> None: ...


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        (_Network, {}, {}),
        (_Network, {"depth": 3, "sizes": [1, 2]}, {"depth": 3, "sizes": (1, 2)}),
        (_unannotated, {"depth": "deep"}, {"depth": "deep"}),
        (_unknown_types, {"table": [1]}, {"table": [1]}),
        (_anything, {"x": 1}, {"x": 1}),
        (_required, {"depth": 1}, {"depth": 1}),
    ],
)
def test_options_are_checked_by_the_signature(target: Any, options: Mapping[str, Any], expected: Any) -> None:
    assert bind_options(target, options, "m:f", ["feature_size"]) == expected


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (_Network, {"deth": 1}, "m:f: has no option 'deth'; did you mean 'depth'?"),
        (_Network, {"zzz": 1}, "m:f: has no option 'zzz'; its options: depth, sizes, shape"),
        (_Network, {"feature_size": 1}, "m:f: is given 'feature_size' by sfplus; leave it out of the options"),
        (_Network, {"depth": "x"}, "m:f: depth: Input should be a valid integer, unable to parse"),
        (_Network, {"sizes": [1, "x"]}, "m:f: sizes.1: Input should be a valid integer"),
        (_anything, {"feature_size": 1}, "m:f: is given 'feature_size' by sfplus; leave it out"),
        (_required, {}, "m:f: needs the option 'depth'; give depth"),
        (lambda: None, {}, "m:f: does not take 'feature_size'; it is called with feature_size=..."),
        (lambda feature_size: None, {"x": 1}, "m:f: has no option 'x'; it has no options"),
        (3, {}, "m:f: is not a function or class with a signature; check the name"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(target: Any, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind_options(target, options, "m:f", ["feature_size"])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(UsageError, match="not 'x'; see its signature"):
        bind_options(_Network, {"depth": "x"}, "m:f", ["feature_size"])
