# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install docs docs-reference demo test test-long pictures test-properties chaos lint format simulate

help:
	@echo "make demo   set up if need be, then run the whole system on the embedded paper gateway"
	@echo "make test   set up if need be, then run the tests"
	@echo "make test-long  the tests that take minutes each"
	@echo "make pictures  docs/images anew, from a browser on the demo"
	@echo "make test-properties  properties on ten times the examples"
	@echo "make simulate  trading days on a virtual clock, from seeds (SEEDS=50 FIRST=1 JOBS=2)"
	@echo "make chaos  set up if need be, then break everything for MINUTES=10 from SEED=1, or KILLS=20 with Dagster"
	@echo "make lint   layers, types and style"
	@echo "make format apply the style"
	@echo "make docs   build the documents into site/"
	@echo "make docs-reference  write docs/reference anew: settings, tables, commands"

# The stamp is newer than what it depends on once everything is installed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "v6_pipeline needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

docs-reference: install
	$(BIN)/python scripts/write_reference.py

# The documents as a site in site/, every link checked.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --clean --strict

demo: install
	$(BIN)/v6 demo

# Many tests wait for processes of their own: a worker more than two cores have keeps them busy. The files are handed out
# in their own order, what takes minutes first; else no reordering, which would put the files with few tests last.
WORKERS ?= 3

# Bytecode is kept, whatever the environment says: some hundred processes of the tests would compile everything anew.
test: export PYTHONDONTWRITEBYTECODE =
# The workers have the cores; threads of polars beside them would only wait for work, busily.
test: export POLARS_MAX_THREADS = 1
test: install
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# With their whole module: each of its tests goes on from what the one before left.
test-long: install
	$(BIN)/python -m pytest -m "" $$(grep -rl --include=*.py "pytest.mark.long" v6_pipeline_tests)

# What the browser sees, for the documents; needs a Chromium.
pictures: install
	RENEW_PICTURES=1 $(BIN)/python -m pytest -m "" v6_pipeline_tests/ui

# Ten times the examples that properties are tried on by default.
test-properties: install
	PROPERTY_SCALE=4 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $$(grep -rl --include=*.py "examples(" v6_pipeline_tests/unit)

# Whole trading days on a virtual clock, faults and all, from seeds; SEEDS, FIRST and JOBS say how many, which and at once.
SEEDS ?= 50
FIRST ?= 1
JOBS ?= 2
simulate: install
	$(BIN)/python -m v6_pipeline_tests.simulation --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)

# Real processes, killed, stopped and cut off; SEED says how, MINUTES or KILLS how long.
SEED ?= 1
MINUTES ?= 10
KILLS ?= 0
chaos: install
	$(BIN)/python -m v6_pipeline_tests.chaos --seed $(SEED) --minutes $(MINUTES) --kills $(KILLS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
