# The commands of the project; `make help` lists them.
# Variables: PYTHON=python3.12 chooses the interpreter of a new .venv; ROS=index ignores an
# installed ROS; ARGS="..." is added to test and demo; JOBS=4 runs so many tests at once;
# SOURCE=my.mp4|bag|folder feeds demo.

PYTHON ?= python3
ROS ?= auto
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
ENV := . ./$(VENV)/ros.sh &&
BUILD ?= .
export ROS

.DEFAULT_GOAL := help
.PHONY: help .venv test gpu lint format types demo build oracle clean ci force

help: ## list the commands
	@awk -F ':.*## ' '/^[.a-z_-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv: $(STAMP) ## make or update the virtual environment

# Asking for a Python by name checks that the existing environment is of that Python.
ifeq ($(origin PYTHON),command line)
$(STAMP): force
endif
$(STAMP): requirements.txt constraints.txt setup.py scripts/make_venv.sh
	scripts/make_venv.sh '$(PYTHON)' $(VENV)
	@touch $@

test: $(STAMP) ## run the whole test suite
	$(ENV) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

# Needs a GPU and, in .venv, a torch that has CUDA: gpu_layers and gpu_step say so where there is none.
gpu: $(STAMP) ## on a GPU: test what runs there, and measure layers, motion and whole steps
	$(ENV) $(BIN)/python -m pytest test/kernels test/core/test_graphs.py test/core/test_block_graphs.py test/core/test_transfers.py
	$(BIN)/python -m benchmarks.gpu_layers --json benchmarks/results/gpu_layers.json
	$(BIN)/python -m benchmarks.gpu_step --json benchmarks/results/gpu_step.json
	$(BIN)/python -m benchmarks.matching --json benchmarks/results/matching_gpu.json

lint: $(STAMP) ## check style and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## fix what ruff can fix, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## check types (mypy, strict)
	$(ENV) $(BIN)/mypy $(wildcard seg_node test benchmarks examples)

# The demo chooses a private domain and shared memory alone: nothing leaves this machine.
demo: $(STAMP) ## run the real node on a clip and show masks; SOURCE=my.mp4|bag|folder
	$(ENV) $(BIN)/seg_node demo $(if $(SOURCE),--source '$(SOURCE)') $(ARGS)

build: $(STAMP) ## build and install with colcon below BUILD=folder
	$(ENV) $(BIN)/colcon --log-base '$(BUILD)/log' build --paths . \
	--build-base '$(BUILD)/build' --install-base '$(BUILD)/install'

# Debian's cv_bridge needs NumPy 1 and the Python it was built for (3.11 on Debian 12): the tests
# that compare with it run it in an environment of its own. `apt install python3-cv-bridge` first.
oracle: ## make .venv-oracle, for the comparison with the system's cv_bridge
	$(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/python -m pip install --disable-pip-version-check -qq \
	numpy==1.26.4 opencv-python-headless==4.11.0.86 ros-sensor-msgs==5.5.1

clean: ## remove build products and caches, never an environment or results
	rm -rf build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
	find seg_node test benchmarks examples launch -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

ci: ## run what CI runs
	bash .ci/run
