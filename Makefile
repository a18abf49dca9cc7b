# make setup    only installs; make lab opens JupyterLab on the notebooks
# make run      all notebooks, executed into build/      make test     the tests
# make publish  renders notebooks, models, figures and README's tables in place (needs MNIST)
# make benchmark  the runs behind the tables, hours, goes on where it stopped (needs MNIST)
# make timing     their times side by side, over an hour on a quiet machine (needs MNIST)
# make tune       three searches of 04, about two hours; WORKERS=2: by a chief and two workers (MNIST)
# make photos     synthetic photos and corrupted images, a few minutes (needs MNIST)
# make ensemble   members of 08, the ensemble, its students, hours; goes on where it stopped (MNIST)
# make export     robust.keras as ONNX and LiteRT, checked and timed, 2 minutes (needs MNIST)
# make app        the page to draw on, at 127.0.0.1 only
# make audit      the suspicious labels that 05 shows, 2 minutes (needs MNIST)
# make readme   README's tables from models/*.json       make status   what is out of date
# make clean    removes .venv/ and build/, but for build/work: long runs that are unfinished
# Another Python:  make run PYTHON=python3.12            Some notebooks:  make run NOTEBOOKS=01_eda

.PHONY: setup lab run test publish benchmark timing tune audit photos ensemble export app readme \
  status clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := run

NOTEBOOKS ?=
WORKERS ?= 1
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
  $(if $(shell $(p) -c 'import sys, ensurepip, venv; print(*[1] * ((3, 11) <= sys.version_info < (3, 14)))' 2>/dev/null),$(p))))
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

setup: .venv/ready

lab: .venv/ready
	@.venv/bin/jupyter lab notebooks

run: .venv/ready
	@.venv/bin/python -m src.experiments run $(NOTEBOOKS)

test: .venv/ready-to-test
	@.venv/bin/ruff check . && .venv/bin/ruff format --check --quiet .
	@.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
	  --cov=src --cov-fail-under=90

publish: .venv/ready
	@.venv/bin/python -m src.experiments publish $(NOTEBOOKS)

benchmark: .venv/ready
	@for part in runs ladder models; do .venv/bin/python -m src.experiments $$part || exit; done

tune: .venv/ready
	@.venv/bin/python -m src.experiments tune --workers $(WORKERS)

timing audit photos ensemble export readme status: .venv/ready
	@.venv/bin/python -m src.experiments $@

app: .venv/ready
	@.venv/bin/python -m src.reading.app

clean:
	@if [ -d build/work ]; then echo "build/work stays: it holds unfinished long runs (rm -r build/work)"; fi
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name work -exec rm -rf {} +; fi
	rm -rf .venv *.egg-info

.venv/bin/python:
	@$(or $(PYTHON),false) -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "This needs Python 3.11, 3.12 or 3.13 with its venv module. Install one (Debian and Ubuntu:"; \
	  echo "apt install python3 python3-venv; macOS: brew install python@3.12; any system: python.org),"; \
	  echo "then run make again, naming it if need be: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/ready: requirements.txt constraints.txt pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (about 3.5 GB, once; a few minutes) ..."
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip
	@$(PIP) -r requirements.txt
	@touch $@

.venv/ready-to-test: .venv/ready
	@$(PIP) -e '.[test]'
	@touch $@
