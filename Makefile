# make demo, make serve, make test: each sets up what it needs in .venv first. The Docker image sets VENV to its own environment.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SERVER := $(VENV)/.installed-server
DEV := $(VENV)/.installed-dev

.PHONY: demo serve test test-all faults lint install clean

demo: $(INSTALLED)
	@PATH="$$(cd $(BIN) && pwd):$$PATH" PYTHON=python bash scripts/demo.sh

# The speech server with the bundled voice; others: make serve OPTIONS="voices=voices port=8080"
serve: $(SERVER)
	@exec $(BIN)/python scripts/serve.py $(OPTIONS)

test: $(DEV)
	$(BIN)/python -m pytest -n auto --dist loadfile

# The tests that are too slow for make test; .ci/run runs both.
test-all: $(DEV)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m slow

# The tests that faults do not harm a run, with a table of the results; make test runs the quick ones.
faults: $(DEV)
	$(BIN)/python -m pytest -n auto -m fault --durations=0 -p tests.fault_table

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)
	@echo "installed; now: source $(VENV)/bin/activate"

$(INSTALLED): requirements.txt requirements-arpabet.txt
	@$(PYTHON) --version >/dev/null 2>&1 || { echo "error: $(PYTHON) was not found; install Python 3.11, or name another: make PYTHON=python3 $(MAKECMDGOALS)"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -r requirements-arpabet.txt
	@touch $@

$(SERVER): $(INSTALLED) requirements-server.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-server.txt
	@touch $@

$(DEV): $(INSTALLED) requirements-dev.txt requirements-onnx.txt requirements-arpabet.txt requirements-languages.txt requirements-loudness.txt requirements-server.txt requirements-engines.txt requirements-eval.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-eval.txt
	@touch $@

clean:
	rm -rf $(VENV) runs/demo runs/debug demo/corpus/mels demo/corpus/filelists .mypy_cache .pytest_cache .ruff_cache
