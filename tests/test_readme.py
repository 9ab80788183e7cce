"""The commands and snippets of README.md, run in their order as they stand there, on drawn faces."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from untrained_models import save_untrained

from sfplus.datasets.pairs import draw_pairs, read_pairs, write_pairs
from sfplus.images import list_photos

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(?:bash|python)\n(.*?)^```", README, re.S | re.M)
RAN = ("align", "compare", "group", "find", "embed", "verify", "calibrate", "recipes", "run", "status")


@pytest.fixture
def folder(drawn, tmp_path):
    """The files that the commands name."""
    shutil.copytree(drawn, tmp_path / "photos")
    for number in range(2):  # six people: four are held out, two are trained on
        shutil.copytree(drawn / f"person_00{number}", tmp_path / f"photos/person_10{number}")
    shutil.copytree(drawn, tmp_path / "holiday")
    photos = list_photos(drawn)
    for name, photo in zip(("anna.jpg", "anna-2019.jpg", "party.jpg"), photos, strict=False):
        shutil.copy(drawn / photo, tmp_path / name)
    write_pairs(tmp_path / "pairs.txt", draw_pairs(photos, 2, 3, 0))
    pairs = read_pairs(tmp_path / "pairs.txt")
    rows = zip(pairs.left, pairs.right, pairs.same.tolist(), strict=True)
    (tmp_path / "pairs.csv").write_text(
        "\n".join(["left,right,label", *(f"{a},{b},{int(same)}" for a, b, same in rows)])
    )
    save_untrained(tmp_path / "my" / "model")
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8)).eval()
    any_batch = ({0: torch.export.Dim("N")},)
    crops = torch.rand(2, 3, 112, 112)
    program = torch.onnx.export(network, (crops,), dynamo=True, verbose=False, dynamic_shapes=any_batch)
    program.save(tmp_path / "arcface.onnx")
    return tmp_path


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / target).is_file(), target


@pytest.mark.slow
def test_commands_and_snippets_run(folder, sfplus, monkeypatch):
    monkeypatch.chdir(folder)
    ran = []
    for block in BLOCKS:
        if "import" in block:
            exec(block, {})
            continue
        for line in block.splitlines():
            _, *words = shlex.split(line, comments=True)
            if not line.startswith("sfplus"):
                continue
            answer = sfplus(*words)
            assert answer.code == 0, (line, answer.out, answer.err)
            ran.append(words[0])
            if words[:2] == ["recipes", "copy"]:  # as long as three steps, not 200
                recipe = Path("mine.yaml").read_text()
                Path("mine.yaml").write_text(
                    re.sub(r"max_iter: \d+", "max_iter: 3", recipe).replace("[140, 180]", "[]")
                )
    assert set(RAN) <= set(ran)
