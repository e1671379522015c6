"""Where a calibrated model has its quantizers, and how one is switched off."""
