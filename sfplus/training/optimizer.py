"""Caffe's SGD on torch.optim: its multipliers for biases, and its momentum across changes of the rate."""

from __future__ import annotations

import torch
from torch import nn


def create_optimizer(module: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with the multipliers of sphereface_model.prototxt.

    Weights of convolutions, `fc5`, the head and PReLU slopes have rate 1 and decay 1; biases rate 2 and decay 0;
    frozen parameters (biases of the residual convolutions) are left out.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    biases = [p for name, p in named if name.endswith("bias")]
    weights = [p for name, p in named if not name.endswith("bias")]
    groups = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay, "multiplier": 1.0},
        {"params": biases, "lr": 2 * lr, "weight_decay": 0.0, "multiplier": 2.0},
    ]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=lr, momentum=momentum)


def set_learning_rate(optimizer: torch.optim.SGD, lr: float) -> None:
    """Set the rate of the next step, keeping Caffe's momentum.

    Caffe keeps the rate inside the velocity (v = mu v + lr g; w -= v), torch outside (v = mu v + g; w -= lr v). They
    agree while lr is constant; when it falls, torch's rule shrinks the steps already in the velocity too. Scaling the
    velocity by old / new at the change makes torch follow Caffe.
    """
    for group in optimizer.param_groups:
        old, new = group["lr"], lr * group["multiplier"]
        if old == new:
            continue
        group["lr"] = new
        for parameter in group["params"]:
            velocity = optimizer.state[parameter].get("momentum_buffer")
            if velocity is not None:
                velocity.mul_(old / new)
