"""Show how the neurons of each layer of a model are distributed on the sphere, as a table and a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from sfplus.errors import UsageError, WeightsError
from sfplus.hypersphere import Uniformity, measure_uniformity
from sfplus.io.files import check_file, write_atomically
from sfplus.reports.energy_plot import energy_plot
from sfplus.weights import HEAD
from sfplus.weights.caffe import Blob, read_caffemodel
from sfplus.weights.find_model import find_model
from sfplus.weights.model_folder import load_tensors, weights_file

app = typer.Typer()

_LEGEND = """energy: mean over pairs of neurons, {}; random: expected of independent directions; least: a lower bound
excess: 0 at the least, 1 at random, above 1 the neurons crowd more than random ones would
nearest, smallest: mean and least angle to the nearest neighbour, degrees
redundancy: 0 where the neurons fill all dimensions evenly, towards 1 where they fill few
A file does not say which convolutions are grouped or transposed: every row of a weight counts as a neuron."""

_MOST = 20_000  # neurons of a layer; time grows with their square


def print_energy(model: str, power: float, half_space: bool, plot: Path) -> None:
    """Print a row per layer of a model and write the plot.

    Args:
        model: a folder with a model, a `.safetensors` or `.caffemodel` file of any network, or the name of a model.
        power: s >= 0 of the energies.
        half_space: take a neuron and its opposite for the same.
        plot: the PNG to write.
    """
    if not 0 <= power < math.inf:
        raise UsageError(f"the power is {power}", where="--power", remedy="use 0 or more; 0, 1 and 2 are the paper's")
    check_file(plot)
    weights = layer_weights(model)
    spreads = {
        name: measure_uniformity(weight.flatten(1)[:_MOST], power, half_space) for name, weight in weights.items()
    }
    width = max(5, *(len(name) for name in spreads))
    head = f"{'layer':<{width}} {'N':>6} {'d':>6} {'energy':>10} {'random':>10} {'least':>10}"
    print(f"{head} {'excess':>7} {'nearest':>8} {'smallest':>8} {'redundancy':>10}")
    for name, row in spreads.items():
        print(f"{name:<{width}} {_row(row)}")
    what = f"s = {power:g}{', half-space' if half_space else ''}"
    print(f"\n{_LEGEND.format(what)}")
    write_atomically(plot, energy_plot(spreads, f"{Path(model).name}: energy of the neurons, {what}"))
    print(f"plot: {plot}")


def layer_weights(model: str) -> dict[str, Tensor]:
    """The weights of the layers of a saved model, (N, ...) each, N >= 2; a head's comes last, as `head`.

    Raises:
        WeightsError: the file cannot be read or has no such weight.
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
    """The rows of a blob; old files give linear layers as (1, 1, N, d)."""
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
    plot: Annotated[Path, typer.Option("--plot", help="The plot to write, .png.")] = Path("energy.png"),
) -> None:
    """Show how the neurons of each layer of a model are distributed on the sphere: energy, random and best, angles.

    Example: sfplus energy sphereface10-small --half-space --plot energy.png
    """
    print_energy(model, power, half_space, plot)
