"""Scores of generated images: by a classifier of the same dataset, and by Inception if its weights are available."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from sfplus.device import Device
from sfplus.errors import DependencyError, UsageError, WeightsError, first_line, one_line
from sfplus.image_tasks.cnn import BN_MOMENTUM, create_classifier
from sfplus.image_tasks.datasets import SmallImages
from sfplus.io.extras import install_command
from sfplus.io.json_files import read_json
from sfplus.networks import is_function
from sfplus.networks.normalize import normalize_images
from sfplus.weights import CONFIG, MODEL
from sfplus.weights.model_folder import assign_tensors, load_tensors
from sfplus.weights.state_dicts import read_state_dict

_FEATURES, _LOGITS = "2048", "logits_unbiased"
_BATCH = 100


def diversity_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Return exp of the mean of KL(p(y|x) || p(y)), the formula of the Inception score, for any classifier.

    The score is 1 if all images get the same prediction, and the number of classes if every prediction is certain and
    all classes are equally frequent (MHE-GAN, tf_inception.py). It is the Inception score only for Inception's logits.

    Args:
        logits: (N, classes), N >= splits.
        splits: number of equal parts, each with its own p(y).

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ValueError: If there are fewer images than parts.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} images cannot be divided into {splits} parts")
    scores = []
    for part in torch.tensor_split(logits.double().log_softmax(1), splits):
        marginal = part.logsumexp(0) - torch.tensor(len(part), dtype=part.dtype).log()
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    values = torch.tensor(scores, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


class _ClassifierConfig(BaseModel, extra="forbid", strict=True):
    """The `config.json` of the stage `classify`; see `create_classifier`."""

    classifier: str
    classes: Annotated[list[str], Field(min_length=1)]
    width: Annotated[int, Field(ge=0, lt=1 << 20)] = 0
    operator: str = "none"
    rescale: bool = False
    weight_norm: bool = False
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = BN_MOMENTUM
    channels: Annotated[int, Field(ge=1, lt=1 << 10)] = 3
    size: Annotated[int, Field(ge=1, lt=1 << 16)] = 32


@torch.no_grad()
def surrogate_scores(
    generated: Tensor, real: SmallImages, classifier: Path, device: Device, splits: int = 10
) -> dict[str, float]:
    """Return the `diversity_score` of a classifier that was trained on the same dataset.

    It replaces the Inception score if Inception's weights are not available. It is not an Inception score and cannot be
    compared with one, nor with the score of another classifier.

    Args:
        generated: uint8 (N, H, W, 3).
        real: labelled images on which neither the generator nor the classifier was trained.
        classifier: folder of the stage `classify`.
        device: where to compute.
        splits: number of parts of the images.

    Returns:
        `surrogate_score`, its standard deviation over the parts `surrogate_score_std`, the same score of the real
        images `surrogate_score_real`, and `surrogate_accuracy`, the accuracy of the classifier on them.

    Raises:
        WeightsError: If the folder does not hold a classifier, or one with other classes.
    """
    network, classes = load_classifier(classifier)
    if classes != len(real.names):
        reason = f"has {classes} classes, the images have {len(real.names)}"
        raise WeightsError(reason, where=classifier, remedy="use a classifier of the same dataset")
    device.move(network)

    def predict(images: Tensor) -> Tensor:
        return torch.cat([network(normalize_images(device.put(part))).cpu() for part in torch.split(images, _BATCH)])

    mean, deviation = diversity_score(predict(generated), splits)
    logits = predict(real.images)
    shuffled = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))  # may be sorted by class
    return {
        "surrogate_score": mean,
        "surrogate_score_std": deviation,
        "surrogate_score_real": diversity_score(logits[shuffled], splits)[0],
        "surrogate_accuracy": float((logits.argmax(1) == real.labels).double().mean()),
    }


def load_classifier(folder: Path) -> tuple[nn.Module, int]:
    """Load a classifier from a folder of the stage `classify`.

    Returns:
        The network in evaluation mode, and the number of its classes.

    Raises:
        WeightsError: If the folder does not hold a classifier.
    """
    remedy = "give a folder of the stage classify"
    config = read_json(folder / CONFIG, _ClassifierConfig, remedy=remedy, error=WeightsError).model_dump()
    name, classes = config.pop("classifier"), len(config.pop("classes"))
    if is_function(name):  # anybody may have written the file
        remedy = "give the folder of a classifier of sfplus or of a library"
        raise WeightsError("its network is code, which is not run", where=folder / CONFIG, remedy=remedy)
    tensors = load_tensors(folder / MODEL)
    try:
        with torch.device("meta"):  # takes no memory, however large the network is that the file describes
            planned = create_classifier(name, classes, **config)
    except (ValueError, RuntimeError, TypeError, OverflowError, UsageError) as error:
        reason = f"does not describe an image classifier ({first_line(error)})"
        raise WeightsError(reason, where=folder / CONFIG, remedy=remedy) from None
    assign_tensors(planned, tensors, name, folder / MODEL)
    network = create_classifier(name, classes, **config)
    assign_tensors(network, tensors, name, folder / MODEL)
    return network, classes


@torch.no_grad()
def inception_scores(
    generated: Tensor, real: Tensor | None, weights: Path, device: Device, splits: int = 10
) -> dict[str, float]:
    """Return Inception score and FID with the network and resampling of the original TensorFlow code.

    Nothing is downloaded. The weights are those of torch-fidelity (its release v0.2.0,
    `weights-inception-2015-12-05-6726825d.pth`), in this file or converted to .safetensors.

    Args:
        generated: uint8 (N, H, W, 3); 50,000 of them in the published figures.
        real: uint8 (M, H, W, 3), of the training set; None for no FID.
        weights: file of Inception's weights.
        device: where to compute.
        splits: number of parts of the generated images, 10 in the published figures.

    Returns:
        `inception_score`, its standard deviation over the parts `inception_score_std`, and `fid` if there are real
        images.

    Raises:
        DependencyError: If torchmetrics or torch-fidelity is missing.
        WeightsError: If the weights cannot be read, or are not Inception's.
    """
    network = device.move(load_inception(weights))
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance  # of the extra `scores`
    except ImportError as error:
        raise _missing("torchmetrics", error) from None
    means = nn.Identity()
    means.num_features = int(_FEATURES)  # type: ignore[assignment]
    distance: Any = FrechetInceptionDistance(feature=means, normalize=True)  # it receives features, not images
    logits = []
    for features, predictions in _evaluate(network, generated, device):
        distance.update(features, real=False)
        logits.append(predictions)
    mean, deviation = diversity_score(torch.cat(logits), splits)
    scores = {"inception_score": mean, "inception_score_std": deviation}
    if real is not None:
        for features, _ in _evaluate(network, real, device):
            distance.update(features, real=True)
        scores["fid"] = float(distance.compute())
    return scores


def load_inception(weights: Path) -> nn.Module:
    """Load torch-fidelity's Inception, uint8 (N, 3, H, W) -> (features, logits), with weights from a file.

    Raises:
        DependencyError: If torch-fidelity is missing.
        WeightsError: If the weights cannot be read, or are not Inception's.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # of the extra `scores`
    except ImportError as error:
        raise _missing("torch-fidelity", error) from None
    tensors = read_state_dict(weights)
    checked = io.BytesIO()  # the class would unpickle the file itself, which could run code
    torch.save(tensors, checked)
    checked.seek(0)
    try:
        network: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", [_FEATURES, _LOGITS], feature_extractor_weights_path=checked
        )
    except RuntimeError as error:
        reason = f"does not hold Inception's weights ({one_line(str(error).partition(chr(10))[2].strip())[:100]})"
        raise WeightsError(reason, where=weights, remedy="use torch-fidelity's weights-inception-2015-12-05") from None
    return network


def _evaluate(network: nn.Module, images: Tensor, device: Device) -> Iterable[tuple[Tensor, Tensor]]:
    for batch in torch.split(images, _BATCH):
        features, logits = network(device.put(batch.permute(0, 3, 1, 2).contiguous()))
        yield features.cpu(), logits.cpu()


def _missing(package: str, error: ImportError) -> DependencyError:
    remedy = f"install it: {install_command('scores')}"
    return DependencyError(f"cannot be imported ({error})", where=package, remedy=remedy)
