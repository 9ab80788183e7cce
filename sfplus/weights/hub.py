"""Models on the Hugging Face Hub: `model.safetensors`, `config.json` and a model card. Pickles are never fetched."""

from __future__ import annotations

import functools
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
from torch import Tensor, nn

from sfplus.errors import SfplusError, UsageError, WeightsError
from sfplus.io.files import write_atomically
from sfplus.io.resources import HUB
from sfplus.weights import CONFIG, MEAN, MODEL
from sfplus.weights.loading import load_model
from sfplus.weights.model_folder import load_tensors, save_model, to_bytes

_FILES = (MODEL, CONFIG, MEAN)
_LOGIN = "for a private or gated one: hf auth login"


class PretrainedModel(nn.Module, ModelHubMixin):
    """A network with what its `config.json` says, in the conventions of the Hugging Face Hub.

    `save_pretrained(folder)` writes a folder that `--model` takes, with a model card; `push_to_hub("owner/name")` puts
    it on the Hub, where it is `--model hf:owner/name`.

    Args:
        network: in float32.
        config: see `save_model`; the card also tells `licence`, `data`, `people`, `crops` and `verification`.
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
        """Features of normalised crops (`sfplus.networks.to_input`): (N, 3, height, width) float -> (N, F)."""
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
        """Read a model from a folder, or else from the Hub, whose client takes the other arguments.

        Raises:
            WeightsError: it is not there, or is no model of sfplus.
            UsageError: the name is neither a folder nor `owner/name`.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _snapshot(
                str(pretrained_model_name_or_path), revision, force_download=force_download, token=token,
                cache_dir=cache_dir, local_files_only=local_files_only,
            )  # fmt: skip
        network, config = load_model(folder)
        mean = load_tensors(folder / MEAN).get("mean") if (folder / MEAN).is_file() else None
        return cls(network, config, mean)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(save_directory, self.network, self.config)
        if self.mean is not None:
            write_atomically(save_directory / MEAN, to_bytes({"mean": self.mean}))

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Data, protocol, accuracy, licence and intended use, as far as the config says them."""
        config, verified = self.config, self.config.get("verification")
        licence = str(config.get("licence", "not stated: ask whoever trained it"))
        data: dict[str, Any] = {
            "library_name": "sfplus", "tags": ["face-recognition", "sphereface"],
            "license": "mit" if licence.upper() == "MIT" else "other", "pipeline_tag": "image-feature-extraction",
        }  # fmt: skip
        if verified:
            data |= {"model_name": config["network"], "eval_results": [EvalResult(
                task_type="face-verification", dataset_type="pairs", dataset_name=str(verified["pairs"]),
                metric_type="accuracy", metric_value=float(verified["accuracy"]),
                metric_name=f"accuracy, {verified['protocol']} protocol",
            )]}  # fmt: skip
        size = sum(parameter.numel() for parameter in self.network.parameters())
        rows = {
            "network": f"{config['network']}, width {config['width']}, {size:,} parameters",
            "feature": f"{config['feature_size']} numbers; joined with those of the mirror image",
            "input": f"crops of the template {config.get('template', 'not stated')}, BGR, (x - 127.5) / 128",
            "training data": _trained_on(config),
            "accuracy": _accuracy(config),
            "licence": licence,
        }
        table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
        return ModelCard(
            f"---\n{ModelCardData(**data).to_yaml()}\n---\n{_CARD.format(table=table, network=config['network'])}"
        )


_CARD = """
# {network}, a face recognition network

|  |  |
| --- | --- |
{table}
## Intended use

Research on face verification: it turns an aligned face into a feature; the cosine of two features says how alike the
faces are. It does not say who somebody is. Accuracy on other people, ages, cameras and poses than those that it was
verified on is unknown and may be far lower: measure it on pairs of your own (`sfplus verify`) before a decision depends
on it, and do not use it on people without their consent.

## How to use

    sfplus embed PHOTOS OUT --model FOLDER        # or --model hf:owner/name

    from sfplus import Embedder
    features = Embedder("FOLDER")(["anna.jpg", "ben.jpg"])
"""


def _trained_on(config: dict[str, Any]) -> str:
    if "people" in config and "crops" in config:
        counts = f"{config['crops']:,} crops of {config['people']:,} people"
        return f"{config['data']} ({counts})" if "data" in config else counts
    return str(config.get("data", "not stated"))


def _accuracy(config: dict[str, Any]) -> str:
    if verified := config.get("verification"):
        figure = f"{100 * verified['accuracy']:.2f} % +- {100 * verified['standard_error']:.2f}"
        protocol = f"{verified['protocol']} protocol, threshold {verified['threshold']:.3f}"
        return f"{figure} on {verified['pairs']} ({protocol})"
    if published := config.get("published"):
        return f"{published['lfw']:.2f} % on LFW as published ({published['protocol']} protocol)"
    return "not measured"


@functools.cache
def hub_folder(name: str) -> Path:
    """The folder of `hf:owner/name` or `hf:owner/name@revision`, downloaded into the Hub's cache where it is not there.

    Raises:
        UsageError: this is no such name.
        WeightsError: the Hub cannot be reached, has no such repository or it holds no model of sfplus.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    return _snapshot(repository, revision or None)


def _snapshot(repository: str, revision: str | None, **options: Any) -> Path:
    where = f"{HUB}{repository}" + (f"@{revision}" if revision else "")

    def wrong(reason: str, remedy: str) -> SfplusError:
        return WeightsError(reason, where=where, remedy=remedy)

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(_FILES), **options))
    except HFValidationError:
        raise UsageError("is no repository's name", where=where, remedy="use hf:owner/name[@revision]") from None
    except RevisionNotFoundError:
        raise wrong("has no such revision", "leave it out, or see its page") from None
    except GatedRepoError:
        raise wrong("is gated", f"ask for access on its page; {_LOGIN}") from None
    except RepositoryNotFoundError:
        raise wrong("the Hub has no such repository", f"check the name; {_LOGIN}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise wrong(f"cannot be got ({type(error).__name__})", "try again with a network") from error
    for file in (MODEL, CONFIG):
        if not (folder / file).is_file():
            raise wrong(f"holds no {file}", "it must hold model.safetensors and config.json; pickles are not read")
    return folder
