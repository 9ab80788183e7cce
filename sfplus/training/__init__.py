"""Training: settings, the loop, its optimizer, schedule, checkpoints and history."""
