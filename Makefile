# Two commands do all the set-up on a fresh machine (Python 3.11 to 3.14, and make):
#   make run     the notebook from top to bottom; DATA=, PROFILE=, EPOCHS=, SEED=, DEVICE=, OUT= … are passed on
#   make test    every test that takes less than five minutes together
PY ?= .venv/bin/python
BASE_PYTHON ?= python3
NAMES = DATA PROFILE EPOCHS BATCH_SIZE LIMIT SEED LOADER PRECISION DEVICE LR_MAX LR_MIN WORKERS OUT
PARAMETERS = $(foreach p,$(NAMES),$(if $($(p)),-p $(shell echo $(p) | tr A-Z a-z) "$($(p))")) \
  $(if $(filter 0 no off false,$(shell echo $(RESUME) | tr A-Z a-z)),-p resume False)

export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: run test test-long test-colab test-browser lint bench results address clean

CHECK_PYTHON = import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 14) and \
  "Python %d.%d lacks some of the packages, 3.11 to 3.14 have them all: run " % v + \
  "`uv venv --seed --clear --python 3.13 .venv` (uv: docs.astral.sh/uv), then make again")
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
UV = .venv/bin/python -m uv pip install --quiet --python .venv/bin/python

# .venv is made anew where pip does not run in it, after a Ctrl-C say. uv takes the build of PyTorch that suits the
# machine: 0.2 GB where there is no GPU, and a CUDA that the driver knows.
.venv/.installed: requirements.lock
	@python=.venv/bin/python; $$python -m pip --version >/dev/null 2>&1 || python="$(BASE_PYTHON)"; \
	  $$python -c '$(CHECK_PYTHON)'
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv --clear .venv || \
	  { echo "No virtual environment can be made: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@if ! $(PIP) uv; then \
	  echo "uv cannot be installed: pip installs everything, PyTorch with CUDA (5 GB)"; $(PIP) -r requirements.lock; \
	elif ! $(UV) --torch-backend auto -r requirements.lock 2>/dev/null; then \
	  echo "download.pytorch.org cannot be reached, or has nothing for this machine: PyTorch comes from PyPI (5 GB)"; \
	  $(UV) -r requirements.lock || { echo "uv failed: pip installs everything"; $(PIP) -r requirements.lock; }; \
	fi
	touch $@

# PY=python3 uses an environment of your own, as it is
SETUP = $(if $(filter .venv/bin/python,$(PY)),.venv/.installed)

# On a CPU a batch fills gigabytes: memory that is kept, in large pages, makes a step a fifth faster (glibc)
run results: export MALLOC_MMAP_MAX_ = 0
run results: export MALLOC_TRIM_THRESHOLD_ = 20000000000
run results: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

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

# Prints what it measures, and writes it to benchmarks/results-<cpu or GPU>.json
bench: $(SETUP)
	$(PY) -c 'import kornia' 2>/dev/null || $(PY) -m pip install --quiet -r benchmarks/requirements.txt
	$(PY) -m benchmarks

# What each ingredient buys, row by row, resumable: see experiments/README.md
STUDY = $(foreach p,DATA ROWS SEEDS LIMIT EPOCHS PRECISION OUT,$(if $($(p)),--$(shell echo $(p) | tr A-Z a-z) "$($(p))"))
results: $(SETUP)
	$(PY) -m experiments.ablation $(STUDY)

# make address REPO=owner/name BRANCH=main: where the badge and the notebook's set-up cell find this repository
BRANCH ?= main
address:
	$(if $(REPO),,$(error give the address: make address REPO=owner/name BRANCH=main))
	$(BASE_PYTHON) .github/address.py "$(REPO)" "$(BRANCH)"

# Caches only: weights, checkpoints and data stay
clean:
	rm -rf .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv*" -prune -exec rm -rf {} +
