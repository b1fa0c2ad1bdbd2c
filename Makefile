# `make demo` (driving: the whole road on a small simulated data set), `make demo-control` (a robot arm), `make demo-agv`
# (a vehicle that finds its way through a warehouse), `make demo-planning` (plans in a maze), `make test`.
# Each creates .venv on first use; re-running does not reinstall.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH ?= torch==2.13.0
SHELL := /bin/bash

.PHONY: demo demo-control demo-agv demo-planning test test-slow lint setup preflight clean

demo: $(STAMP)
	$(BIN)/python -m perception.demo --work-dir work_dirs/demo

demo-control: $(STAMP)
	$(BIN)/python -m control.demo --work-dir work_dirs/demo_control

demo-agv: $(STAMP)
	$(BIN)/python -m control.demo_agv --work-dir work_dirs/demo_agv

demo-planning: $(STAMP)
	$(BIN)/python -m control.demo_planning --work-dir work_dirs/demo_planning

# Two files of tests at a time, a thread each: small networks gain little from a second thread.
TEST_WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

test: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(PYTEST)

test-slow: $(STAMP)
	$(PYTEST) -m slow

lint: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

setup: $(STAMP)

preflight:
	@PYTHON="$(PYTHON)" bash deploy/preflight.sh

# mmcv builds CUDA ops whenever torch sees a GPU, which needs nvcc; without nvcc its CPU ops are built (enough for us).
MMCV_DEVICES := $(shell command -v nvcc >/dev/null 2>&1 || echo CUDA_VISIBLE_DEVICES=)

# mmcv 2.1.0 is built against the torch just installed (12-16 minutes on 2 cores), unless pip finds a wheel:
# put its folder into PIP_FIND_LINKS, added to whatever stands there already.
$(STAMP): pyproject.toml
	@PYTHON="$(PYTHON)" bash deploy/preflight.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools<81" wheel ninja psutil
	$(BIN)/python -m pip install --quiet "$(TORCH)" "numpy==1.26.4"
	@echo "mmcv 2.1.0: taking a wheel if pip finds one, else compiling (12-16 minutes on 2 cores)"
	$(MMCV_DEVICES) MMCV_WITH_OPS=1 MAX_JOBS=$${MAX_JOBS:-$$(nproc)} $(BIN)/python -m pip install --quiet --prefer-binary --no-build-isolation "mmcv==2.1.0"
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[perception,control,deploy,dev]"
	$(BIN)/python -m pip check
	$(BIN)/tutelage doctor --quick
	@touch $(STAMP)

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
