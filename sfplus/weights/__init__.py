"""Weights on disk: our own layout, and the formats of others."""
