# Start with `make demo` and `make test`. Every target first installs its dependencies into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# More than cores, since many tests wait.
CHECK_WORKERS ?= 3
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test fuzz chaos cluster-chaos lint types format check check-fast coverage clean

demo: $(VENV)/installed
	@echo "Open http://127.0.0.1:8642/ in a browser; end with Ctrl-C."
	$(BIN)/streamcap serve scenes:

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# 50,000 hostile inputs for each parser of untrusted bytes; `make test` runs a few hundred.
fuzz: $(VENV)/installed-dev
	STREAMCAP_FUZZ_EXAMPLES=$${STREAMCAP_FUZZ_EXAMPLES:-50000} $(BIN)/python -m pytest tests/fuzz --timeout 0

# 300 `kill -9` at random moments, with full disks, hung files and log rotation; `make test` runs a few.
chaos: $(VENV)/installed-dev
	$(BIN)/python -m tests.chaos.storm --kills 300

# 200 strikes on nodes and NATS servers of a cluster: kill -9, SIGSTOP; `make test` runs a few. About half an hour;
# after an interruption the same command goes on. Remove the file to begin anew.
cluster-chaos: $(VENV)/installed-dev
	$(BIN)/python -m tests.cluster.storm --kills 200 --json benchmarks/results/cluster_chaos.json

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/installed-dev
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test

# No service, no browser, no long run, and nothing that loads torch. For the models:
# `.venv/bin/python -m pytest tests/captioner -m "not slow"`. Bytecode is kept: without it each process spends eight
# seconds on pytest's rewriting of asserts.
check-fast: lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -n $(CHECK_WORKERS) --dist worksteal --hypothesis-profile fast \
		-m "not e2e and not browser and not slow" --ignore tests/captioner --ignore tests/training --ignore tests/bench \
		$(PYTEST_ARGS)

# All tests, with line and branch coverage of both packages, of the programs that tests start too;
# PYTEST_ARGS=tests/media narrows it down.
coverage: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CHECK_WORKERS) --dist loadfile --cov $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "streamcap needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt clients/python/pyproject.toml | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[dev]' -e clients/python
	@touch $@ $(VENV)/installed
