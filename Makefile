# Each target works on a fresh machine: it makes the environment first where there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.armd-ready

.PHONY: setup quickstart check test parity torture cluster help
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   the whole system on two CPU processes; CLEAN=1 starts anew instead of resuming"
	@echo "make test         the test suite"
	@echo "make parity       every parallel layout against one process, takes its time"
	@echo "make torture      one run killed fifty times, and whether anything was lost"
	@echo "make cluster      jobs on a Slurm of its own, which it installs where it can (root, apt-get)"
	@echo "make check        style, types, import rules"
	@echo "make setup        the environment in $(VENV); the others do it too"

setup: $(READY)

# constraints.txt names the exact versions that the suite runs on.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: $(READY)
	$(BIN)/armd quickstart $(if $(CLEAN),--clean)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest tests/house

test: $(READY)
	$(BIN)/pytest

parity: $(READY)
	$(BIN)/pytest -m 'grid or not grid' tests/distributed/test_grid.py tests/distributed/test_twins.py \
		tests/distributed/test_torture.py tests/distributed/test_topologies.py tests/distributed/test_health.py \
		tests/distributed/test_rewinding.py tests/serving/test_fuzz.py \
		tests/benchmarks/test_coordinates.py tests/benchmarks/test_gpu_train.py

torture: $(READY)
	$(BIN)/pytest -s -m torture tests/distributed/test_torture.py

cluster: $(READY)
	$(BIN)/pytest -m slurm tests/launchers
