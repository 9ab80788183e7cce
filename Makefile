# sfplus. Start here: make help
PYTHON ?= python3
RECIPE ?= demo
DEVICE ?= auto
SET ?=
MODEL ?=
LFW ?=
PAIRS ?=
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.sfplus-installed
DEV := $(VENV)/.sfplus-dev-installed
SFPLUS := $(BIN)/sfplus

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint lfw detect align train finetune embed identify verify report status systems doctor bench docs results gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RECIPE=demo     the recipe (see: $(SFPLUS) recipes list)"
	@echo "  SET='key=value' settings to change for this run, for example SET='finetune.energy.power=0'"
	@echo "  LFW=folder      the photos of LFW; MODEL=folder: the model to verify; PAIRS=file: pairs.txt, if it is not in LFW"
	@echo "  DEVICE=auto     auto, cpu, cuda or cuda:N"
	@echo "  TORCH=cpu       when the environment is set up: torch for CPUs only, 1.8 GB instead of 6.4; or cu126, ..."

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sfplus needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) with torch and other packages: a few minutes, only once"
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH),$(PIP) torch torchvision --index-url https://download.pytorch.org/whl/$(TORCH))
	$(PIP) -e '.[app,heic]'
	$(PIP) --no-deps facenet-pytorch==2.6.0
	@touch $@

$(DEV): $(STAMP)
	$(PIP) -e '.[dev]'
	@touch $@

install: $(STAMP)  ## set up .venv (the other targets also do this)

demo: $(STAMP)  ## run the whole pipeline on drawn faces: about three minutes, offline
	@$(SFPLUS) run demo $(SET) --device $(DEVICE)

# compiled files are kept, whatever the user's Python does: else each process compiles tests and package anew
test: $(DEV)  ## run the tests, except those marked slow
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(DEV)  ## run the slow tests: real photos (SFPLUS_SHARED_DATA), killed processes, long runs
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist worksteal -m slow

lint: $(DEV)  ## run ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lfw: $(STAMP)  ## verify MODEL= on the real LFW=folder (downloaded if not given)
	@$(if $(LFW),,$(SFPLUS) lfw data/lfw)
	@$(SFPLUS) verify '$(or $(LFW),data/lfw)' $(if $(PAIRS),'$(PAIRS)') $(if $(MODEL),--model '$(MODEL)') --device $(DEVICE)

detect:  ## run RECIPE= up to the detection of faces in photos
align:  ## ... up to the alignment of faces to crops
train:  ## ... up to the training of a SphereFace network
finetune:  ## ... up to the fine-tuning to SphereFace+
embed:  ## ... up to the embedding of crops to features
identify:  ## ... up to the identification rates
verify:  ## ... up to the accuracies of the folds
report:  ## ... up to one HTML file with the results
detect align train finetune embed identify verify report: $(STAMP)
	@$(SFPLUS) run '$(RECIPE)' $(SET) --until $@ --device $(DEVICE)

status: $(STAMP)  ## show the status of each stage of RECIPE=: fresh, stale and why, partial, missing
	@$(SFPLUS) status '$(RECIPE)' $(SET)

SYSTEMS := mhe-imbalance-mnist mhe-cifar100 mhe-cifar10 comhe-cifar100 orthonormal-cifar100 spherenet-cifar10 \
  sphere-resnet32-cifar10plus mhe-gan-cifar10
systems: $(STAMP)  ## run the recipes for images at their smallest meaningful size: minutes each; resumes
	@failed=0; for recipe in $(SYSTEMS); do $(SFPLUS) run $$recipe --small $(SET) --device $(DEVICE) || failed=1; done; exit $$failed

doctor: $(STAMP)  ## check what is installed, and what is wrong
	@$(SFPLUS) doctor

bench: $(DEV)  ## run the measurements of tests/benchmarks
	@for script in $(filter-out %/racing.py %/detection_floor.py %/grouping_faces.py %/grouping_methods.py %/gpu.py %/gpu_measurements.py,$(wildcard tests/benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(DEV)  ## build the documentation as a site: data/site/index.html
	@$(BIN)/python docs/write_reference.py && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo data/site/index.html

results: $(DEV)  ## write the figures of pipelines/results/README.md and README.md from the stored results
	@$(BIN)/python docs/write_results.py

gpu: $(DEV)  ## on a GPU: run the tests marked gpu and measure everything, under eight minutes, into pipelines/results/gpu
	@$(BIN)/python tests/benchmarks/gpu.py --device $(DEVICE)

clean:  ## delete the cache and the reports in data/ (not your photos)
	rm -rf data/cache data/runs
