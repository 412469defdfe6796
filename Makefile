# Everything a person or CI does with this project. Each target does the set-up that it needs, in .venv, by itself.

TRAIN_SECONDS ?= 120
# the first Python that runs and has a version that requirements.lock covers (a name on the PATH may be an empty shim)
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && echo $$name && break; done)
BIN := .venv/bin
UV := $(BIN)/uv
READY := .venv/.ready
# the tests of `make check`: no process, no training
QUICK := tests/unit/serving tests/unit/docker tests/unit/test_documents.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint format types unit quick slowest reference coverage bench peers soak images audit lock clean

help: ## Show what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 10

setup: $(READY) ## Make .venv with everything in requirements.lock, and the command .venv/bin/ganctl

# uv comes from pip at the version and digests that the lock names; then uv installs the rest.
$(UV):
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	@echo "installing uv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r .venv/uv.lock

# A link takes the place of the finder that an editable install adds to every start of Python: it cannot fail where
# PYTHONPATH hides Python's own modules, and holds wherever the checkout lies.
$(READY): export LC_ALL := C.UTF-8
$(READY): $(UV) requirements.lock pyproject.toml
	@echo "installing what requirements.lock names (several GB the first time: torch brings CUDA's libraries)"
	@$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@cd .venv/lib/python*/site-packages && rm -f _editable_impl_ganctl.* && ln -sfn ../../../../ganctl ganctl
	@touch $@

demo: $(READY) ## Train, evaluate, export, package, serve and ask for digits; leaves demo/ (less than three minutes)
	@$(BIN)/ganctl demo --out demo --train-seconds $(TRAIN_SECONDS)

test: lint types unit ## Lint, types and every test that is not a soak

check: lint types quick ## Lint, types and the quick tests, in a minute; a pre-commit hook runs it

lint: $(READY) ## ruff, import-linter, deptry
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .

types: $(READY) ## mypy --strict
	$(BIN)/mypy

# A file's tests run in one worker: what they share is made once. The long tests of e2e come first.
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder --durations 10

quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not soak" -n 2 --dist loadfile $(QUICK)

slowest: $(READY) ## Run every test and renew tests/slowest.md, the table of the slowest ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder --slowest tests/slowest.md

reference: $(READY) ## Renew docs/reference.md from the code
	$(BIN)/python docs/generate_reference.py

# without two tests that coverage itself fails: it imports json before the command, and writes into a limited file
coverage: $(READY) ## Which lines and branches of the product the tests run; fails below 95 %
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not soak" \
		-k "not on_pythonpath_that_hides_another and not test_limits_of_the_process"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include '$(CURDIR)/*' --fail-under 95

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.bench ## Measure training, growth, exports, quality and serving, against peers (three hours)
	$(BIN)/ganctl bench start
	$(BIN)/ganctl bench train
	$(BIN)/ganctl bench export
	$(BIN)/ganctl bench growth
	$(BIN)/ganctl bench quality
	$(BIN)/ganctl bench serve

peers: .venv/.bench ## Install what `ganctl bench` compares with; run nothing

# what the peers need, beside everything else and at no other version of it; without what peers-excludes.txt lists
.venv/.bench: $(READY) benchmarks/requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r benchmarks/requirements.lock
	@touch $@

soak: $(READY) ## The tests that take too long for every change
	$(BIN)/pytest -m soak

images: $(READY) ## Build the containers for real and try them
	docker/images.sh

audit: $(READY) ## Known weaknesses in what we depend on (asks the package index)
	$(UV) tool run pip-audit --require-hashes --disable-pip -r requirements.lock

lock: $(UV) ## Renew requirements.lock from pyproject.toml
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --extra dev pyproject.toml --output-file requirements.lock
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" --constraint requirements.lock --excludes benchmarks/peers-excludes.txt \
		--extra bench pyproject.toml benchmarks/peers.in --output-file benchmarks/requirements.lock

clean: ## Delete what can be made again (not runs/)
	rm -rf .venv demo bench-export bench-growth bench-quality bench-serve bench-start bench-train dist build .images .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -prune -exec rm -rf {} +
