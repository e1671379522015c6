"""The picture of a model: its graph in blocks and layers, with formats and sensitivities."""
