"""Cost of leaving layers out: from their operations, from a table of measured times, or from whole
engines."""
