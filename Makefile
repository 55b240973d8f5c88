# make demo   see the janitor work (about 75 s)        make test       ruff, mypy and the core tests (≤ 10 min)
# make bench  the benchmark, quick (≤ 3 min)           make test-more  the other tests: runs, faults, databases (≤ 30 min)
# make faults the whole fault suite (≤ 60 min)         bash .ci/run    the gate: both, on a fresh machine
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
WORKERS ?= 2

.PHONY: venv demo test test-more image-test lint manifests azure-package bench bench-full bench-sizing faults clean

$(VENV)/.ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

venv: $(VENV)/.ready

$(VENV)/.bench-ready $(VENV)/.deploy-ready: $(VENV)/.%-ready: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

# deploy/kubernetes and deploy/prometheus, from the chart; infra/alerts.json, from the queries.
manifests: $(VENV)/.deploy-ready
	$(BIN)/python -m deploy.render
	$(BIN)/python -m deploy.alert_rules

# build/azure: the function's package with extras in its requirements.txt, e.g. EXTRAS="entra azure-monitor".
azure-package: venv
	@$(BIN)/python -m deploy.azure_package $(EXTRAS)

# The image, built and run by buildah and podman on a stand-in base; skipped, with the reason, where no container runs.
image-test: venv
	$(BIN)/pytest -m more tests/test_image.py $(ARGS)

demo: venv
	@$(BIN)/python -m demo $(ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n $(WORKERS) --no-fold-skipped -m "not more" $(ARGS)

test-more: $(VENV)/.bench-ready $(VENV)/.deploy-ready
	$(BIN)/pytest -n $(WORKERS) --no-fold-skipped -m more $(ARGS)

bench: $(VENV)/.bench-ready
	$(BIN)/python -m bench --quick $(ARGS)

bench-sizing: $(VENV)/.bench-ready
	$(BIN)/python -m bench --full --sizing --goals $(ARGS)

bench-full: $(VENV)/.bench-ready
	$(BIN)/python -m bench --full --goals $(ARGS)

faults: venv
	$(BIN)/python -m tests.faults $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info build
