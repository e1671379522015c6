"""Experiment trackers that a run can be logged with, each through its own client."""
