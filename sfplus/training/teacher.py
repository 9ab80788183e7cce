"""Distillation as a part of training: the losses of a teacher, with a linear map where the sizes differ."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.artifacts.teacher_features import TeacherFeatures
from sfplus.hypersphere import cosine_distillation, relational_distillation
from sfplus.hypersphere.collectives import Ranks, gather
from sfplus.recipes.settings.teacher import TeacherSettings


class Distillation:
    """The terms that a teacher adds to the loss of a batch.

    The map has no bias, is trained with the network, and is not part of the model. Relations are those of the features
    themselves, over the batch of all processes.

    Args:
        settings: the weights of the losses.
        features: the features of the teacher, in the order of the crops to train on.
        size: length of a feature of the network.

    Attributes:
        settings: as passed.
        features: as passed.
        map: from features of the network to those of the teacher; None if the sizes agree or no cosine is learned.
    """

    def __init__(self, settings: TeacherSettings, features: TeacherFeatures, size: int) -> None:
        self.settings, self.features = settings, features
        self.map = nn.Linear(size, features.size, bias=False) if settings.cosine and size != features.size else None

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return the directions of the teacher for crops (B,): float32 (B, F)."""
        return torch.from_numpy(self.features.batch(indices))

    def loss(self, features: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted sum of both losses, a scalar whose mean over the processes is that of the global batch.

        Args:
            features: (B, size) of the network.
            teacher: (B, F) of the teacher for the same crops.
        """
        loss = features.new_zeros(())
        if self.settings.cosine:
            loss = loss + self.settings.cosine * cosine_distillation(self._mapped(features), teacher)
        if self.settings.relational:
            ranks = Ranks()
            if ranks.world > 1:
                features, teacher = gather(features, ranks), gather(teacher, ranks)
            loss = loss + self.settings.relational * relational_distillation(features, teacher)
        return loss

    @torch.no_grad()
    def mean_cosine(self, features: Tensor, teacher: Tensor) -> Tensor | None:
        """Return the mean cosine to the teacher; None if only relations are learned."""
        return 1 - cosine_distillation(self._mapped(features), teacher) if self.settings.cosine else None

    def _mapped(self, features: Tensor) -> Tensor:
        return features if self.map is None else self.map(features)
