"""Experiments: what skip connections, one cycle and each ingredient of the recipe buy."""
