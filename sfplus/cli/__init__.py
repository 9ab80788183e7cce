"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sfplus import __version__
from sfplus.cli.data import app as data_app
from sfplus.cli.groups import models_app, recipes_app
from sfplus.cli.runs import app as runs_app
from sfplus.cli.verify import DATA, Device, ModelName, Workspace
from sfplus.cli.verify import app as verify_app

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", add_completion=False,
    help="""Face recognition on the hypersphere: detect, align, train, fine-tune, verify, report.

First try:  [bold]sfplus run demo[/bold]   (drawn faces, offline, about a minute)""",
)  # fmt: skip
app.registered_commands += runs_app.registered_commands  # first in the list of commands
app.add_typer(verify_app)
app.add_typer(data_app)
app.add_typer(recipes_app, name="recipes")
app.add_typer(models_app, name="models")

In = Annotated[Path, typer.Argument(metavar="IN", help="A folder of photos, of any depth; nothing in it is changed.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Where the results go; made where missing.")]
Listed = Annotated[
    Path, typer.Argument(metavar="IN", help="A folder of photos, of any depth, a file with a photo a line, or -.")
]
MinFace = Annotated[int, typer.Option(min=12, help="Side of the smallest face, pixels.")]
Choose = Annotated[
    Literal["centre", "largest", "confident", "all"], typer.Option(help="Which of several faces; all are numbered.")
]
Parity = Annotated[
    Literal["none", "matlab"], typer.Option(help="matlab: the arithmetic of the original cascade, slower.")
]
Dtype = Literal["float32", "bfloat16"]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"sfplus {__version__}")
        raise typer.Exit


@app.command()
def detect(
    in_: Listed, out: Out, min_face: MinFace = 20, choose: Choose = "centre", parity: Parity = "none",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Find the faces in photos: OUT gets faces.parquet, photos.parquet and failures.jsonl.

    Example: sfplus detect holiday faces
    """
    from sfplus.cli.photo_folders import detect_folder

    raise typer.Exit(detect_folder(in_, out, device, {"min_face": min_face, "choose": choose, "parity": parity}))


@app.command()
def align(
    in_: Listed,
    out: Out,
    template: Annotated[
        str, typer.Option(help="sphereface-112x96, arcface-112x112, or either in another size (height x width).")
    ] = "sphereface-112x96",
    first_pixel: Annotated[
        Literal["source", "0", "1"], typer.Option(help="What the template calls its first pixel.")
    ] = "source",
    fit: Annotated[
        Literal["image", "template"], typer.Option(help="Least squares in the photo (the original) or in the crop.")
    ] = "image",
    interpolation: Annotated[
        Literal["bilinear", "area", "antialiased"], typer.Option(help="How larger faces are made smaller.")
    ] = "bilinear",
    border: Annotated[Literal["black", "replicate"], typer.Option(help="What lies outside the photo.")] = "black",
    format_: Annotated[Literal["jpeg", "png"], typer.Option("--format", help="Of the crops.")] = "jpeg",
    jpeg_quality: Annotated[int, typer.Option(min=1, max=95)] = 75,
    min_face: MinFace = 20,
    choose: Choose = "centre",
    parity: Parity = "none",
    report: Annotated[bool, typer.Option("--report", help="Draw a contact sheet, too: OUT/contact-sheet.png.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Threads; 0: as many as torch takes.")] = 0,
    device: Device = "auto",
) -> None:
    """Cut the aligned face out of each photo; OUT mirrors the tree of IN.

    An interrupted call goes on where it was, and a second one is instant while IN is as it was.

    Several processes share the work when they are given the same IN and OUT: start it again in another shell, on
    another machine with the same disk, or by torchrun or accelerate launch, where each process takes a GPU.

    Exit code 1 when a photo could not be read; failures.jsonl in OUT names it, and photos without a face too.

    Example: sfplus align holiday crops --report

    Example: torchrun --nproc-per-node 2 -m sfplus align holiday crops
    """
    from sfplus.alignment import find_template
    from sfplus.cli.photo_folders import align_folder

    first = first_pixel if first_pixel == "source" else int(first_pixel)
    settings: dict[str, dict[str, object]] = {
        "detect": {"min_face": min_face, "choose": choose, "parity": parity},
        "align": {
            "template": find_template(template).name, "first_pixel": first, "fit": fit, "border": border,
            "interpolation": interpolation, "format": format_, "jpeg_quality": jpeg_quality,
        },
    }  # fmt: skip
    raise typer.Exit(align_folder(in_, out, device, settings, report, workers))


@app.command()
def embed(
    in_: In,
    out: Out,
    model: ModelName = "",
    crops: Annotated[bool, typer.Option("--crops", help="IN holds crops that are aligned already.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of the arithmetic; float32 is the reference.")] = "float32",
    device: Device = "auto",
) -> None:
    """Turn a folder of photos into features: OUT gets features.safetensors and index.parquet.

    Exit code 1 when a photo could not be read, or with --crops has not the size of a crop; failures.jsonl names it.

    Example: sfplus embed holiday features
    """
    from sfplus.cli.photo_folders import embed_folder

    raise typer.Exit(embed_folder(in_, out, model, device, crops, dtype))


@app.command()
def energy(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, a .safetensors or .caffemodel file, or a name.")
    ],
    power: Annotated[float, typer.Option(help="s of the energy 1/z^s; 0 is log(1/z).")] = 2.0,
    half_space: Annotated[bool, typer.Option("--half-space", help="Take a neuron and its opposite for one.")] = False,
    plot: Annotated[Path, typer.Option("--plot", help="The picture to write.")] = Path("energy.png"),
) -> None:
    """Show how the neurons of each layer of a model are spread: energy against random and best, nearest angles.

    Example: sfplus energy sphereface10-small --half-space --plot energy.png
    """
    from sfplus.cli.energy import print_energy

    print_energy(model, power, half_space, plot)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the drawn photos go, a folder per person.")],
    people: Annotated[int, typer.Option(min=1)] = 60,
    photos: Annotated[int, typer.Option(min=1, help="Photos of each person.")] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw portraits of people who do not exist, with their true landmarks (landmarks.csv).

    Example: sfplus sample drawn --people 60 --photos 10 --seed 0
    """
    from sfplus.datasets.portraits import write_portraits
    from sfplus.io.console import Console

    with Console().progress("sample", resumed=False) as step:
        step.start(people * photos, "photos")
        rows = write_portraits(folder, people, photos, seed, on_photo=step.advance)
    print(f"{len(rows)} photos of {people} drawn people in {folder}")


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A model's name or folder, .caffemodel, .onnx, .safetensors, .pth")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, .caffemodel (and .prototxt) or .onnx")],
    network: Annotated[str, typer.Option(help="Such as sphereface20; else layer names and shapes decide.")] = "",
    block: Annotated[str, typer.Option(help="original or modern residual units; else the file decides.")] = "",
) -> None:
    """Convert a model between Caffe, sfplus and ONNX; clcarwin's and OpenSphere's PyTorch files are read too.

    Nothing is overwritten. A .pt or .pth file is read as data only, never as code.

    Example: sfplus convert sphereface_model.caffemodel sphereface20
    """
    from sfplus.weights.convert import convert as convert_model
    from sfplus.weights.find_model import find_model

    given = source if source.exists() or source.suffix else find_model(str(source))
    print("\n".join(convert_model(given, target, network, block)))


@app.command()
def lfw(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the photos and pairs.txt go.")] = Path(
        "data/lfw"
    ),
) -> None:
    """Download Labeled Faces in the Wild (233 MB), check it and unpack it.

    Example: sfplus lfw data/lfw
    """
    from sfplus.datasets.lfw import fetch_lfw

    print(f"LFW is in {fetch_lfw(folder)}")


@app.command()
def doctor(workspace: Workspace = DATA) -> None:
    """Say what is installed, which devices, data and models there are, and what is wrong.

    Example: sfplus doctor
    """
    from sfplus.cli.doctor import examine

    raise typer.Exit(examine(workspace))
