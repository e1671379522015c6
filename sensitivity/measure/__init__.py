"""Measuring variants of a model: the measurer, the scan of all units, and their ranking."""
