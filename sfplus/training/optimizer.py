"""Optimizers, the update of their learning rate in each step, and running averages of weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sfplus.hypersphere import SphereConv2d


def create_caffe_sgd(
    module: nn.Module, *, lr: float, momentum: float, weight_decay: float, fused: bool | None = None
) -> torch.optim.SGD:
    """Create SGD with the multipliers of sphereface_model.prototxt.

    Weights of convolutions, `fc5`, the head and PReLU slopes have rate 1 and decay 1; biases rate 2 and decay 0;
    frozen parameters (biases of the residual convolutions) are left out.

    Args:
        module: network and head, on their device.
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay.
        fused: use torch's fused kernel; by default on GPUs.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    biases = [p for name, p in named if name.endswith("bias")]
    weights = [p for name, p in named if not name.endswith("bias")]
    groups = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay, "multiplier": 1.0},
        {"params": biases, "lr": 2 * lr, "weight_decay": 0.0, "multiplier": 2.0},
    ]
    # the fused kernel of a GPU skips a step whose gradients overflow without telling the CPU, which would have to wait
    fused = (all(p.is_cuda for _, p in named) or None) if fused is None else fused
    optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=lr, momentum=momentum, fused=fused)
    if fused and momentum:  # torch's have no values until the first step, which the kernel may skip
        for _, parameter in named:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return optimizer


def create_optimizer(
    name: Literal["sgd", "adam"],
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float = 0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """Create torch's fused SGD or Adam.

    Args:
        name: `sgd` or `adam`.
        parameters: parameters, or groups such as those of `decay_groups`.
        lr: learning rate.
        weight_decay: factor of the weights in the gradient (L2 regularisation), where a group has no other.
        momentum: momentum of SGD.
        betas: decay rates of Adam's averages.
    """
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=True)


def decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Divide parameters into those with weight decay and those of convolutions on angles, without (spherenet.py)."""
    angular = {id(p) for layer in network.modules() if isinstance(layer, SphereConv2d) for p in layer.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if id(p) not in angular]}]
    if angular:
        groups.append({"params": [p for p in network.parameters() if id(p) in angular], "weight_decay": 0.0})
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, *, caffe_momentum: bool = False) -> None:
    """Set the rate of the next step, times the `multiplier` of each group.

    Args:
        optimizer: the optimizer.
        lr: the new rate.
        caffe_momentum: keep Caffe's momentum. Caffe has the rate inside the velocity (v = mu v + lr g; w -= v), torch
            outside (v = mu v + g; w -= lr v). They agree while lr is constant; when it falls, torch's rule shrinks the
            steps already in the velocity too. Scaling the velocity by old / new at the change makes torch follow Caffe.
    """
    for group in optimizer.param_groups:
        old, new = group["lr"], lr * group.get("multiplier", 1.0)
        group["lr"] = new
        if not caffe_momentum or old == new:
            continue
        for parameter in group["params"]:
            velocity = optimizer.state[parameter].get("momentum_buffer")
            if velocity is not None:
                velocity.mul_(old / new)


class RunningAverage(AveragedModel):
    """The exponential running average of the parameters of a module, from its weights after the first step.

    Buffers are those of the module. Unlike torch's class it does not make a GPU wait in each step.

    Args:
        module: the module.
        decay: weight of the previous average, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module)
        self.decay, self._started = decay, False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average after a step of the module."""
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        self._started = self._started or bool(self.n_averaged > 0)  # a run that is continued has a number of steps
        if self._started:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, weights)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1
        self._started = True
