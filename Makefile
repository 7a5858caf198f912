# Everything a newcomer and the checks need. `make` alone says what there is.
# The first target that needs it makes .venv with plain python3; nothing is installed twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := src tests benchmarks deploy
BENCHMARKS := startup train_throughput many_files busy_neighbour

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help: ## Say what can be made.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /:/' | awk -F: '{printf "  make %-7s %s\n", $$1, $$2}'

demo: export OMP_NUM_THREADS := 2
demo: $(VENV)/installed ## Install, then train and judge a model for each task on data that need no download.
	$(BIN)/pictune demo
	$(BIN)/pictune demo --task detection
	$(BIN)/pictune demo --task segmentation

test: export OMP_NUM_THREADS := 1
test: $(VENV)/installed-dev ## Run all tests; line coverage of src must reach 90 %.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

check: $(VENV)/installed-dev ## Check style, types and the order of the rooms.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/installed-dev ## Run the benchmarks that need no pictures, one after the other.
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

clean: ## Remove .venv and all that checks and tests leave behind; runs stay.
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache \
	    .import_linter_cache .hypothesis src/*.egg-info
	find src tests benchmarks deploy -type d -name __pycache__ -prune -exec rm -rf {} +

# pip is the last thing that venv makes, so its presence says that the folder is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# A stamp a level: `test` after `demo` adds only what the tests need, `demo` after `test` adds nothing.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes some minutes."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing into $(VENV); PyTorch is large, so the first time takes some minutes."
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/installed $@
