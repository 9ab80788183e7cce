"""The settings of each stage, one file per key of a recipe. Imports no torch."""
