# sfplus. Start here: make help
PYTHON ?= python3
RECIPE ?= demo
DEVICE ?= auto
SET ?=
MODEL ?=
LFW ?=
PAIRS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.sfplus-installed
SFPLUS := $(BIN)/sfplus

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint lfw detect align train finetune embed verify report status systems doctor bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RECIPE=demo     which recipe (see: $(SFPLUS) recipes list)"
	@echo "  SET='key=value' settings changed for this run, for example SET='finetune.energy.power=0'"
	@echo "  LFW=folder      photos of LFW; MODEL=folder the model to verify; PAIRS=file where pairs.txt is elsewhere"
	@echo "  DEVICE=auto     auto, cpu, cuda or cuda:N"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sfplus needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV): torch and its companions, a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps facenet-pytorch==2.6.0
	@touch $@

install: $(STAMP)  ## set up .venv (the other targets do it themselves)

demo: $(STAMP)  ## the whole chain on drawn faces: about a minute, offline
	@$(SFPLUS) run demo --device $(DEVICE)

test: $(STAMP)  ## the tests, without those marked slow
	@$(BIN)/pytest -n 2 -m 'not slow'

test-slow: $(STAMP)  ## the slow tests: real photos (SFPLUS_SHARED_DATA), kills, long runs
	@$(BIN)/pytest -n 2 -m slow

lint: $(STAMP)  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lfw: $(STAMP)  ## verify MODEL= on the real LFW=folder (without it: downloaded)
	@$(if $(LFW),,$(SFPLUS) lfw data/lfw)
	@$(SFPLUS) verify '$(or $(LFW),data/lfw)' $(if $(PAIRS),'$(PAIRS)') $(if $(MODEL),--model '$(MODEL)') --device $(DEVICE)

detect:  ## photos to faces, of RECIPE=
align:  ## faces to crops, with what is stale before it
train:  ## crops to a SphereFace network
finetune:  ## SphereFace to SphereFace+
embed:  ## crops to features
verify:  ## features to fold accuracies
report:  ## all of it to one HTML file
detect align train finetune embed verify report: $(STAMP)
	@$(SFPLUS) run '$(RECIPE)' $(SET) --until $@ --device $(DEVICE)

status: $(STAMP)  ## how each stage of RECIPE= stands: fresh, stale and why, partial, missing
	@$(SFPLUS) status '$(RECIPE)' $(SET)

SYSTEMS := mhe-imbalance-mnist mhe-cifar100 mhe-cifar10 comhe-cifar100 orthonormal-cifar100 spherenet-cifar10 \
  sphere-resnet32-cifar10plus mhe-gan-cifar10
systems: $(STAMP)  ## the recipes of pictures at their smallest honest size: minutes to hours each; resumes
	@failed=0; for recipe in $(SYSTEMS); do $(SFPLUS) run $$recipe --small $(SET) --device $(DEVICE) || failed=1; done; exit $$failed

doctor: $(STAMP)  ## what is installed and found, and what is wrong
	@$(SFPLUS) doctor

bench: $(STAMP)  ## the measurements of tests/benchmarks
	@for script in $(filter-out %/racing.py,$(wildcard tests/benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## delete the cache and the reports in data/ (not your photos)
	rm -rf data/cache data/runs
