"""Convert a model between Caffe, sfplus and ONNX; PyTorch files of clcarwin and OpenSphere are read too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfplus.weights.find_model import find_model

app = typer.Typer(add_completion=False)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A model's name or folder, .caffemodel, .onnx, .safetensors, .pth")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, .caffemodel (and .prototxt) or .onnx")],
    network: Annotated[str, typer.Option(help="Such as sphereface20; by default layer names and shapes decide.")] = "",
    block: Annotated[str, typer.Option(help="original or modern residual units; by default the file decides.")] = "",
) -> None:
    """Convert a model between Caffe, sfplus and ONNX; PyTorch files of clcarwin and OpenSphere are read too.

    Nothing is overwritten. A .pt or .pth file is read as data only, never as code.

    Example: sfplus convert sphereface_model.caffemodel sphereface20
    """
    from sfplus.weights.convert import convert as convert_model  # imports torch, which the help need not wait for

    path = source if source.exists() or source.suffix else find_model(str(source))
    print("\n".join(convert_model(path, target, network, block)))
