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
# Many tests wait for processes that they start: three test processes keep two cores busy (nproc heeds OMP_NUM_THREADS).
TEST_WORKERS ?= $(shell echo $$(( $$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2) * 3 / 2 )))
# Compiled modules are kept even where the environment says not to: the tests start hundreds of processes.
TESTS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

.PHONY: setup study test fast check chaos docs lock clean

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
	$(TESTS)

fast: $(READY)
	$(TESTS) -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS) -m "not slow"

# Kills, outages and bad input in earnest (half an hour on two quiet cores); their short forms are among the tests.
chaos: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.kills --kills 50 --cells 12 --workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.tracking_outage
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.bad_inputs --inputs 2000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.two_hosts --trials 20

# The reference of all modules from their docstrings, as HTML; nothing is fetched. What imports a module may start
# (Python asks uname) is let through.
docs: $(READY)
	PDOC_ALLOW_EXEC=1 $(BIN)/python -m pdoc --no-show-source -o build/docs workbench studies analysis
	@echo "build/docs/index.html"

# Pins what is installed now into requirements.lock and environment.yml.
lock:
	$(BIN)/python -m pip list --format=freeze --exclude calm-workbench --exclude pip \
	  | sed 's/+cpu$$//' > requirements.lock
	@{ printf 'name: calm\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	  sed 's/^/      - /' requirements.lock; printf '      - -e .\n'; } > environment.yml

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
