# `make demo` and `make test` do all their set-up: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test quality clean

demo: $(READY)
	$(BIN)/python scripts/demo.py --out demo

# Two workers of one thread each: two that each use all cores slow each other down.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build && $(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/typed .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p scalpel_hf
	MYPYPATH=build/typed $(BIN)/mypy recipes/*.py scripts/*.py

# torch first and alone: with none present, other packages would pull in its largest build. The test oracle
# pyirstdmetrics pins an old numpy that it doesn't need, hence --no-deps.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt "setuptools>=77"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps pyirstdmetrics==1.0.2
	touch $(READY)

clean:
	rm -rf $(VENV) build demo dist *.egg-info
