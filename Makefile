# make demo, make test: nothing else needs to be installed but Python >= 3.11. GNU make 3.81 is enough.
#   PYTHON=python3.12    which Python makes .venv
#   TORCH_INDEX=URL      one more package index, for example one of CPU-only torch wheels
#   FORCE=1              make demo: calibrate again even if this machine is calibrated
PYTHON ?= python3
TORCH_INDEX ?=
FORCE ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
CLEAN := build dist out .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

.PHONY: help demo test test-all lint types contracts check format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      calibrate this machine, bet on int8 and int4: speed of a 135M model, accuracy of pocket; out/*.html"
	@echo "make test      install what tests need, run the tests but the slow ones"
	@echo "make test-all  run every test"
	@echo "make check     lint, types of the paper side, import contracts"
	@echo "make format    let ruff rewrite the code"
	@echo "make clean     remove caches and outputs; .venv stays"

demo: $(VENV)/.ready-run
	@mkdir -p out
	@if [ -n "$(FORCE)" ] || ! $(BIN)/ridge calibrate --show >/dev/null 2>&1; then $(BIN)/ridge calibrate; fi
	$(BIN)/ridge why smollm2-135m bf16..int8,int4 --batch 1,4,16,64 --report out/demo.html
	@echo "Speed above is of a 135M shape with random weights. Accuracy needs trained weights: below it is that of pocket,"
	@echo "3.5M parameters; the speed below is pocket's own and says nothing about the 135M shape."
	$(BIN)/ridge why pocket bf16..int8,int4 --batch 1,16 --report out/pocket.html
	@echo "And a no: int4 halves the bytes of int8, but pocket is so small that most of its step is not reading weights."
	$(BIN)/ridge why pocket int8..int4 --batch 1

test: $(VENV)/.ready-test
	@$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.ready-test
	@$(BIN)/python -m pytest

check: lint types contracts

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-test
	$(BIN)/mypy

contracts: $(VENV)/.ready-test
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.ready-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(CLEAN)
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
		{ echo "Ridgepoint needs Python >= 3.11, and there is no '$(PYTHON)': make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Ridgepoint needs Python >= 3.11; '$(PYTHON)' is `$(PYTHON) -V 2>&1`: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready-run: pyproject.toml constraints.txt $(VENV)/.made
	$(PIP) --editable '.[metal]'
	@touch $@

# Tests need all that a run needs, so a run after them finds nothing left to install.
$(VENV)/.ready-test: pyproject.toml constraints.txt $(VENV)/.made
	$(PIP) --editable '.[metal,hub,ort,fit,train,tasks,test]'
	@touch $(VENV)/.ready-run $@
