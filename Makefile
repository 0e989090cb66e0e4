# The two commands a newcomer needs: `make demo` and `make test`. Both set up .venv first, once.
.PHONY: help install demo test test-slow format lint types contracts bench clean-demo
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

install: .venv/installed  ## set up .venv from the pinned constraints (done once, reused)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setting up .venv (a few minutes, once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo ".venv is ready"

demo: install  ## the whole study for real in the tiny profile, on CPU: plan, launch, decide, lock (<= 15 minutes on 2 cores)
	@$(BIN)/python -m trainer.data.prepare
	@$(BIN)/ablate launch --profile tiny --gpus 4

test: install format-check lint types contracts  ## format, lint, strict types, import contracts, tests
	@echo "tests …"
	@$(BIN)/python -m pytest -q

test-slow: install  ## the slow tests as well: full-size shapes, long studies
	@$(BIN)/python -m pytest -q -m ''

format: install  ## write the one format
	@$(BIN)/ruff format .

format-check: install
	@echo "format …"; $(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }

lint: install
	@echo "lint …"; $(BIN)/ruff check --quiet .

types: install
	@echo "types …"; $(BIN)/mypy --no-error-summary

contracts: install
	@echo "import contracts …"; $(BIN)/lint-imports --no-cache > .import_contracts.log || { cat .import_contracts.log; exit 1; }

bench: install  ## the benchmarks, as tables (benchmarks/)
	@for name in plan scale writer launch trainer data decisions; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean-demo:  ## forget the demo's results (keeps data and backbones)
	rm -rf outputs/foveated-vlm-ablations/tiny db/ablate.sqlite*
