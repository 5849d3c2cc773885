# One command each. A fresh machine needs Python 3.11 or newer, git and make: the first command makes .venv.

PYTHON ?= python3
SEARCH ?= $(BIN)/hmq-lab search --out runs/builtin --overwrite
UV     := uv==0.13.9
EXTRAS := lab,export,scale,test,book
TORCH ?=# which build of PyTorch: TORCH=cpu is a tenth of the download on Linux, where there is no GPU
LAB ?=# what JupyterLab gets beside, such as LAB=--allow-root where you are root
FILES := hmq_lab.commands.lab_files.LessonFiles# to open and save a lesson changes nothing
PORT := 8866# of the explorers
ADDRESS ?= 127.0.0.1# who reaches the explorers; ADDRESS=0.0.0.0 opens them to a room, with a token
KERNELS ?= 8# explorers with Python at a time, of about 0.8 GB each
WORKERS ?= 2# processes that test side by side, of one thread and up to 4 GB each

BIN   := .venv/bin
DONE  := .venv/.done
BEGUN := .venv/.begun

.DEFAULT_GOAL := help
.PHONY: help search figures lab explore book test test-long lint style mutants notebooks handout constraints clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 18

search: $(DONE) ## search the bits of a small network on the built-in images, into runs/builtin
	$(SEARCH)

figures: $(DONE) ## draw the figures of runs/builtin again
	$(BIN)/hmq-lab figures runs/builtin --overwrite

lab: $(DONE) ## open the first lesson in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir=. --ServerApp.contents_manager_class=$(FILES) \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB)

explore: $(DONE) ## the explorers as web pages, without code; ADDRESS=0.0.0.0 opens them to a room
	$(BIN)/python -m hmq_lab.explorers.pages runs/explore --port $(PORT) --address $(ADDRESS) --kernels $(KERNELS)

book: $(DONE) ## lessons, explorers and reference as pages that open from disk, in build/book; every link is checked
	$(BIN)/python notebooks/book/make.py build/book

test: lint ## check style, run the tests, then every lesson with few images
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	rm -rf runs/quick
	$(BIN)/python notebooks/build.py --quick runs/quick
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --nbmake --nbmake-timeout=240 --timeout=600 -p no:cacheprovider runs/quick

test-long: $(DONE) ## run the tests that take long: more damaged files
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long

lint: $(DONE) ## check style and types, in the notebooks style alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(DONE) ## measure how the package reads: tokens in a statement, comments, docstrings, errors of mypy
	$(BIN)/python tests/measure_style.py --mypy

# Hours for the whole method: name one of its files, MUTANTS='hmq_lab.budget.*'.
mutants: $(DONE) ## change the method line by line and list the changes that no test notices
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children $(WORKERS) $(MUTANTS)
	$(BIN)/mutmut results

# The notebooks are written by this: their sources are in notebooks/source. A second run changes nothing but times.
notebooks: $(DONE) ## make both editions of every lesson from its source, executed in full
	$(BIN)/python notebooks/build.py

handout: $(DONE) ## the lessons for a class, without solutions and outputs, in build/handout
	$(BIN)/python notebooks/build.py --handout build/handout

# One resolution for every supported Python and system. It keeps the versions that still do; UPGRADE=--upgrade takes the
# newest. An uv that is there is enough: constraints that no longer fit pyproject.toml keep .venv from being finished.
constraints: $(if $(wildcard $(BIN)/uv),,$(DONE)) ## write constraints.txt again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate $(UPGRADE) \
	  --custom-compile-command "make constraints" --quiet --output-file constraints.txt

clean: ## remove caches and what a build left; .venv and runs stay
	rm -rf build dist mutants *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find hmq_lab tests notebooks -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

# The only rule that installs. Its stamp is written last; an attempt that was cut off is thrown away and begun again.
# uv takes a fifth of pip's time; where it cannot be had or fails, pip installs the same versions.
INSTALL = -c constraints.txt -e ".[$(EXTRAS)]"
BUILD = $(if $(strip $(TORCH)),--torch-backend $(strip $(TORCH)))

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	  "'$(PYTHON)' is not Python 3.11 or newer with venv: name one (make PYTHON=python3.12 ...); on Debian, python3-venv." >&2; exit 1; }
	@if [ -e $(BEGUN) ]; then rm -rf .venv; fi
	@mkdir -p .venv && touch $(BEGUN)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV) \
	  && $(BIN)/uv pip install --python $(BIN)/python $(BUILD) $(INSTALL) \
	  || { echo "uv did not install: pip does, which takes minutes"; \
	       $(BIN)/python -m pip install --disable-pip-version-check $(INSTALL); }
	@mv $(BEGUN) $(DONE)
