"""Convert a model of any supported kind to a folder, ONNX or Caffe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.cli.command import App
from sfplus.cli.options import ModelInputText
from sfplus.networks import is_function
from sfplus.weights.find_model import find_model

app = App()


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A model's name or folder, .caffemodel, .onnx, .safetensors, .pth, .pt2, or package.module:function",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, .caffemodel (and .prototxt) or .onnx")],
    network: Annotated[
        str,
        typer.Option(
            help="Of a file of weights: package.module:function, a .prototxt, or a name such as sphereface20; by "
            "default layer names and shapes decide."
        ),
    ] = "",
    block: Annotated[str, typer.Option(help="original or modern residual units; by default the file decides.")] = "",
    input: ModelInputText = "",
) -> None:
    """Convert a model of any supported kind to a folder, ONNX or Caffe.

    Nothing is overwritten. Files of weights are read as data only; TorchScript and .pt2 files are programs, and run.
    A folder keeps the description of the input, so that --model needs no --input.

    Example: sfplus convert sphereface_model.caffemodel sphereface20

    Example: sfplus convert w600k_r50.onnx my/arcface --input insightface
    """
    from sfplus.weights.convert import convert as convert_model  # imports torch, which the help need not wait for

    name = str(source)
    path = source if source.exists() or source.suffix or is_function(name) else find_model(name)
    print("\n".join(convert_model(path, target, network, block, input=input)))
