"""Class-parallel classifiers: any head with its class matrix in shards over the ranks of a process group.

Memory and time of a replicated head grow with the number of classes on every rank; those of a sharded one with
classes / ranks. Features and labels are gathered instead, and of the logits only maxima and sums travel.
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

_BLOCK = 1 << 24  # numbers that travel or are drawn at a time


class ShardedHead(nn.Module):
    """A head whose classifiers are divided among the ranks: rank r of W has those from C r // W to C (r + 1) // W.

    Every rank calls each method at the same time, with its own part of the global batch, as many samples as the
    others. `loss` is that of `kind` for the global batch, exactly: the same value on all ranks, with the gradients of
    that one value (to rounding), whatever W is. The starting weights are those of `kind` after the same
    `torch.manual_seed` (each rank draws all C x d numbers, in pieces), and lambda counters and running means are the
    same on all ranks. Without a process group there is one shard.

    How to train with it:

    - Keep it outside `DistributedDataParallel`, or name its parameters and buffers to DDP's
      `_set_params_and_buffers_to_ignore_for_model`: the gradient of a shard is whole as it is. A learned scale or
      bias gets its whole gradient on every rank.
    - The features' gradient is that of this rank's samples in the mean over the global batch; the network's gradient
      is the *sum* over ranks of what follows from it. DDP takes the mean: with `averaged=True` the features'
      gradient is W times as large, so that a network in DDP gets the gradient that one process would have. That is
      also the scale of a loss which is the mean over this rank's samples, so other such losses may be added.
    - The optimizer gets `parameters()` on each rank. A total norm for clipping is the root of the sum of the
      squares of all shards' norms; whether a scaled step is left out has to be agreed upon by all ranks.
    - Checkpoints: `full_state` and `gather_rows` (momentum), `load_full_state` and `load_rows`, for any W.

    `sample_rate` below 1 trains with a part of the classes, as in "Partial FC: Training 10 Million Identities on a
    Single Machine": in each training step a rank takes all classes of the global batch that it has, and others by
    chance up to this share of its shard, as a function of `seed`, `draws` (the step's number, kept in checkpoints),
    rank and kind of device. The softmax is that of the chosen classes. The others have gradient 0 in a gradient of
    full size: an optimizer treats them as ever, and SGD goes on with their momentum and weight decay; A-Softmax
    brings only the chosen to unit norm. In evaluation mode all classes take part.

    Not differentiable twice. A rank that dies or hangs makes the others raise what torch.distributed raises, at the
    latest after the timeout of the process group.

    Args:
        kind: one of `HEADS`.
        features: d, the size of a feature.
        classes: C, the number of people on all ranks together.
        group: the ranks; all of them unless given.
        averaged: see above.
        sample_rate: share of a shard's classes, in (0, 1].
        seed: of the classes that are drawn.
        options: of `kind`.

    Attributes:
        head: of `kind`, for this rank's c classes and a spare one, the last: it stands for a true class that lies
            elsewhere, so that every head's own code puts the margin where it belongs. Its row is 0 at the start
            and has gradient 0.

    Raises:
        ValueError: the rate is out of range, or what `kind` raises.
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
            raise ValueError(f"the share of classes that are drawn is in (0, 1], not {sample_rate}")
        self.ranks, self.classes = Ranks(group), classes
        self.averaged, self.sample_rate, self.seed = averaged, sample_rate, seed
        self.first, self.last = self.ranks.part(classes, self.ranks.rank)
        with torch.random.fork_rng(devices=[]):
            self.head = kind(1, classes, **options)  # all but its weight
        weight = self.head.weight.new_zeros(self.last - self.first + 1, features)
        pieces = max(1, classes * features // _BLOCK)
        for low, high in pairwise(piece * classes // pieces for piece in range(pieces + 1)):
            drawn = kind(features, high - low, **options).weight.detach()
            start, stop = max(low, self.first), max(min(high, self.last), self.first)
            weight[start - self.first : stop - self.first] = drawn[start - low : max(stop - low, 0)]
        self.head.weight = nn.Parameter(weight)
        self.register_buffer("draws", torch.tensor(0))

    def extra_repr(self) -> str:
        """What `print(head)` shows."""
        return f"classes {self.first} to {self.last} of {self.classes}, sample_rate={self.sample_rate}"

    @property
    def weight(self) -> Tensor:
        """This rank's classifiers (c, d), a part of the parameter `head.weight`."""
        return self.head.weight[:-1]

    @property
    def current_lambda(self) -> float:
        """As in `Head`."""
        return self.head.current_lambda

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The training loss of the global batch, a scalar that is the same on all ranks.

        Args:
            features: (M, d), those of this rank; M >= 1 is the same on all ranks.
            labels: (M,) int64 in [0, C).

        Raises:
            ValueError: on all ranks, if M differs or is 0 or a label is out of range.
        """
        ranks = self.ranks
        with torch.autocast(features.device.type, enabled=False):
            labels = self._gather_labels(labels)
            features = scale_gradient(features.to(self.head.weight.dtype), ranks.world if self.averaged else 1)
            features = gather(features, ranks)
            local = torch.where((labels < self.first) | (labels >= self.last), self.last, labels) - self.first
            logits, local = self._with_margin(features, local)
            if self.head.additive_loss:
                elsewhere = (local == logits.shape[1] - 1)[:, None]
                spare = torch.where(elsewhere, 1e4, -1e4).to(logits)  # so surely right that it adds nothing
                entropy = add(self.head.entropy(torch.cat([logits[:, :-1], spare], 1), local), ranks)
            else:
                entropy = cross_entropy(logits, local, ranks)
            # all ranks compute what follows alike, and the gradients of their features are added up
            return self.head.complete(entropy, scale_gradient(features, 1 / ranks.world))

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """The predicted classes (M,) int64 of features (M, d), without margin; M is the same on all ranks."""
        ranks = self.ranks
        everyone = ranks.gather(features.to(self.head.weight.dtype)).flatten(0, 1)
        logits = self.head.predict(everyone)
        logits[:, -1] = -math.inf
        best, place = logits.max(1)
        winner = ranks.gather(best).max(0).indices  # of equals the first, as in one process
        place = ranks.gather(place + self.first).gather(0, winner[None])[0]
        return place.view(ranks.world, -1)[ranks.rank]

    def class_energy(self, labels: Tensor, power: float = 2.0, mode: Literal["paper", "batch"] = "paper") -> Tensor:
        """`class_energy` of the global batch and all classes, a scalar that is the same on all ranks.

        Its gradient belongs to the shards, so `averaged` plays no part. Pairs exist in blocks only: beside the
        batch's classifiers it needs two times the memory of a shard, for its gradient.

        Args:
            labels: (M,) int64 in [0, C); M >= 1 is the same on all ranks.
            power: s >= 0.
            mode: as in the function; `caffe` is not there.

        Raises:
            ValueError: as in the function, and if M differs between ranks.
        """
        if mode not in ("paper", "batch") or self.classes < 2:
            raise ValueError(f"an energy of shards is paper or batch, of 2 classes or more, not {mode}, {self.classes}")
        with torch.autocast(labels.device.type, enabled=False):
            every = self._gather_labels(labels)
            return sharded_class_energy(self.head.weight, every, self.first, self.classes, power, mode, self.ranks)

    def full_state(self) -> dict[str, Tensor] | None:
        """On rank 0 what `load_state_dict` of the whole head takes, on the CPU; on the others None.

        `draws` is there too where classes are drawn. Rank 0 needs the memory of the whole matrix, the others none.
        """
        weight = self.gather_rows(self.head.weight)
        if weight is None:
            return None
        state = {name: value.cpu().clone() for name, value in self.head.state_dict().items() if name != "weight"}
        return {"weight": weight, **state, **({"draws": self.draws.cpu().clone()} if self.sample_rate < 1 else {})}

    def load_full_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `full_state` gave, with any number of ranks, or the state of a whole head.

        Each rank reads its own rows only: a weight that is mapped from a file is not read as a whole.

        Raises:
            ValueError: the weight has another shape.
            KeyError, RuntimeError: names are missing or unknown.
        """
        rest = {name: value for name, value in state.items() if name not in ("weight", "draws")}
        self.load_rows(self.head.weight, state["weight"])
        self.head.load_state_dict({**rest, "weight": self.head.weight})
        self.draws.fill_(state.get("draws", 0))

    @torch.no_grad()
    def gather_rows(self, shard: Tensor) -> Tensor | None:
        """Rows of all ranks in one matrix on the CPU of rank 0: the weight, its gradient, an optimizer's momentum.

        Args:
            shard: (c + 1, ...), as `head.weight`; the spare row is left out.

        Returns:
            (C, ...) on rank 0, None on the others.
        """
        ranks = self.ranks
        whole = torch.empty(self.classes, *shard.shape[1:], dtype=shard.dtype) if ranks.rank == 0 else None
        for owner in range(ranks.world):
            for rows in _blocks(*ranks.part(self.classes, owner), shard):
                own = shard[rows.start - self.first : rows.stop - self.first] if owner == ranks.rank else None
                if owner != 0 and own is not None:
                    dist.send(own.contiguous(), group=ranks.group, group_dst=0)
                elif whole is not None:
                    if own is None:
                        own = shard.new_empty(rows.stop - rows.start, *shard.shape[1:])
                        dist.recv(own, group=ranks.group, group_src=owner)
                    whole[rows] = own.cpu()
        return whole

    @torch.no_grad()
    def load_rows(self, shard: Tensor, whole: Tensor) -> None:
        """The inverse of `gather_rows`, on each rank alone: fill `shard` (c + 1, ...) from `whole` (C, ...)."""
        if whole.shape != (self.classes, *shard.shape[1:]):
            raise ValueError(f"rows are {(self.classes, *shard.shape[1:])} on all ranks, not {tuple(whole.shape)}")
        for rows in _blocks(self.first, self.last, shard):
            shard[rows.start - self.first : rows.stop - self.first] = whole[rows].to(shard.device)
        shard[-1] = 0

    def _gather_labels(self, labels: Tensor) -> Tensor:
        """The labels of the global batch (W M,), looked at."""
        counts = self.ranks.gather(torch.tensor(len(labels), device=labels.device)).tolist()
        if min(counts) == 0 or min(counts) < max(counts):
            raise ValueError(f"all ranks need equally many samples and one or more, not {counts}")
        labels = self.ranks.gather(labels.long()).flatten()
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= self.classes:
            raise ValueError(f"labels are in [0, {self.classes}), not {low} or {high}")
        return labels

    def _with_margin(self, features: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with margin of this rank's classes, or those that are drawn, and the spare one; labels among them."""
        weight = self.head.weight
        used = {name: share(p, self.ranks) for name, p in self.head.named_parameters() if name != "weight"}
        if self.sample_rate == 1 or not self.training:
            return torch.func.functional_call(self.head, used, (features, local)), local
        rows = self._draw(local)
        chosen = _Rows.apply(weight, rows)
        version, local = chosen._version, torch.searchsorted(rows, local)
        logits = torch.func.functional_call(self.head, {**used, "weight": chosen}, (features, local))
        if chosen._version != version:  # the head normalises its weight in place
            with torch.no_grad():
                weight.index_copy_(0, rows, chosen)
        return logits, local

    def _draw(self, local: Tensor) -> Tensor:
        """Places of the classes that take part, rising: all of the batch, others by chance, and the spare one."""
        self.draws += 1
        key = hashlib.sha256(f"{self.seed} {int(self.draws)} {self.ranks.rank}".encode()).digest()
        generator = torch.Generator(local.device).manual_seed(int.from_bytes(key[:8], "little") >> 1)
        count = self.last - self.first
        order = torch.rand(count + 1, device=local.device, generator=generator)
        order[local] = 2
        order[count] = 2
        wanted = max(math.ceil(self.sample_rate * count) + 1, int((order == 2).sum()))
        return order.topk(wanted).indices.sort().values


def _blocks(first: int, last: int, rows: Tensor) -> Iterator[slice]:
    """Slices that cover [first, last), each of `_BLOCK` numbers or fewer where a row is of the shape of `rows`."""
    step = max(1, _BLOCK // max(1, rows[0].numel()))
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))


class _Rows(torch.autograd.Function):
    """Some rows, all different, with a gradient of full size."""

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
