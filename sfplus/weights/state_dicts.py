"""State dicts in the checkpoints of other projects, read without running code, and their names."""

from __future__ import annotations

import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfplus.errors import WeightsError, warn_user
from sfplus.io.console import first_names
from sfplus.weights.checkpoint_faults import explain_fault, unread_class
from sfplus.weights.model_folder import load_tensors

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")  # .pth.tar too; .safetensors contain no pickle
_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "network", "net", "backbone", "module", "encoder",
    "student", "params", "weights",
)  # fmt: skip
_AVERAGES = re.compile(r"(^|[._])(ema|swa|teacher|average|averaged|momentum|shadow)([._]|$)")
_TRAINING = re.compile(
    r"optim|sched|scaler|^loops$|callbacks|^args$|config|hyper_?param|^opt|history|metric|metadata|rng|^head|classifier"
    r"|criterion|loss|margin|discriminator"
)
_INSERTED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # by wrappers, between any two names
_CONTAINERS = {
    "module", "model", "backbone", "net", "network", "encoder", "embedder", "student", "teacher", "ema", "ema_model",
    "state_dict",
}  # fmt: skip
_CLASSIFIER = re.compile(  # at the top of a network: a deeper `se.fc1` belongs to its features
    r"(\w*head|heads|classifier|cls|fc\d*|linear|logits?|kernel|criterion|loss\w*|margin\w*|metric\w*|softmax\w*|product"
    r"|(arc|cos|ada|sphere|mag|curricular)_?(face|margin)?\w*|weight|bias)(\.(weight|bias|kernel|w))?"
)


class _Object:
    """Stands for an object of a harmless class, which is not needed; nothing of it is created."""

    def __new__(cls, *_: Any) -> _Object:
        return object.__new__(cls)

    def __setstate__(self, _: Any) -> None: ...


class _Mapping:
    """Stands for a mapping of a harmless class, for example of settings."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


_BUILTINS = ("slice", "range", "complex", "list", "dict", "int", "float", "str", "frozenset", "bytearray")
# Packages whose objects are often stored beside weights, and what stands for them.
_STAND_INS: dict[str, type] = {
    "argparse": _Object, "numpy": _Object, "pathlib": _Object, "datetime": _Object, "decimal": _Object,
    "types.SimpleNamespace": _Object,
    **dict.fromkeys((f"builtins.{name}" for name in _BUILTINS), _Object),
    "torch.optim": _Object, "torchmetrics": _Object, "collections.defaultdict": _Mapping, "easydict": _Mapping,
    "yacs.config": _Mapping, "addict": _Mapping, "munch": _Mapping, "box": _Mapping, "ml_collections": _Object,
    "omegaconf": _Object, "pytorch_lightning.utilities.parsing.AttributeDict": _Mapping,
    "lightning.pytorch.utilities.parsing.AttributeDict": _Mapping, "pytorch_lightning.callbacks": _Object,
    "lightning.pytorch.callbacks": _Object, "mmengine.config": _Mapping, "mmcv.utils.config": _Mapping,
}  # fmt: skip


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a network from a checkpoint; nothing in it is executed.

    The state dict may be nested, for example under `state_dict`, `model` or `backbone`, with states of an optimizer,
    settings and counters beside it. If a checkpoint has the trained weights and their moving average, the trained ones
    are taken, and a warning says so. Objects of argparse, NumPy and the like are skipped, not created.

    Args:
        path: a .pt, .pth, .pth.tar, .ckpt, .bin or .safetensors file, in the new or the old format of `torch.save`.

    Returns:
        The tensors by their names in the file, on the CPU, in the stored dtype.

    Raises:
        WeightsError: If the file is damaged, would run code, or contains no state dict or several different ones.
    """
    if not path.is_file():
        raise WeightsError("there is no such file", where=path, remedy="check the path")
    content = load_tensors(path) if path.suffix.lower() == ".safetensors" else _load(path)
    candidates = dict(_find_state_dicts(content))
    if not candidates:
        raise WeightsError("contains no state dict", where=path, remedy="save the network's state_dict()")
    key = _choose(list(candidates), path)
    tensors = candidates[key]
    for name, tensor in tensors.items():
        dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not dense or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            reason = f"tensor {name} is not stored completely, as plain numbers"
            raise WeightsError(reason, where=path, remedy="save the network's state_dict() with dense tensors")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def strip_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers add to all names: `module.`, `_orig_mod.`, `model.`, `backbone.` and the like.

    Args:
        tensors: tensors by name.
    """
    stripped = {_without_inserted(name): tensor for name, tensor in tensors.items()}
    while stripped:
        first = {name.partition(".")[0] for name in stripped if "." in name}
        if len(first) != 1 or not first <= _CONTAINERS or not all("." in name for name in stripped):
            break
        stripped = {name.partition(".")[2]: tensor for name, tensor in stripped.items()}
    return stripped


def fit_names(
    tensors: Mapping[str, Tensor], expected: Iterable[str], where: str | Path = "checkpoint"
) -> dict[str, Tensor]:
    """Rename tensors to those of a network, after finding the prefix that one of both has.

    Args:
        tensors: tensors by their names in the file.
        expected: the names in `network.state_dict()`.
        where: the file, for messages.

    Returns:
        The tensors under the names that the network expects. Tensors of other modules and of classifiers that the
        network does not have are left out, and a warning names them; counters of batches that old versions of PyTorch
        did not store are 0. Further tensors keep their names: `model_folder.assign_tensors` refuses them.

    Raises:
        WeightsError: If different parts of the file fit equally well.
    """
    names = dict.fromkeys(expected)
    cleaned = {_without_inserted(name): tensor for name, tensor in tensors.items()}
    in_file, in_network = _find_prefixes(cleaned, list(names), where)
    renamed, unused = {}, []
    for name, tensor in cleaned.items():
        fitted = in_network + name.removeprefix(in_file) if name.startswith(in_file) else ""
        if fitted in names:
            renamed[fitted] = tensor
        elif not fitted or _CLASSIFIER.fullmatch(fitted.removeprefix(in_network)):
            unused.append(name)
        else:
            renamed[fitted] = tensor
    if unused and renamed:
        warn_user(f"{where}: the network has no {first_names(unused)}, which are not used")
    if any(name in renamed for name in names):
        for name in names:
            if name.endswith("num_batches_tracked"):
                renamed.setdefault(name, torch.tensor(0))
    return renamed if renamed else dict(cleaned)


def _load(path: Path) -> Any:
    """Return the contents of a file of `torch.save`; stand-ins replace the harmless classes that it names."""
    stand_ins: dict[str, type] = {}
    while True:
        try:
            allowed: Any = [(stand_in, name) for name, stand_in in stand_ins.items()]
            with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
                warnings.simplefilter("ignore")  # about old protocols
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise a dozen different classes
            name = unread_class(error)
            stand_in = next((_STAND_INS[start] for start in _parents(name) if start in _STAND_INS), None)
            if stand_in is None or name in stand_ins:
                reason, remedy = explain_fault(path, error)
                raise WeightsError(reason, where=path, remedy=remedy) from None
            stand_ins[name] = stand_in


def _find_state_dicts(content: Any, key: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the state dicts in a checkpoint by their keys, joined by dots."""
    if not isinstance(content, Mapping) or "param_groups" in content or depth == 0:
        return
    nested = [
        state_dict
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Mapping) and not _TRAINING.search(name.lower())
        for state_dict in _find_state_dicts(value, f"{key}.{name}" if key else name, depth - 1)
    ]
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if nested:
        yield from nested
    elif any(tensor.dim() for tensor in tensors.values()):
        yield key, tensors


def _choose(keys: list[str], path: Path) -> str:
    """Return the key of the trained weights; a warning names those that are not taken.

    Raises:
        WeightsError: If more than one key may hold them.
    """
    trained = [key for key in keys if not _AVERAGES.search(key)] or keys
    ranks = [min((_KEYS.index(part) for part in key.split(".") if part in _KEYS), default=99) for key in trained]
    best = [key for key, rank in zip(trained, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        reason = f"contains several state dicts: {', '.join(best[:5])}"
        raise WeightsError(reason, where=path, remedy="save the one of the network to a file of its own")
    if len(keys) > 1:
        ignored = ", ".join(key for key in keys if key != best[0])
        warn_user(f"{path}: its '{best[0]}' is read, not {ignored}")
    return best[0]


def _find_prefixes(tensors: Mapping[str, Tensor], expected: list[str], where: str | Path) -> tuple[str, str]:
    """Return the prefix of the file's names and that of the network's between which most names agree."""
    common = [start for start in _starts(min(expected, default="")) if all(name.startswith(start) for name in expected)]
    scores: Counter[tuple[str, str]] = Counter()
    for start in common:
        ends = {name.removeprefix(start) for name in expected}
        scores.update((prefix, start) for name in tensors for prefix in _starts(name) if name[len(prefix) :] in ends)
    if not scores:
        return "", ""
    best = [pair for pair, score in scores.items() if score == max(scores.values())]
    trained = [pair for pair in best if not _AVERAGES.search(pair[0])] or best
    trained = [pair for pair in trained if len(pair[1]) == min(len(start) for _, start in trained)]
    if len(trained) > 1:
        listed = ", ".join(sorted(prefix or "no prefix" for prefix, _ in trained))
        remedy = "save the weights of one of them"
        raise WeightsError(f"several parts of it fit the network: {listed}", where=where, remedy=remedy)
    return trained[0]


def _without_inserted(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _INSERTED)


def _starts(name: str) -> list[str]:
    """Return "", "a." and "a.b." of "a.b.c"."""
    parts = name.split(".")
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts))]


def _parents(name: str) -> list[str]:
    """Return "a.b.c", "a.b" and "a" of "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
