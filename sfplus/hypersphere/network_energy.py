"""Minimum hyperspherical energy for a whole network: one object, one term of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sfplus.hypersphere.energy import hyperspherical_energy
from sfplus.hypersphere.neurons import Layer, neuron_layers
from sfplus.hypersphere.projection import Projection
from sfplus.hypersphere.riesz_kernel import Distance, Kernel, Preset


class HypersphericalEnergy(nn.Module):
    """MHE, half-space MHE, A-MHE and CoMHE of all layers of a network (MHE paper, section 3; CoMHE paper).

    MHE as published adds the mean energy of each hidden layer, and ten times that of the output layer, to the loss:

        >>> model = torchvision.models.resnet18(num_classes=100)            # doctest: +SKIP
        >>> energy = HypersphericalEnergy(model, power=0, half_space=True)  # doctest: +SKIP
        >>> loss = cross_entropy(model(x), labels) + energy()               # doctest: +SKIP

    The factors are those of the original code, whose energies differ from the paper's: `preset="tf1"` has them (for
    s = 0 twice the paper's; in A-MHE the angle over pi, and there hidden=0.1, output=1 for s = 1 and 2). A-MHE is
    `distance="geodesic"`. CoMHE is `projection=RandomProjection` (or another; options through functools.partial),
    half_space=True and power=2, with `energy.step(lr)` before each training step; functools.cache(RandomProjection)
    shares one projection between layers of one size.

    The output layer is always taken full-space and without projection, as in the original. The neurons of a layer are
    the rows of its flattened weight, bias left out; those of a grouped convolution are compared within their group,
    without projection. The projections' state is part of `state_dict`, so that a resumed run goes on as it would have.

    Args:
        model: any network; it is not made part of this module. The layers are found now and held: one that is put
            in the place of another later, or a copy of the model, is not seen. Weights are read at each call.
        power: s >= 0 of the energy.
        distance: `euclidean` or `geodesic`.
        half_space: whether a neuron and its opposite are the same, in hidden layers.
        hidden: factor of each hidden layer.
        output: factor of the output layer.
        output_layer: its name; default: the last layer by order of definition. "-" for none.
        skip: names of layers to leave out, or patterns such as `layer1.*`.
        projection: called with the size d of a hidden layer's neurons, gives the `Projection` to use; layers whose
            neurons are no larger than the projected ones are left as they are.
        preset: `exact` or `tf1`, the original code's arithmetic.

    Attributes:
        layers: the layers that are taken.
        values: the mean energy of each layer, by name, detached, from the last call.

    Raises:
        ValueError: no layer is left, a name or pattern fits none, or an argument is not possible.
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
        Kernel(float(power), distance, half_space, preset)  # refuses what is not possible
        self.power, self.distance, self.half_space, self.preset = power, distance, half_space, preset
        if isinstance(skip, str):
            raise ValueError("skip is a list of names, not one text")
        found = neuron_layers(model)
        names = [layer.name for layer in found]
        missing = [pattern for pattern in skip if not any(fnmatchcase(name, pattern) for name in names)]
        missing += [output_layer] if output_layer not in ("", "-", *names) else []
        if missing:
            raise ValueError(f"no layer is called '{missing[0]}'; there are {', '.join(names) or 'none'}")
        self.layers = tuple(layer for layer in found if not any(fnmatchcase(layer.name, p) for p in skip))
        if not self.layers:
            raise ValueError("the model has no convolution or linear layer of two neurons or more to take")
        self.output_layer = names[-1] if output_layer == "" else output_layer
        self.hidden, self.output = hidden, output
        self.values: dict[str, Tensor] = {}
        self.projections = nn.ModuleList(self._project(layer, projection) for layer in self.layers)
        for stream, made in enumerate(dict.fromkeys(self.projections)):
            if isinstance(made, Projection):
                made.restart(stream)

    def _project(self, layer: Layer, projection: Callable[[int], Projection] | None) -> nn.Module:
        """The projection of a layer; an empty place where it needs none."""
        groups, _, size = layer.neurons().shape
        if projection is None or groups > 1 or layer.name == self.output_layer:
            return nn.Identity()
        made = projection(size)
        return made.to(layer.neurons().device) if size > made.dim else nn.Identity()

    def extra_repr(self) -> str:
        """What `print(energy)` shows."""
        settings = f"power={self.power}, distance={self.distance}, half_space={self.half_space}, preset={self.preset}"
        return f"{settings}, layers={len(self.layers)}, hidden={self.hidden}, output={self.output}"

    def forward(self) -> Tensor:
        """The weighted sum of the layers' mean energies: a scalar to add to the loss; float32 under autocast."""
        total: Tensor | None = None
        for layer, projection in zip(self.layers, self.projections, strict=True):
            last = layer.name == self.output_layer
            neurons = layer.neurons()
            with torch.autocast(neurons.device.type, enabled=False):
                if isinstance(projection, Projection):
                    neurons = projection(neurons[0])
                half_space = self.half_space and not last
                energy = hyperspherical_energy(
                    neurons, self.power, self.distance, half_space, preset=self.preset
                ).mean()
            self.values[layer.name] = energy.detach()
            part = energy * (self.output if last else self.hidden)
            total = part if total is None else total + part
        assert total is not None
        return total

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Redraw or move the projections; once per training step, before the loss, with the step's learning rate."""
        moved: set[nn.Module] = set()
        for layer, projection in zip(self.layers, self.projections, strict=True):
            if isinstance(projection, Projection) and projection not in moved:
                moved.add(projection)
                projection.step(layer.neurons()[0], lr)
