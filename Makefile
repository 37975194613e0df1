# Two commands do everything on a machine with Python, venv and make:
#   make demo   asks the embedded model questions about bundled pictures, on all and on a ninth of its visual tokens
#   make test   passes the tests
# and two compare the methods: make bench, and make report, which writes report.html
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin
OLDEST := .venv-oldest
SIDE_BY_SIDE := --numprocesses auto --dist loadfile  # tests of a file share models

.PHONY: bench report demo test test-all test-oldest lint docs clean

demo: $(VENV)/.installed
	$(BIN)/tessella demo --out demo

test: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow"

test-all: $(VENV)/.installed
	$(BIN)/pytest $(SIDE_BY_SIDE)

# the lowest transformers that pyproject.toml allows
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/pytest $(SIDE_BY_SIDE) -m "not slow"

# 67,000 answers on the embedded model; goes on where it was stopped
bench: $(VENV)/.installed
	$(BIN)/tessella bench --settings benchmarks/connector.toml --out bench.db

report: bench
	$(BIN)/tessella report bench.db --html report.html

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

$(OLDEST)/.installed: PINNED := transformers==5.18.0

# torch first, so that nothing pulls a second build of it
%/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $*
	$*/bin/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$*/bin/pip install --quiet --disable-pip-version-check $(PINNED) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) demo report.html build dist .pytest_cache .mypy_cache .ruff_cache
