"""Networks of other projects behind one interface: normalised crops in, features (N, D) out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.alignment.templates import find_template
from sfplus.errors import SfplusError, WeightsError, first_line
from sfplus.io.console import first_names
from sfplus.networks.normalize import normalize_crops
from sfplus.networks.preprocessing import PRESETS, Preprocessing
from sfplus.weights.model_config import MAX_FEATURE


class FeatureNetwork(nn.Module):
    """A network that is called in its own layout and returns one of its outputs as (N, D).

    Args:
        network: a module or any callable; of a floating-point array (N, 3, H, W) or (N, H, W, 3).
        layout: `nchw` or `nhwc`.
        output: the key of a dictionary, or the index of a tuple; empty for the only output, or the first of a tuple.
        where: the file or function that it comes from, for messages.
    """

    def __init__(self, network: Callable[[Tensor], Any], layout: str, output: str, where: str | Path) -> None:
        super().__init__()
        self.network = network
        self._layout, self._output, self._where = layout, output, str(where)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of normalised crops: (N, 3, H, W) -> (N, D)."""
        result = self.network(x.permute(0, 2, 3, 1).contiguous() if self._layout == "nhwc" else x)
        features = self._select(result)
        if isinstance(features, np.ndarray):
            features = torch.from_numpy(features)
        if not torch.compiler.is_compiling() and not _is_batch(features, len(x)):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise WeightsError(
                f"turns {len(x)} crops into {shape}, not into one feature for each",
                where=self._where, remedy="name the output that holds the features: --input output=NAME",
            )  # fmt: skip
        return features.flatten(1).to(x.device)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode, which exported programs cannot leave."""
        self.training = False
        return self

    def _select(self, result: Any) -> Any:
        choices: Mapping[str, Any] = {}
        if isinstance(result, Mapping):
            choices = {str(key): value for key, value in result.items()}
        elif isinstance(result, Sequence):
            choices = {str(index): value for index, value in enumerate(result)}
        if not choices or (not self._output and (len(choices) == 1 or "0" in choices)):
            return next(iter(choices.values()), result)
        if self._output not in choices:
            reason = f"has the outputs {first_names(list(choices))}"
            raise WeightsError(reason, where=self._where, remedy="choose one: --input output=NAME")
        return choices[self._output]


def _is_batch(features: Any, size: int) -> bool:
    return isinstance(features, Tensor) and features.ndim >= 2 and len(features) == size


def measure_features(network: nn.Module, preprocessing: Preprocessing, where: str | Path) -> Tensor:
    """Run a network of somebody else's on two crops, which shows whether it works with a description of its input.

    Args:
        network: on the CPU, in evaluation mode.
        preprocessing: the description.
        where: the file or function, for messages.

    Returns:
        (2, D) float32, the features of two crops of noise, always the same ones.

    Raises:
        WeightsError: If the network does not accept such crops, or does not turn each into one finite feature.
    """
    template = find_template(preprocessing.template)
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (2, template.height, template.width, 3), dtype=torch.uint8, generator=generator)
    try:
        with torch.inference_mode():
            features: Tensor = network(normalize_crops(crops, preprocessing)).float()
    except SfplusError:
        raise
    except Exception as error:  # the code of anybody's network
        reason = f"does not accept {preprocessing} ({type(error).__name__}: {first_line(error)})"
        raise WeightsError(reason, where=where, remedy=f"describe its input: --input {', '.join(PRESETS)}") from None
    if features.shape[1] > MAX_FEATURE or not bool(features.isfinite().all()):
        problem = f"features of {features.shape[1]} numbers" if features.shape[1] > MAX_FEATURE else "NaN or infinity"
        raise WeightsError(f"computes {problem}", where=where, remedy="check the file and --input")
    return features
