# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint torture bench clean

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[postgres,mysql,s3,wandb,neptune,neptune3]" --group dev
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python fixtures/demo.py demo-out

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST)

torture: $(VENV)/.ready
	MLMIGRATE_KILLS=50 $(BIN)/python -m pytest -n 2 -m torture $(PYTEST)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python bench/run.py sqlite

clean:
	rm -rf $(VENV) demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
