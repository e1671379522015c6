"""What a layer costs: by operations, by a table of measured times, or by whole engines."""
