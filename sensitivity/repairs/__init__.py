"""Repairs, which let a layer stay in INT8. They are fitted on calibration inputs alone."""
