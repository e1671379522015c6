"""Ways to propose sets of units to leave out; each is a function of a problem."""
