# Needs Python 3.10 to 3.13 and access to a Python package index; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test test-quick lint format clean

# Installs the project and builds the shipped digit classifier for a Raspberry Pi 4.
demo: $(VENV)/installed
	$(BIN)/python -m compiler build --target arm_cortex_a72

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(JOBS)

# Without the tests that take more than ten seconds each.
test-quick: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

lint: $(VENV)/installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(VENV)/installed-test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/installed
