"""What is left out as one: layers, blocks and groups of quantizers, and where they stand in the
graph."""
