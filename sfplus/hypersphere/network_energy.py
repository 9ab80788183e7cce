"""Minimum hyperspherical energy (MHE) of a whole network, as one term of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sfplus.hypersphere.energy import hyperspherical_energy
from sfplus.hypersphere.neurons import Layer, neuron_layers, unlisted_weights
from sfplus.hypersphere.projection import Projection, RandomProjection
from sfplus.hypersphere.riesz_kernel import Distance, Kernel, Preset


class HypersphericalEnergy(nn.Module):
    """The MHE, half-space MHE, A-MHE or CoMHE of the layers of a network (MHE paper, section 3; CoMHE paper).

    MHE as published adds the mean energy of each hidden layer, and ten times that of the output layer, to the loss:

        >>> model = torchvision.models.resnet18(num_classes=100)            # doctest: +SKIP
        >>> energy = HypersphericalEnergy(model, power=0, half_space=True)  # doctest: +SKIP
        >>> loss = cross_entropy(model(x), labels) + energy()               # doctest: +SKIP

    The factors are those of the original code, whose energies differ from the paper's and are those of
    `preset="tf1"`: for s = 0 twice the paper's; in A-MHE the angle over pi, with hidden=0.1, output=1 for s = 1 and 2.
    A-MHE is `distance="geodesic"`. CoMHE is `projection=RandomProjection` (or another one; options through
    functools.partial), half_space=True and power=2, with `energy.step(lr)` before each training step;
    functools.cache(RandomProjection) shares one projection between layers of the same size.

    The output layer is always full-space and without projection, as in the original. The neurons of a layer are the
    rows of its flattened weight, without the bias; those of a grouped convolution are compared within their group,
    without projection. The projections' state is part of `state_dict`, so that a resumed run continues exactly.

    Layers are convolutions, linear and bilinear layers, heads, and the projections of queries, keys and values in
    `nn.MultiheadAttention`, also with parametrised weights. Of a LoRA layer, the frozen weight and both factors are
    layers of their own. Embeddings, recurrent layers, depthwise convolutions and quantised layers are not included;
    `left_out` lists the weights without an energy. With `fully_shard` all ranks call the energy together, outside the
    network's forward, and each gathers the weight of one layer at a time. FullyShardedDataParallel keeps weights only
    during the forward of the module that it wraps: wrap a module that computes network and energy, in one piece.

    Args:
        model: Any network; it does not become a submodule. The layers are collected now: later replacements of a
            layer, or copies of the model, are not tracked. Weights are read at each call.
        power: Power s >= 0 of the energy.
        distance: `euclidean` or `geodesic`.
        half_space: Treat a neuron and its opposite as the same, in hidden layers.
        hidden: Factor of each hidden layer.
        output: Factor of the output layer.
        output_layer: Name of the output layer, by default the last layer by order of definition; "-" for none.
        skip: Names of layers to leave out, or patterns such as `layer1.*`.
        projection: A function that returns the `Projection` for a size d of a hidden layer's neurons; layers whose
            neurons are not larger than the projected ones are not projected.
        preset: `exact` or `tf1`, the original code's arithmetic.

    Attributes:
        layers: The layers that have an energy; `layer.name` and `layer.shape`, (groups, N, d), describe them.
        left_out: The names of the weights with two dimensions or more, and of packed weights, that have no energy.
        values: The mean energy of each layer by name, detached, from the last call.

    Raises:
        ValueError: If no layer is left, a name or pattern matches no layer, or an argument is not supported.
    """

    def __init__(
        self,
        model: nn.Module,
        power: float = 2.0,
        distance: Distance = "euclidean",
        half_space: bool = False,
        hidden: float = 1.0,
        output: float = 10.0,
        output_layer: str = "",
        skip: Sequence[str] = (),
        projection: Callable[[int], Projection] | None = None,
        preset: Preset = "exact",
    ) -> None:
        super().__init__()
        Kernel(float(power), distance, half_space, preset)  # checks the arguments
        self.power, self.distance, self.half_space, self.preset = power, distance, half_space, preset
        if isinstance(skip, str):
            raise ValueError("skip must be a list of names, not a single string")
        candidates = neuron_layers(model)
        names = [layer.name for layer in candidates]
        missing = [pattern for pattern in skip if not any(fnmatchcase(name, pattern) for name in names)]
        missing += [output_layer] if output_layer not in ("", "-", *names) else []
        if missing:
            raise ValueError(f"no layer is called '{missing[0]}'; the layers are {', '.join(names) or 'none'}")
        self.layers = tuple(layer for layer in candidates if not any(fnmatchcase(layer.name, p) for p in skip))
        if not self.layers:
            raise ValueError("the model has no convolution or linear layer with at least two neurons")
        self.left_out = tuple(unlisted_weights(model, self.layers))
        self.output_layer = names[-1] if output_layer == "" else output_layer
        self.hidden, self.output = hidden, output
        self.values: dict[str, Tensor] = {}
        self.projections = nn.ModuleList(self._project(layer, projection) for layer in self.layers)
        for stream, module in enumerate(dict.fromkeys(self.projections)):
            if isinstance(module, Projection):
                module.restart(stream)

    def _project(self, layer: Layer, projection: Callable[[int], Projection] | None) -> nn.Module:
        """Return the projection of a layer, or an identity if it has none."""
        groups, _, size = layer.shape
        if projection is None or groups > 1 or layer.name == self.output_layer:
            return nn.Identity()
        module = projection(size)
        return module.to(layer.peek().device) if size > module.dim else nn.Identity()

    def extra_repr(self) -> str:
        """Return the options that `print(energy)` shows."""
        settings = f"power={self.power}, distance={self.distance}, half_space={self.half_space}, preset={self.preset}"
        return f"{settings}, layers={len(self.layers)}, hidden={self.hidden}, output={self.output}"

    def forward(self) -> Tensor:
        """Return the weighted sum of the layers' mean energies, a scalar to add to the loss; float32 under autocast."""
        total: Tensor | None = None
        for layer, projection in zip(self.layers, self.projections, strict=True):
            is_output = layer.name == self.output_layer
            neurons = layer.neurons(any_order=isinstance(projection, nn.Identity | RandomProjection))
            with torch.autocast(neurons.device.type, enabled=False):
                if isinstance(projection, Projection):
                    neurons = projection(neurons[0])
                half_space = self.half_space and not is_output
                energy = hyperspherical_energy(
                    neurons, self.power, self.distance, half_space, preset=self.preset
                ).mean()
            self.values[layer.name] = energy.detach()
            term = energy * (self.output if is_output else self.hidden)
            total = term if total is None else total + term
        assert total is not None
        return total

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Redraw or train the projections; call it once per training step, before the loss, with the learning rate."""
        weights: dict[Projection, Tensor] = {}
        for layer, projection in zip(self.layers, self.projections, strict=True):
            if isinstance(projection, Projection) and projection not in weights:
                weights[projection] = layer.neurons()[0]
        drawn = {p: w for p, w in weights.items() if isinstance(p, RandomProjection) and w.device.type == "cpu"}
        for projection, weight in weights.items():
            if projection not in drawn:
                projection.step(weight, lr)
        largest_first = sorted(drawn, key=lambda projection: -projection.matrix.numel())
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch draws a matrix by one thread only
            list(pool.map(lambda projection: projection.step(drawn[projection], lr), largest_first))
