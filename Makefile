# wslab for people in a hurry: `make run` sets everything up and climbs the stages. `make help` lists the rest.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test quick browser-test screenshot lab bench lint lock clean FORCE

STAGES ?= 10k,100k,700k,1M
UV ?= uv
# Playwright brings no browser of its own: the tests take Debian's Chromium. The Stop button needs the other.
PLAYWRIGHT ?= playwright==1.65.2
IPYWIDGETS ?= ipywidgets==8.1.9
SYSTEM := $(shell uname -s)
VENV := .venv
STAMP := $(VENV)/.installed

# The first Python that is new enough and can make a virtual environment; else the first that is new enough.
# Each candidate is run, because a name on the PATH may be a shim with nothing behind it.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
MAKES_VENVS := import ensurepip, venv
PYTHON ?= $(shell for needs in '$(MAKES_VENVS)' 'pass'; do for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c "$$needs; $(IS_NEW_ENOUGH)" >/dev/null 2>&1 && { echo $$python; exit; }; done; done)

# The stamp holds the folder it was made in: a virtual environment does not survive a move of the folder, nor the
# removal of its Python. Without a stamp that matches, it is made anew.
ifneq ($(shell $(VENV)/bin/python -c 'print(open("$(STAMP)").read().strip())' 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
MOVED := yes
endif

help:  ## Show this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

setup: $(STAMP)  ## Install everything into .venv, pinned and checked by hash; instant when nothing has changed
	@:

# One shell, so that the Python is looked for once.
$(STAMP): requirements.lock pyproject.toml
	@test "$(SYSTEM)" = Linux || { echo "wslab runs on Linux only, for it measures the limits of the Linux kernel; this is $(SYSTEM)." >&2; exit 1; }
	@python="$(PYTHON)"; \
	"$$python" -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1 || { \
		echo "wslab needs Python 3.11 or newer$${python:+, which $$python is not}; name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$$python" -c '$(MAKES_VENVS)' >/dev/null 2>&1 || { \
		echo "$$python cannot make a virtual environment; on Debian and Ubuntu this helps: apt install python3-venv" >&2; exit 1; }; \
	if test -z "$(MOVED)" && test -x $(VENV)/bin/python; then echo "Bringing $(VENV) up to date."; exit; fi; \
	echo "Setting up $(VENV) with $$("$$python" --version); the first time takes a minute or two."; \
	"$$python" -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python -m wslab.load.engine
	@printf '%s\n' '$(CURDIR)' >$(STAMP)
	@echo "wslab is set up. The command is $(VENV)/bin/wslab."

# A broken limit (exit status 1) is what the sweep looks for, so it is not an error here.
run: setup  ## Climb the stages (STAGES=10k,100k,700k,1M) and say where the report is
	@started=$$(date +%s); $(VENV)/bin/wslab sweep --stages "$(STAGES)"; status=$$?; \
	test $$status -le 1 || exit $$status; \
	report=$$(find data -name '*.html' -newermt "@$$started" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-); \
	test -z "$$report" || echo "The report: $(CURDIR)/$$report"

test: setup  ## Run the tests (PYTEST_OPTIONS="-k stage")
	@$(VENV)/bin/python -m pytest $(PYTEST_OPTIONS)

quick: setup  ## Run the tests that start no process and change nothing of the machine (under 30 s)
	@$(VENV)/bin/python -m pytest --quick $(PYTEST_OPTIONS)

# What cannot be had is said by the tests, which are then skipped by name.
browser-test: setup  ## Run the notebooks in JupyterLab in Chromium (4 min; installs playwright, ipywidgets and, as root, Chromium)
	@$(VENV)/bin/python -c 'import playwright, ipywidgets' 2>/dev/null || \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(PLAYWRIGHT)' '$(IPYWIDGETS)' || :
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test "$$(id -u)" != 0 || \
		! command -v apt-get >/dev/null || { echo "Installing: chromium"; apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium >/dev/null; } || :
	@$(VENV)/bin/python -m pytest --browser tests/browser $(PYTEST_OPTIONS) || { test $$? = 1 && \
		echo "Once more those that failed, since a busy machine can keep a page waiting." && \
		$(VENV)/bin/python -m pytest --browser tests/browser --last-failed --last-failed-no-failures none $(PYTEST_OPTIONS); }

screenshot: setup  ## Take the picture of the lab at work again: data/reference/lab.png (after make browser-test)
	@cd tests && ../$(VENV)/bin/python -m browser.screenshot

lab: setup  ## Open the notebooks in JupyterLab (LAB_OPTIONS=--no-browser)
	@$(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(LAB_OPTIONS)

bench: setup  ## Compare the servers with the raw TCP floor
	@$(VENV)/bin/wslab bench $(BENCH_OPTIONS)

lint: setup  ## Check style and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

lock:  ## Resolve the dependencies again (needs uv) and write requirements.lock
	@$(UV) pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --upgrade --custom-compile-command "make lock" --output-file requirements.lock

clean:  ## Stop what a crashed run left behind, and remove .venv and caches; recorded runs stay
	@test -n "$(MOVED)" || $(VENV)/bin/wslab clean || echo "wslab clean failed, as said above; removing the rest." >&2
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -prune -exec rm -rf {} +
