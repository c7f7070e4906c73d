# Everything a newcomer or CI needs; `make help` lists it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := benchmarks/.venv
CONFIG ?= configs/digits/vp_epsilon.yaml

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow format lint types pytest bench-setup build clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## make .venv and install scorelight with its development tools

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev --editable .
	touch $@

train: setup  ## train the main model on digits (CONFIG=... for another) and draw samples
	$(BIN)/scorelight fit --config $(CONFIG)

test: setup lint types pytest  ## format check, linter, type checker, tests

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile

test-slow: setup  ## the long tests: real processes, long grids, training
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 --dist loadfile

bench-setup: $(BENCH_VENV)/.installed  ## make benchmarks/.venv with the libraries that the benchmarks compare with

# k-diffusion comes without the packages of its training and evaluation, next to those that its solvers import.
$(BENCH_VENV)/.installed: pyproject.toml benchmarks/constraints.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BENCH_VENV)/bin/python -m pip install --quiet --constraint benchmarks/constraints.txt --editable . \
		accelerate azula deepinv denoising-diffusion-pytorch diffusers matplotlib scipy smalldiffusion torchdiffeq torchsde
	$(BENCH_VENV)/bin/python -m pip install --quiet --constraint benchmarks/constraints.txt --no-deps k-diffusion
	touch $@

build: setup  ## build the wheel
	$(BIN)/python -m build --wheel

clean:  ## remove the environment and what was built
	rm -rf $(VENV) $(BENCH_VENV) build dist .mypy_cache .ruff_cache .pytest_cache
