"""The commands about results: verify, report, compare, app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

DATA = Path("data")
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; a missing one is an error.")]
Workspace = Annotated[Path, typer.Option("--workspace", help="Where artefacts (cache/) and reports (runs/) go.")]
ModelName = Annotated[
    str, typer.Option("--model", help="A folder with a model, a name of `sfplus models list`, or hf:owner/name.")
]


@app.command()
def verify(
    photos: Annotated[Path | None, typer.Argument(help="The folder of photos that the pairs name.")] = None,
    pairs: Annotated[
        Path | None, typer.Argument(help="The pairs, as in LFW's pairs.txt; else PHOTOS has them.")
    ] = None,
    model: ModelName = "",
    features: Annotated[
        Path | None, typer.Option("--features", help="Features instead of photos: .npz, .safetensors or .parquet.")
    ] = None,
    pairs_option: Annotated[Path | None, typer.Option("--pairs", help="The pairs, where PHOTOS is not given.")] = None,
    against: Annotated[
        str, typer.Option("--against", help="A second model (or file of features) on the same pairs.")
    ] = "",
    protocol: Annotated[
        str, typer.Option("--protocol", help="What accuracy means: sphereface, insightface, opensphere or exact.")
    ] = "sphereface",
    mirrored: Annotated[
        bool,
        typer.Option("--mirrored", help="Features are of photo and mirror image side by side, as of sfplus embed."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Where report.html, .json and .md go.")] = None,
    undetected: Annotated[
        str, typer.Option(help="Photos without a found face: centre-crop, skip or fail.")
    ] = "centre-crop",
    device: Device = "auto",
    workspace: Workspace = DATA,
) -> None:
    """Verify a model, or features, on a list of pairs and write a report.

    Example: sfplus verify data/lfw --model pretrained/sphereface10-small --against my/model

    Example: sfplus verify --features F.npz --pairs pairs.txt --against G.npz --out report

    F.npz holds arrays names (of photos as in the pairs, extension optional) and features (N, d). Pairs with a photo
    that has no features are an error, or left out with --undetected skip.
    """
    from sfplus.cli.run import this_command, verify_photos

    pairs = pairs_option or pairs
    if features:
        from sfplus.cli.verify_features import verify_features

        verify_features(features, pairs or photos, against, protocol, mirrored, undetected, out, this_command())
    elif photos:
        verify_photos(photos, pairs, model, against, protocol, undetected, device, workspace, out, this_command())
    else:
        raise typer.BadParameter("give a folder of photos, or --features and --pairs", param_hint="PHOTOS")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.bin", help="lfw.bin, agedb_30.bin, ... of insightface.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the photos go.")],
    narrow: Annotated[bool, typer.Option("--narrow", help="Cut the 112 x 112 crops to 112 x 96.")] = False,
) -> None:
    """Write the crops of an insightface verification set as files; nothing in it is run.

    Example: sfplus unpack agedb_30.bin agedb --narrow, then: sfplus embed agedb features --crops, then:
    sfplus verify --features features/features.safetensors --pairs agedb_30.bin --mirrored
    """
    from sfplus.cli.unpack import unpack as unpack_photos

    print(f"{unpack_photos(file, folder, narrow)} photos in {folder}")


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names in data/runs, folders or report.json.")],
    out: Annotated[Path, typer.Option("--out", help="Where report.html, .json and .md go.")] = Path("report"),
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "Several runs, side by side",
    workspace: Workspace = DATA,
) -> None:
    """Compare the results of several runs in one page, and say which differences mean nothing.

    Example: sfplus report demo control --out comparison
    """
    from sfplus.cli.report import report_runs
    from sfplus.cli.run import this_command

    report_runs(runs, out, title, workspace, this_command())


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.jpg")],
    second: Annotated[Path, typer.Argument(metavar="B.jpg")],
    model: ModelName = "",
    far: Annotated[
        float | None,
        typer.Option("--far", help="Decide where at most this share of different people is taken for one: 0.001."),
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="A folder for the two crops.")] = None,
    device: Device = "auto",
) -> None:
    """Compare the faces of two photos: similarity, and the decision at the model's threshold or at a FAR.

    Example: sfplus compare anna.jpg anna-2019.jpg --far 0.001 --save crops
    """
    from sfplus.cli.compare import compare_photos

    compare_photos(first, second, model, far, save, device)


@app.command("app")
def app_(
    model: ModelName = "",
    host: Annotated[str, typer.Option("--host", help="127.0.0.1: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 7860,
    device: Device = "auto",
) -> None:
    """Open a local page that compares two photos; needs the extra 'app'. Nothing is kept or sent anywhere.

    Example: sfplus app --model sphereface10-small
    """
    from sfplus.cli.app import serve

    serve(model, host, port, device)
