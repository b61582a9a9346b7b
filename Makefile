# Everything that is done to this project by hand. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install eval demo test test-slow torture test-other-versions test-package docs tables pictures lock audit lint format bench bench-compare clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "make %-22s %s\n", $$1, $$2}'

install: $(BIN)/.installed  ## set up .venv with the tested versions

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

eval: install  ## run the default evaluation; ARGS='benchmark=genimage ...' runs another
	$(BIN)/python -m mirror_pl.eval $(ARGS)

demo: install  ## train the miniature and evaluate it: the whole chain in minutes; ARGS='seed=1 ...'
	$(BIN)/python -m mirror_pl.train experiment=miniature $(ARGS)

test: install  ## run the tests, a process for each core
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: install  ## run the long proofs as well
	$(BIN)/python -m pytest -m 'slow or not slow' $(ARGS)

torture: install  ## kill, signal, fill disks, damage files in bulk, for half an hour; ARGS='kills --count 3' for less
	$(BIN)/python tests/torture.py $(ARGS)

test-other-versions: $(VENV)-other/bin/.installed  ## run the detector's tests under transformers 4.57 and Pillow 13, and those of quantise=
	$(VENV)-other/bin/python -m pytest -n auto --dist loadfile --ignore-glob='*perturb*' tests/detectors tests/images \
	  tests/config/test_detector_reuse.py \
	  tests/integration/test_eval.py tests/integration/test_contracts.py $(ARGS)

# Without the app: gradio goes neither with this transformers nor with this Pillow.
$(VENV)-other/bin/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-other
	sed -E 's/^transformers==.*/transformers==4.57.6/; s/^pillow==.*/pillow==13.0.0 ; python_version >= "3.11"/' constraints.txt \
	  > $(VENV)-other/constraints.txt
	$(VENV)-other/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(VENV)-other/constraints.txt --editable '.[test,quantise]'
	touch $@

test-package: install  ## build the wheel, install it in a fresh environment, run it from another folder; ARGS=dist keeps both
	$(BIN)/python tests/package/check_wheel.py $(ARGS)

tables: install  ## make the tables of links and of hardware in docs/, checkpoints/ and data/ anew
	$(BIN)/python docs/tables.py

docs: install  ## build the documentation into site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # not --quiet: it hides warnings, and then they do not count
	@echo "site/index.html"

lock: install  ## write constraints-release.txt anew; ARGS='--extra-index-url ...' where torch for the CPU is elsewhere
	$(BIN)/python tests/package/lock.py $(ARGS)

audit: $(VENV)-audit/bin/.installed  ## ask PyPI for known vulnerabilities of what constraints-release.txt names
	$(VENV)-audit/bin/python tests/package/audit.py

$(VENV)-audit/bin/.installed:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	touch $@

lint: install  ## check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pictures: install  ## make docs/pictures anew with chromium; ARGS='gallery ...' for some
	$(BIN)/python tests/pictures.py $(ARGS)

bench: install  ## measure speed and memory; ARGS='retrieval --quick' some of it, ARGS=gpu, ARGS=scaling
	$(BIN)/python bench $(ARGS)

BASE ?= HEAD~1
NAMES ?= retrieval
bench-compare: install  ## measure this checkout against BASE=HEAD~1 in turn; NAMES='retrieval index' says what
	$(BIN)/python bench compare $(BASE) $(NAMES) $(ARGS)

clean:  ## remove environments and caches; results and weights stay
	rm -rf $(VENV) $(VENV)-other $(VENV)-audit dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
