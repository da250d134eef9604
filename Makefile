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

.PHONY: run test test-long test-colab test-browser lint bench results search address clean

.venv/.installed: requirements.lock
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x .venv/bin/python || $(BASE_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

# PY=python3 uses an environment of your own, as it is
SETUP = $(if $(filter .venv/bin/python,$(PY)),.venv/.installed)

# On a CPU a batch fills gigabytes: memory that is kept, in large pages, makes a run faster (glibc; ignored elsewhere)
run results search: export MALLOC_MMAP_MAX_ = 0
run results search: export MALLOC_TRIM_THRESHOLD_ = 20000000000
run results search: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

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

# The notebook as in Colab and in Kaggle, with Colab's versions: the first time, 5 GB are fetched into .venv-colab/
test-colab: $(SETUP)
	$(PY) tests/colab.py

# JupyterLab in a real Chromium; leaves screenshots in runs/browser/ to be looked at
test-browser: $(SETUP)
	$(PY) -c 'import playwright' 2>/dev/null || $(PY) -m pip install --quiet -r requirements-browser.txt
	test -x /usr/bin/chromium || $(PY) -m playwright install chromium
	$(PY) tests/browser.py

# Prints what it measures, and rewrites the tables and the figure of benchmarks/README.md
bench: $(SETUP)
	$(PY) -c 'import kornia' 2>/dev/null || $(PY) -m pip install --quiet -r requirements-bench.txt
	DATA="$(filter-out auto sample cifar10,$(DATA))" $(PY) -m benchmarks

# What does each ingredient buy? Row by row, resumable; make search compares recipes on held-out training pictures.
# DATA=, ROWS=, SEEDS=, LIMIT=, EPOCHS=, MINUTES= and OUT= are passed on
STUDY = --data "$(DATA)" $(if $(filter file,$(origin OUT)),,--out "$(OUT)") \
  $(foreach p,ROWS SEEDS LIMIT EPOCHS MINUTES,$(if $($(p)),--$(shell echo $(p) | tr A-Z a-z) "$($(p))"))
results: $(SETUP)
	$(PY) -m benchmarks.ablation $(STUDY); status=$$?; $(PY) -m benchmarks.tables && $(PY) report.py; exit $$status
search: $(SETUP)
	$(PY) -m benchmarks.search $(STUDY)

# make address REPO=owner/name BRANCH=main: where the badge and the notebook's set-up cell find this repository
BRANCH ?= main
address:
	$(if $(REPO),,$(error give the address: make address REPO=owner/name BRANCH=main))
	sed -i -E \
	  -e 's#(colab.research.google.com/github/)[^/]+/[^/]+/blob/[^/]+/#\1$(REPO)/blob/$(BRANCH)/#g' \
	  -e 's#(https://github.com/)[^/"]+/[^/"\\]+(\\?", \\?")[^"\\]+#\1$(REPO)\2$(BRANCH)#g' README.md S10_model.ipynb

clean:
	rm -rf runs .pytest_cache .ruff_cache
