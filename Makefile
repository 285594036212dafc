# Everything below creates .venv by itself when it is needed. Paths stay relative: the checkout may lie
# in a folder with spaces in its name.
PYTHON ?= python3
BIN := .venv/bin/python
GPU_PYTHON ?= $(PYTHON)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help setup quickstart test lint test-slow test-browser gpu coverage clean

help:  ## list these targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1 /p' Makefile | while read -r target words; do \
	    printf '%-14s %s\n' "$$target" "$$words"; done

setup: .venv/ready  ## create .venv with the exact versions of constraints.txt

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN) || $(PYTHON) -m venv .venv
	$(BIN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: .venv/ready  ## train, evaluate, card, prediction on the embedded images
	$(BIN) -m accelerate.commands.launch -q --num_processes 1 --num_machines 1 --mixed_precision no \
	    --dynamo_backend no train_accelerate.py recipes/quickstart.toml
	$(BIN) -m convzoo evaluate runs/quickstart/model --data data/fashion-mnist
	$(BIN) -m hub_cards render runs/quickstart/model
	$(BIN) -m convzoo predict runs/quickstart/model runs/quickstart/model/examples/00000_*
	@echo
	@echo 'The model is in runs/quickstart/model; README.md there is its card. Next:'
	@echo '  in a browser:    $(BIN) app.py runs/quickstart/model'
	@echo '  another recipe:  ls recipes; $(BIN) -m convzoo recipe     (every key, explained)'
	@echo '  your images:     docs/images.md'

lint: .venv/ready  ## check style and spelling
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m codespell_lib
	$(BIN) -m mypy

# One thread for each of two processes: threads that share a core wait for each other, and a network of
# a few thousand weights then takes a hundred times as long.
# Files of tests begin in the order of tests/conftest.py.
TWO_PROCESSES := OMP_NUM_THREADS=1 $(BIN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint  ## style and tests, as CI runs them
	$(TWO_PROCESSES)

test-slow: .venv/ready  ## tests that take longer than a minute
	$(BIN) -m pytest -m slow

test-browser: .venv/ready  ## the demo page in headless Chromium (needs a system Chromium)
	$(BIN) -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN) -m pytest -m browser

gpu:  ## what this project does on a GPU (docs/gpu.md); GPU_PYTHON: one whose torch sees it
	$(GPU_PYTHON) benchmarks/gpu.py $(GPU_OPTIONS)

coverage: .venv/ready  ## which lines the tests reach in their own processes; takes half as long again
	$(TWO_PROCESSES) --cov --cov-report=term

clean:  ## remove .venv and all runs
	rm -rf .venv runs
