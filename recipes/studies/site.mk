# Imitation and early experience on a web site, as it is and with a changed interface: Datasette in a real browser, and a
# base of two million weights that reads pages and has seen no page of it (recipes/tiny/make_pages.py).
#
#   make -f recipes/studies/site.mk base
#   make -f recipes/studies/site.mk all changed SEEDS="0 1 2 3 4"
#   python recipes/studies/house_results.py studies/site          # and studies/site-names, studies/site-order, ...
#
# All arms train all weights of the base for UPDATES updates of BATCH trajectories.
#
#   il                  the expert's actions
#   iwm                 world model, then imitation, half of the updates each (matched)
#   notes               a thought before the expert's action, without any outcome: which element is next, and its name;
#                       mixed with the expert's actions
#   notes-sr            what one alternative led to, then the notes, in the same states; it is mixed in the same way
#   notes-sr-permuted   its placebo: the outcomes of alternatives are exchanged among all states
#
# Alternatives are K admissible actions in every state of the expert's path. They are the same for all seeds.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
OUT ?= studies/site
BASE ?= studies/bases/pages
SEEDS ?= 0 1 2 3 4
ARMS ?= il iwm notes notes-sr notes-sr-permuted
TRAIN ?= 60
K ?= 2
PANEL_TASKS ?= 25
UPDATES ?= 120
BATCH ?= 2
LR ?= 1e-4
MAX_STEPS ?= 7
CHANGES ?= names order
HALF := $(shell echo $$(($(UPDATES) / 2)))
PYTHON ?= python
SITE = web?tasks=$(OUT)/tasks.toml&run=yes&max_steps=$(MAX_STEPS)
#: How a change is named in a spec: other names are words that the base can read.
renamed = $(if $(filter names,$1),names=$(HERE)site/names.toml,$1)

export OMP_NUM_THREADS ?= 1
TRACKED := BASE TRAIN K PANEL_TASKS UPDATES BATCH LR MAX_STEPS
include $(HERE)../given.mk

TUNE = --full --batch-trajectories $(BATCH) --lr $(LR)
PLAYED_HERE = $(SITE)
PLAYED_IN = $(SITE)
# One episode at a time: each further one at once would start a browser of its own.
EVAL = --threads 1 --parallel 1 $(Q)
WORLD = $(OUT)/world.jsonl
how = $(if $(findstring notes,$1),think,act)
PLAYED = $(foreach one,$(ARMS),$(one).$(call how,$(one)))

.PHONY: all changed base
all: $(foreach seed,$(SEEDS),$(foreach played,$(PLAYED),$(OUT)/$(seed)/$(played).jsonl))
changed: $(foreach change,$(CHANGES),$(foreach seed,$(SEEDS),$(foreach played,$(PLAYED),$(OUT)-$(change)/$(seed)/$(played).jsonl)))
base: $(BASE)/config.json

# Four stages: in the last one, thoughts have the form that they have in the study.
stage = cd $(HERE)../tiny && $(PYTHON) make_pages.py -o $(abspath $(BASE))$1
$(BASE)/config.json:
	$(call stage,-1)
	$(call stage,-2 --init $(abspath $(BASE))-1 --episodes 1500 --acting 0.7 --seed 1)
	$(call stage,-3 --init $(abspath $(BASE))-2 --episodes 2500 --acting 0.8 --seed 2)
	$(call stage, --init $(abspath $(BASE))-3 --episodes 1500 --acting 0.8 --seed 3 --closed)

# -- demonstrations and experience ---------------------------------------------------------------------------------

$(OUT)/tasks.toml: $(wildcard $(HERE)site/*)
	@mkdir -p $(@D)
	rm -rf $(@D)/site && cp -r $(HERE)site $(@D)/site
	$(PYTHON) $(HERE)site/make_tasks.py > $@

$(OUT)/expert.jsonl: $(OUT)/tasks.toml $(call given,TRAIN MAX_STEPS)
	eexp expert '$(SITE)' -n $(TRAIN) $(Q) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,PANEL_TASKS)
	eexp panel '$(SITE)' --split test -n $(PANEL_TASKS) --apart-from $< $(Q) -o $@

$(OUT)/rollout.jsonl: $(OUT)/expert.jsonl $(call given,K)
	eexp branch -k $(K) --from admissible $(Q) $< | eexp rollout --env '$(SITE)' -j 1 --audit 0 $(Q) -o $@

$(OUT)/permuted.jsonl: $(OUT)/rollout.jsonl
	$(PYTHON) $(HERE)placebo.py outcomes $< > $@

# -- examples ------------------------------------------------------------------------------------------------------

$(OUT)/il.jsonl: $(OUT)/expert.jsonl
	eexp imitation-data $(Q) -o $@ $<

$(OUT)/world.jsonl: $(OUT)/rollout.jsonl
	eexp world-model-data $(Q) -o $@ $<

# $(call thoughts,NAME,RECORDS,OPTION)
define thoughts
$(OUT)/$1.jsonl: $(OUT)/$2.jsonl
	$(PYTHON) $(HERE)site/led_to.py $3 $$< | eexp reflect --rationale environment --weigh 0 $(Q) -o $$@
endef
$(eval $(call thoughts,notes,rollout,--no-alternatives))
$(eval $(call thoughts,notes-sr,rollout))
$(eval $(call thoughts,notes-sr-permuted,permuted))

# -- arms ----------------------------------------------------------------------------------------------------------

include $(HERE)world-first.mk
$(eval $(call arm,il,$(OUT)/il.jsonl))
$(foreach one,notes notes-sr notes-sr-permuted,$(eval $(call arm,$(one),$(OUT)/$(one).jsonl $(OUT)/il.jsonl)))
