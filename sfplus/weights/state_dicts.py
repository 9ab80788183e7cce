"""State dicts in the checkpoints of other projects, read without running code, and their names."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfplus.errors import WeightsError, warn_user
from sfplus.io.console import first_names
from sfplus.io.files import file_size
from sfplus.io.limits import check_limit
from sfplus.weights.checkpoint_faults import explain_blocked, explain_damaged
from sfplus.weights.checkpoint_file import NotTorchError, open_checkpoint
from sfplus.weights.checkpoint_pickle import BlockedError
from sfplus.weights.checkpoint_tensors import StoredTensor
from sfplus.weights.model_folder import load_tensors

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")  # .pth.tar too; .safetensors contain no pickle
_DAMAGE = (
    NotTorchError, ValueError, RuntimeError, EOFError, OSError, OverflowError, MemoryError, struct.error,
    zipfile.BadZipFile, zlib.error, NotImplementedError,
)  # fmt: skip
_MAX_ITEMS = 1_000_000  # in the mappings of a checkpoint, without those of its optimizers
_MAX_NAME = 100  # characters
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
    if path.suffix.lower() == ".safetensors":
        return _choose(load_tensors(path), path)
    try:
        with open_checkpoint(path) as checkpoint:
            tensors = _choose(checkpoint.content, path)
            for name, tensor in tensors.items():
                if not tensor.is_complete:
                    reason = f"tensor {name[:_MAX_NAME]} is not stored completely, as plain numbers"
                    raise WeightsError(reason, where=path, remedy="save the network's state_dict() with dense tensors")
                checkpoint.check(tensor)
            _check_size(tensors.values(), path)
            return {name: checkpoint.load(tensor) for name, tensor in tensors.items()}
    except BlockedError as error:
        reason, remedy = explain_blocked(path, str(error))
    except _DAMAGE as error:
        reason, remedy = explain_damaged(path, is_pickle=isinstance(error, NotTorchError))
    raise WeightsError(reason, where=path, remedy=remedy)


def _check_size(tensors: Iterable[StoredTensor], path: Path) -> None:
    """Refuse tensors that share numbers, so that a small file would become a network that fills the memory."""
    size = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    check_limit("archive_expansion", max(size - file_size(path), 0), path, error=WeightsError)


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


def _choose(content: Any, path: Path) -> dict[str, Any]:
    """Return the trained weights in a checkpoint; a warning names those that are not taken.

    Raises:
        WeightsError: If there are none, or more than one part of the checkpoint may be them.
    """
    candidates = dict(_find_state_dicts(content, [_MAX_ITEMS]))
    if not candidates:
        raise WeightsError("contains no state dict", where=path, remedy="save the network's state_dict()")
    return candidates[_choose_key(list(candidates), path)]


def _find_state_dicts(
    content: Any, budget: list[int], key: str = "", depth: int = 4
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the state dicts in a checkpoint by their keys, joined by dots.

    Args:
        content: the checkpoint.
        budget: the number of items that may still be looked at: a mapping that contains another a thousand times, which
            contains another a thousand times, has millions of them.
        key: where the content is.
        depth: how many mappings may be inside of one another.
    """
    if not isinstance(content, Mapping) or "param_groups" in content or depth == 0:
        return
    budget[0] -= 1 + len(content)
    if budget[0] < 0:
        raise ValueError("it has too many mappings")
    nested = [
        state_dict
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Mapping) and not _TRAINING.search(name[:_MAX_NAME].lower())
        for state_dict in _find_state_dicts(value, budget, f"{key}.{name}" if key else name, depth - 1)
    ]
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(value, Tensor | StoredTensor) and isinstance(name, str)
    }
    if nested:
        yield from nested
    elif any(tensor.dim() for tensor in tensors.values()):
        yield key, tensors


def _choose_key(keys: list[str], path: Path) -> str:
    """Return the key of the trained weights; a warning names those that are not taken.

    Raises:
        WeightsError: If more than one key may hold them.
    """
    trained = [key for key in keys if not _AVERAGES.search(key)] or keys
    ranks = [min((_KEYS.index(part) for part in key.split(".") if part in _KEYS), default=99) for key in trained]
    best = [key for key, rank in zip(trained, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        reason = f"contains several state dicts: {first_names(best)}"
        raise WeightsError(reason, where=path, remedy="save the one of the network to a file of its own")
    if len(keys) > 1:
        warn_user(f"{path}: its '{best[0][:_MAX_NAME]}' is read, not {first_names([k for k in keys if k != best[0]])}")
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
