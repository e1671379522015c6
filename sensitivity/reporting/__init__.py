"""From a run directory to its HTML and CSV files."""
