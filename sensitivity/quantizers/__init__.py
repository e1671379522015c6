"""Adapters for calibrated models: where a model has its quantizers, and how each is switched
off."""
