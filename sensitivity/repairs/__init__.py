"""What is done to a layer so that it can stay in INT8, from calibration inputs alone."""
