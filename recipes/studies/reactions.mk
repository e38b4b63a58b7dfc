# A study of where only executed alternatives can help: `reactions`, a hidden table (docs/environments/reactions.md).
#
#   make -f recipes/studies/reactions.mk OUT=studies/reactions-0 TABLE=0 SEEDS="0 1"
#   python recipes/studies/reactions_results.py studies/reactions-0
#
# All arms begin with one base, which knows other tables, and train all weights for UPDATES updates of BATCH examples. Each
# agent is played twice: with a thought before every action, and without.
#
#   il             the expert's actions
#   iwm            world model, then imitation, half of the updates each (matched)
#   world          world model alone
#   iwm-extra      world model, then imitation, UPDATES each, so twice as many
#   joint          imitation and world model in one run
#   sr             a thought from executed outcomes before the expert's action, mixed with the expert's actions
#   sr-here        the same thoughts without what they say of later states: they list what this state's actions lead to
#   sr-outcome     thoughts by the rule `outcome`, which says little more than that the choice is the expert's
#   sr-iwm         sr, and the world model, in one run
#   sr-each        as sr-here, one thought for every contender: what the action and this contender lead to
#   sr-writer      thoughts by a model of this size that has learned to write them about other tables
#   sr-self        thoughts that the base writes itself, from the request with the executed outcomes
#
# Thoughts without outcomes, which no alternative has to be executed for:
#
#   star           what the base thinks before it acts, where the expert's action follows (STaR)
#
# Placebos, which have to fail:
#
#   sr-own         thoughts from the demonstrations' own outcomes alone: no alternative was executed
#   sr-permuted    thoughts from outcomes that were exchanged among alternatives of one verb
#   sr-here-permuted   the same, as in sr-here
#   sr-iwm-permuted   sr-permuted, and a world model of these outcomes
#   sr-iwm-wrong   thoughts from executed outcomes, and a world model of exchanged ones
#   sr-exchanged   thoughts from executed outcomes, exchanged among the examples
#   sr-writer-permuted   thoughts by the same writer, from exchanged outcomes
#
# `make ... rl` goes on from STARTS by reinforcement learning (recipes/rl), with the demonstrations and thoughts that each was
# trained on at a share of the loss, so that it stays near to where it began.
#
# The control: so many demonstrations that they show nearly the whole table, so that alternatives tell little more. The
# arm sr-own should then do as well as sr:
#
#   make -f recipes/studies/reactions.mk OUT=studies/reactions-shown TRAIN=160 TRAIN_SPLIT=test ARMS="il sr sr-own" ...
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
TABLE ?= 0
ENV ?= reactions?table=$(TABLE)
BASE ?= tiny-reactions
OUT ?= studies/reactions-$(TABLE)
SEEDS ?= 0 1
ARMS ?= il sr iwm sr-iwm sr-own sr-permuted joint iwm-extra sr-iwm-permuted sr-exchanged
TRAIN ?= 24
TRAIN_SPLIT ?= train
# Options for the expert: --noise 0.3 --all
EXPERT ?=
K ?= 6
PANEL_TASKS ?= 240
UPDATES ?= 240
BATCH ?= 16
LR ?= 1e-3
HALF := $(shell echo $$(($(UPDATES) / 2)))
# Imitation of a few dozen examples for as long as the others makes the base forget how to think. LIGHT updates at
# LIGHT_LR are for the arms il-light and iwm-light, imitation alone and after UPDATES of the world model.
LIGHT ?= 30
LIGHT_LR ?= 3e-4
PYTHON ?= python
# The writer of sr-writer learns from TRAIN tasks of each of these tables.
WRITER ?= studies/reactions-writer
WRITER_TABLES ?= $(shell seq 9000 9059)
# Options of `eexp reflect` for the base as a writer: draws of a text, and how long it may be.
SELF ?= --temperature 1 --retries 15 --max-tokens 480 --max-words 400
# Each pair of request and thought is written so often, each time with new names.
WRITER_NAMES ?= 5
WRITER_UPDATES ?= 1320
STARTS ?= il iwm-extra sr sr-iwm sr-permuted
ROUNDS ?= 8
RL ?= TASKS=16 TRIALS=6 TEMPERATURE=1 UPDATE="--mini-batches 4 --clip 0.2"

export OMP_NUM_THREADS ?= 1
export EEXP_PROMPT_STYLE := $(HERE)reactions.toml
TRACKED := ENV BASE SELF WRITER_NAMES WRITER_UPDATES TRAIN TRAIN_SPLIT EXPERT K PANEL_TASKS UPDATES BATCH LR LIGHT LIGHT_LR
include $(HERE)../given.mk

SHAPE = --full --batch-size $(BATCH) --shuffle examples
TUNE = $(SHAPE) --lr $(LR)
EVAL = --max-tokens 480 --threads 1 $(Q)
WORLD = $(OUT)/world.jsonl

.PHONY: all
all: $(foreach arm,$(ARMS),$(SEEDS:%=$(OUT)/%/$(arm).act.jsonl) $(SEEDS:%=$(OUT)/%/$(arm).think.jsonl))

# -- demonstrations and experience ---------------------------------------------------------------------------------

$(OUT)/expert.jsonl: $(call given,ENV TRAIN TRAIN_SPLIT EXPERT)
	eexp expert '$(ENV)' --split $(TRAIN_SPLIT) -n $(TRAIN) $(EXPERT) $(Q) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_TASKS)
	eexp panel '$(ENV)' --split test -n $(PANEL_TASKS) --apart-from $< $(Q) -o $@

$(OUT)/rollout.jsonl: $(OUT)/expert.jsonl $(call given,K)
	eexp branch -k $(K) --from admissible $(Q) $< | eexp rollout $(Q) -o $@

$(OUT)/permuted.jsonl: $(OUT)/rollout.jsonl
	$(PYTHON) $(HERE)placebo.py outcomes $< > $@

# -- examples ------------------------------------------------------------------------------------------------------

$(OUT)/il.jsonl: $(OUT)/expert.jsonl
	eexp imitation-data $(Q) $< -o $@

$(OUT)/world.jsonl: $(OUT)/rollout.jsonl
	eexp world-model-data --max-repeats all --max-invalid-fraction 1 $(Q) $< -o $@

$(OUT)/world-permuted.jsonl: $(OUT)/permuted.jsonl
	eexp world-model-data --max-repeats all --max-invalid-fraction 1 $(Q) $< -o $@

$(OUT)/sr.jsonl: $(OUT)/rollout.jsonl
	eexp reflect --rationale search $(Q) $< -o $@

$(OUT)/sr-outcome.jsonl: $(OUT)/rollout.jsonl
	eexp reflect --rationale outcome --weigh $(K) $(Q) $< -o $@

$(OUT)/sr-here.jsonl $(OUT)/sr-here-permuted.jsonl: $(OUT)/sr-here%.jsonl: $(OUT)/sr%.jsonl
	$(PYTHON) $(HERE)placebo.py here $< $(EEXP_PROMPT_STYLE) > $@

$(OUT)/sr-permuted.jsonl: $(OUT)/permuted.jsonl
	eexp reflect --rationale search $(Q) $< -o $@

$(OUT)/sr-own.jsonl: $(OUT)/expert.jsonl
	eexp reflect --rationale search $(Q) $< -o $@

$(OUT)/sr-exchanged.jsonl: $(OUT)/sr.jsonl
	$(PYTHON) $(HERE)placebo.py thoughts $< $(EEXP_PROMPT_STYLE) > $@

$(OUT)/each.jsonl: $(OUT)/rollout.jsonl
	eexp reflect --rationale search --per-alternative $(Q) $< -o $@

$(OUT)/sr-each.jsonl: $(OUT)/each.jsonl
	$(PYTHON) $(HERE)placebo.py here $< $(EEXP_PROMPT_STYLE) > $@

# -- the base as its own writer ------------------------------------------------------------------------------------

$(OUT)/base.gguf: $(call given,BASE)
	eexp export $(BASE) -o $@

# Its thoughts say what an action leads to as a fact, and it has names of other tables in mind: "hindsight" and "invented"
# would refuse what it thinks in play.
$(OUT)/star.jsonl: $(OUT)/rollout.jsonl $(OUT)/base.gguf $(call given,SELF)
	eexp reflect -m $(OUT)/base.gguf --no-outcomes --keep-matching --no-guard hindsight --no-guard invented $(SELF) \
	  --threads 1 --rejects $(@:.jsonl=.rejects) -o $@ $< || test $$? = 4

$(OUT)/sr-self.jsonl: $(OUT)/rollout.jsonl $(OUT)/base.gguf $(call given,SELF)
	eexp reflect -m $(OUT)/base.gguf --no-guard verify --no-guard hindsight $(SELF) \
	  --threads 1 --rejects $(@:.jsonl=.rejects) -o $@ $< || test $$? = 4

# -- a writer ------------------------------------------------------------------------------------------------------

$(WRITER)/table-%.jsonl: $(call given,TRAIN K WRITER_NAMES)
	mkdir -p $(@D)
	eexp expert 'reactions?table=$*' -n $(TRAIN) $(Q) | eexp branch -k $(K) --from admissible $(Q) | eexp rollout $(Q) -o $(@:.jsonl=.rollout)
	eexp reflect --rationale search $(Q) -o $(@:.jsonl=.search) $(@:.jsonl=.rollout)
	$(PYTHON) $(HERE)placebo.py here $(@:.jsonl=.search) $(EEXP_PROMPT_STYLE) > $(@:.jsonl=.here)
	$(PYTHON) $(HERE)writer.py $(WRITER_NAMES) $(@:.jsonl=.rollout) $(@:.jsonl=.here) $(EEXP_PROMPT_STYLE) > $@

$(WRITER)/model/eexp.json: $(WRITER_TABLES:%=$(WRITER)/table-%.jsonl) $(call given,BASE WRITER_UPDATES)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(SHAPE) --lr 1e-3 --max-steps $(WRITER_UPDATES) $(Q) $(filter %.jsonl,$^)

$(WRITER)/model.gguf: $(WRITER)/model/eexp.json
	eexp export $(<D) -o $@

# What an action leads to is written as in play, which the guard "hindsight" takes for something seen. --verify would refuse
# thoughts that do not come to an end of the task: the base has none.
WRITE = eexp reflect -m $(WRITER)/model.gguf --no-guard verify --no-guard hindsight --temperature 0 --retries 0 --threads 1 $(Q)

$(OUT)/sr-writer.jsonl: $(OUT)/rollout.jsonl $(WRITER)/model.gguf
	$(WRITE) --rejects $(@:.jsonl=.rejects) -o $@ $< || test $$? = 4

$(OUT)/sr-writer-permuted.jsonl: $(OUT)/permuted.jsonl $(WRITER)/model.gguf
	$(WRITE) --rejects $(@:.jsonl=.rejects) -o $@ $< || test $$? = 4

# -- arms ----------------------------------------------------------------------------------------------------------

include $(HERE)world-first.mk
# $(call train_on,NAME,FILES): an arm, by the names of its files.
train_on = $(eval $(call arm,$1,$(2:%=$(OUT)/%.jsonl)))
$(call train_on,il,il)
$(call train_on,world,world)
$(call train_on,joint,il world)
$(call train_on,sr,sr il)
$(call train_on,sr-here,sr-here il)
$(call train_on,sr-here-permuted,sr-here-permuted il)
$(call train_on,sr-outcome,sr-outcome il)
$(call train_on,sr-each,sr-each il)
$(call train_on,sr-self,sr-self il)
$(call train_on,star,star il)
$(call train_on,sr-iwm,sr il world)
$(call train_on,sr-own,sr-own il)
$(call train_on,sr-permuted,sr-permuted il)
$(call train_on,sr-iwm-permuted,sr-permuted il world-permuted)
$(call train_on,sr-iwm-wrong,sr il world-permuted)
$(call train_on,sr-exchanged,sr-exchanged il)
$(call train_on,sr-writer,sr-writer il)
$(call train_on,sr-writer-permuted,sr-writer-permuted il)

$(OUT)/%/il-light/eexp.json: $(OUT)/il.jsonl $(call given,BASE BATCH LIGHT LIGHT_LR)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(SHAPE) --lr $(LIGHT_LR) --max-steps $(LIGHT) --seed $* $(Q) $<

$(OUT)/%/iwm-light/eexp.json: $(OUT)/il.jsonl $(OUT)/%/world/eexp.json $(call given,BATCH LIGHT LIGHT_LR)
	$(begin_run)
	eexp finetune --resume -m $(OUT)/$*/world -o $(@D) $(SHAPE) --lr $(LIGHT_LR) --max-steps $(LIGHT) --seed $* $(Q) $<

# -- playing elsewhere ---------------------------------------------------------------------------------------------

# Trained agents elsewhere, such as $(OUT)/0/il.act.noisy.jsonl: a tenth of the words of observations left out (noisy), or
# a fifth of the table drawn again (shifted).
$(OUT)/panel.shifted.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_TASKS)
	eexp panel '$(ENV)&shift=0.2' --split test -n $(PANEL_TASKS) --apart-from $< $(Q) -o $@

# $(call elsewhere,PLAY,HOW)
define elsewhere
$(OUT)/%.$1.noisy.jsonl: $(OUT)/%.gguf $(OUT)/panel.jsonl
	eexp eval 'noisy:0.1:$(ENV)' --panel $(OUT)/panel.jsonl -m $$< --think $2 $(EVAL) --resume -o $$@.part && mv $$@.part $$@

$(OUT)/%.$1.shifted.jsonl: $(OUT)/%.gguf $(OUT)/panel.shifted.jsonl
	eexp eval --panel $(OUT)/panel.shifted.jsonl -m $$< --think $2 $(EVAL) --resume -o $$@.part && mv $$@.part $$@
endef
$(eval $(call elsewhere,act,never))
$(eval $(call elsewhere,think,always))

# -- reinforcement learning ----------------------------------------------------------------------------------------

# How an arm plays: with thoughts where it was trained on them.
how = $(if $(filter il% iwm% world joint,$1),act,think)
examples_of = $(if $(filter think,$(call how,$1)),$(OUT)/$(patsubst sr-wrong,sr,$(subst -iwm,,$1)).jsonl )$(OUT)/il.jsonl
# The training split is small: rounds play tasks of the test split that the panel does not have.
RL_PANEL = $(OUT)/rl-panel.jsonl
$(RL_PANEL): $(OUT)/expert.jsonl $(OUT)/panel.jsonl
	eexp panel '$(ENV)' --split test $(^:%=--apart-from %) $(Q) -o $@
include $(HERE)further.mk
