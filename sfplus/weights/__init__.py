"""Weights on disk: our own layout, and the formats of others."""

MODEL, CONFIG, HEAD = "model.safetensors", "config.json", "head.safetensors"  # the files of a model's folder
