"""Batch normalisation over the global batch, where a batch is divided among processes."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfplus.training.distributed import Processes


def normalised_together(
    network: nn.Module, processes: Processes, batch_size: int, passes: int = 1, unit: str = "crops"
) -> nn.Module:
    """Batch normalisation over all processes, where torch can; a warning where it is over less than the batch.

    `nn.SyncBatchNorm` is for GPUs, and its conversion would drop what a subclass adds, such as timm's activation.

    Args:
        network: which is changed in place.
        processes: of the training.
        batch_size: of all processes and passes.
        passes: into which each process divides its share (`accumulate`).
        unit: what a batch is made of.
    """
    norms = {type(module) for module in network.modules() if isinstance(module, _BatchNorm)}
    groups = passes
    if norms and processes.count > 1:
        if processes.device.is_cuda and norms <= {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        else:
            groups *= processes.count
    if norms and groups > 1 and processes.is_first:
        remedy = "use one process and accumulate=1" if passes > 1 else "use one process"
        warnings.warn(
            f"batch normalisation is over {batch_size // groups} {unit}, not over the batch of {batch_size}: "
            f"the result depends on how it is divided; {remedy}, or a network without batch normalisation",
            stacklevel=2,
        )
    return network
