"""Time of forward, loss and backward of each head, relative to a linear layer with cross-entropy; ratios of medians.

512 features of size 512, 10,572 classes (CASIA-WebFace), training mode. The goal for A-Softmax is 1.3.
Run it on an idle machine: make bench
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from racing import race
from torch import Tensor, nn

from sfplus.device import choose_device
from sfplus.hypersphere.heads import HEADS

SAMPLES, FEATURES, CLASSES, ROUNDS = 512, 512, 10_572, 15


class UsualPort(nn.Module):
    """A-Softmax, m = 4, as in clcarwin/sphereface_pytorch: psi of all classes by acos, then an index mask."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(FEATURES, CLASSES).uniform_(-1, 1).renorm_(2, 1, 1e-5).mul_(1e5))
        self.passes = 0

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        self.passes += 1
        weight = self.weight.renorm(2, 1, 1e-5).mul(1e5)
        length = features.pow(2).sum(1).pow(0.5)[:, None]
        cosine = (features.mm(weight) / length / weight.pow(2).sum(0).pow(0.5)).clamp(-1, 1)
        multiple = 8 * cosine**4 - 8 * cosine**2 + 1
        k = (4 * cosine.detach().acos() / math.pi).floor()
        psi = ((k * 0.0 - 1) ** k * multiple - 2 * k) * length
        cosine = cosine * length
        is_target = torch.zeros_like(cosine).scatter_(1, labels[:, None], 1).bool()
        weight_of_margin = 1 / (1 + max(5.0, 1500 / (1 + 0.1 * self.passes)))
        logits = cosine * 1.0
        logits[is_target] -= cosine[is_target] * weight_of_margin
        logits[is_target] += psi[is_target] * weight_of_margin
        return -F.log_softmax(logits, dim=1).gather(1, labels[:, None]).mean()


def main() -> None:
    device = choose_device("auto")
    features = torch.randn(SAMPLES, FEATURES, device=device.torch, requires_grad=True)
    labels = torch.randint(CLASSES, (SAMPLES,), device=device.torch)
    linear = torch.randn(CLASSES, FEATURES, device=device.torch, requires_grad=True)
    contestants: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
        "linear + cross-entropy": (lambda x, y: F.cross_entropy(x @ linear.T, y), linear)
    }
    heads = {name: build(FEATURES, CLASSES) for name, build in HEADS.items()}
    heads["asoftmax, gradient of Caffe"] = HEADS["asoftmax"](FEATURES, CLASSES, gradient="caffe")  # type: ignore[call-arg]
    for name, head in {**heads, "asoftmax, plain port": UsualPort()}.items():
        head.to(device.torch).train()
        contestants[name] = head.loss, head.weight  # type: ignore[assignment]

    def step(loss: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> None:
        features.grad = weight.grad = None
        loss(features, labels).backward()

    print(f"{device.describe()}; {SAMPLES} samples, {CLASSES} classes, d = {FEATURES}; median of {ROUNDS} rounds")
    medians = race({name: lambda pair=pair: step(*pair) for name, pair in contestants.items()}, ROUNDS)  # type: ignore[misc]
    base = medians["linear + cross-entropy"]
    for name, seconds in medians.items():
        print(f"  {name:<30} {1000 * seconds:8.1f} ms  {seconds / base:5.2f} x")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
