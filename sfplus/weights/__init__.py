"""Weights on disk: our own layout, and the formats of others."""

# The files of a model's folder; the mean feature of the verification set is what `sfplus compare` subtracts.
MODEL, CONFIG, HEAD, MEAN = "model.safetensors", "config.json", "head.safetensors", "mean.safetensors"
