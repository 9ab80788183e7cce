"""Models on the Hugging Face Hub: `model.safetensors`, `config.json` and a model card. Pickles are never downloaded."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from torch import Tensor, nn

from sfplus.errors import UsageError, WeightsError
from sfplus.io.files import write_atomically
from sfplus.io.markdown import escape_markdown
from sfplus.io.messages import shows_progress
from sfplus.io.resources import HUB
from sfplus.io.terminal import terminal
from sfplus.networks.preprocessing import read_preprocessing
from sfplus.weights import CONFIG, FOLDER_FILES, MEAN, WEIGHTS_FILES
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import is_finite, load_tensors, save_model, to_bytes
from sfplus.weights.teachers import describe_teachers, read_teachers

_FILES = (*FOLDER_FILES, MEAN)
_LOGIN = "if it is private or gated: hf auth login"


class PretrainedModel(nn.Module, ModelHubMixin):
    """A network with its config, with the methods of models on the Hugging Face Hub.

    `save_pretrained(folder)` writes a folder that `--model` accepts, with a model card. `push_to_hub("owner/name")`
    uploads it to the Hub, where `--model hf:owner/name` finds it.

    Args:
        network: in float32.
        config: see `save_model`; the model card also uses `licence`, `data`, `people`, `crops`, `teachers` and
            `verification`.
        mean: the mean feature of the verification set (2 F,), which `sfplus compare` subtracts.

    Example:
        >>> PretrainedModel.from_pretrained("my/model").push_to_hub("me/model")    # doctest: +SKIP
    """

    def __init__(self, network: nn.Module, config: dict[str, Any], mean: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of normalised crops (`normalize_crops`): (N, 3, height, width) float -> (N, F)."""
        return self.network(x)  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **_: Any,
    ) -> PretrainedModel:
        """Load a model from a folder or, if there is no such folder, from the Hub.

        Args:
            pretrained_model_name_or_path: a folder or `owner/name`.
            force_download: see `huggingface_hub.snapshot_download`, also for the other arguments.
            token: for private and gated repositories.
            cache_dir: the Hub's cache.
            local_files_only: use only files in the cache.
            revision: branch, tag or commit.

        Raises:
            WeightsError: If the model does not exist, or is not a model of sfplus.
            UsageError: If the name is neither a folder nor `owner/name`.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _download_snapshot(
                str(pretrained_model_name_or_path), revision, force_download=force_download, token=token,
                cache_dir=cache_dir, local_files_only=local_files_only,
            )  # fmt: skip
        network, config = load_model(folder)
        mean = load_tensors(folder / MEAN).get("mean") if (folder / MEAN).is_file() else None
        if mean is not None and (mean.ndim != 1 or not mean.is_floating_point() or not is_finite(mean)):
            reason = "its 'mean' is not a row of finite numbers"
            raise WeightsError(reason, where=folder / MEAN, remedy="get the file again")
        return cls(network, config, mean)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(save_directory, self.network, self.config)
        if self.mean is not None:
            write_atomically(save_directory / MEAN, to_bytes({"mean": self.mean}))

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Create a model card with training data, protocol, accuracy, licence and intended use, from the config."""
        config, verification = self.config, self.config.get("verification")
        licence = str(config.get("licence", "not stated; ask the people who trained it"))
        data: dict[str, Any] = {
            "library_name": "sfplus", "tags": ["face-recognition", "sphereface"],
            "license": "mit" if licence.upper() == "MIT" else "other", "pipeline_tag": "image-feature-extraction",
        }  # fmt: skip
        if verification:
            result = EvalResult(
                task_type="face-verification", dataset_type="pairs", dataset_name=str(verification["pairs"]),
                metric_type="accuracy", metric_value=float(verification["accuracy"]),
                metric_name=f"accuracy, {verification['protocol']} protocol",
            )  # fmt: skip
            data |= {"model_name": config["network"], "eval_results": [result]}
        preprocessing = read_preprocessing(config)
        count = sum(parameter.numel() for parameter in self.network.parameters())
        mirror = ", followed by those of the mirror image" if preprocessing.mirror else ""
        rows = {
            "network": f"{config['network']}, width {config['width']}, {count:,} parameters",
            "feature": f"{config['feature_size']} numbers{mirror}",
            "input": f"crops of the template {preprocessing}",
            "training data": _training_data(config),
            "accuracy": _accuracy(config),
            "licence": licence,
        }
        table = "".join(f"| {key} | {escape_markdown(value)} |\n" for key, value in rows.items())
        teachers = escape_markdown(describe_teachers(read_teachers(config)))
        network = escape_markdown(config["network"])
        text = _CARD.format(network=network, teachers=teachers and f"\n{teachers}\n", table=table)
        return ModelCard(f"---\n{ModelCardData(**data).to_yaml()}\n---\n{text}")


_CARD = """
# {network}, a face recognition network
{teachers}
|  |  |
| --- | --- |
{table}
## Intended use

Research on face verification. The network turns an aligned face into a feature; the cosine of two features says how
similar the faces are. It does not identify people. The accuracy on people, ages, cameras and poses other than those of
its verification is unknown and may be far lower: measure it on your own pairs (`sfplus verify`) before a decision
depends on it, and do not use it on people without their consent.

## How to use

    sfplus embed PHOTOS OUT --model FOLDER        # or --model hf:owner/name

    from sfplus import Embedder
    features = Embedder("FOLDER")(["anna.jpg", "ben.jpg"])
"""


def _training_data(config: dict[str, Any]) -> str:
    if "people" in config and "crops" in config:
        counts = f"{config['crops']:,} crops of {config['people']:,} people"
        return f"{config['data']} ({counts})" if "data" in config else counts
    if "crops" in config and "data" not in config:
        return f"{config['crops']:,} crops without labels"
    return str(config.get("data", "not stated"))


def _accuracy(config: dict[str, Any]) -> str:
    if verification := config.get("verification"):
        accuracy = f"{100 * verification['accuracy']:.2f} %"
        if "standard_error" in verification:
            accuracy += f" +- {100 * verification['standard_error']:.2f}"
        protocol = f"{verification['protocol']} protocol, threshold {verification['threshold']:.3f}"
        return f"{accuracy} on {verification['pairs']} ({protocol})"
    if published := config.get("published"):
        return f"{published['lfw']:.2f} % on LFW as published ({published['protocol']} protocol)"
    return "not measured"


@functools.cache
def hub_folder(name: str) -> Path:
    """Return the folder of `hf:owner/name` or `hf:owner/name@revision`, after downloading it into the Hub's cache.

    Raises:
        UsageError: If the name has another form.
        WeightsError: If the Hub cannot be reached, has no such repository, or it does not contain a model of sfplus.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    return _download_snapshot(repository, revision or None)


class _Bar(tqdm):
    """A bar on the terminal itself, because it moves the cursor."""

    def __init__(self, *args: Any, **options: Any) -> None:
        hidden = {} if shows_progress() else {"disable": True}
        super().__init__(*args, **{"file": terminal(sys.stderr)} | options | hidden)  # type: ignore[no-untyped-call]


def _download_snapshot(repository: str, revision: str | None, **options: Any) -> Path:
    where = f"{HUB}{repository}" + (f"@{revision}" if revision else "")

    def error(reason: str, remedy: str) -> WeightsError:
        return WeightsError(reason, where=where, remedy=remedy)

    try:
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(_FILES), tqdm_class=_Bar, **options)
        )
    except HFValidationError:
        remedy = "use hf:owner/name[@revision]"
        raise UsageError("is not the name of a repository", where=where, remedy=remedy) from None
    except RevisionNotFoundError:
        raise error("has no such revision", "leave it out, or see its page") from None
    except GatedRepoError:
        raise error("is gated", f"ask for access on its page; {_LOGIN}") from None
    except RepositoryNotFoundError:
        raise error("the Hub has no such repository", f"check the name; {_LOGIN}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as failure:
        reason = f"cannot be downloaded ({type(failure).__name__})"
        raise error(reason, "check the network and try again") from failure
    for alternatives in (WEIGHTS_FILES, (CONFIG,)):
        if not any((folder / file).is_file() for file in alternatives):
            remedy = "it must contain model.safetensors or model.onnx, and config.json; pickles are not read"
            raise error(f"contains no {alternatives[0]}", remedy)
    return folder
