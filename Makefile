# Two commands set up everything on a fresh machine: `make demo` and `make test`. README.md has them as plain pip commands.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BUDGET ?= 30s

.PHONY: demo test lint clean

demo: $(VENV)/.core
	$(BIN)/python examples/demo_table.py build/demo
	$(BIN)/automl fit build/demo/train.csv --target digit --budget $(BUDGET) --test build/demo/test.csv --out build/demo/run --overwrite
	$(BIN)/automl choose build/demo/run --max-latency 10us

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp a set of extras, renewed when the dependencies change.
$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all,test]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all,dev]"
	touch $@
