# Upbeat. `make` alone prints what there is.
.DEFAULT_GOAL := help
.PHONY: help demo test test-unit lint format bench pictures clean

# Given to pytest as it is: make test ARGS="tests/unit -k retry"
ARGS ?=
# Of `make bench`: one benchmark by name, and how often each is repeated.
ONLY ?=
REPEAT ?=

export PYTHON

help: ## Print this help
	@echo "Upbeat, event-driven task orchestration on Celery. Targets:"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: ## Start everything on this machine (UPBEAT_PORT, default 8000; UPBEAT_FLOWER_PORT, default 5555); Ctrl-C ends it
	@tools/venv.sh runtime
	@.venv/bin/python manage.py demo

test: ## Run all tests, with PostgreSQL, Redis, RabbitMQ and Kafka started for them; ARGS="…" goes to pytest
	@tools/venv.sh dev
	@.venv/bin/python -m tests.support.run $(ARGS)

test-unit: ## Run the tests that need no server; seconds
	@tools/venv.sh dev
	@.venv/bin/python -m pytest tests/unit tests/test_layering.py $(ARGS)

lint: ## Check style, formatting and types
	@tools/venv.sh dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: ## Rewrite the code in the house format
	@tools/venv.sh dev
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: ## Measure; ONLY=name runs one benchmark, REPEAT=n repeats each
	@tools/venv.sh dev
	@.venv/bin/python -m tests.benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(REPEAT),--repeat $(REPEAT))

pictures: ## Take the README's pictures anew: runs the demo and photographs it in Chromium
	@tools/venv.sh dev
	@.venv/bin/python -m tools.pictures

clean: ## Remove caches and build results; keeps .venv and the data in .upbeat
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
