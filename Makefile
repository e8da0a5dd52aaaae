# Two commands on a fresh machine with Python 3.11 and make:
#   make study   environment, default study, report
#   make test    environment, all tests
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STUDY ?= joint
PRESET ?= quick
WORKERS ?= auto
HOME_DIR ?= runs
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup study test fast check lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@echo "setting up .venv (a minute or two; torch is the large part)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

study: $(READY)
	$(BIN)/calm study run $(STUDY) --preset $(PRESET) --workers $(WORKERS) --home $(HOME_DIR)
	@$(BIN)/calm report $(STUDY)-$(PRESET) --home $(HOME_DIR)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

# Pins what is installed now into requirements.lock and environment.yml.
lock:
	$(BIN)/python -m pip list --format=freeze --exclude calm-workbench --exclude pip \
	  | sed 's/+cpu$$//' > requirements.lock
	@{ printf 'name: calm\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	  sed 's/^/      - /' requirements.lock; printf '      - -e .\n'; } > environment.yml

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
