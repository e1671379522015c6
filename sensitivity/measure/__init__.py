"""What one variant scores: the measurer, the scan of all units and their ranking."""
