"""What has to be there before any test runs, and what several tests start from."""

import sys
from collections.abc import Iterator
from pathlib import Path

# At its first import it appends its folder to sys.path, where its own modules find each other. Were
# that import inside a test that puts sys.path back, as monkeypatch.syspath_prepend does, every
# later import of onnxruntime.quantization would fail.
import onnxruntime.transformers  # noqa: F401
import pytest


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose modules are forgotten afterwards: another test's `my_model` is
    another module."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
