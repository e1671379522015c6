"""Turns a ranking into a plan: a planner proposes sets of units, a judge measures them, and the
best one becomes the plan."""
