# make lab    JupyterLab on the first notebook        make lab ARGS="--no-browser --port 8899"
# make test   the whole test suite                    make test ARGS="tests/test_explorer_page.py -k threshold -n 0"
# make quick  its fast part: no browser, no notebooks  make quick ARGS="tests/test_spade.py -k layer -n 0"
# make check  formatting, lint, spelling, types (make lint), then the whole suite
# make app    the explorer alone, as a web page on this machine
# make bench  how fast the search is, against what one would use otherwise   make bench ARGS=--quick
# make bench-folders  how fast whole folders are judged, by one process and by several
# make results DATA=path  how well each setting does on a dataset; demo, solar_cells, or a folder
# make paper DATA="demo path"  the paper's ablations, of levels and of K, beside what it published
# make bench-widgets  how fast the widgets are, in a browser
# make docs   course, how-tos and reference as pages that work offline, in site/; make site is the same
# make student  the lessons without outputs and solutions, in student/
# make licences  of the packages that are installed beside this one, in THIRD_PARTY.md
# make mutants  planted faults, and which of them lessons and tests catch
#
# The environment is built once, in .venv; with a conda environment active (base, too), that one is used instead.
# TORCH=cpu, cuda or as-is says which PyTorch a new environment is given; see install_torch.py.

PYTHON ?= python3
ifdef CONDA_PREFIX
  HOME_OF_ENV := $(CONDA_PREFIX)
else
  HOME_OF_ENV := .venv
endif
BIN := $(HOME_OF_ENV)/bin
LAB := $(HOME_OF_ENV)/.spade_kit-lab
TEST := $(HOME_OF_ENV)/.spade_kit-test
BENCH := $(HOME_OF_ENV)/.spade_kit-bench
DOCS := $(HOME_OF_ENV)/.spade_kit-docs
TORCH_CHOSEN := $(HOME_OF_ENV)/.spade_kit-torch
TORCH ?= auto
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# settings that a notebook with widgets needs: their state is saved with it
export JUPYTER_CONFIG_PATH := $(CURDIR)/.jupyter

.PHONY: lab app test quick lint check docs bench bench-folders bench-widgets results paper site student licences mutants demo picture clean

lab: $(LAB)
	$(BIN)/jupyter trust notebooks/*.ipynb
	$(BIN)/jupyter lab $(AS_ROOT) $(ARGS) notebooks/00_quickstart.ipynb

app: $(LAB)
	$(BIN)/voila --Voila.ip=127.0.0.1 --Voila.auto_token=True $(ARGS) notebooks/07_explorer.ipynb

# a worker a core, a file a worker
PYTEST := $(BIN)/python -m pytest -n logical --dist loadfile

test: $(TEST)
	$(PYTEST) $(ARGS)

quick: $(TEST)
	HYPOTHESIS_PROFILE=quick $(PYTEST) -m "not browser and not notebook and not slow" $(or $(ARGS),tests spade_kit)

lint: $(TEST)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/codespell
	$(BIN)/mypy

check: lint
	$(PYTEST) $(ARGS)

bench: $(BENCH)
	TQDM_DISABLE=1 $(BIN)/python benchmarks/speed.py $(ARGS)

bench-folders: $(BENCH)
	TQDM_DISABLE=1 $(BIN)/python benchmarks/folders.py $(ARGS)

results: $(LAB)
	TQDM_DISABLE=1 $(BIN)/python benchmarks/accuracy.py $(DATA) $(ARGS)

paper: $(LAB)
	TQDM_DISABLE=1 $(BIN)/python benchmarks/paper.py $(DATA)

bench-widgets: $(TEST)
	TQDM_DISABLE=1 $(BIN)/python benchmarks/widgets.py $(ARGS)

docs site: $(DOCS)
	$(BIN)/python -m sphinx -W -q docs site

student:
	$(PYTHON) notebooks/make_student.py notebooks student

licences: $(TEST)
	$(BIN)/python data/list_licences.py THIRD_PARTY.md

mutants: $(TEST)
	TQDM_DISABLE=1 $(BIN)/python tests/mutants.py $(ARGS)

demo: $(LAB)
	$(BIN)/python data/render_demo.py data/demo

picture: $(LAB)
	$(BIN)/python -c "import spade_kit; d = spade_kit.load_dataset('demo'); s = spade_kit.SPADE().fit(d.train); \
	spade_kit.draw_result(s.predict([x for x in d.test if x.label == 'thread'][1])).savefig('notebooks/images/result.png', dpi=100)"

clean:
	rm -rf .venv

$(BIN)/python:
	@echo "Building the environment in $(HOME_OF_ENV): a few minutes."
	$(PYTHON) -m venv $(HOME_OF_ENV) || { rm -rf .venv; echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(TORCH_CHOSEN): | $(BIN)/python
	$(BIN)/python install_torch.py $(TORCH)
	@touch $@

$(LAB): pyproject.toml | $(TORCH_CHOSEN)
	$(BIN)/python -m pip install -e ".[lab]"
	@touch $@

$(TEST): pyproject.toml | $(TORCH_CHOSEN)
	$(BIN)/python -m pip install -e ".[lab,test]"
	@touch $@ $(LAB)

$(BENCH): pyproject.toml | $(TORCH_CHOSEN)
	$(BIN)/python -m pip install -e ".[lab,bench]"
	@touch $@ $(LAB)

$(DOCS): pyproject.toml | $(TORCH_CHOSEN)
	$(BIN)/python -m pip install -e ".[lab,docs]"
	@touch $@ $(LAB)
