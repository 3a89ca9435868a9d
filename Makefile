# What a contributor types. A fresh clone needs make and Python 3.11 or newer; the rest goes into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= a red apple to the left of a cat
# Parts that not everybody needs, as pyproject.toml names them: make install EXTRAS=evaluate,track
EXTRAS ?=
DEV := dev,data,evaluate,hints,optimizers,serve,track
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# One process of tests a core, each with one thread; every one needs some 2 GiB.
TOGETHER ?= --numprocesses auto --maxprocesses 4 --dist loadfile
# The slowest twenty are told at the end; `make test PYTEST="-m 'not slow'"` leaves out the slow.
PYTEST ?=
SLOWEST := --durations 20 --durations-min 1

.DELETE_ON_ERROR:
.PHONY: help demo page browser install test test-all test-mixins lint bench docs docs-pictures \
    docs-tables docs-examples tour train-embedded train-recogniser \
    train-second-recogniser

help:
	@echo "make demo            a picture of '$(PROMPT)' from the embedded model"
	@echo "make page            the page in the browser, on the embedded model"
	@echo "make browser         Debian's chromium, for the tests of the page"
	@echo "make install         t2i in $(VENV); EXTRAS=evaluate,track adds parts that not everybody needs"
	@echo "make test            the tests; make test-all adds those that take minutes"
	@echo "make lint            format, lint and types"
	@echo "make bench           what we claim about speed and memory, measured here"
	@echo "make docs            the pages as a site, in site/"
	@echo "make docs-pictures   the pictures in docs/, by the commands that stand under them"
	@echo "make docs-tables     evaluate the embedded model anew; the tables of docs/benchmark.md (an hour)"
	@echo "make docs-examples   every example of the pages, drawn on one sheet to be looked at"
	@echo "make tour            run docs/tour.ipynb anew and keep what its cells show"
	@echo "make train-embedded  train the embedded model from scratch; run again to go on"
	@echo "make train-recogniser  the same for the judge of t2i evaluate"
	@echo "make train-second-recogniser  the same for the judge of t2i data pairs"

demo: $(VENV)/.installed
	@$(BIN)/t2i generate "$(PROMPT)" --seed 0
	@echo
	@echo "Next, so that this shell finds t2i (once in each shell), and another picture:"
	@echo
	@echo "    . $(BIN)/activate"
	@echo '    t2i generate "a cat on a blue background"'
	@echo
	@echo "docs/getting-started.md goes on from here."

page: $(VENV)/.installed-serve
	$(BIN)/t2i serve --open

browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install --yes -qq chromium; } || \
	    { echo "The tests of the page need Debian's chromium: sudo apt install chromium" >&2; exit 1; }

install: $(VENV)/.installed
	$(if $(EXTRAS),$(INSTALL) -e ".[$(EXTRAS)]")
	@echo "Next: . $(BIN)/activate"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(TOGETHER) $(SLOWEST) $(PYTEST)

# diffusers' own tests of pipelines, pointed at ours; DIFFUSERS is a clone of its repository.
test-mixins: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --disable-pip-version-check parameterized requests-mock scipy torchsde
	T2I_DIFFUSERS=$(DIFFUSERS) $(BIN)/python -m pytest tests/mixins --timeout 600 -p no:randomly \
	    -o addopts=--import-mode=importlib

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(TOGETHER) $(SLOWEST) -m "" $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	@set -e; for name in scenes generate text_keys modes controls attention tap startup train bulk photos serve; do \
	    echo "== $$name"; $(BIN)/python -m benchmarks.$$name --out benchmarks/results/$$name.json; done

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

docs-pictures: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" sh docs/pictures.sh

docs-tables: $(VENV)/.installed-dev
	$(BIN)/t2i evaluate embedded --out outputs/evaluate-embedded
	$(BIN)/t2i evaluate embedded --suite hints --control segments --out outputs/evaluate-hints
	$(BIN)/python -m docs.benchmark_tables outputs/evaluate-embedded outputs/evaluate-hints

docs-examples: $(VENV)/.installed
	$(BIN)/python -m docs.examples

tour: $(VENV)/.installed-dev
	$(BIN)/python -m docs.tour

train-embedded: $(VENV)/.installed-dev
	$(BIN)/t2i train configs/train/embedded-vae.toml
	$(BIN)/t2i train configs/train/embedded.toml
	$(BIN)/t2i train configs/train/embedded-decoder.toml
	$(BIN)/python -m train.publish runs/embedded t2i/assets/embedded \
	    --vae runs/embedded-decoder/model --prose docs/embedded.md
	$(BIN)/python -m t2i.evaluate.presence.fit embedded

train-recogniser: $(VENV)/.installed-dev
	$(BIN)/t2i train configs/train/recogniser.toml
	$(BIN)/t2i train configs/train/agreement.toml
	$(BIN)/python -m t2i.evaluate.recogniser_card runs/agreement t2i/assets/recogniser

train-second-recogniser: $(VENV)/.installed-dev
	$(BIN)/t2i train configs/train/second-recogniser.toml

# A stamp is newer than what it was installed from, so a second run installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing t2i and what it needs into $(VENV) (once; a few minutes)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing t2i, its tests and its tools into $(VENV) (once; a few minutes)"
	$(INSTALL) -e ".[$(DEV)]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-serve: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[serve]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[docs]"
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "t2i needs Python 3.11 or newer; $(PYTHON) is not. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
