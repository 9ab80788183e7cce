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

from sfplus.hypersphere.collectives import Ranks, add, cross_entropy, gather, scale_gradient, share
from sfplus.hypersphere.heads.base import Head
from sfplus.hypersphere.sampled_classes import draw_classes, logits_with, select_rows
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
        self._number = 0  # `draws` as a number, which does not wait for a GPU
        self._known = self.draws, self.draws._version  # the tensor that has this number

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

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss of the global batch, a scalar that is equal on all ranks.

        The program does not wait for a GPU, except in sampled training with more samples in the global batch than
        sampled classes in a shard. torch.compile leaves this method out.

        Args:
            features: Features (M, d) of this rank; M >= 1 is equal on all ranks.
            labels: (M,) int64 in [0, C).

        Raises:
            ValueError: On all ranks, if M differs or is 0 or a label is out of range; on a GPU this is an assertion on
                the device, which the next operation that waits for the GPU reports.
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
        self.load_rows(self.head.weight, state["weight"])
        rest = {name: value for name, value in state.items() if name != "draws"}
        self.head.load_state_dict(rest | {"weight": self.head.weight})
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
            shape = (self.classes, *shard.shape[1:])
            raise ValueError(f"the whole must have the shape {shape}, not {tuple(whole.shape)}")
        for rows in _blocks(self.first, self.last, shard):
            shard[rows.start - self.first : rows.stop - self.first] = whole[rows].to(shard.device)
        shard[-1] = 0

    def _gather_labels(self, labels: Tensor) -> Tensor:
        """Return the labels of the global batch (W M,), after checking them on all ranks."""
        counts = self.ranks.gather(torch.full((), len(labels), device=labels.device))
        labels = labels.long()
        if not labels.is_cpu:  # a check on the GPU, which the program does not wait for
            torch._assert_async((counts == max(len(labels), 1)).all(), "all ranks need equally many samples")
            labels = self.ranks.gather(labels).flatten()
            in_range = (labels >= 0) & (labels < self.classes)
            torch._assert_async(in_range.all(), f"labels must be in [0, {self.classes})")
            return labels
        sizes = counts.tolist()
        if min(sizes) == 0 or min(sizes) < max(sizes):
            raise ValueError(f"all ranks need equally many samples, at least 1, not {sizes}")
        labels = self.ranks.gather(labels).flatten()
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= self.classes:
            raise ValueError(f"labels must be in [0, {self.classes}), not {low} or {high}")
        return labels

    def _with_margin(self, features: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits with margin of this rank's or the sampled classes, the spare one last, and labels in them."""
        weight = self.head.weight
        shared = {name: share(p, self.ranks) for name, p in self.head.named_parameters() if name != "weight"}
        if self.sample_rate == 1 or not self.training:
            return logits_with(self.head, shared, features, local), local
        rows = self._draw(local)
        sampled = select_rows(weight, rows)
        version, local = sampled._version, torch.searchsorted(rows, local)
        logits = logits_with(self.head, {**shared, "weight": sampled}, features, local)
        if sampled._version != version:  # the head normalises its weight in place
            with torch.no_grad():
                weight.index_copy_(0, rows, sampled)
        return logits, local

    def _draw(self, local: Tensor) -> Tensor:
        """Draw the rows of the sampled classes from seed, number of the step, rank and type of device."""
        if self._known[0] is not self.draws or self._known[1] != self.draws._version:  # loaded, reset or moved
            self._number = int(self.draws)
        self.draws += 1
        self._number += 1
        self._known = self.draws, self.draws._version
        key = hashlib.sha256(f"{self.seed} {self._number} {self.ranks.rank}".encode()).digest()
        return draw_classes(local, self.last - self.first, self.sample_rate, int.from_bytes(key[:8], "little") >> 1)


def _blocks(first: int, last: int, rows: Tensor) -> Iterator[slice]:
    """Yield slices that cover [first, last), each with at most `_BLOCK` numbers in rows of the shape of `rows`."""
    step = max(1, _BLOCK // max(1, rows[0].numel()))
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))
