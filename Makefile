# `make help` lists what can be made. Every target stands alone on a fresh machine.
SHELL := /bin/bash
PYTHON ?= python3
PYTHON312 ?= python3.12
VENV := .venv
BIN := $(VENV)/bin
# Builds call `python` by its name (ALFWorld's planner does), which has to be the environment's.
FIRST := PATH="$(CURDIR)/$(BIN):$$PATH"
STAMP := $(VENV)/.installed
APT := $(if $(shell command -v apt-get),$(if $(filter 0,$(shell id -u)),apt-get))

.PHONY: help install environments system java chromium demo test test-fast test-long wheel-test fuzz peers lint man docs clean
.DEFAULT_GOAL := help

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv from constraints.txt (does nothing when nothing changed)

# llama-cpp-python is compiled here, without the parts that llama-cpp.cmake names, and pip keeps the wheel for the next
# time. CMAKE_ARGS adds options and has the last word: CMAKE_ARGS=-DGGML_CUDA=on make install.
LLAMA_PARTS := "-DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/llama-cpp.cmake"
PIP := $(FIRST) PYTHONWARNINGS=ignore $(BIN)/python -m pip
$(STAMP): pyproject.toml constraints.txt llama-cpp.cmake Makefile
	@$(MAKE) --no-print-directory system
	@echo "install: making $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	@echo "install: compiling llama.cpp, about 2 minutes on two cores (seconds where pip has kept it)"
	CMAKE_ARGS='$(LLAMA_PARTS) '"$$CMAKE_ARGS" $(PIP) install --quiet -c constraints.txt llama-cpp-python
	@echo "install: installing the other packages, the largest of which is PyTorch, and eexp itself"
	$(PIP) install --quiet -c constraints.txt -e '.[test,scienceworld]'
	for n in 1 5 7; do mkdir -p $(VENV)/share/man/man$$n && ln -sf $(CURDIR)/man/*.$$n $(VENV)/share/man/man$$n/; done
	touch $@
	@echo "install: done; next: source $(BIN)/activate, then eexp --help"

environments: $(STAMP).environments ## add the other environments to .venv, and bitsandbytes (ALFWorld's planner compiles for minutes)

# bfcl-eval comes without its dependencies: they are gigabytes, and another numpy, that its multi-turn tasks do not need.
$(STAMP).environments: $(STAMP)
	$(FIRST) PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[babyai,miniwob,textworld,alfworld,openenv,mcp,qlora,ray,web]' "openenv; python_version >= '3.11'"
	$(FIRST) $(BIN)/python -m pip install --quiet --no-deps -c constraints.txt bfcl-eval mpmath
	touch $@

# What pip cannot bring: a C++ compiler, CMake and venv. Installed where we may, else named.
system:
	@missing=; command -v c++ >/dev/null || missing="$$missing g++"; command -v cmake >/dev/null || missing="$$missing cmake"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
	  if [ -n "$(APT)" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $$missing >/dev/null; \
	  else echo "error: install these first:$$missing" >&2; exit 1; fi; fi

# Java is for ScienceWorld alone: without it, its tests are skipped.
java:
	@if ! command -v java >/dev/null; then \
	  if [ -n "$(APT)" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y default-jre-headless >/dev/null; \
	  else echo "note: no Java 11 or later found; install it for ScienceWorld (its tests are skipped)" >&2; fi; fi

# Chromium is for MiniWoB++ and for the tests that open a report in a browser: without it, they are skipped.
chromium:
	@if ! command -v chromium chromium-browser google-chrome >/dev/null; then \
	  if [ -z "$(APT)" ] || ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; }; then \
	  echo "note: no Chromium found; install it for MiniWoB++ and the tests of eexp report in a browser (they are skipped)" >&2; fi; fi

demo: install ## watch an agent learn from its own actions, start to end (under 10 minutes on two cores)
	@$(FIRST) $(MAKE) --no-print-directory -f recipes/reactions/Makefile OUT=demo

test: install environments java chromium ## run the tests that every change has to pass
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

test-fast: install environments ## run the tests that take no more than a few seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-long: install environments $(STAMP).docs java chromium ## run what `make test` leaves out, best every night: recipes, Sphinx, more cases
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile=wide $$(grep -l hypothesis tests/*/test_*.py)

wheel-test: ## build the wheel, install it in empty environments, full and light, and use it (needs a network)
	.ci/wheel

# Each has an environment of its own, for they want other versions of what eexp uses. Harbor wants Python 3.12; its
# formats need nothing but pydantic.
peers: install ## check exported logs with the packages that read them: Inspect, verifiers, Harbor, datasets (PYTHON312=python3.12)
	$(PYTHON) -m venv $(VENV)/peers/inspect && $(VENV)/peers/inspect/bin/pip install -q inspect-ai
	$(PYTHON) -m venv $(VENV)/peers/verifiers && $(VENV)/peers/verifiers/bin/pip install -q 'verifiers>=0.4'
	$(PYTHON312) -m venv $(VENV)/peers/harbor && $(VENV)/peers/harbor/bin/pip install -q pydantic && $(VENV)/peers/harbor/bin/pip install -q --no-deps harbor
	if command -v npm >/dev/null; then npm install --silent --prefix $(VENV)/peers/axe axe-core; fi
	$(PYTHON) -m venv $(VENV)/peers/datasets && $(VENV)/peers/datasets/bin/pip install -q 'datasets>=5' teich
	PEER_INSPECT_AI=$(CURDIR)/$(VENV)/peers/inspect/bin/python PEER_VERIFIERS=$(CURDIR)/$(VENV)/peers/verifiers/bin/python \
	PEER_HARBOR=$(CURDIR)/$(VENV)/peers/harbor/bin/python PEER_DATASETS=$(CURDIR)/$(VENV)/peers/datasets/bin/python \
	$(BIN)/python -m pytest tests/formats

# Two idle cores do a million lines within an hour. What fails is saved in build/fuzz, minimised, with the command that
# runs it again.
SEED ?= 0
LINES ?= 1000000
fuzz: install ## run mutated lines through all stages (SEED=0 LINES=1000000)
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m fuzz --seed $(SEED) --lines $(LINES)

lint: $(STAMP).lint ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# The type checker comes with Node.js, which is large, so `make test` does without.
$(STAMP).lint: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[lint]'
	touch $@

man: install ## make the manual pages of this checkout again, from the same source as --help
	$(BIN)/python man/build.py

docs: $(STAMP).docs ## build the documentation as a web site, in build/docs; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -E -c docs -d build/doctrees . build/docs
	@echo "open build/docs/index.html"

$(STAMP).docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

clean: ## remove what was made
	rm -rf $(VENV) demo build *.egg-info
