"""Training: an engine for any kind, the task of faces, settings, schedule, checkpoints and history."""
