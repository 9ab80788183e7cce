"""Artefacts on disk: the stage cache, its inputs and shared work."""
