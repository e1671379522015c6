"""Planners propose sets of units to leave unquantized; one module each."""
