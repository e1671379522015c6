"""Signals: measures of a variant beside the metric, such as how far its outputs move."""
