"""Experiments: what skip connections, the one-cycle policy and each ingredient of the recipe
buy.
"""
