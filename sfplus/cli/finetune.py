"""Fine-tune as a recipe says (SphereFace+), with the stages before it if they are stale."""

from __future__ import annotations

from sfplus.cli.train import training_app

app = training_app(
    "finetune",
    """Fine-tune as a recipe says (SphereFace+), with the stages before it if they are stale.

    Example: sfplus finetune demo finetune.energy.weight=0
    """,
)
