#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist loadgroup` no longer keeps the tests of an
# `xdist_group` on one worker, and says nothing. xdist marks a test's group in the private name of
# its node; pytest 9.2 does not read that any more, so each test is a group of its own. Suites that
# rely on it stay green and make every module's fixtures once per worker. With pytest 9.0.2 the
# group stays together.
#
# Seen: workers of one group of 8 tests: 1 with pytest 9.0.2, 2 with pytest 9.2.0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
cat > test_group.py <<'PY'
import os
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_of_the_group(number):
    time.sleep(0.2)
    with open("workers.txt", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY
for version in 9.0.2 9.2.0; do
  python3 -m venv "venv$version"
  "venv$version/bin/pip" install --quiet "pytest==$version" pytest-xdist==3.8.0
  rm -f workers.txt
  "venv$version/bin/python" -m pytest -q -n 2 --dist loadgroup -p no:cacheprovider test_group.py
  workers=$(sort -u workers.txt | wc -l)
  echo "workers of one group with pytest $version: $workers"
  test "$workers" = "$([ "$version" = 9.0.2 ] && echo 1 || echo 2)"
done
