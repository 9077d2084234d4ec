# make demo: install, simulate a small session, restore it, compare with the truth.
# make test: install with the tools, then every check.
# make assess: install what prove, assess, novelty, impact and weights need beyond make demo, Coq and bubblewrap too.
# make docs: write docs/cli.md anew and build the pages into site/.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
CODE := src tests benchmarks examples scripts
JOBS ?= 2

.PHONY: demo assess test lint types unit docs format clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: scripts/install-system-packages installs it." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11. Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment: scripts/install-system-packages installs python3-venv." >&2; exit 1; }

# torch stands first and alone: its exact version decides which of its builds is fetched.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing CryoPrism into $(VENV) (once; some minutes)"
	@$(PIP) install torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-tools: $(VENV)/.installed
	@echo "Installing the tools for tests and documentation"
	@$(PIP) install -c constraints.txt -e '.[test,docs,assess]'
	@touch $@

$(VENV)/.installed-assess: $(VENV)/.installed
	@echo "Installing the libraries of the extra 'assess'"
	@$(PIP) install -c constraints.txt -e '.[assess]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/cryoprism demo --out demo

assess: $(VENV)/.installed-assess
	@scripts/install-system-packages assess

test: lint types unit docs

lint: $(VENV)/.installed-tools
	$(BIN)/ruff check $(wildcard $(CODE))
	$(BIN)/ruff format --check $(wildcard $(CODE))

types: $(VENV)/.installed-tools
	$(BIN)/mypy

# One thread a worker: workers that each take every core wait for one another most of the time.
unit: $(VENV)/.installed-tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --durations=10 -q

docs: $(VENV)/.installed-tools
	$(BIN)/python scripts/make_cli_docs.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/.installed-tools
	$(BIN)/ruff format $(wildcard $(CODE))
	$(BIN)/ruff check --fix $(wildcard $(CODE))

clean:
	rm -rf demo site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
