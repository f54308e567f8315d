# make run         set up and serve the studio        make run ARGS="--port 8000"
# make test        set up, lint, all tests            make test ARGS="tests/rpiae -k region"
# make bench       every benchmark, one after another; tables in runs/bench   make bench ARGS="--quick --output DIR"
# make lint        ruff
# make checkpoint  train runs/stickers-256/checkpoint from nothing, skipping what is finished
# make screens     photograph the studio's tabs for docs/studio.md, after one real edit, generation and comparison
# make setup       everything that tests and training need
# VENV is the environment's folder, PYTHON the Python that makes it: make run VENV=/elsewhere PYTHON=python3.12

VENV ?= .venv
ARGS ?=
python := $(VENV)/bin/python

# The first Python of a version that all pinned packages support.
supported := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c '$(supported)' >/dev/null 2>&1 && echo $$p && break; done)

# Idle OpenMP threads sleep instead of spinning, where two cores serve tests, a server and a browser at once. Alone, a
# model of many small layers is a quarter slower that way.
test screens: export OMP_WAIT_POLICY := passive
# A core for each of pytest's workers.
test: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := run
.PHONY: run test bench lint checkpoint screens setup chromium

run: $(VENV)/.ready
	$(python) app.py $(ARGS)

test: $(VENV)/.ready-dev chromium
	$(python) -m ruff check .
	$(python) -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup $(ARGS)

lint: $(VENV)/.ready-dev
	$(python) -m ruff check .

# ARGS are for the benchmarks that share side_by_side.py; others have arguments of their own.
bench: $(VENV)/.ready-dev
	@failed=; for file in tests/benchmarks/bench_*.py; do \
		args=; if grep -q side_by_side $$file; then args="$(ARGS)"; fi; \
		echo "== $$file"; PYTHONPATH=. $(python) $$file $$args || failed="$$failed $$file"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi

# Freed memory stays with the process, in large pages: a training step takes two thirds of the time on a CPU.
checkpoint: export MALLOC_MMAP_THRESHOLD_ := 4294967296
checkpoint: export MALLOC_TRIM_THRESHOLD_ := 17179869184
checkpoint: export MALLOC_ARENA_MAX := 1
checkpoint: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
checkpoint: export TIMM_FUSED_ATTN := 0
checkpoint: $(VENV)/.ready-dev
	$(python) -m train stickers-256 all checkpoint=runs/stickers-256/checkpoint $(ARGS)

screens: $(VENV)/.ready-dev chromium
	PYTHONPATH=. $(python) tests/browser/screens.py $(ARGS)

setup: $(VENV)/.ready-dev

# A stamp is younger than the list it installed, so an unchanged list costs nothing.
$(VENV)/.ready: requirements.txt | $(VENV)/bin/pip
	$(python) -m pip install -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements.txt requirements-dev.txt | $(VENV)/bin/pip
	$(python) -m pip install -r requirements-dev.txt
	@touch $(VENV)/.ready $@

# Debian's python3 may come without ensurepip (package python3-venv); then its own pip fills the environment.
$(VENV)/bin/pip:
	@if [ -z "$(PYTHON)" ]; then \
		echo "RPiAE Studio needs Python 3.11 or 3.12 and found neither. Install one, or name it: make PYTHON=/path/to/python3.11"; \
		exit 1; \
	fi
	@"$(PYTHON)" -c '$(supported)' || { \
		echo "$(PYTHON) is not Python 3.11 or 3.12, which the pinned packages need. Name another: make PYTHON=python3.11"; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)"
	@if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
		"$(PYTHON)" -m venv "$(VENV)"; \
	elif "$(PYTHON)" -m pip --version >/dev/null 2>&1; then \
		"$(PYTHON)" -m venv --without-pip "$(VENV)" && "$(PYTHON)" -m pip --python "$(python)" install pip; \
	else \
		echo "$(PYTHON) has neither ensurepip nor pip. On Debian and Ubuntu: apt-get install python3-venv, then run make again."; \
		exit 1; \
	fi

# The browser tests drive Debian's Chromium.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else sudo=no; fi; \
		if [ "$$sudo" != no ] && command -v apt-get >/dev/null; then \
			echo "No Chromium here: installing it by apt-get for the browser tests."; \
			$$sudo apt-get update -q && $$sudo apt-get install -qy --no-install-recommends chromium && exit 0; \
		fi; \
		echo "################################################################################"; \
		echo "##  NO CHROMIUM, and it could not be installed here (that takes apt-get as root)."; \
		echo "##  The tests in tests/browser cannot run: install the package 'chromium'."; \
		echo "################################################################################"; }
