"""Whole jobs on a kind of model, ready to run."""
