# Everything a clone needs: `make demo`, `make test`. Windows without make: see "Windows" in README.md.
PYTHON ?= python3
BIN := .venv/bin
# With NVIDIA's compilers where there is its driver, where they are there already, or with `make setup CUDA=1`.
CUDA ?= $(strip $(wildcard .venv/installed-cuda) $(shell command -v nvidia-smi 2>/dev/null))
STAMP := .venv/installed$(if $(CUDA),-cuda)
comma := ,

.DEFAULT_GOAL := help
.PHONY: help setup demo course test test-all lint notebooks docs gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the package with what tests and notebooks need

# Done once; again only when pyproject.toml changes.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable ".[test,notebooks,docs,cluster$(if $(CUDA),$(comma)cuda)]"
	@touch $@

demo: setup ## train a small Xception on the built-in images and draw what it learned
	$(BIN)/minixception demo

course: setup ## copy the course's notebooks to my-course and open them
	$(BIN)/minixception course my-course
	$(BIN)/jupyter lab my-course

# In a process for each processor; four at most, for each compiles, and some need 2 GB.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: setup ## run the tests and docstring examples that are not slow: five minutes on two cores
	$(PYTEST) -m "not slow"

test-all: setup ## run every test, also the slow ones
	$(PYTEST)

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: setup ## execute every notebook from top to bottom
	$(BIN)/python -m minixception.course.notebooks --check notebooks/*.ipynb

docs: setup ## build the site into build/site
	$(BIN)/sphinx-build -q -W --keep-going -d build/doctrees docs build/site

gpu: setup ## on a machine with an NVIDIA GPU: what only it can tell, in four steps, into docs/results
	$(BIN)/python -m tests.by_hand.check_gpu

clean: ## remove .venv, caches and build outputs
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find minixception tests -name __pycache__ -type d -prune -exec rm -rf {} +
