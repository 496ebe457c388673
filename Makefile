# Sets up everything by itself, given Python 3.11 or 3.12 with pip. `make help` lists what there is.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The first Python that fits; at best one with a shared library, which Triton's Python backend needs.
FITS := import sys, venv, ensurepip; assert (3, 11) <= sys.version_info[:2] <= (3, 12)
SHARED := $(FITS); import ctypes, os, sysconfig; name = 'libpython%d.%d.so.1.0' % sys.version_info[:2]; \
	path = os.path.join(sysconfig.get_config_var('LIBDIR') or '', name); \
	ctypes.CDLL(path if os.path.exists(path) else name)
FIND_PYTHON = for check in "$(SHARED)" "$(FITS)"; do for python in python3.12 python3.11 python3 python; do \
	$$python -c "$$check" >/dev/null 2>&1 && echo $$python && exit; done; done

.PHONY: help demo test judge lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

demo: $(READY)  ## a video of each model family, on this machine: outputs/wan21.mp4, ... (make demo FAMILY=wan21: of one)
	@$(BIN)/python -m client.demo $(FAMILY)

# Servers run beside the tests, on the same cores: threads that wait must not spin. Tests without a server go side by side, one
# thread each; those with a server, some of which measure, one after the other.
test: lint  ## lint, then every test: 20 minutes on two idle cores
	OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not server" -n 2 --dist loadfile
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m server

judge: $(READY)  ## judge 100 clips of each demo in fp32, FP8 and NVFP4, and write the tables into their cards: 25 minutes
	@for family in $(or $(FAMILY),$$($(BIN)/python -c 'from videosdgx.families import FAMILIES; print(*FAMILIES)')); do \
		OMP_WAIT_POLICY=passive $(BIN)/python -m export.demo.evaluate $$family --precision fp8 --precision nvfp4 --card || exit 1; \
	done

lint: $(READY)  ## style, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## remove the environment and the caches; outputs and artifacts stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

# Made again only when the project's requirements change.
$(READY): pyproject.toml constraints.txt
	@python=$${PYTHON:-$$($(FIND_PYTHON))}; \
	if [ -z "$$python" ]; then \
		echo "videosdgx needs Python 3.11 or 3.12 with venv and pip: install one, or name it with make PYTHON=..." >&2; exit 1; \
	fi; \
	echo "setting up $(VENV) with $$($$python --version), a few minutes the first time"; \
	$$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
