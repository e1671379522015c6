PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint site package house screenshots mutation clean

setup: $(VENV)/.done

# Python compiles what is imported; pip would compile everything, which takes half of the time.
$(VENV)/.done: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint requirements.lock --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/sensitivity demo --out runs/demo

# Two workers, each computing with one thread: threads of torch and BLAS would take the other's core.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documents as a site in build/site; a link that leads nowhere is an error.
site: setup
	$(BIN)/python docs/stage.py build/pages
	$(BIN)/mkdocs build --quiet --strict

package: setup
	.ci/package $(BIN)/python

# How the code reads; the limits are in tests/test_house.py.
house: setup
	$(BIN)/python benchmarks/house.py

# The committed reports at three widths, light and dark, in a new folder; Chromium has to be there.
screenshots: setup
	$(BIN)/python benchmarks/screenshots.py

# Whether the tests notice a changed line; a run that was cut short goes on where it stopped.
mutation: setup
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutation.py

clean:
	rm -rf $(VENV) runs build dist *.egg-info
