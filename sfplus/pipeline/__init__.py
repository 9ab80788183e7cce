"""Recipes turned into steps: plan, run, status."""
