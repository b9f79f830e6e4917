# Two commands are enough: `make demo` and `make test`. Each sets up what it needs.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON_IN := .venv/bin/python
EYECHART := .venv/bin/eyechart

.PHONY: help setup setup-vllm setup-site demo rehearsal example-gate bench-stats statistics test test-slow test-vllm test-site check lint types reproduce golden screenshot mini-train pins pins-cuda format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv (idempotent; CPU or CUDA by what the machine has)
	@bash scripts/setup.sh

setup-vllm: setup ## add vLLM to .venv (its CPU build without a GPU), for --engine vllm
	@bash scripts/setup-vllm.sh

setup-site: setup ## add Playwright to .venv and a browser to the machine, for the tests of the site
	@bash scripts/setup-site.sh

demo: setup ## evaluate one checkpoint on the mini suite and build the site
	@$(EYECHART) demo

rehearsal: setup-vllm ## the main suite's code from end to end on made-up data, both engines (minutes)
	@$(EYECHART) rehearsal

example-gate: setup ## judge five candidates with the CI gate; one line says whether all came out right
	@$(PYTHON_IN) scripts/example_gate.py

bench-stats: setup ## time the statistics and the index against the plain way of doing the same
	@$(PYTHON_IN) scripts/bench_stats.py

statistics: setup ## prove the intervals by simulation and write the tables of docs/statistics.md (minutes)
	@$(PYTHON_IN) scripts/statistics_page.py

test: setup ## fast tests: no network, no GPU
	@OMP_NUM_THREADS=1 $(PYTHON_IN) -m pytest -q -n auto --maxprocesses 4 --dist worksteal

test-slow: setup ## the tests that take minutes
	@$(PYTHON_IN) -m pytest -q -m slow

test-vllm: setup-vllm ## start the real vLLM and compare it with the reference engine (minutes)
	@$(PYTHON_IN) -m pytest -v -m vllm

test-site: setup-site ## open the site in a real browser: axe-core, layout, keyboard, hostile texts, pictures
	@$(PYTHON_IN) -m pytest -q -n auto --maxprocesses 4 --dist loadfile -m site -k "not less_than_a_frame" tests/site
	@$(PYTHON_IN) -m pytest -q -m site -k less_than_a_frame tests/site

check: lint types test ## all guards: ruff, mypy, layers, house rules, fast tests

lint: setup
	@$(PYTHON_IN) -m ruff check .

types: setup
	@$(PYTHON_IN) -m mypy

reproduce: setup ## make the results of record again and compare (hours of CPU)
	@$(EYECHART) mini reproduce

golden: setup ## write tests/golden anew; read the difference before committing it
	@$(PYTHON_IN) -m pytest -q -m golden --write-golden

screenshot: setup-site ## take docs/site.png, the README's picture of the site, anew
	@$(PYTHON_IN) scripts/readme_screenshot.py

mini-train: setup ## train the mini zoo and the mini LLM again (hours of CPU)
	@$(EYECHART) mini train

format: setup ## format the code
	@$(PYTHON_IN) -m ruff format .

pins: setup-site ## write constraints.txt anew from .venv
	@bash scripts/pins.sh

pins-cuda: ## resolve constraints-cuda.txt anew (asks the package index, installs nothing)
	@bash scripts/pins_cuda.sh

clean: ## remove caches and built outputs, keep .venv
	@rm -rf .eyechart site site-rehearsal site-screenshots build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find harness leaderboard tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +
