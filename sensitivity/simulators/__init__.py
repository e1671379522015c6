"""Simulators run variants of a model: module by module, replayed, or as a whole."""
