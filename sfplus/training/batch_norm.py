"""Batch normalisation of a global batch that several processes share."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfplus.errors import warn_user
from sfplus.training.distributed import ProcessGroup


def synchronise_batch_norm(
    network: nn.Module, processes: ProcessGroup, batch_size: int, passes: int = 1, unit: str = "crops"
) -> nn.Module:
    """Convert batch normalisation to statistics over all processes where torch supports it.

    `nn.SyncBatchNorm` runs on GPUs only, and its conversion would drop what a subclass adds, such as timm's activation.
    A warning is given where the statistics cover less than the global batch.

    Args:
        network: the network; changed in place.
        processes: the processes of the training.
        batch_size: samples in the global batch.
        passes: forward passes into which each process divides its share (`accumulate`).
        unit: the name of the samples, for the warning.

    Returns:
        The network.
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
        warn_user(
            f"batch normalisation is over {batch_size // groups} {unit}, not over the batch of {batch_size}: "
            f"the result depends on how it is divided; {remedy}, or a network without batch normalisation",
        )
    return network
