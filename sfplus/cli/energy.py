"""Show how the neurons of each layer of a model are distributed on the sphere, as a table and a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from sfplus.cli.command import App
from sfplus.errors import UsageError, WeightsError, one_line
from sfplus.hypersphere import Uniformity, measure_uniformity
from sfplus.io.files import check_file, write_atomically
from sfplus.reports.energy_plot import energy_plot
from sfplus.weights import HEAD
from sfplus.weights.caffe import Blob, read_caffemodel
from sfplus.weights.find_model import find_model
from sfplus.weights.model_folder import load_tensors, weights_file

app = App()

_LEGEND = """energy: mean over pairs of neurons, {}; random: expected for random directions; least: a lower bound
excess: 0 at the lower bound, 1 at random directions; above 1 the neurons are more crowded than random directions
nearest, smallest: mean and minimum angle to the nearest neighbour, in degrees
redundancy: 0 where the neurons use all dimensions evenly, close to 1 where they use few
A file does not record which convolutions are grouped or transposed: every row of a weight counts as a neuron."""

_MAX_NEURONS = 20_000  # measured per layer; the time grows with the square


def print_energy(model: str, power: float, half_space: bool, plot: Path) -> None:
    """Print a table with a row for each layer of a model and write the plot.

    Args:
        model: a model folder, a `.safetensors` or `.caffemodel` file of any network, or the name of a model.
        power: power s >= 0 of the energy.
        half_space: whether to treat a neuron and its opposite as the same direction.
        plot: the PNG file to write.

    Raises:
        UsageError: If the power is negative or not finite, or the plot cannot be written.
        WeightsError: If the file cannot be read or has no suitable weight.
    """
    if not 0 <= power < math.inf:
        raise UsageError(f"the power is {power}", where="--power", remedy="use 0 or more; 0, 1 and 2 are the paper's")
    check_file(plot)
    weights = layer_weights(model)
    layers = {name: measure_uniformity(w.flatten(1)[:_MAX_NEURONS], power, half_space) for name, w in weights.items()}
    width = max(5, *(len(name) for name in layers))
    columns = f"{'layer':<{width}} {'N':>6} {'d':>6} {'energy':>10} {'random':>10} {'least':>10}"
    print(f"{columns} {'excess':>7} {'nearest':>8} {'smallest':>8} {'redundancy':>10}")
    for name, row in layers.items():
        print(f"{one_line(name):<{width}} {_row(row)}")
    kind = f"s = {power:g}{', half-space' if half_space else ''}"
    print(f"\n{_LEGEND.format(kind)}")
    write_atomically(plot, energy_plot(layers, f"{Path(model).name}: energy of the neurons, {kind}"))
    print(f"plot: {plot}")


def layer_weights(model: str) -> dict[str, Tensor]:
    """Load the weights of all layers of a saved model that have at least two neurons.

    Args:
        model: as in `print_energy`.

    Returns:
        Weights (N, ...) by layer, N >= 2 neurons; the classifier weights of a head come last, as `head`.

    Raises:
        WeightsError: If the file cannot be read or has no such weight.
    """
    path = Path(model)
    if path.suffix.lower() == ".caffemodel":
        blobs = {name: blobs[0] for name, blobs in read_caffemodel(path).blobs.items() if blobs}
        file, tensors = path, {name: _filters(blob) for name, blob in blobs.items()}
    else:
        file = weights_file(path if path.is_file() else find_model(model))
        tensors = {
            name.removesuffix(".weight"): tensor
            for name, tensor in load_tensors(file).items()
            if name.endswith("weight")
        }
        head = file.with_name(HEAD)
        if head.is_file() and file != head:
            tensors["head"] = load_tensors(head)["weight"]
    layers = {
        name: tensor for name, tensor in tensors.items()
        if tensor.ndim > 1 and tensor.is_floating_point() and int(tensor.flatten(1).ne(0).any(1).sum()) > 1
    }  # fmt: skip
    if not layers:
        raise WeightsError("has no weights of two neurons or more", where=file, remedy="give the weights of a network")
    return layers


def _filters(blob: Blob) -> Tensor:
    """Return the blob with neurons along the first axis; old files store linear layers as (1, 1, N, d)."""
    while blob.ndim > 2 and len(blob) == 1:
        blob = blob[0]
    return torch.from_numpy(blob.copy())


def _row(row: Uniformity) -> str:
    nearest, smallest = math.degrees(row.mean_nearest), math.degrees(row.min_angle)
    energies = f"{row.count:>6} {row.dimension:>6} {row.energy:>10.5f} {row.random:>10.5f} {row.least:>10.5f}"
    excess = round(row.excess, 2) + 0.0  # no minus before a zero
    return f"{energies} {excess:>7.2f} {nearest:>8.1f} {smallest:>8.1f} {row.redundancy:>10.2f}"


@app.command()
def energy(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, a .safetensors or .caffemodel file, or a name.")
    ],
    power: Annotated[float, typer.Option(help="s of the energy 1/z^s; 0 is log(1/z).")] = 2.0,
    half_space: Annotated[
        bool, typer.Option("--half-space", help="Treat a neuron and its opposite as the same.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="The plot to write, .png.")] = Path("energy.png"),
) -> None:
    """Show how the neurons of each layer of a model are distributed on the sphere: energy, random and best, angles.

    Example: sfplus energy sphereface10-distilled --half-space --out energy.png
    """
    print_energy(model, power, half_space, out)
