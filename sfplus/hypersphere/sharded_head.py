"""Class-parallel classifiers: any head with its class matrix divided among the ranks of a process group.

Memory and time of a replicated head grow with the number of classes on every rank, those of a sharded head with
classes / ranks. Features and labels are gathered instead; of the logits only maxima and sums are communicated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sfplus.hypersphere.collectives import Ranks, add, cross_entropy, gather, scale_gradient, share
from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.sharded_class_energy import sharded_class_energy

_BLOCK = 1 << 24  # numbers that are sent or drawn at a time


class ShardedHead(nn.Module):
    """A head whose classifiers are divided among the ranks: rank r of W has those from C r // W to C (r + 1) // W.

    Every rank calls each method at the same time, with its share of the global batch; all shares have equally many
    samples. The loss is exactly that of `kind` for the global batch: the same value on all ranks, with the gradients of
    that one value (to rounding), for any W. The initial weights are those of `kind` after the same
    `torch.manual_seed` (each rank draws all C x d numbers, in pieces), and lambda counters and running means are the
    same on all ranks. Without a process group there is one shard.

    Training with it:

    - Keep it outside `DistributedDataParallel`, or pass the names of its parameters and buffers to DDP's
      `_set_params_and_buffers_to_ignore_for_model`: the gradient of a shard needs no reduction. A learned scale or
      bias has its complete gradient on every rank.
    - The features' gradient is that of this rank's samples in the mean over the global batch, and the network's
      gradient is the *sum* over ranks of the gradients that result. DDP takes the mean: with `averaged=True` the
      features' gradient is W times as large, so that a network in DDP has the gradient of a single process. This is
      also the scale of a loss that is the mean over this rank's samples, so that such losses can be added.
    - The optimizer receives `parameters()` on each rank. A total norm for clipping is the root of the sum of the
      squares of all shards' norms; all ranks must agree whether a scaled step is skipped.
    - Checkpoints: `full_state` and `gather_rows` (momentum), `load_full_state` and `load_rows`, for any W.

    With `sample_rate` below 1 a training step uses a part of the classes, as in "Partial FC: Training 10 Million
    Identities on a Single Machine": all classes of the global batch that are in the shard of a rank, and random others
    up to this share of the shard, as a function of `seed`, `draws` (the number of the step, kept in checkpoints), rank
    and type of device. The softmax is over the sampled classes. The others have gradient 0 in a gradient of full size,
    so SGD continues with their momentum and weight decay; A-Softmax normalises only the sampled classes. In evaluation
    mode all classes are used.

    Not differentiable twice. If a rank dies or hangs, the other ranks raise the error of torch.distributed, at the
    latest after the timeout of the process group.

    Args:
        kind: One of `HEADS`.
        features: Size d of a feature.
        classes: Number C of people on all ranks.
        group: The process group; by default all ranks.
        averaged: Scale the features' gradient for a network in DDP, as above.
        sample_rate: Share of a shard's classes in a training step, in (0, 1].
        seed: Seed of the sampled classes.
        options: Options of `kind`.

    Attributes:
        head: A head of `kind` for this rank's c classes and a spare class, the last one, which replaces true classes
            of other ranks, so that every head applies its margin correctly; its row is 0 and has gradient 0.

    Raises:
        ValueError: If the rate is out of range, or `kind` raises it.
    """

    draws: Tensor

    def __init__(
        self,
        kind: Callable[..., Head],
        features: int,
        classes: int,
        *,
        group: dist.ProcessGroup | None = None,
        averaged: bool = False,
        sample_rate: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate, the share of classes in a step, must be in (0, 1], not {sample_rate}")
        self.ranks, self.classes = Ranks(group), classes
        self.averaged, self.sample_rate, self.seed = averaged, sample_rate, seed
        self.first, self.last = self.ranks.part(classes, self.ranks.rank)
        with torch.random.fork_rng(devices=[]):
            self.head = kind(1, classes, **options)  # its weight follows
        weight = self.head.weight.new_zeros(self.last - self.first + 1, features)
        pieces = max(1, classes * features // _BLOCK)
        for low, high in pairwise(piece * classes // pieces for piece in range(pieces + 1)):
            drawn = kind(features, high - low, **options).weight.detach()
            start, stop = max(low, self.first), max(min(high, self.last), self.first)
            weight[start - self.first : stop - self.first] = drawn[start - low : max(stop - low, 0)]
        self.head.weight = nn.Parameter(weight)
        self.register_buffer("draws", torch.tensor(0))

    def extra_repr(self) -> str:
        """Return the classes and options that `print(head)` shows."""
        return f"classes {self.first} to {self.last} of {self.classes}, sample_rate={self.sample_rate}"

    @property
    def weight(self) -> Tensor:
        """The classifiers (c, d) of this rank, a part of the parameter `head.weight`."""
        return self.head.weight[:-1]

    @property
    def current_lambda(self) -> float:
        """The lambda of the head; see `Head.current_lambda`."""
        return self.head.current_lambda

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss, as calling the head does."""
        loss: Tensor = self(features, labels)
        return loss

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss of the global batch, a scalar that is equal on all ranks.

        Args:
            features: Features (M, d) of this rank; M >= 1 is equal on all ranks.
            labels: (M,) int64 in [0, C).

        Raises:
            ValueError: On all ranks, if M differs or is 0 or a label is out of range.
        """
        ranks = self.ranks
        with torch.autocast(features.device.type, enabled=False):
            labels = self._gather_labels(labels)
            features = scale_gradient(features.to(self.head.weight.dtype), ranks.world if self.averaged else 1)
            features = gather(features, ranks)
            local = torch.where((labels < self.first) | (labels >= self.last), self.last, labels) - self.first
            logits, local = self._with_margin(features, local)
            if self.head.additive_loss:
                on_another_rank = (local == logits.shape[1] - 1)[:, None]
                spare = torch.where(on_another_rank, 1e4, -1e4).to(logits)  # a certain logit has loss 0
                entropy = add(self.head.entropy(torch.cat([logits[:, :-1], spare], 1), local), ranks)
            else:
                entropy = cross_entropy(logits, local, ranks)
            # all ranks compute the rest equally, and the gradients of their features are summed
            return self.head.complete(entropy, scale_gradient(features, 1 / ranks.world))

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Return the predicted classes (M,) int64 of features (M, d), without margin; M is equal on all ranks."""
        ranks = self.ranks
        logits = self.head.predict(ranks.gather(features.to(self.head.weight.dtype)).flatten(0, 1))
        logits[:, -1] = -math.inf
        best, column = logits.max(1)
        winner = ranks.gather(best).max(0).indices  # the first of equal logits, as in one process
        predicted = ranks.gather(column + self.first).gather(0, winner[None])[0]
        return predicted.view(ranks.world, -1)[ranks.rank]

    def class_energy(self, labels: Tensor, power: float = 2.0, mode: Literal["paper", "batch"] = "paper") -> Tensor:
        """Return `class_energy` of the global batch and all classes, a scalar that is equal on all ranks.

        Its gradient belongs to the shards, so `averaged` has no effect. Pairs exist only in blocks: in addition to
        the batch's classifiers it needs twice the memory of a shard, for its gradient.

        Args:
            labels: (M,) int64 in [0, C); M >= 1 is equal on all ranks.
            power: Power s >= 0.
            mode: As in the function `class_energy`; `caffe` is not supported.

        Raises:
            ValueError: As the function `class_energy`, and if M differs between ranks.
        """
        if mode not in ("paper", "batch") or self.classes < 2:
            raise ValueError(f"a sharded energy needs mode paper or batch and 2 classes, not {mode} and {self.classes}")
        with torch.autocast(labels.device.type, enabled=False):
            labels = self._gather_labels(labels)
            return sharded_class_energy(self.head.weight, labels, self.first, self.classes, power, mode, self.ranks)

    def full_state(self) -> dict[str, Tensor] | None:
        """Return the state dict of the whole head on the CPU of rank 0, and None on the other ranks.

        It includes `draws` if classes are sampled. Rank 0 needs the memory of the whole matrix, the other ranks none.
        """
        weight = self.gather_rows(self.head.weight)
        if weight is None:
            return None
        state = {name: value.cpu().clone() for name, value in self.head.state_dict().items() if name != "weight"}
        return {"weight": weight, **state, **({"draws": self.draws.cpu().clone()} if self.sample_rate < 1 else {})}

    def load_full_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a state from `full_state`, saved with any number of ranks, or the state of a whole head.

        Each rank reads only its rows: a weight that is mapped from a file is not read completely.

        Raises:
            ValueError: If the weight has another shape.
            KeyError, RuntimeError: If names are missing or unknown.
        """
        rest = {name: value for name, value in state.items() if name not in ("weight", "draws")}
        self.load_rows(self.head.weight, state["weight"])
        self.head.load_state_dict({**rest, "weight": self.head.weight})
        self.draws.fill_(state.get("draws", 0))

    @torch.no_grad()
    def gather_rows(self, shard: Tensor) -> Tensor | None:
        """Gather rows of all ranks, such as weight, gradient or momentum, in one matrix on the CPU of rank 0.

        Args:
            shard: (c + 1, ...), as `head.weight`; the spare row is left out.

        Returns:
            (C, ...) on rank 0, None on the other ranks.
        """
        ranks = self.ranks
        whole = torch.empty(self.classes, *shard.shape[1:], dtype=shard.dtype) if ranks.rank == 0 else None
        for owner in range(ranks.world):
            for rows in _blocks(*ranks.part(self.classes, owner), shard):
                block = shard[rows.start - self.first : rows.stop - self.first] if owner == ranks.rank else None
                if owner != 0 and block is not None:
                    dist.send(block.contiguous(), group=ranks.group, group_dst=0)
                elif whole is not None:
                    if block is None:
                        block = shard.new_empty(rows.stop - rows.start, *shard.shape[1:])
                        dist.recv(block, group=ranks.group, group_src=owner)
                    whole[rows] = block.cpu()
        return whole

    @torch.no_grad()
    def load_rows(self, shard: Tensor, whole: Tensor) -> None:
        """Fill `shard` (c + 1, ...) from `whole` (C, ...), the inverse of `gather_rows` without communication."""
        if whole.shape != (self.classes, *shard.shape[1:]):
            raise ValueError(
                f"the whole must have the shape {(self.classes, *shard.shape[1:])}, not {tuple(whole.shape)}"
            )
        for rows in _blocks(self.first, self.last, shard):
            shard[rows.start - self.first : rows.stop - self.first] = whole[rows].to(shard.device)
        shard[-1] = 0

    def _gather_labels(self, labels: Tensor) -> Tensor:
        """Return the labels of the global batch (W M,), after checking them on all ranks."""
        counts = self.ranks.gather(torch.tensor(len(labels), device=labels.device)).tolist()
        if min(counts) == 0 or min(counts) < max(counts):
            raise ValueError(f"all ranks need equally many samples, at least 1, not {counts}")
        labels = self.ranks.gather(labels.long()).flatten()
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= self.classes:
            raise ValueError(f"labels must be in [0, {self.classes}), not {low} or {high}")
        return labels

    def _with_margin(self, features: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits with margin of this rank's or the sampled classes, the spare one last, and labels in them."""
        weight = self.head.weight
        shared = {name: share(p, self.ranks) for name, p in self.head.named_parameters() if name != "weight"}
        if self.sample_rate == 1 or not self.training:
            return _logits(self.head, shared, features, local), local
        rows = self._draw(local)
        sampled = _Rows.apply(weight, rows)
        version, local = sampled._version, torch.searchsorted(rows, local)
        logits = _logits(self.head, {**shared, "weight": sampled}, features, local)
        if sampled._version != version:  # the head normalises its weight in place
            with torch.no_grad():
                weight.index_copy_(0, rows, sampled)
        return logits, local

    def _draw(self, local: Tensor) -> Tensor:
        """Draw the rows of the sampled classes, in rising order: all of the batch, random others, and the spare one."""
        self.draws += 1
        key = hashlib.sha256(f"{self.seed} {int(self.draws)} {self.ranks.rank}".encode()).digest()
        generator = torch.Generator(local.device).manual_seed(int.from_bytes(key[:8], "little") >> 1)
        count = self.last - self.first
        order = torch.rand(count + 1, device=local.device, generator=generator)
        order[local] = 2
        order[count] = 2
        size = max(math.ceil(self.sample_rate * count) + 1, int((order == 2).sum()))
        return order.topk(size).indices.sort().values


class _Logits(nn.Module):
    """The method `logits` of a head as a module, for `functional_call`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.head.logits(features, labels)


def _logits(head: Head, parameters: Mapping[str, Tensor], features: Tensor, labels: Tensor) -> Tensor:
    """Return the logits with margin of a head that uses these parameters instead of its own."""
    values = {f"head.{name}": value for name, value in parameters.items()}
    logits: Tensor = torch.func.functional_call(_Logits(head), values, (features, labels))
    return logits


def _blocks(first: int, last: int, rows: Tensor) -> Iterator[slice]:
    """Yield slices that cover [first, last), each with at most `_BLOCK` numbers in rows of the shape of `rows`."""
    step = max(1, _BLOCK // max(1, rows[0].numel()))
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))


class _Rows(torch.autograd.Function):
    """Select distinct rows, with a gradient of full size."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.shape = weight.shape
        ctx.save_for_backward(rows)
        return weight.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, rows, grad), None
