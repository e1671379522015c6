"""Experiment trackers that a run is told to, each through its own client."""
