"""How a variant of a model is run: module by module, replayed, or as a whole."""
