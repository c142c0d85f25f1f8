# Each target does all the set-up that it needs, in its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
WORKERS ?= 2

.PHONY: help install demo test lint pytest docs train clean

help:
	@echo "make demo   install, then measure the embedded model and draw its heatmap"
	@echo "make test   install, then ruff, mypy and pytest; WORKERS=8 for more than two processes"
	@echo "make docs   install, then build the documentation in site/; strict: no broken link or reference"
	@echo "make train  install, then train the embedded reference models from scratch; SEED=1 for another seed"

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

install: $(INSTALLED)

demo: install
	$(BIN)/vniah run --output results/demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy vniah

# Types are checked while the tests run.
test: install
	$(MAKE) --no-print-directory --jobs 2 lint pytest

pytest: install
	$(BIN)/python -m pytest -n $(WORKERS)

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS_INSTALLED)

docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

train: install
	$(BIN)/python -m training

clean:
	rm -rf $(VENV) build dist site *.egg-info
