# Each command is `python -m competition <command>`; competition/cli/verbs.py says what it does and takes. `make` alone
# lists them.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

COMMANDS := demo folds look sanity train double tune gan rank study explain audit shift soup blend simulate submission \
  check score matrix predict kernel take backbones

# given(VAR): the variable's value if it came on make's command line; NAME and the like in the environment mean other
# things. VARIABLES: all that came there, as NAME='value' for a command to read; those of OWN are make's.
given = $(if $(filter command,$(origin $(1))),$(value $(1)))
OWN := PYTHON GPU HUB VENV SHELL MAKEFLAGS
NAMES := $(strip $(foreach name,$(sort $(filter-out $(OWN),$(.VARIABLES))),$(if $(filter command,$(origin $(name))),$(name))))
NOTEBOOKS := $(patsubst %,docs/%,$(wildcard examples/*.ipynb))
VARIABLES = $(foreach name,$(NAMES),$(call one_line,$(name))$(name)='$(subst ','\'',$(value $(name)))')

# What make hands on in the environment it expands first, $(shell ...) too, which a hostile file's name may hold.
unexport $(NAMES) $(filter-out SHELL MAKEFLAGS,$(OWN))

# one_line(VAR): an error where its value has several lines, as each of them would be a command of its own.
one_line = $(if $(findstring $(NEWLINE),$(value $(1))),$(error $(1)=: the value has a line break, expected one line))
define NEWLINE


endef

.PHONY: help setup test lint packages docs bench $(COMMANDS)

help:  ## print the targets (this page)
	@$(PYTHON) -m competition.cli.help Makefile

setup: $(READY)  ## create .venv with the pinned requirements, once -- make setup   or   make setup GPU=1   or   make setup HUB=1 CLUSTER=1

test: $(VENV)/.test  ## run the whole test suite -- make test
	$(VENV)/bin/python -m pytest -q tests

lint: $(VENV)/.test  ## check style, format and types of the code -- make lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

packages: $(VENV)/.test  ## print the packages and what each imports -- make packages
	$(VENV)/bin/python tests/test_packages.py

docs: $(VENV)/.docs $(NOTEBOOKS)  ## run the notebooks, build the docs as a site, in site/ -- make docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

$(COMMANDS): $(READY)
	$(VENV)/bin/python -m competition $@ $(VARIABLES)

bench: $(READY)  ## measure speed, memory and scale beside a plain Keras loop -- make bench   or   make bench DATA=photos.zip QUICK=1
	$(VENV)/bin/python -m bench $(VARIABLES)

# Installed anew only when requirements.txt changes, or when CUDA is asked for the first time (.venv/.gpu remembers it).
CUDA := $(or $(filter-out 0,$(call given,GPU)),$(wildcard $(VENV)/.gpu))

# KerasHub is installed when it is asked for the first time (.venv/.hub remembers it), without what it depends on: that
# would bring a second TensorFlow and another kagglesdk. requirements-hub.txt lists what it needs of it.
KERAS_HUB := $(or $(filter-out 0,$(call given,HUB)),$(wildcard $(VENV)/.hub))

# Ray likewise (.venv/.cluster remembers it), by `make setup CLUSTER=1`; of other targets CLUSTER= is an option.
RAY := $(or $(if $(filter setup,$(MAKECMDGOALS)),$(filter-out 0,$(call given,CLUSTER))),$(wildcard $(VENV)/.cluster))

$(READY): requirements.txt $(if $(CUDA),$(VENV)/.gpu) $(if $(KERAS_HUB),requirements-hub.txt $(VENV)/.hub) \
  $(if $(RAY),requirements-cluster.txt $(VENV)/.cluster) | $(VENV)/bin/pip
	$(if $(CUDA),$(VENV)/bin/pip uninstall -q -y tensorflow-cpu)
	sed 's/^tensorflow-cpu==/$(if $(CUDA),tensorflow[and-cuda],tensorflow-cpu)==/' requirements.txt > $(VENV)/requirements.txt
	$(VENV)/bin/pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt
	$(if $(KERAS_HUB),$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements-hub.txt)
	$(if $(RAY),$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements-cluster.txt)
	@touch $@

# The copies of the notebooks that the docs show, with what their cells gave.
docs/examples/%.ipynb: examples/%.ipynb | $(READY) $(VENV)/.docs
	$(VENV)/bin/python examples/run.py docs/examples $<

# What tests and lint need besides the product, and what the docs need: each is installed when it is first asked for.
$(VENV)/.test: requirements-test.txt requirements-cluster.txt requirements-hub.txt $(READY)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements-test.txt -r requirements-cluster.txt
	$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements-hub.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements-docs.txt
	@touch $@

$(VENV)/.gpu $(VENV)/.hub $(VENV)/.cluster: | $(VENV)/bin/pip
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "error: %s is Python %d.%d, expected 3.11 to 3.13; \
	  make PYTHON=<another> $(MAKECMDGOALS)" % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv $(VENV)
