"""Variants of a PyTorch model, run from its traced graph."""
