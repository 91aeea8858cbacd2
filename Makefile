# Every target makes its own virtual environment; nothing needs activation.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LOCK   ?= requirements/test.lock
PEERS  := bench/.venv-peers
DOCS   := .venv-docs
SEED   ?= 0
# Two a core: tests wait as long as they compute.
JOBS   ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
LOCKER := .venv-lock
COMPILE := $(LOCKER)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--custom-compile-command 'make lock'
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
# Tests start hundreds of commands: without bytecode each of them would compile the package anew.
test test-sqlalchemy20 test-django6: export PYTHONDONTWRITEBYTECODE :=
# What some tests need and no wheel has; Debian keeps daemons in /usr/sbin.
TOOLS  := promtool pgbouncer
LACKED := $(shell PATH="$$PATH:/usr/sbin"; for tool in $(TOOLS); do command -v $$tool >/dev/null || echo $$tool; done)
MARKS  := $(if $(LACKED),-m 'not ($(shell echo $(LACKED) | sed 's/ / or /g'))')

.DEFAULT_GOAL := help
.PHONY: help install demo test drills test-sqlalchemy20 test-django6 matrix check lint types imports docs bench lock dist clean

help: ## Show what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Seaway needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP) ## Make the virtual environment

demo: $(STAMP) ## Run the main job on embedded servers (LOG=file.csv for a real log, ARGS=... for more)
	$(BIN)/seaway demo $(if $(LOG),--log '$(LOG)') $(ARGS)

test: $(STAMP) ## Run all tests, on real servers from wheels (JOBS=1: one after the other)
	@for tool in $(LACKED); do echo "$$tool is not installed (Debian: apt-get install prometheus pgbouncer): leaving out the tests marked $$tool"; done
	$(PYTEST) $(MARKS) $(ARGS)

drills: $(STAMP) ## All fault drills at full size, one after the other; SEED=... for another plan (an hour or more)
	$(BIN)/python -m seaway.testing.drills.relay --seed $(SEED)
	$(BIN)/python -m seaway.testing.drills.consumer --seed $(SEED)
	$(BIN)/python -m seaway.testing.drills.deploy --seed $(SEED)
	$(BIN)/python -m seaway.testing.drills.amnesia --seed $(SEED)
	$(BIN)/python -m seaway.testing.drills.amnesia --nodes 3 --seed $(SEED)
	$(BIN)/python -m seaway.testing.drills.hostile --database postgres --seed $(SEED)
	$(BIN)/python -m seaway.testing.drills.hostile --database sqlite --seed $(SEED)

test-sqlalchemy20: ## Run the tests of SQLAlchemy's handles on SQLAlchemy 2.0
	@$(MAKE) --no-print-directory VENV=.venv-sqlalchemy20 LOCK=requirements/test-sqlalchemy20.lock install
	$(PYTEST:$(BIN)%=.venv-sqlalchemy20/bin%) tests/integration/test_outbox_drivers.py \
		tests/integration/test_outbox_sqlalchemy.py tests/integration/test_alembic.py \
		tests/conformance/test_inbox_conformance.py tests/integration/test_inbox_faults.py \
		-k 'Alchemy or alchemy or alembic' $(ARGS)

test-django6: ## Run the tests of Django on Django 6, which needs Python 3.12 (PYTHON=python3.13)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "Django 6 needs Python 3.12: make test-django6 PYTHON=python3.12")'
	@$(MAKE) --no-print-directory VENV=.venv-django6 install
	$(PYTEST:$(BIN)%=.venv-django6/bin%) tests/integration/test_django_app.py \
		tests/integration/test_django_settings.py tests/integration/test_django_handlers.py \
		tests/integration/test_outbox_drivers.py tests/integration/test_inbox_consumer.py \
		tests/acceptance/test_django_example.py -k 'django or Django' $(ARGS)

matrix: $(STAMP) ## Run what speaks to a nats-server on all of 2.9 to 2.15 (ARGS="2.10.26" for one)
	$(BIN)/python tests/matrix.py $(ARGS)

lint: $(STAMP) ## Style and formatting
	$(BIN)/ruff check src tests examples bench docs/site
	$(BIN)/ruff format --check src tests examples bench docs/site

types: $(STAMP) ## Strict types in src, tests and docs/site
	$(BIN)/mypy src tests docs/site

imports: $(STAMP) ## The direction of the imports
	$(BIN)/lint-imports

check: lint types imports docs test ## Everything that CI runs

$(PEERS)/.installed: requirements/peers.lock
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

bench: $(STAMP) $(PEERS)/.installed ## Side by side with the peers and the raw client (ARGS="--quick", "--only relay", "--sizes")
	$(BIN)/python -m bench $(ARGS)

$(DOCS)/.installed: requirements/docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

docs: $(STAMP) $(DOCS)/.installed ## The documentation as a site, in site/; a link that leads nowhere fails
	$(BIN)/python docs/site/pages.py build/pages
	$(DOCS)/bin/zensical build --clean --strict
	$(BIN)/python docs/site/check.py site
	@echo 'Look at it: $(PYTHON) -m http.server --bind 127.0.0.1 --directory site'

lock: ## Choose anew what development and CI install, with hashes (requirements/*.lock)
	$(PYTHON) -m venv $(LOCKER)
	$(LOCKER)/bin/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml --extra test --output-file requirements/test.lock
	echo 'sqlalchemy<2.1' | $(COMPILE) pyproject.toml --extra test --constraints - \
		--output-file requirements/test-sqlalchemy20.lock
	$(COMPILE) bench/peers.txt --output-file requirements/peers.lock
	$(COMPILE) docs/site/tools.txt --output-file requirements/docs.lock

dist: $(STAMP) ## Build wheel and sdist
	$(BIN)/python -m hatchling build

clean: ## Remove everything that make made
	rm -rf $(VENV) .venv-sqlalchemy20 .venv-django6 $(PEERS) $(DOCS) $(LOCKER) .servers dist build site .cache
	rm -rf .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
