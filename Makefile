# Shortcuts for everyday commands; each is one line that can also be typed. `make help` lists them.

VENV ?= .venv
BIN := $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/,)
export PYTHON := $(BIN)python3

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick golden lint format types bench docs ci clean

help: ## List the commands
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything that development takes
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --editable ".[test,lint,all]"

demo: ## Compile the demo model that comes with the package
	$(BIN)qcompiler demo

test: ## Run all tests
	$(BIN)pytest -n 2

test-quick: ## Run the tests that take no more than a moment
	$(BIN)pytest -n 2 -m "not slow"

golden: ## Rewrite the golden text files; look at the difference before committing it
	QCOMPILER_UPDATE_GOLDEN=1 $(BIN)pytest -q tests/ir/test_text.py

lint: ## Check style and architecture
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(PYTHON) .ci/lint_layers.py

format: ## Format the code, and mend what can be mended
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

types: ## Check types, strictly
	.ci/types

bench: ## Measure every figure of docs/benchmarks.md (needs the models; see there)
	$(PYTHON) tests/benchmarks/figures.py

docs: ## Write the parts of docs/ that are generated
	$(PYTHON) docs/generate.py

ci: ## Run what the continuous integration runs, in a fresh environment
	.ci/run

clean: ## Remove what the other commands made
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
