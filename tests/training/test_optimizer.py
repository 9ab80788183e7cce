from __future__ import annotations

import math

import numpy as np
import torch

from sfplus.hypersphere import ASoftmax
from sfplus.networks import create
from sfplus.training.optimizer import create_caffe_sgd, set_learning_rate

NAMES = ["conv1_1.weight", "conv1_1.bias", "conv1_2.weight", "conv1_2.bias", "relu1_2.weight", "fc5.weight", "fc5.bias"]


def test_groups_follow_the_prototxt() -> None:
    module = torch.nn.ModuleDict({"network": create("sphereface20", width=0.125), "head": ASoftmax(512, 3)})
    optimizer = create_caffe_sgd(module, lr=0.1, momentum=0.9, weight_decay=5e-4)
    rules = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    multipliers = {name: rules.get(id(p)) for name, p in module.named_parameters()}
    assert [multipliers[f"network.{name}"] for name in NAMES] == [
        (0.1, 5e-4),
        (0.2, 0.0),
        (0.1, 5e-4),
        None,
        (0.1, 5e-4),
        (0.1, 5e-4),
        (0.2, 0.0),
    ]
    assert multipliers["head.weight"] == (0.1, 5e-4)
    assert sum(rule is None for rule in multipliers.values()) == 16, "biases of residual convolutions are frozen"


def test_a_first_step_that_overflows_leaves_velocities_of_zero() -> None:
    """The fused kernel skips such a step, and torch allocates velocities without values."""
    layer = torch.nn.Linear(64, 64)
    optimizer = create_caffe_sgd(layer, lr=1.0, momentum=0.9, weight_decay=0, fused=True)
    scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    before = layer.weight.detach().clone()
    for gradient in (math.inf, 1.0):
        scaler.scale(torch.zeros(()))  # creates the scale
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient * scaler.get_scale())
        del parameter
        dirty = [torch.full((64, 64), 1e3) for _ in range(50)]  # the memory that is allocated next
        del dirty
        scaler.step(optimizer)
        scaler.update()
        velocity = optimizer.state[layer.weight]["momentum_buffer"]
        assert torch.equal(velocity, torch.full_like(velocity, 0.0 if math.isinf(gradient) else 1.0))
    torch.testing.assert_close(layer.weight, before - 1)


def test_fused_and_other_kernels_have_the_same_steps() -> None:
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 4)
        optimizer = create_caffe_sgd(layer, lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
        for rate in (0.1, 0.01, 0.01):
            set_learning_rate(optimizer, rate, caffe_momentum=True)
            optimizer.zero_grad()
            layer(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    torch.testing.assert_close(*weights)


def test_updates_match_caffe_across_changes_of_the_rate() -> None:
    """Compare with SGDSolver in NumPy: v = mu v + rate (g + decay w); w -= v."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).double()
    optimizer = create_caffe_sgd(layer, lr=0.1, momentum=0.9, weight_decay=0.01)
    w, b = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    vw, vb = np.zeros_like(w), np.zeros_like(b)
    for step, rate in enumerate([0.1, 0.1, 0.01, 0.01, 0.01, 0.05, 0.05]):
        x = torch.randn(4, 3, dtype=torch.float64)
        set_learning_rate(optimizer, rate, caffe_momentum=True)
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        assert layer.weight.grad is not None and layer.bias.grad is not None
        vw = 0.9 * vw + rate * (layer.weight.grad.numpy() + 0.01 * w)
        vb = 0.9 * vb + 2 * rate * layer.bias.grad.numpy()
        w, b = w - vw, b - vb
        optimizer.step()
        np.testing.assert_allclose(layer.weight.detach().numpy(), w, rtol=1e-10, err_msg=f"step {step}")
        np.testing.assert_allclose(layer.bias.detach().numpy(), b, rtol=1e-10, err_msg=f"step {step}")
