"""How work is spread over processes and machines: one file for each kind of worker."""
