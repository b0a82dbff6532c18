# make quickstart   fine-tune a real model on the shipped rows, compare it with its base, and talk to it
# make test         everything that must hold
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
LUTHIER := $(BIN)/luthier
STAMP := $(VENV)/installed
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n 1)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)
CPU_TORCH := $(shell sed -n 's/^torch==//p' constraints-cpu.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
CPU_BUILD := $(if $(GPU),,$(filter Linux,$(shell uname -s)))
MODEL := smollm2-135m-instruct
RUN := runs/quickstart

.PHONY: help install quickstart test check format clean

help:
	@sed -n 's/^# //p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
ifneq ($(CPU_BUILD),)  # from the package index in use, or else from the one of torch itself
	$(PIP) torch==$(CPU_TORCH) || $(PIP) --index-url $(CPU_INDEX) torch==$(CPU_TORCH)
endif
	$(PIP) -c constraints.txt $(if $(CPU_BUILD),-c constraints-cpu.txt) -e '.[dev]'
	@touch $(STAMP)

quickstart: install
	$(LUTHIER) models fetch $(MODEL)
	$(LUTHIER) train examples/quickstart.yaml --restart
	$(LUTHIER) compare $(MODEL) $(RUN) --data examples/data/luthier_held_out.jsonl --show 3 --max-new-tokens 64
	$(LUTHIER) compare $(MODEL) $(RUN) --data examples/data/general.jsonl --metrics ''
	@echo
	@echo "Done. Next:"
	@echo "  source $(VENV)/bin/activate"
	@echo "  luthier chat $(RUN)                      # talk to the model you just tuned"
	@echo "  luthier data show YOUR_FILE.jsonl        # how Luthier reads your own rows"
	@echo "  luthier check examples/quickstart.yaml data.train=[YOUR_FILE.jsonl] output.dir=runs/mine"
	@echo "  luthier train examples/quickstart.yaml data.train=[YOUR_FILE.jsonl] output.dir=runs/mine"

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n auto --dist loadfile

check: test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
