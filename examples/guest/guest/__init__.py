"""A planner, a source of quantized models and a lint rule for sensitivity, from outside."""
