"""Checks on one batch, before the scan, of what all later numbers depend on."""
