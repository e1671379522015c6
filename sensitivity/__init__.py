"""Which layers of a neural network stay out of INT8: measured, planned, exported and proved."""

__version__ = "0.1.0"
