"""A float ONNX file to a calibrated Q/DQ file: the step before all others, for users who have no
calibrated model yet."""
