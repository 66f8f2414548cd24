# Every target does its own set-up: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test test-fast quality docs clean

demo: $(READY)
	$(BIN)/scalpel-hf demo --out demo

# Two workers of one thread each: two that each use all cores slow each other down.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# What one runs while writing: no other process, Hub, browser, export, recipe or files of weights, no real data
# (tests/conftest.py).
test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m fast

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p scalpel_hf
	$(BIN)/mypy scripts

# The site in site/; a broken link is an error (not with --quiet, which takes the warnings away that --strict counts).
docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torch first and alone: with none present, other packages would pull in its largest build. The test oracle
# pyirstdmetrics pins an old numpy that it doesn't need, hence --no-deps. Gradio asks for a Pillow older than the tested
# one, though it runs on that: it comes before it; where it can't be had, the tests of its page skip and say so.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) "setuptools>=77"
	-$(BIN)/pip install --quiet gradio==6.31.0
	$(PIP) --no-build-isolation --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps pyirstdmetrics==1.0.2
	touch $(READY)

$(DOCS_READY): $(READY)
	$(PIP) --no-build-isolation --editable ".[docs]"
	touch $(DOCS_READY)

clean:
	rm -rf $(VENV) build demo dist site *.egg-info
