# make demo      train a sparse team, export it, run it without torch, measure it, serve it
# make lint      style, types, and the figures in the documents
# make figures   write the figures that the documents quote, from the files that measured them
# make quick     style, and the tests that a small change should pass: under a minute
# make test      lint and every test, in an environment built from this clone
# make release   sdist and wheel into dist/, tried in an empty environment

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COG := $(VENV)/bin/cog -P -I . -I docs -I tests -p "import figures, house, scores" --verbosity=1
PAGES := README.md benchmarks/README.md $(wildcard docs/*.md)
SOURCES := $(wildcard mast_runtime/native/*.[ch] mast_train/engines/native/*.[ch] mast_runtime/native/*.def mast_train/engines/native/*.def)

.PHONY: demo lint figures quick test release install clean

demo: install
	$(BIN)/python examples/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(COG) --check --check-fail-msg="make figures writes them" $(PAGES)

figures: install
	$(COG) -r $(PAGES)

quick: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q --quick

test: lint
	$(BIN)/python -m pytest -q --durations=8

release: install
	$(BIN)/python .ci/release.py

install: $(VENV)/installed

# torch comes first and by exact version; where pip offers several builds of it, install the CPU one into $(VENV) before.
$(VENV)/installed: pyproject.toml setup.py constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[train,export,serve,report,ray,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info mast_runtime/native/*.so mast_train/engines/native/*.so
