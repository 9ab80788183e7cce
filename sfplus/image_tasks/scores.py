"""How good generated pictures are: by a classifier of the same set, or by Inception where its weights are at hand."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfplus.device import Device
from sfplus.errors import DependencyError, UsageError, WeightsError, one_line
from sfplus.image_tasks.cnn import create_classifier
from sfplus.image_tasks.datasets import SmallImages, to_network
from sfplus.weights import CONFIG, MODEL
from sfplus.weights.loading import read_pickle
from sfplus.weights.model_folder import assign_tensors, load_tensors

_FEATURES, _LOGITS = "2048", "logits_unbiased"
_BATCH = 100


def diversity_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """The formula of the Inception score, for the answers of any classifier: exp of the mean of KL(p(y|x) || p(y)).

    It is 1 where all pictures get the same answer and the number of classes where every answer is sure and all classes
    are alike in number (MHE-GAN, tf_inception.py). Only with Inception's answers it is the Inception score.

    Args:
        logits: (N, classes), N >= splits.
        splits: equal parts, each with its own p(y).

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ValueError: there are fewer answers than parts.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} answers cannot be parted into {splits}")
    scores = []
    for part in torch.tensor_split(logits.double().log_softmax(1), splits):
        marginal = part.logsumexp(0) - torch.tensor(len(part), dtype=part.dtype).log()
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    found = torch.tensor(scores, dtype=torch.float64)
    return float(found.mean()), float(found.std(correction=0))


@torch.no_grad()
def surrogate_scores(
    generated: Tensor, real: SmallImages, classifier: Path, device: Device, splits: int = 10
) -> dict[str, float]:
    """The `diversity_score` of a classifier that was trained on the same set, for want of Inception's weights.

    It is no Inception score and cannot be compared with one, nor with that of another classifier.

    Args:
        generated: uint8 (N, H, W, 3).
        real: pictures with labels that neither the generator nor the classifier has seen.
        classifier: a folder that the stage `classify` wrote.
        device: where to compute.
        splits: parts of the pictures.

    Returns:
        `surrogate_score`, its deviation over the parts `surrogate_score_std`, the same score of the real pictures
        `surrogate_score_real`, and `surrogate_accuracy`, how many of these the classifier knows.

    Raises:
        WeightsError: there is no classifier in the folder, or it has other classes.
    """
    network, classes = load_classifier(classifier)
    if classes != len(real.names):
        reason = f"tells {classes} classes apart, the pictures have {len(real.names)}"
        raise WeightsError(reason, where=classifier, remedy="use a classifier of the same set")
    device.place(network)

    def answer(pictures: Tensor) -> Tensor:
        return torch.cat([network(to_network(device.put(part))).cpu() for part in torch.split(pictures, _BATCH)])

    mean, deviation = diversity_score(answer(generated), splits)
    answers = answer(real.images)
    shuffled = torch.randperm(len(answers), generator=torch.Generator().manual_seed(0))  # sets may be sorted by class
    return {
        "surrogate_score": mean,
        "surrogate_score_std": deviation,
        "surrogate_score_real": diversity_score(answers[shuffled], splits)[0],
        "surrogate_accuracy": float((answers.argmax(1) == real.labels).double().mean()),
    }


def load_classifier(folder: Path) -> tuple[nn.Module, int]:
    """A classifier that the stage `classify` wrote, in evaluation mode, and the number of its classes.

    Raises:
        WeightsError: there is none in this folder.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        name, classes = str(config.pop("classifier")), len(config.pop("classes"))
        network = create_classifier(name, classes, **config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        reason = f"does not describe a classifier of pictures ({one_line(error)})"
        raise WeightsError(reason, where=folder / CONFIG, remedy="give a folder of the stage classify") from None
    assign_tensors(network, load_tensors(folder / MODEL), name, folder / MODEL)
    return network, classes


@torch.no_grad()
def inception_scores(
    generated: Tensor, real: Tensor, weights: Path, device: Device, splits: int = 10
) -> dict[str, float]:
    """Inception score and FID with the network and resampling of the original TensorFlow code.

    Nothing is downloaded. The weights are those of torch-fidelity (its release v0.2.0,
    `weights-inception-2015-12-05-6726825d.pth`), as such a file of tensors or as .safetensors.

    Args:
        generated: uint8 (N, H, W, 3); 50,000 of them in the published figures.
        real: uint8 (M, H, W, 3), of the training set.
        weights: file of Inception's weights.
        device: where to compute.
        splits: parts of the generated pictures, 10 in the published figures.

    Returns:
        `inception_score`, its deviation over the parts `inception_score_std`, and `fid`.

    Raises:
        DependencyError: torchmetrics or torch-fidelity is missing.
        WeightsError: the weights cannot be read, or are not Inception's.
    """
    network = device.place(load_inception(weights))
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise _missing("torchmetrics", error) from None
    means = nn.Identity()
    means.num_features = int(_FEATURES)  # type: ignore[assignment]
    distance: Any = FrechetInceptionDistance(feature=means, normalize=True)  # is handed features instead of pictures
    logits = []
    for features, answers in _answers(network, generated, device):
        distance.update(features, real=False)
        logits.append(answers)
    for features, _ in _answers(network, real, device):
        distance.update(features, real=True)
    mean, deviation = diversity_score(torch.cat(logits), splits)
    return {"inception_score": mean, "inception_score_std": deviation, "fid": float(distance.compute())}


def load_inception(weights: Path) -> nn.Module:
    """torch-fidelity's Inception with weights from a file: uint8 (N, 3, H, W) to (features, logits).

    Raises:
        DependencyError: torch-fidelity is missing.
        WeightsError: the weights cannot be read, or are not Inception's.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise _missing("torch-fidelity", error) from None
    tensors = load_tensors(weights) if weights.suffix.lower() == ".safetensors" else read_pickle(weights)
    checked = io.BytesIO()  # it would unpickle the file itself without care
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


def _answers(network: nn.Module, pictures: Tensor, device: Device) -> Iterable[tuple[Tensor, Tensor]]:
    for batch in torch.split(pictures, _BATCH):
        features, logits = network(device.put(batch.permute(0, 3, 1, 2).contiguous()))
        yield features.cpu(), logits.cpu()


def _missing(package: str, error: ImportError) -> DependencyError:
    remedy = "install it: pip install 'sfplus[scores]'"
    return DependencyError(f"cannot be imported ({error})", where=package, remedy=remedy)
