"""Recipes: YAML files with typed settings."""
