"""The command line: help, version, invalid arguments."""

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slow_cases import slow

from sfplus.cli.main import COMMANDS, load_command

GROUPS = {
    "recipes": ("list", "show", "copy", "check", "keys"),
    "models": ("list", "info", "fetch", "verify"),
}
WORDS = [[name, part] for name in COMMANDS for part in GROUPS.get(name, [""])]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
@pytest.mark.parametrize("width", [80, 120])
def test_the_help_is_for_people(
    words: list[str], width: int, sfplus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    name = " ".join(filter(None, words))
    answer = sfplus(*filter(None, words), "-h")
    assert answer.code == 0 and answer.err == "" and f"Usage: sfplus {name} [OPTIONS]" in answer.out
    assert f"Example: sfplus {name}" in " ".join(answer.out.split())
    assert all(len(line) <= width for line in answer.out.splitlines())
    for internal in ("<bool>", "<str>", "<path>", "<int", "<float", "list[", "{", "}", "...]...", "…"):
        assert internal not in answer.out, internal
    for option in ("--verbose", "--quiet", "--log-file", "--help"):
        assert option in answer.out
    for paragraph in answer.out.partition("╭")[0].split(f"\n{' ' * width}\n"):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        for line, following in itertools.pairwise(lines):  # the next word does not fit: no text is ragged
            assert len(line) + 1 + len(following.split()[0]) > width - 2, (line, following)


def test_outputs_have_one_name() -> None:
    for name in COMMANDS:
        command = load_command(name)
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--out" in parameter.opts:
                assert parameter.opts == ["--out", "-o"], name
            assert not {"--save", "--plot", "--output"} & set(parameter.opts)


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_options_for_messages_stand_before_or_after_the_command(
    where: str, sfplus: Callable, tmp_path: Path
) -> None:
    options = ["-v", "--log-file", tmp_path / "log" / "x.log"]
    command = ["status", "demo", "--workspace", tmp_path]
    answer = sfplus(*options, *command) if where == "before" else sfplus(*command, *options)
    assert answer.code == 0 and "version" in (tmp_path / "log" / "x.log").read_text()
    assert sfplus(*options, "run", "dmo").code == 2
    assert "ERROR sfplus: " in (tmp_path / "log" / "x.log").read_text().splitlines()[-1]
    both = sfplus("-v", "-q", *command)
    assert (both.code, both.err) == (2, "sfplus: --verbose: does not go with --quiet; give one of them\n")


def _children_seconds() -> float:
    """Return the processor time of finished child processes, which other processes do not affect."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_short_option_shows_the_help_of_every_command(sfplus: Callable) -> None:
    for words in ((), ("verify",), ("models",), ("models", "list")):
        assert sfplus(*words, "-h").out == sfplus(*words, "--help").out != ""


def test_help_imports_neither_torch_nor_numpy_and_is_fast() -> None:
    code = (
        "import sys\nsys.argv = ['sfplus', '--help']\nfrom sfplus.__main__ import main\n"
        "try: main()\nfinally: print(sorted({'torch', 'numpy', 'pydantic', 'cv2'} & set(sys.modules)))"
    )
    start = _children_seconds()
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.stdout.strip().endswith("[]") and "doctor" in completed.stdout and _children_seconds() - start < 5


def test_the_version_is_printed(sfplus: Callable) -> None:
    assert sfplus("--version").out.startswith("sfplus 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "demo", "--nope"], "No such option"),
        (["run", "dmo"], "did you mean 'demo'?"),
        (["run", "demo", "--until", "fly"], "this recipe has no stage 'fly'; its stages: sample, detect"),
        (["run", "demo", "train.netwrk=x"], "train.netwrk=x: unknown key 'train.netwrk'; did you mean 'network'?"),
        (["run", "demo", "--device", "gpu"], "no device is called 'gpu'; use auto, cpu, cuda or cuda:N"),
        (["recipes", "check", "nowhere.yaml"], "there is no such recipe file"),
        (["align", "a", "a/b"], "OUT and IN overlap"),
        (["align", "a", "b", "--template", "x"], "no template is called 'x'"),
        (["embed", ".", "../out", "--model", "nope"], "there is no model 'nope'"),
        (["align", "nowhere", "out"], "nowhere: does not exist"),
        (["verify", ".", "nowhere.txt", "--workspace", "../data"], "nowhere.txt: does not exist"),
        (["sample", "x", "--people", "0"], "--people"),
        (["models", "info", "sphereface21"], "the zoo has no model 'sphereface21'; did you mean 'sphereface20'?"),
        (["embed", "a", "b", "--dtype", "float16"], "float16"),
    ],
)
def test_invalid_arguments_are_reported_with_exit_code_2_and_write_nothing(
    words: list[str], message: str, sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = sfplus(*words)
    assert answer.code == 2 and message in answer.err, answer
    assert "Traceback" not in answer.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "photos", "--out", "file"],
        ["verify", "--features", "pairs.txt", "--pairs", "pairs.txt", "--out", "file/out"],
        ["export", "demo", "file/model"],
    ],
)
def test_results_cannot_be_written_to_or_below_a_file(
    words: list[str], sfplus: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("file", "pairs.txt"):
        Path(name).touch()
    answer = sfplus(*words)
    assert answer.code == 2 and "file: is not a folder; choose another one" in answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pairs.txt"]


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        slow("sfplus ru", {"run"}),
        slow("sfplus run demo --un", {"--until"}),
        ("sfplus align in out --templ", {"--template"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, completions: set[str]) -> None:
    environment = os.environ | {
        "_SFPLUS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
    }  # fmt: skip
    program = "import sys; sys.argv[0] = 'sfplus'; from sfplus.__main__ import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert set(answer.stdout.split()) == completions, answer.stderr
