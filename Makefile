# Two commands do all the set-up on a fresh machine (Python 3.11 to 3.13, and make):
#   make run     the notebook from top to bottom; DATA=, PROFILE=, EPOCHS=, LIMIT=, SEED=, LOADER=, RESUME=, OUT= … are passed on
#   make test    every test that takes less than five minutes together
PY ?= .venv/bin/python
BASE_PYTHON ?= python3
PARAMETERS = $(foreach p,DATA PROFILE EPOCHS BATCH_SIZE LIMIT SEED LOADER PRECISION WORKERS OUT, \
  $(if $($(p)),-p $(shell echo $(p) | tr A-Z a-z) "$($(p))")) $(if $(filter no No NO false False,$(RESUME)),-p resume False)

export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: run test test-long test-colab test-browser lint bench results search address clean

# .venv is made anew where pip does not run in it, after a Ctrl-C say
.venv/.installed: requirements.lock
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv --clear .venv || \
	  { echo "No virtual environment can be made: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

# PY=python3 uses an environment of your own, as it is
SETUP = $(if $(filter .venv/bin/python,$(PY)),.venv/.installed)

# On a CPU a batch fills gigabytes: memory that is kept, in large pages, makes a step a fifth faster (glibc)
run results search: export MALLOC_MMAP_MAX_ = 0
run results search: export MALLOC_TRIM_THRESHOLD_ = 20000000000
run results search: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

run: $(SETUP)
	$(PY) tests/run_notebook.py S10_model.ipynb runs/notebook $(PARAMETERS)

lint: $(SETUP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest

test-long: lint
	$(PY) -m pytest -m long

# The notebook as in Colab and in Kaggle, with Colab's versions: the first time, 5 GB are downloaded into .venv-colab/
test-colab: $(SETUP)
	$(PY) tests/colab.py

# JupyterLab in a real Chromium; leaves screenshots in runs/browser/ to be looked at
test-browser: $(SETUP)
	$(PY) -c 'import playwright' 2>/dev/null || $(PY) -m pip install --quiet -r tests/requirements-browser.txt
	test -x /usr/bin/chromium || $(PY) -m playwright install chromium
	$(PY) tests/browser.py

# Prints what it measures, and rewrites the tables of benchmarks/README.md
bench: $(SETUP)
	$(PY) -c 'import kornia' 2>/dev/null || $(PY) -m pip install --quiet -r benchmarks/requirements.txt
	$(PY) -m benchmarks

# What each ingredient buys, row by row, resumable: see experiments/README.md
STUDY = $(foreach p,DATA ROWS SEEDS LIMIT OUT,$(if $($(p)),--$(shell echo $(p) | tr A-Z a-z) "$($(p))"))
results: $(SETUP)
	$(PY) -m experiments.ablation $(STUDY)
search: $(SETUP)
	$(PY) -m experiments.search $(STUDY)

# make address REPO=owner/name BRANCH=main: where the badge and the notebook's set-up cell find this repository
BRANCH ?= main
address:
	$(if $(REPO),,$(error give the address: make address REPO=owner/name BRANCH=main))
	$(BASE_PYTHON) .github/address.py "$(REPO)" "$(BRANCH)"

clean:
	rm -rf runs .pytest_cache .ruff_cache
