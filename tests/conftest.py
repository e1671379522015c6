"""What has to be there before any test runs, and what several tests start from."""

import sys
from collections.abc import Iterator
from pathlib import Path

# At its first import it appends its folder to sys.path, where its own modules find each other. Were
# that import inside a test that puts sys.path back, as monkeypatch.syspath_prepend does, every
# later import of onnxruntime.quantization would fail.
import onnxruntime.transformers  # noqa: F401
import pytest

SPREAD = ("test_cases.py", "test_yolo_families.py")
"""Files of long tests that share nothing: any worker takes any of these, and they begin first, so
that no worker is left alone with a long one at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of any other file go to one worker, which makes their fixtures once."""
    items.sort(key=lambda item: item.path.name not in SPREAD)
    for item in items:
        if item.path.name not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose modules are forgotten afterwards: another test's `my_model` is
    another module."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
