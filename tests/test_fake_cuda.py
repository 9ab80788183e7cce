"""`fake_cuda` finds what it is meant to find, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from fake_cuda import SYNCHRONISATIONS, FakeTensorDeviceMismatchError, WaitsForGPU, _run_backward, fake_cuda
from torch import Tensor, nn

from sfplus.hypersphere import ASoftmax

Call = Callable[[Tensor], object]

WAITING: dict[str, Call] = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x.argmax()),
    "if": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", torch.float64),
    "copy": lambda x: torch.empty(3, 3).copy_(x),
    "tensor": lambda x: torch.tensor([1.0], device="cuda"),
    "new_tensor": lambda x: x.new_tensor(3),
    "upload": lambda x: torch.ones(3).cuda(),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "mask": lambda x: x[x > 0],
    "mask of tensors": lambda x: x.index_put_((x > 0,), x[0]),
    "list": lambda x: x[[0, 2]],
    "index on the CPU": lambda x: x[torch.tensor([0, 2])],
    "assign a number": lambda x: x[0].__setitem__(1, 2.0),
    "assign a number by indices": lambda x: x.__setitem__(torch.arange(2, device="cuda"), 2.0),
    "cholesky": lambda x: torch.linalg.cholesky(x),
}

STAYING: dict[str, Call] = {
    "matmul": lambda x: (x @ x.T).relu().sum(),
    "slice": lambda x: x[1:, None],
    "index": lambda x: x[torch.arange(2, device="cuda")],
    "fill by a mask": lambda x: x.masked_fill(x > 0, 1.0),
    "assign a number by a mask": lambda x: x.__setitem__(x > 0, 1.0),
    "assign a number to a slice": lambda x: x.__setitem__((slice(None), -1), 1.0),
    "fill by indices": lambda x: x.index_fill_(0, torch.arange(2, device="cuda"), 2.0),
    "number of the CPU": lambda x: x * torch.tensor(2.0),
    "asynchronous": lambda x: x.to("cpu", non_blocking=True),
    "zeros": lambda x: torch.zeros(3, device="cuda") + x,
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", WAITING)
def test_an_operation_that_waits_is_refused(name: str, inference: bool) -> None:
    with fake_cuda(), torch.inference_mode(inference):
        x = torch.randn(3, 3, device="cuda")
        with pytest.raises(SYNCHRONISATIONS):
            WAITING[name](x)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", STAYING)
def test_an_operation_that_does_not_wait_runs(name: str, inference: bool) -> None:
    with fake_cuda() as gpu, torch.inference_mode(inference):
        STAYING[name](torch.randn(3, 3, device="cuda"))
    assert not gpu.waits


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*WAITING, *STAYING])
def test_a_gpu_agrees(name: str) -> None:
    x = torch.eye(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        if name in STAYING:
            STAYING[name](x)
        else:
            with pytest.raises(RuntimeError):
                WAITING[name](x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wrong_device_is_refused_in_forward_and_in_backward() -> None:
    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad * torch.full(grad.shape, 2.0)  # on the CPU

    with fake_cuda():
        x = torch.randn(3, device="cuda", requires_grad=True)
        with pytest.raises(FakeTensorDeviceMismatchError):
            x + torch.ones(3)
        loss = Slope.apply(x).sum()
        with pytest.raises(FakeTensorDeviceMismatchError):
            loss.backward()


def test_a_network_is_trained_on_the_device() -> None:
    with fake_cuda() as gpu:
        with gpu.copies() as waits:
            network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(16, 2))
            network.to("cuda")
        assert waits and network[0].weight.device.type == "cuda"
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        network(torch.randn(2, 3, 4, 4, device="cuda")).square().mean().backward()
        optimizer.step()
        assert network[0].weight.grad is not None and network[0].weight.grad.is_cuda
        with pytest.raises(WaitsForGPU):
            network[0].weight.detach().cpu()


def test_backward_in_python_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 6), nn.PReLU(6), nn.LayerNorm(6))
    head, x, labels = ASoftmax(6, 4, m=3), torch.randn(5, 6, requires_grad=True), torch.tensor([0, 1, 2, 3, 3])
    inputs = (x, head.weight)
    results = []
    for run in (_run_backward, torch.autograd._engine_run_backward):
        with patch("torch.autograd._engine_run_backward", run):
            head.eval().zero_grad()
            network.zero_grad()
            loss = head(network(x) * x, labels) + head.weight.square().sum()
            gradients = torch.autograd.grad(loss, inputs, create_graph=True)
            sum(g.square().sum() for g in gradients).backward()  # type: ignore[union-attr]
            results.append(
                [*(g.detach() for g in gradients), x.grad, head.weight.grad, *(p.grad for p in network.parameters())]
            )
            x.grad = None
    torch.testing.assert_close(results[0], results[1])
