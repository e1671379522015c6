"""What has to be there before any test runs."""

# At its first import it appends its folder to sys.path, where its own modules find each other. Were that import inside a
# test that puts sys.path back, as monkeypatch.syspath_prepend does, every later import of onnxruntime.quantization would fail.
import onnxruntime.transformers  # noqa: F401
