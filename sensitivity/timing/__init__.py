"""How long a file takes in a runtime, and why."""
