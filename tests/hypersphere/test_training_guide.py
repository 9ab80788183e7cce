"""The snippets of docs/training-with-heads.md, run in the order in which they stand there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sfplus import hypersphere
from sfplus.hypersphere import SphereFaceR

PAGE = Path(__file__).parents[2] / "docs" / "training-with-heads.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def names() -> dict[str, Any]:
    """Return what the page takes for granted."""
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 512))
    head = hypersphere.ASoftmax(512, 5)
    return {
        **{name: getattr(hypersphere, name) for name in hypersphere.__all__},
        **{"torch": torch, "device": torch.device("cpu"), "people": 5, "network": network, "head": head},
        **{"images": images, "labels": labels, "features": network(images), "loader": [(images, labels)] * 2},
        "optimizer": torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.1),
    }


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code = SNIPPETS[number]
    ast.parse(code)
    if "import lightning" in code:
        return
    compiled = torch.compile
    monkeypatch.setattr("torch.compile", lambda function: compiled(function, backend="aot_eager"))
    space = names()
    if "accelerate" in code:
        space["loader"] = torch.utils.data.DataLoader(space["loader"], batch_size=None)
    before = space["head"].weight.detach().clone()
    exec(code, space)
    if "optimizer.step()" in code or "copy_" in code:
        assert not torch.equal(getattr(space["head"], "module", space["head"]).weight, before)
    if "loss.backward()" in code or "backward(loss)" in code:
        assert all(p.grad is not None for p in space["network"].parameters())
    assert space.get("loss", torch.zeros(())).isfinite()


def test_the_page_is_linked_and_covers_its_subjects() -> None:
    assert "docs/training-with-heads.md" in (PAGE.parents[1] / "README.md").read_text("utf-8")
    text = "\n".join(SNIPPETS)
    for subject in ("DistributedDataParallel(", "accelerator.prepare", "LightningModule", "torch.compile", "autocast"):
        assert subject in text, subject
    assert "class_energy(" in text and "HypersphericalEnergy(" in text


def test_v0_is_the_sphereface_of_opensphere_with_a_loss_weight_of_scale() -> None:
    """OpenSphere, model/head/sphereface.py: entropy of s (cos + d), where d is the change by the margin, detached."""
    torch.manual_seed(0)
    head = SphereFaceR(8, 5, version="v0", m=1.5, scale=30.0, loss_weight=30.0).double()
    x, labels = torch.randn(6, 8, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 4])
    cosine = nn.functional.normalize(x) @ nn.functional.normalize(head.weight).T
    theta = cosine.detach().clamp(-1 + 1e-5, 1 - 1e-5).acos()
    theta[range(6), labels] *= 1.5
    k = (theta / torch.pi).floor()
    change = (1 - 2 * (k % 2)) * theta.cos() - 2 * k - cosine.detach()
    expected = nn.functional.cross_entropy(30 * (cosine + change), labels)
    loss = head(x, labels)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, (x, head.weight)) for value in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
