.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

RUNS ?= outputs

PHONIES := demo compare study bench docs test test-slow test-faults test-browser test-federation test-engines check lock wheel
.PHONY: help $(PHONIES) clean

help:  ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

$(VENV)/.run: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing tmqc into $(VENV) (about 3 GB, a few minutes) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c requirements.lock -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

$(VENV)/.federation: $(VENV)/.dev
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c requirements.lock -e '.[nvflare]'
	@touch $@

demo: $(VENV)/.run  ## on the field phantom: clean, dirty, published gate, recommended control; what each found and lost; 9 minutes with the install
	@$(BIN)/python scripts/demo.py

compare: $(VENV)/.run  ## runs side by side: make compare RUNS="outputs/sweeps/NAME outputs/clean/demo"; default: all in outputs
	@$(BIN)/python scripts/compare.py $(RUNS)

study: $(VENV)/.run  ## gates and rivals on the field phantom, seeds 140 to 144, resumable; one to two hours; STUDY="--seeds 0 --arms evidence"
	@$(BIN)/python scripts/study.py $(STUDY)

bench: $(VENV)/.run  ## verification and a QC cycle beside the published way, passes on the field cohort, into outputs/bench; half an hour; BENCH="--no-field": minutes
	@$(BIN)/python scripts/bench.py $(BENCH)

docs: $(VENV)/.run  ## docs/settings.md from the schema of the settings
	@$(BIN)/python scripts/settings_reference.py

test: $(VENV)/.dev  ## the tests
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev  ## the tests that take minutes: launchers, search, a tracking server
	$(BIN)/python -m pytest -q -m slow

test-faults: $(VENV)/.dev  ## runs killed at random moments, thousands of broken inputs
	$(BIN)/python -m pytest -q -m faults

test-browser: $(VENV)/.dev  ## MLflow's UI and the reports in the system's Chromium; screenshots in outputs/screenshots
	$(BIN)/python -m pytest -q -m browser

test-federation: $(VENV)/.federation  ## sites as processes under NVIDIA FLARE: simulator, real sockets, faults
	$(BIN)/python -m pytest -q -m federation

$(VENV)/.engines: $(VENV)/.dev
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c requirements.lock -e '.[postgres,ray]' 'mlflow[auth]'
	@touch $@

test-engines: $(VENV)/.engines  ## sweeps on Slurm and Ray clusters of this machine, an MLflow server with PostgreSQL; as root
	$(BIN)/python -m pytest -q -rs -m engines tests/engines

check: $(VENV)/.dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: $(VENV)/.dev  ## build the wheel into dist/
	$(BIN)/python -m build --wheel

lock: $(VENV)/.dev  ## renew requirements.lock from pyproject.toml
	$(BIN)/pip-compile -q --extra dev --extra nvflare --extra ray --strip-extras --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --no-emit-options -o requirements.lock pyproject.toml

clean:  ## remove the virtual environment and caches; outputs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
