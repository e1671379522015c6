"""The steps of a run, one module each: what a command does with a session and a run directory."""
