"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sfplus.io.resources import DEFAULT_MODEL

DATA = Path("data")

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; a missing device is an error.")]
Workspace = Annotated[Path, typer.Option("--workspace", help="The folder for artefacts (cache/) and reports (runs/).")]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="A folder, an .onnx, .caffemodel, TorchScript or .pt2 file, package.module:function, a name from "
        "`sfplus models list`, or hf:owner/name.",
        show_default=DEFAULT_MODEL,
    ),
]
ModelNetwork = Annotated[
    str,
    typer.Option(
        "--network", help="The network of a file of weights: package.module:function, or the .prototxt of Caffe."
    ),
]
ModelInputText = Annotated[
    str,
    typer.Option(
        "--input",
        help="The input of a model that does not describe it: a preset (sphereface, insightface, adaface, sface, "
        "mobilefacenet, imagenet, facenet, dlib), or keys joined by commas: template=arcface-112x112, channels=rgb, "
        "mean=127.5, scale=127.5, without the spaces.",
    ),
]
PeopleFolders = Annotated[
    Literal["path", "first-folder", "last-folder"],
    typer.Option(
        "--people",
        help="Which of nested folders is the person: the path of all of them; first-folder, for albums inside a "
        "person's folder; last-folder, for folders of people inside train/ and val/.",
    ),
]
PhotosAreCrops = Annotated[
    bool, typer.Option("--crops", help="PHOTOS holds crops that are aligned already; nothing is detected.")
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see: sfplus recipes list) or a YAML file.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="For example finetune.energy.power=0")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Small = Annotated[bool, typer.Option("--small", help="Run the smallest meaningful size of the recipe.")]
Undetected = Annotated[str, typer.Option(help="Photos without a detected face: centre-crop, skip or fail.")]
ReportFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="The folder for report.html, .json and .md, if not in runs/.")
]
Title = Annotated[str, typer.Option("--title", help="Heading of the report; by default the data set.")]
RunName = Annotated[
    str, typer.Option("--name", help="The folder in runs/ for the report, if not the name of the recipe.")
]

PhotoFolderOrList = Annotated[
    Path,
    typer.Argument(
        metavar="IN", help="A folder of photos, of any depth, a photo, a file with one photo per line, or - (stdin)."
    ),
]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the results; created if missing.")]
MinFace = Annotated[int, typer.Option(min=12, help="Side of the smallest face in pixels.")]
DetectorName = Annotated[
    str,
    typer.Option(
        "--detector",
        help="mtcnn; yunet, several times as fast with less exact landmarks (sfplus models fetch yunet); "
        "or package.module:Class, a detector of your own.",
    ),
]
Turned = Annotated[
    bool,
    typer.Option("--turned", help="Also find faces that lie on their side or upside down, where none is upright."),
]
ChosenFace = Literal["centre", "largest", "confident", "all"]
Choose = Annotated[
    ChosenFace,
    typer.Option(help="Which of several faces to use; all: every face, numbered."),
]
ChooseOne = Annotated[
    Literal["centre", "largest", "confident"],
    typer.Option("--choose", help="Which of several faces to use."),
]
Parity = Annotated[
    Literal["none", "matlab"], typer.Option(help="matlab: the arithmetic of the original cascade, slower.")
]
