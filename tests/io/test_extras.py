"""Optional extras: those of pyproject.toml, and commands that install them for the Python that runs."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sfplus.io.extras as extras
from sfplus.io.extras import EXTRAS, install_command, pip_command

ROOT = Path(extras.__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_extras_are_those_of_the_package():
    assert set(EXTRAS) == set(DECLARED) - {"dev", "docs"}
    for extra, (_, modules) in EXTRAS.items():
        names = [re.split(r"[>=<]", requirement)[0].replace("-", "_") for requirement in DECLARED[extra]]
        assert len(names) == len(modules)
        assert all(name.startswith(module) for name, module in zip(names, modules, strict=True))


@pytest.mark.parametrize("extra", EXTRAS)
def test_installs_from_the_checkout(extra, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install_command(extra))[-3:] == ["install", "-e", f"{ROOT}[{extra}]"]
    monkeypatch.chdir(ROOT)
    assert shlex.split(install_command(extra))[-3:] == ["install", "-e", f".[{extra}]"]


def test_installs_beside_an_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "sfplus" / "io" / "extras.py"))
    assert shlex.split(install_command("heic"))[-2:] == ["install", "sfplus[heic]"]


def test_the_command_belongs_to_the_python_that_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no pip, or that of another Python
    command = [*shlex.split(pip_command()), "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"python {sys.version_info.major}.{sys.version_info.minor}" in answer
    (tmp_path / "pip").write_text("#!/bin/sh\n")
    (tmp_path / "pip").chmod(0o755)
    assert pip_command() != "pip"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert pip_command() == "pip"


def test_no_message_names_an_index_that_does_not_have_the_package():
    files = [*ROOT.glob("sfplus/**/*.py"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    wrong = [str(path) for path in files if "pip install 'sfplus[" in path.read_text("utf-8")]
    assert wrong == []
