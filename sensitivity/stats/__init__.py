"""Intervals, tests and stopping rules, without any framework."""
