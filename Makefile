# `make demo` and `make test` need Python 3.11+ and make; everything else is installed into .venv from constraints.txt.
#
#   PYTHON       the interpreter that .venv is made from
#   TORCH_INDEX  a further package index that holds the torch build wanted, e.g. https://download.pytorch.org/whl/cpu
#   WORKERS      test processes

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation
# Among equal versions pip prefers a local one (2.13.0+cpu) to PyPI's own (2.13.0), so an extra index is enough.
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: help install demo test lint ruff format wheel lock clean

help:
	@echo "make demo     train PPO on HalfCheetah-v5 for about a minute and show what it learned"
	@echo "make test     lint, type check and run the tests"
	@echo "make lint     ruff, and pyright on the built wheel"
	@echo "make format   let ruff rewrite what it can"
	@echo "make wheel    build dist/polopt-*.whl"
	@echo "make install  only make $(VENV)"
	@echo "make lock     renew constraints.txt (LOCK_TORCH=2.13.0)"
	@echo "make clean    remove $(VENV) and everything built"

install: $(READY)

# setuptools goes first, from the lock: without build isolation the project is built by exactly that version.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("polopt needs Python 3.11+, found %s: make PYTHON=/path/to/python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --constraint constraints.txt setuptools
	$(INSTALL) --constraint constraints.txt $(INDEX) --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m polopt demo --out demo

# Every worker is one process on one core; more torch threads than that only get in each other's way.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

ruff: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The type checker reads the wheel, as a user's would: the editable install is invisible to it.
lint: ruff wheel
	rm -rf build/wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --target build/wheel dist/polopt-*.whl
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# From a copy: setuptools would pack modules deleted long ago that survive in build/lib.
wheel: $(READY)
	rm -rf build/source dist/polopt-*.whl
	mkdir -p build/source
	cp -R pyproject.toml README.md LICENSE polopt envs agents theory build/source
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist build/source

# torch's CUDA builds pin their own nvidia, cuda and triton packages, and its CPU builds have none: they stay out of the
# lock, as do local version labels, so that one file serves every build.
LOCK_TORCH ?= 2.13.0
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --disable-pip-version-check 'setuptools>=77'
	build/lock/bin/python -m pip install --disable-pip-version-check --no-build-isolation $(INDEX) torch==$(LOCK_TORCH) --editable '.[dev,offline,peers]'
	{ echo "# Written by \`make lock\`: what a clean environment held, on $$(build/lock/bin/python -V)."; \
	  build/lock/bin/python -m pip freeze --all --exclude pip --exclude-editable \
	  | grep -Ev '^(nvidia-|cuda-|triton)' | sed -E 's/\+[A-Za-z0-9.]+$$//'; } > constraints.txt
	@! grep -nE '@|://|^-' constraints.txt || { echo "constraints.txt holds a line that only works here"; exit 1; }

clean:
	rm -rf $(VENV) build dist polopt.egg-info .pytest_cache .ruff_cache .hypothesis
