"""Fixtures of several tests, and everything that must be in place before any test runs."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# At its first import it appends its folder to sys.path, where its own modules find each other. Were
# that import inside a test that puts sys.path back, as monkeypatch.syspath_prepend does, every
# later import of onnxruntime.quantization would fail.
import onnxruntime.transformers  # noqa: F401
import pytest
from support.tuning import never_by_itself
from support.warm import warm
from xdist.scheduler import LoadScopeScheduling

SPREAD = ("test_cases.py", "test_yolo_families.py")
"""Files of long tests that are independent of each other. Any worker takes any of their tests, and
they begin first, so that no worker is left alone with a long test at the end."""

LONG = (
    "test_repairs_run.py",
    "test_onnx_ranges.py",
    "test_run_dir.py",
    "test_replay.py",
    "test_yolo.py",
    "test_rules_exports.py",
    "test_rtx_rules.py",
    "test_cost_planner.py",
    "test_quantize.py",
    "test_recalibrate.py",
    "test_export_mobilenet.py",
    "test_detection_report.py",
    "test_python.py",
    "test_run.py",
    "test_sources_mobilenet.py",
)
"""Files that take half a minute or more. They come next, for the same reason."""


os.fsync = os.fstat  # type: ignore[assignment]
"""Do not wait for bytes to reach the disk, which takes a twentieth of the time: no test cuts the
power, so none can see the difference. A closed file is still an error."""


never_by_itself()

gc.disable()


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all of torch and ModelOpt again and again, since they
    stay in memory: neither while they are imported nor later."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""
    items.sort(key=lambda item: (item.path.name not in SPREAD, item.path.name not in LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return WholeFiles(config, log)


class WholeFiles(LoadScopeScheduling):
    """Give all tests of a file to one worker, which makes their fixtures once. Those of SPREAD go
    to any free worker.

    xdist 3.8 has `--dist loadgroup` for this, but pytest 9.2 no longer shows it the groups.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return nodeid if Path(file).name in SPREAD else file


@pytest.fixture(scope="session")
def warm_bin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `sensitivity` and a `python` that start with everything imported."""
    with warm(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose modules are forgotten afterwards, so that another test's
    `my_model` is another module."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        # what a module says of itself: asked for an attribute, one that loads late would load
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if (file or "").startswith(str(tmp_path)):
            del sys.modules[name]
