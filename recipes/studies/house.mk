# The paper's methods in `house`, on a base that reads and has seen no action's outcome (recipes/tiny/make_reader.py).
#
#   make -f recipes/studies/house.mk OUT=studies/house-reader SEEDS="0 1"
#   python recipes/studies/house_results.py studies/house-reader
#
# All arms train all weights of the base for UPDATES updates of BATCH trajectories.
#
#   il             the expert's actions
#   iwm            world model, then imitation, half of the updates each (matched)
#   iwm-extra      world model, then imitation, UPDATES each, so twice as many
#   sr             a thought from executed outcomes before the expert's action, mixed with the expert's actions
#   notes          a thought from the environment's notes, what is known and still needed, without any outcome
#   notes-sr       what one alternative led to, then the notes, in the same states; it is mixed in the same way
#   iwm-notes-sr   world model, then the examples of notes-sr, half of the updates each (matched)
#   iwm-extra-notes-sr   the same, UPDATES each
#   recovery       imitation with refused draws of the explorers in the path, however rare
#   recovery-likely   imitation with those that they make with a probability of LIKELY and more
#   recovery-sr    thoughts from executed outcomes on these paths, mixed with their actions
#
# Placebos:
#
#   sr-permuted    thoughts from outcomes that were exchanged among alternatives of one verb
#   notes-sr-permuted      the same before the notes
#   recovery-sr-permuted   the same on recovered paths
#   iwm-extra-permuted     a world model of these outcomes, then imitation, UPDATES each
#
# Beside arms with extra updates belongs imitation of as many: UPDATES=600 ARMS=il.
#
# Alternatives are what two explorers draw, imitators of one half of the demonstrations each, in the states of the other half.
# Refused ones stay: world models predict them, and recovery puts them into the path.
#
# `make ... changed` plays the same agents in the same tasks where the interface has changed (docs/environments/changed.md),
# in OUT-names, OUT-order and so on. `make ... rl` goes on from STARTS by reinforcement learning (recipes/rl), with the
# demonstrations and thoughts that each was trained on at a share of the loss, so that it stays near to where it began.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
BASE ?= tiny-reader
OUT ?= studies/house-reader
SEEDS ?= 0
ARMS ?= il notes-sr notes iwm sr notes-sr-permuted recovery recovery-sr sr-permuted iwm-extra recovery-sr-permuted
TRAIN ?= 200
K ?= 5
PANEL_TASKS ?= 200
UPDATES ?= 500
BATCH ?= 4
# Larger steps make the base forget how to read.
LR ?= 1e-4
HALF := $(shell echo $$(($(UPDATES) / 2)))
PYTHON ?= python
LIKELY ?= 0.05
CHANGES ?= names order confirm fail
#: How a change is named in a spec: other names are invented ones that the base can read.
renamed = $(if $(filter names,$1),names=$(HERE)house-names.toml,$1)
STARTS ?= il iwm-extra notes-sr iwm-extra-notes-sr
ROUNDS ?= 6
RL ?= TASKS=16 TRIALS=4

export OMP_NUM_THREADS ?= 1
TRACKED := BASE TRAIN K PANEL_TASKS UPDATES BATCH LR LIKELY
include $(HERE)../given.mk

TUNE = --full --batch-trajectories $(BATCH) --lr $(LR)
EVAL = --threads 1 $(Q)
WORLD = $(OUT)/%/world.jsonl
# How an arm plays: with thoughts where it was trained on them.
how = $(if $(findstring sr,$1)$(findstring notes,$1),think,act)
PLAYED = $(foreach one,$(ARMS),$(one).$(call how,$(one)))
ENV = house
PLAYED_IN = $(ENV)

.PHONY: all changed
all: $(foreach played,$(PLAYED),$(SEEDS:%=$(OUT)/%/$(played).jsonl))
changed: $(foreach change,$(CHANGES),$(foreach played,$(PLAYED),$(SEEDS:%=$(OUT)-$(change)/%/$(played).jsonl)))

# -- demonstrations and experience ---------------------------------------------------------------------------------

$(OUT)/expert.jsonl: $(call given,TRAIN)
	eexp expert house -n $(TRAIN) $(Q) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,PANEL_TASKS)
	eexp panel house --split test -n $(PANEL_TASKS) --apart-from $< $(Q) -o $@

define explorer
$(OUT)/half-$1.jsonl: $(OUT)/expert.jsonl
	eexp split --parts 2 --part $1 $$< $(Q) -o $$@

$(OUT)/without-$1.jsonl: $(OUT)/expert.jsonl
	eexp split --parts 2 --without $1 $(Q) $$< | eexp imitation-data $(Q) -o $$@

$(OUT)/%/explorer-$1/eexp.json: $(OUT)/without-$1.jsonl $(call given,BASE UPDATES BATCH LR)
	$$(begin_run)
	eexp finetune --resume -m $(BASE) -o $$(@D) $(TUNE) --max-steps $(HALF) --seed $$* $(Q) $$<

$(OUT)/%/explorer-$1.gguf: $(OUT)/%/explorer-$1/eexp.json
	eexp export $$(<D) -o $$@

$(OUT)/%/branched-$1.jsonl: $(OUT)/half-$1.jsonl $(OUT)/%/explorer-$1.gguf $(call given,K)
	eexp branch -k $(K) --no-only-admissible -m $(OUT)/$$*/explorer-$1.gguf --threads 1 --seed $$* $(Q) -o $$@ $$<
endef
$(eval $(call explorer,1))
$(eval $(call explorer,2))

$(OUT)/%/rollout.jsonl: $(OUT)/%/branched-1.jsonl $(OUT)/%/branched-2.jsonl
	cat $^ | eexp rollout $(Q) -o $@

$(OUT)/%/permuted.jsonl: $(OUT)/%/rollout.jsonl
	$(PYTHON) $(HERE)placebo.py outcomes $< > $@

$(OUT)/%/recovered.jsonl: $(OUT)/%/rollout.jsonl
	eexp recover --seed $* $(Q) -o $@ $<

$(OUT)/%/recovered-likely.jsonl: $(OUT)/%/rollout.jsonl $(call given,LIKELY)
	eexp recover --min-probability $(LIKELY) --seed $* $(Q) -o $@ $<

$(OUT)/%/recovered-permuted.jsonl: $(OUT)/%/recovered.jsonl
	$(PYTHON) $(HERE)placebo.py outcomes $< > $@

# -- examples ------------------------------------------------------------------------------------------------------

$(OUT)/il.jsonl: $(OUT)/expert.jsonl
	eexp imitation-data $(Q) -o $@ $<

$(OUT)/%/world.jsonl: $(OUT)/%/rollout.jsonl
	eexp world-model-data --predictable environment --seed $* $(Q) -o $@ $<

$(OUT)/%/world-permuted.jsonl: $(OUT)/%/permuted.jsonl
	eexp world-model-data --predictable environment --seed $* $(Q) -o $@ $<

$(OUT)/%/recovery.jsonl: $(OUT)/%/recovered.jsonl
	eexp imitation-data $(Q) -o $@ $<

$(OUT)/%/recovery-likely.jsonl: $(OUT)/%/recovered-likely.jsonl
	eexp imitation-data $(Q) -o $@ $<

# $(call thoughts,NAME,RECORDS,RULE,CONTENDERS)
define thoughts
$(OUT)/%/$1.jsonl: $(OUT)/%/$2.jsonl
	eexp reflect --rationale $3 --weigh $4 $(Q) -o $$@ $$<
endef
$(eval $(call thoughts,sr,rollout,outcome,1))
$(eval $(call thoughts,sr-permuted,permuted,outcome,1))
$(eval $(call thoughts,recovery-sr,recovered,outcome,1))
$(eval $(call thoughts,recovery-sr-permuted,recovered-permuted,outcome,1))
$(eval $(call thoughts,notes,rollout,environment,0))
$(eval $(call thoughts,notes-sr,rollout,environment,1))
$(eval $(call thoughts,notes-sr-permuted,permuted,environment,1))

# -- arms ----------------------------------------------------------------------------------------------------------

include $(HERE)world-first.mk
$(eval $(call arm,il,$(OUT)/il.jsonl))
$(eval $(call arm,recovery,$(OUT)/%/recovery.jsonl))
$(eval $(call arm,recovery-likely,$(OUT)/%/recovery-likely.jsonl))
$(foreach one,sr sr-permuted notes notes-sr notes-sr-permuted,$(eval $(call arm,$(one),$(OUT)/%/$(one).jsonl $(OUT)/il.jsonl)))
$(eval $(call arm,recovery-sr,$(OUT)/%/recovery-sr.jsonl $(OUT)/%/recovery.jsonl))
$(eval $(call arm,recovery-sr-permuted,$(OUT)/%/recovery-sr-permuted.jsonl $(OUT)/%/recovery.jsonl))

$(eval $(call after,iwm-world,iwm-notes-sr,$(HALF),$(OUT)/%/notes-sr.jsonl $(OUT)/il.jsonl))
$(eval $(call after,iwm-extra-world,iwm-extra-notes-sr,$(UPDATES),$(OUT)/%/notes-sr.jsonl $(OUT)/il.jsonl))
$(eval $(call world,iwm-permuted-world,$(UPDATES),$(OUT)/%/world-permuted.jsonl))
$(eval $(call after,iwm-permuted-world,iwm-extra-permuted,$(UPDATES),$(OUT)/il.jsonl))

# -- reinforcement learning ----------------------------------------------------------------------------------------

# The name of an arm without the world model before it.
thoughts_of = $(patsubst iwm-%,%,$(1:iwm-extra-%=iwm-%))
examples_of = $(if $(filter think,$(call how,$1)),$(OUT)/$$*/$(call thoughts_of,$1).jsonl )$(OUT)/il.jsonl
include $(HERE)further.mk
