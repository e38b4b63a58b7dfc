# Hindsight demonstrations (eexp relabel) where goals are not states: `house`, or any environment whose goals can be relabelled.
#
#   make -f recipes/studies/hindsight.mk OUT=studies/hindsight-25 TRAIN=25 UPDATES=600 SEEDS="0 1 2 3 4"
#   python recipes/studies/house_results.py studies/hindsight-25
#
# All arms train all weights of the base for UPDATES updates of BATCH trajectories, and play without a thought.
#
#   il           the expert's actions
#   hs           these, and hindsight demonstrations of K alternatives in every state
#
# Placebos:
#
#   hs-goals     the instructions of the hindsight demonstrations exchanged among them
#   walk         as many hindsight demonstrations of random walks in the same tasks, instead of alternatives of the expert's path
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
ENV ?= house
BASE ?= tiny-reader
OUT ?= studies/hindsight-$(ENV)
SEEDS ?= 0
ARMS ?= il hs hs-goals walk
TRAIN ?= 25
K ?= 20
# Limits of the demonstrations of one trajectory and of one instruction.
RELABEL ?= --per-trajectory 8
PANEL_TASKS ?= 200
UPDATES ?= 600
BATCH ?= 4
LR ?= 1e-4
# Random walks in each task: enough for as many demonstrations as `hs` has.
WALKS ?= 20
PYTHON ?= python

export OMP_NUM_THREADS ?= 1
TRACKED := ENV BASE TRAIN K RELABEL PANEL_TASKS UPDATES BATCH LR WALKS
include $(HERE)../given.mk

TUNE = --full --batch-trajectories $(BATCH) --lr $(LR)
EVAL = --threads 1 $(Q)
HALF := $(shell echo $$(($(UPDATES) / 2)))
WORLD = $(OUT)/world.jsonl

.PHONY: all
all: $(foreach arm,$(ARMS),$(SEEDS:%=$(OUT)/%/$(arm).act.jsonl))

$(OUT)/expert.jsonl: $(call given,ENV TRAIN)
	eexp expert '$(ENV)' -n $(TRAIN) $(Q) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,PANEL_TASKS)
	eexp panel '$(ENV)' --split test -n $(PANEL_TASKS) --apart-from $< $(Q) -o $@

$(OUT)/rollout.jsonl: $(OUT)/expert.jsonl $(call given,K)
	eexp branch -k $(K) --from admissible $(Q) $< | eexp rollout $(Q) -o $@

$(OUT)/relabelled.jsonl: $(OUT)/rollout.jsonl $(OUT)/panel.jsonl $(call given,RELABEL)
	eexp relabel $(RELABEL) --apart-from $(OUT)/panel.jsonl $(Q) -o $@ $<

$(OUT)/relabelled-goals.jsonl: $(OUT)/relabelled.jsonl
	$(PYTHON) $(HERE)placebo.py goals $< > $@

$(OUT)/walks.jsonl: $(OUT)/expert.jsonl $(call given,WALKS)
	eexp eval '$(ENV)' --split train -n $(TRAIN) -m random --trials $(WALKS) $(Q) | eexp import episodes $(Q) -o $@

$(OUT)/relabelled-walk.jsonl: $(OUT)/walks.jsonl $(OUT)/relabelled.jsonl $(OUT)/panel.jsonl $(call given,RELABEL)
	eexp relabel $(RELABEL) --apart-from $(OUT)/panel.jsonl $(Q) $< \
	  | eexp select --by random -n $$(wc -l < $(OUT)/relabelled.jsonl) $(Q) -o $@

# $(call imitated,NAME,TRAJECTORIES)
define imitated
$(OUT)/$1.jsonl: $(OUT)/$2.jsonl
	eexp imitation-data $(Q) -o $$@ $$<
endef
$(eval $(call imitated,il,expert))
$(eval $(call imitated,hs-only,relabelled))
$(eval $(call imitated,hs-goals-only,relabelled-goals))
$(eval $(call imitated,walk-only,relabelled-walk))

$(OUT)/world.jsonl: $(OUT)/rollout.jsonl
	eexp world-model-data $(Q) -o $@ $<

include $(HERE)world-first.mk
train_on = $(eval $(call arm,$1,$(2:%=$(OUT)/%.jsonl)))
$(call train_on,il,il)
$(call train_on,hs,hs-only il)
$(call train_on,hs-goals,hs-goals-only il)
$(call train_on,walk,walk-only il)
