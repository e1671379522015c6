"""Quantizers in PyTorch models: ModelOpt, pytorch-quantization and PT2E."""
