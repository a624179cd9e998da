# make demo   train a sparse team, export it, run it without torch, measure it, serve it
# make test   lint, types and every test, in an environment built from this clone

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard mast_runtime/native/*.[ch] mast_train/native/*.[ch] mast_train/native/levels.def)

.PHONY: demo test install clean

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q --durations=8

install: $(VENV)/installed

# torch comes first and by exact version; where pip offers several builds of it, install the CPU one into $(VENV) before.
$(VENV)/installed: pyproject.toml setup.py constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[train,export,serve,report,ray,dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info mast_runtime/native/*.so mast_train/native/*.so
