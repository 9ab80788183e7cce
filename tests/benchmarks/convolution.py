"""Time of SphereConv2d, forward and backward, relative to nn.Conv2d of the same shape; ratios of medians.

Beside them is the least that each can be: the convolution, the passes over whole maps, each once (squares of the input,
the response in new memory, the gradients of the projection and of the squares in place), and on maps that stay in the
cache the arc sines, sigmoids and powers of forward and backward, and the products and sums over pixels that are the
gradients of learned parameters.

The last contestant is a plain implementation: a convolution of the squares with ones for the norms of the patches,
and autograd through the arc cosine. Run it on an idle machine: python tests/benchmarks/convolution.py
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from racing import race
from torch import Tensor, nn

from sfplus.hypersphere.sphere_conv import EPSILON, OPERATORS, SphereConv2d

BATCH, ROUNDS = 128, 5
PARTS = 32  # of a batch, each 1 MB
SHAPES = ((64, 32), (128, 16))  # channels, height and width


class PlainSphereConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(1, *self.weight.shape[1:])
        patch = (F.conv2d(x.square(), ones, padding=1) + EPSILON).sqrt()
        length = (self.weight.square().sum((1, 2, 3)) + EPSILON).sqrt()[:, None, None]
        cosine = F.conv2d(x, self.weight, padding=1) / patch / length
        return 1 - 2 / math.pi * cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()


def step(layer: nn.Module, x: Tensor, upstream: Tensor) -> None:
    x.grad = None
    layer.zero_grad()
    layer(x).backward(upstream)


def parts_of_the_least(x: Tensor, upstream: Tensor) -> dict[str, Callable[[], object]]:
    """Return the passes over maps of which `least` adds up the seconds."""
    x, total = x.detach(), upstream.clone()
    part = (upstream[: len(x) // PARTS] / 10).clone()
    result = torch.empty_like(part)

    def repeat(function: Callable[..., Tensor]) -> None:
        for _ in range(PARTS):
            function(part, out=result)

    return {
        "squares": lambda: torch.linalg.vector_norm(x, dim=1),
        "new map": lambda: x * upstream,
        "in place": lambda: total.addcmul_(x, upstream, value=1e-3),
        "arc sine": lambda: repeat(torch.asin),
        "logistic": lambda: repeat(torch.sigmoid),
        "power": lambda: repeat(torch.exp2),
        "product": lambda: repeat(lambda x, out: torch.mul(x, x, out=out)),
        "sum over pixels": lambda: [part.sum((0, 2, 3)) for _ in range(PARTS)],
    }


def least(seconds: dict[str, float]) -> dict[str, float]:
    """Return the seconds that each operator needs for more than the convolution."""
    cosine = seconds["squares"] + seconds["new map"] + 2 * seconds["in place"]
    sigmoid = cosine + 2 * (seconds["arc sine"] + seconds["logistic"])
    learned = 2 * (seconds["product"] + seconds["sum over pixels"])
    rescale = cosine + 2 * seconds["power"] + learned + seconds["sum over pixels"]
    return {"cosine": cosine, "linear": cosine + seconds["arc sine"], "sigmoid": sigmoid,
            "learnable-sigmoid": sigmoid + learned, "cosine, rescale": rescale}  # fmt: skip


def main() -> None:
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, 3x3, float32; median of {ROUNDS} rounds")
    for channels, size in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(BATCH, channels, size, size).to(memory_format=layout).requires_grad_()
            upstream = torch.randn_like(x)
            layers: dict[str, nn.Module] = {"nn.Conv2d": nn.Conv2d(channels, channels, 3, padding=1, bias=False)}
            for operator in OPERATORS:
                layers[operator] = SphereConv2d(channels, channels, 3, padding=1, operator=operator)
            layers["cosine, rescale"] = SphereConv2d(channels, channels, 3, padding=1, rescale=True)
            layers["linear, plain"] = PlainSphereConv2d(channels, channels, 3, padding=1, bias=False)
            runs = {
                name: functools.partial(step, layer.to(memory_format=layout), x, upstream)
                for name, layer in layers.items()
            }
            parts = parts_of_the_least(x, upstream)
            medians = race({**runs, **parts}, ROUNDS)
            floors, base = least(medians), medians["nn.Conv2d"]
            print(f"  {channels} -> {channels} channels, {size}x{size}, {str(layout).removeprefix('torch.')}")
            for name in runs:
                floor = f"   least {1 + floors[name] / base:5.2f} x" if name in floors else ""
                print(f"    {name:<24} {1000 * medians[name]:7.1f} ms  {medians[name] / base:5.2f} x{floor}")
            print("    passes, ms: " + ", ".join(f"{name} {1000 * medians[name]:.1f}" for name in parts))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
