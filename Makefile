# Two commands do all the set-up on a fresh machine (Python 3.11 or newer, and make):
#   make run     the notebook from top to bottom; DATA=, PROFILE=, EPOCHS=, LIMIT=, SEED=, LOADER=, OUT= are passed on
#   make test    every test that takes less than 10 minutes together
PY ?= .venv/bin/python
BASE_PYTHON ?= python3
DATA ?= auto
PROFILE ?= auto
OUT ?= runs/notebook
PARAMETERS = $(foreach p,DATA PROFILE EPOCHS BATCH_SIZE LIMIT SEED LOADER,$(if $($(p)),-p $(shell echo $(p) | tr A-Z a-z) "$($(p))"))

export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: run test test-long lint bench clean

.venv/.installed: requirements.lock
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x .venv/bin/python || $(BASE_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

# PY=python3 uses an environment of your own, as it is
SETUP = $(if $(filter .venv/bin/python,$(PY)),.venv/.installed)

run: $(SETUP)
	mkdir -p $(OUT)
	$(PY) tests/run_notebook.py S10_model.ipynb $(OUT) $(PARAMETERS)

lint: $(SETUP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest

test-long: lint
	$(PY) -m pytest -m long

clean:
	rm -rf runs .pytest_cache .ruff_cache
