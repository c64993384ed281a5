PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test quick soak lint format lock clean help

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready  ## install everything into .venv (Python 3.11 or 3.12)

.venv/ready: requirements.lock pyproject.toml Makefile
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"aplt needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}; try make setup PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	mkdir -p build/typing/aplt
	for name in common trainer labeler deploy; do ln -sfn ../../../$$name build/typing/aplt/$$name; done
	touch .venv/ready

demo: setup  ## the main job on made-up clips: two services, a classifier, a table (about 5 minutes)
	$(BIN)/aplt demo

test: setup lint  ## everything: style, types, imports, all tests
	$(BIN)/pytest

quick: setup  ## all but the integration tests, in two processes: about 80 s
	$(BIN)/pytest --numprocesses 2 -m "not slow and not ray and not gpu"

soak: setup  ## kill both services of one run 50 times at random, and see that nothing comes of it (some minutes)
	$(BIN)/python tests/soak.py --kills 50

lint: setup  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy build/typing/aplt
	$(BIN)/lint-imports

format: setup  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup  ## choose the versions in requirements.lock anew (names, versions and hashes, no addresses)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --extra demo --extra dev --output-file requirements.lock pyproject.toml

clean:  ## remove what the other targets made
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache aplt.egg-info
