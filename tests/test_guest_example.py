"""The example of a guest is built and installed as a user installs it, without network, and passes
its own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_guest_is_installed_and_passes_its_tests(tmp_path: Path, warm_bin: Path) -> None:
    made = tmp_path / "guest"
    shutil.copytree(ROOT / "examples/guest", made)  # a build leaves files beside what it builds
    place = tmp_path / "installed"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*install, "--target", place, made], check=True, capture_output=True, text=True)
    shutil.rmtree(made / "guest")  # what is tested is what was installed
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    tests = "import pytest; raise SystemExit(pytest.main(['-q', '-pno:cacheprovider', 'tests']))"
    command = [warm_bin / "python", "-c", tests]
    done = subprocess.run(command, cwd=made, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
