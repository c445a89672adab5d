# make train and make test start from a fresh clone; make help lists the rest.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
RUN ?= runs/digits
BIN := $(VENV)/bin
# One process a core and one thread a process; the tests of a file share its fixtures.
PYTEST := -m pytest -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-oldest lint docs clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | column -t -s '|'

$(VENV)/installed: setup.cfg setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

train: $(VENV)/installed  ## set up, train on handwritten digits (built in), evaluate
	$(BIN)/clipscratch train digits --output_dir $(RUN) --overwrite_output_dir
	$(BIN)/clipscratch eval --model $(RUN) --dataset digits --output_dir $(RUN)/report
	@echo "Look at: $(RUN)/report/report.html, $(RUN)/curves.png"

test: lint  ## set up, lint, run the quick tests
	$(BIN)/python -m tests.hub.fetch_common_tests
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not slow"

test-slow: $(VENV)/installed  ## set up, run the other tests: launches, kills, browsers, other packages
	$(BIN)/python -m tests.hub.fetch_common_tests
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m slow

# Lines of the first file replace those of the second with the same name.
$(OLDEST)/installed: setup.cfg setup.py constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	awk -F== '!seen[$$1]++' constraints-oldest.txt constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(OLDEST)/constraints.txt --editable '.[test]'
	@touch $@

test-oldest: $(OLDEST)/installed  ## set up a second environment with the oldest transformers allowed, run all tests
	$(OLDEST)/bin/python -m tests.hub.fetch_common_tests
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python $(PYTEST)

lint: $(VENV)/installed  ## set up, lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/installed  ## set up, build the pages of the docstrings
	$(BIN)/python -m pdoc --docformat google --no-show-source --output-directory docs/html modeling_clipscratch
	@echo "Look at: docs/html/index.html"

clean:  ## delete the environment and caches; runs/ stays
	rm -rf $(VENV) $(OLDEST) build docs/html *.egg-info .pytest_cache .ruff_cache
