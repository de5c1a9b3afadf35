# A thin line over `python -m competition <verb>`. `make` alone prints what there is.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
TOOL := $(VENV)/bin/python -m competition

# given(VAR): the variable's value if it came on make's command line; NAME and the like in the environment mean other
# things. flag(name,VAR): --name='value' when it was given; switch(name,VAR): --name when it is anything but 0.
given = $(if $(filter command,$(origin $(1))),$(value $(1)))
flag = $(if $(call given,$(2)),--$(1)='$(subst ','\'',$(call given,$(2)))')
switch = $(if $(filter-out 0,$(call given,$(2))),--$(1))

TO_PREDICT = $(call flag,test,TEST) $(call flag,sample,SAMPLE) $(call switch,probabilities,PROBABILITIES) \
  $(call flag,memory,MEMORY)
ON_KAGGLE = $(call flag,kaggle-user,KAGGLE_USER) $(call flag,competition,COMPETITION) $(call flag,dataset,DATASET)

.PHONY: help setup demo test folds look sanity train double tune gan rank study explain audit shift soup blend simulate submission check score matrix predict kernel take backbones bench

help:  ## print the targets (this page)
	@awk -F '  ## ' '/^[a-z]+:.*  ## / { split($$1, t, ":"); split($$2, d, " -- "); \
	  printf "  make %-11s %s\n%18s%s\n", t[1], d[1], "", d[2] }' Makefile

setup: $(READY)  ## create .venv with the pinned requirements, once -- make setup   or   make setup GPU=1

demo: $(READY)  ## play the sample competition from folds to its hidden score -- make demo
	$(TOOL) demo

test: $(READY)  ## run the whole test suite -- make test
	$(VENV)/bin/python -m pytest -q tests

folds: $(READY)  ## check the images, make stratified folds -- make folds DATA=photos.zip NAME=plants FOLDS=5
	$(TOOL) folds $(call flag,data,DATA) $(call flag,name,NAME) $(call flag,folds,FOLDS) \
	  $(call flag,seed,SEED) $(call flag,size,SIZE) $(call flag,classes,CLASSES) \
	  $(call switch,skip-bad,SKIP_BAD) $(call switch,force,FORCE) $(call flag,groups,GROUPS) $(call flag,near,NEAR) \
	  $(call switch,drop-conflicts,DROP_CONFLICTS) $(call flag,metric,METRIC)

look: $(READY)  ## a page of statistics, outliers and pictures of each class -- make look
	$(TOOL) look $(call flag,name,NAME)

sanity: $(READY)  ## check that pictures and labels belong together -- make sanity
	$(TOOL) sanity $(call flag,name,NAME)

train: $(READY)  ## train a model on all folds, save its OOF -- make train MODEL=efficientnet_lite0 RECIPE=best   or   TEACHER=blend
	$(TOOL) train $(call flag,model,MODEL) $(call flag,recipe,RECIPE) $(call flag,name,NAME) \
	  $(call flag,weights,WEIGHTS) $(call flag,run,RUN) $(call flag,only-fold,ONLY_FOLD) \
	  $(call flag,set,SET) $(call flag,memory,MEMORY) $(call flag,seeds,SEEDS) $(call flag,again,AGAIN) \
	  $(call flag,teacher,TEACHER) $(call flag,pseudo,PSEUDO)

double: $(READY)  ## one class against the rest, a second model for the others -- make double MODEL=efficientnet_lite0 SPLITS=Species1
	$(TOOL) double $(call flag,model,MODEL) $(call flag,splits,SPLITS) $(call flag,recipe,RECIPE) $(call flag,name,NAME) \
	  $(call flag,weights,WEIGHTS) $(call flag,run,RUN) $(call flag,only-fold,ONLY_FOLD) \
	  $(call flag,set,SET) $(call flag,memory,MEMORY) $(call flag,seeds,SEEDS) $(call flag,again,AGAIN)

tune: $(READY)  ## try values of a recipe's keys -- make tune MODEL=scratch SPACE="batch_size=4,8,16,32,64"   or   TRIALS=30 MINUTES=120
	$(TOOL) tune $(call flag,model,MODEL) $(call flag,space,SPACE) $(call flag,recipe,RECIPE) $(call flag,name,NAME) \
	  $(call flag,weights,WEIGHTS) $(call flag,run,RUN) $(call flag,folds-used,FOLDS_USED) $(call flag,trials,TRIALS) \
	  $(call flag,minutes,MINUTES) $(call flag,set,SET) $(call flag,memory,MEMORY)

gan: $(READY)  ## train a conditional GAN a fold and judge it -- make gan   or   make gan ONLY_FOLD=0 SET="epochs=200 side=64"
	$(TOOL) gan $(call flag,name,NAME) $(call flag,only-fold,ONLY_FOLD) $(call flag,set,SET)

rank: $(READY)  ## rank the backbones at hand by a head on frozen features -- make rank   or   make rank WEIGHTS=weights/
	$(TOOL) rank $(call flag,name,NAME) $(call flag,models,$(if $(call given,MODELS),MODELS,MODEL)) $(call flag,recipe,RECIPE) \
	  $(call flag,weights,WEIGHTS) $(call flag,grid,GRID) $(call flag,memory,MEMORY)

study: $(READY)  ## compare every system of the report, rung by rung -- make study   or   make study NAME=sample QUICK=1
	$(TOOL) study $(call flag,name,NAME) $(call flag,backbone,BACKBONE) $(call switch,quick,QUICK) \
	  $(call flag,budget,BUDGET) $(call flag,weights,WEIGHTS) $(call flag,memory,MEMORY)

explain: $(READY)  ## what a run looks at in its images -- make explain   or   make explain RUN=vgg16-quick FOLD=0
	$(TOOL) explain $(call flag,name,NAME) $(call flag,run,RUN) $(call flag,fold,FOLD)

audit: $(READY)  ## rank labels that are likely wrong, by the OOF -- make audit   or   make audit RUNS=a,b
	$(TOOL) audit $(call flag,name,NAME) $(call flag,runs,$(if $(call given,RUNS),RUNS,RUN))

shift: $(READY)  ## compare unlabelled test images with the training images -- make shift TEST=test_images/
	$(TOOL) shift $(call flag,test,TEST) $(call flag,name,NAME) $(call flag,model,MODEL) $(call flag,weights,WEIGHTS) \
	  $(call flag,runs,$(if $(call given,RUNS),RUNS,RUN)) $(call flag,memory,MEMORY)

soup: $(READY)  ## average the weights of runs of one backbone, fold by fold -- make soup RUNS=a,b RUN=both
	$(TOOL) soup $(call flag,name,NAME) $(call flag,runs,RUNS) $(call flag,run,RUN) $(call flag,memory,MEMORY)

blend: $(READY)  ## choose weights and TTA on the OOF -- make blend   or   make blend RUNS=a,b,c
	$(TOOL) blend $(call flag,name,NAME) $(call flag,runs,$(if $(call given,RUNS),RUNS,RUN)) \
	  $(call flag,hidden-n,HIDDEN_N) $(call flag,hidden,HIDDEN)

simulate: $(READY)  ## play whole competitions: does the forecast hold? -- make simulate   or   make simulate DATA=photos.zip N=40
	$(TOOL) simulate $(call flag,name,NAME) $(call flag,data,DATA) $(call flag,n,N) $(call flag,hidden,HIDDEN) $(call flag,seed,SEED)

submission: $(READY)  ## pack and rehearse the zip -- make submission   or   make submission FORMAT=codabench RUN=efficientnet_lite0-best
	$(TOOL) submission $(call flag,format,FORMAT) $(call flag,name,NAME) $(call flag,run,RUN) $(TO_PREDICT) $(ON_KAGGLE) \
	  $(call flag,scorer,SCORER) $(call flag,hidden-n,HIDDEN_N) $(call flag,hidden,HIDDEN) $(call flag,max-mb,MAX_MB) \
	  $(call flag,max-seconds,MAX_SECONDS) $(call flag,max-memory,MAX_MEMORY) $(call switch,fit,FIT)

check: $(READY)  ## say what is wrong with any zip, and how to mend it -- make check ZIP=mine.zip   or   make check ZIP=mine.zip SCORER=tensorflow==2.12.1
	$(TOOL) check $(call flag,zip,ZIP) $(call flag,format,FORMAT) $(call flag,name,NAME) $(call flag,scorer,SCORER) \
	  $(call flag,size,SIZE) $(call flag,hidden-n,HIDDEN_N) $(call flag,max-mb,MAX_MB) $(call flag,max-seconds,MAX_SECONDS) \
	  $(call flag,max-memory,MAX_MEMORY)

score: $(READY)  ## write down the score that came back, beside its forecast -- make score ZIP=submissions/plants.zip PHASE=final VALUE=0.871
	$(TOOL) score $(call flag,zip,ZIP) $(call flag,phase,PHASE) $(call flag,value,VALUE)

matrix: $(READY)  ## rehearse every backbone family with several scorers, and every format -- make matrix   or   make matrix SCORERS=current FAMILIES=resnet50
	$(TOOL) matrix $(call flag,scorers,SCORERS) $(call flag,families,FAMILIES) $(call flag,formats,FORMATS)

predict: $(READY)  ## predict test images, as the sample submission has it -- make predict TEST=test.zip SAMPLE=sample_submission.csv
	$(TOOL) predict $(call flag,name,NAME) $(call flag,run,RUN) $(TO_PREDICT) $(call flag,hidden,HIDDEN)

kernel: $(READY)  ## a kernel that trains a run on Kaggle's GPU -- make kernel MODEL=efficientnet_lite0 RECIPE=best KAGGLE_USER=me
	$(TOOL) kernel $(call flag,model,MODEL) $(call flag,recipe,RECIPE) $(call flag,name,NAME) \
	  $(call flag,weights,WEIGHTS) $(call flag,run,RUN) $(call flag,only-fold,ONLY_FOLD) \
	  $(call flag,set,SET) $(ON_KAGGLE)

take: $(READY)  ## take in what `kaggle kernels output` brought -- make take FROM=kernels/plants-train-efficientnet-lite0-best/output
	$(TOOL) take $(call flag,from,FROM)

backbones: $(READY)  ## list the backbones, or what some see -- make backbones   or   make backbones MODEL=vgg16,vgg16_nopool
	$(TOOL) backbones $(call flag,model,MODEL) $(call flag,size,SIZE)

bench: $(READY)  ## measure speed, memory and scale beside a plain Keras loop -- make bench   or   make bench DATA=photos.zip QUICK=1
	$(VENV)/bin/python -m bench $(call flag,data,DATA) $(call flag,only,ONLY) $(call switch,quick,QUICK) $(call switch,long,LONG)

# Installed anew only when requirements.txt changes, or when CUDA is asked for the first time (.venv/.gpu remembers it).
CUDA := $(or $(filter-out 0,$(call given,GPU)),$(wildcard $(VENV)/.gpu))

$(READY): requirements.txt $(if $(CUDA),$(VENV)/.gpu) | $(VENV)/bin/pip
	$(if $(CUDA),$(VENV)/bin/pip uninstall -q -y tensorflow-cpu)
	sed 's/^tensorflow-cpu==/$(if $(CUDA),tensorflow[and-cuda],tensorflow-cpu)==/' requirements.txt > $(VENV)/requirements.txt
	$(VENV)/bin/pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt
	@touch $@

lint: $(VENV)/.test  ## check style, format and types of the code -- make lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(VENV)/.docs  ## build the docs as a site, in site/ -- make docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

# What tests and lint need besides the product, and what the docs need: each is installed when it is first asked for.
test: $(VENV)/.test

$(VENV)/.test: requirements-test.txt $(READY)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements-test.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements-docs.txt
	@touch $@

.PHONY: lint docs

$(VENV)/.gpu: | $(VENV)/bin/pip
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "error: %s is Python %d.%d, expected 3.11 to 3.13; \
	  make PYTHON=<another> $(MAKECMDGOALS)" % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv $(VENV)
