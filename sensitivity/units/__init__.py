"""Units, which are left out as a whole: layers, blocks and groups of quantizers, and their places
in the graph."""
