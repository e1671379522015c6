"""Spreads work over processes and machines. Each kind of worker has a file."""
