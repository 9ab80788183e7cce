"""Training: an engine for any kind of task, the task of faces, schedules, checkpoints and history."""
