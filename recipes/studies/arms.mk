# The arms of one study: several training seeds, on one environment and one base model. The Makefile beside this file
# has the studies and their settings.
#
#   make -f arms.mk -j2 ENV=house BASE=tiny OUT=studies/house SEEDS="0 1 2 3 4" ARMS="il rules"
#
# Every file depends on what it is made of: other files, and the settings that are named in its rule. If K_MISTAKES is
# changed, only the files that depend on it are made again. A run that was stopped continues where it was.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
ENV ?= house
BASE ?= tiny
OUT ?= studies/$(ENV)
SEEDS ?= 0 1 2 3 4
ARMS ?= il iwm recovery rules
# TRAIN demonstrations of tasks of TRAIN_SPLIT. The panel has PANEL_TASKS tasks of each of PANEL_SPLITS; none of these
# tasks is demonstrated.
TRAIN ?= 200
TRAIN_SPLIT ?= train
PANEL_TASKS ?= 500
PANEL_SPLITS ?= test
OOD_SPLIT ?= ood
EXPERT ?=
PLAY ?=
NOISE ?= 0.1
# The file of a prompt style; without it, the default style is used.
STYLE ?=
# Alternatives in a state: admissible actions for the world model, the policy's own for reflections, and its mistakes.
K_WORLD ?= 2
K_OWN ?= 3
K_MISTAKES ?= 3
# Options of `eexp recover`: which mistakes are put into the expert's path. By default up to three in each state that
# has any.
RECOVER ?=
# Options of `eexp correct`: how many turns of an episode are corrected. By default it is the first one that failed.
CORRECT ?=
# All arms have the same number of updates, and adapters of the same shape; but dpo goes on from imitation, with some
# more. The number of trajectories in an update and the learning rate are the best of six settings for imitation, chosen
# on other tasks and seeds. Thoughts are four times as long, and a quarter as many trajectories were enough to learn
# them well.
UPDATES ?= 500
ADAPTER ?= --rank 32 --alpha 64
TUNED ?= --batch-trajectories 2 --lr 3e-3
TUNED_il ?= --batch-trajectories 8 --lr 3e-3
TUNED_recovery ?= --batch-trajectories 8 --lr 3e-3
TUNED_recovery-same ?= --batch-trajectories 8 --lr 3e-3
TUNED_corrections ?= --batch-trajectories 8 --lr 3e-3
TUNED_dpo ?= --lr 3e-4 --max-steps 60
$(foreach arm,explorer il iwm iwm-first recovery rules-alone rules rules-same outcomes outcomes-exchanged critiques rules-iwm,$(eval TUNED_$(arm) ?= $(TUNED)))
# The share of the loss that the world model's examples have.
WORLD_SHARE ?= 0.05

export OMP_NUM_THREADS ?= 1
ifneq (,$(STYLE))
export EEXP_PROMPT_STYLE := $(STYLE)
endif
TRAINED = $(ADAPTER) --max-steps $(UPDATES) --seed $*

TRACKED := ENV BASE STYLE TRAIN TRAIN_SPLIT PANEL_TASKS PANEL_SPLITS EXPERT PLAY NOISE K_WORLD K_OWN K_MISTAKES RECOVER CORRECT UPDATES ADAPTER WORLD_SHARE \
  $(filter TUNED_%,$(.VARIABLES))
include $(HERE)../given.mk

played = $(foreach arm,$(ARMS),$(SEEDS:%=$1/%/$(arm).episodes.jsonl))

#: The changes of the interface in which `changed` plays: docs/environments/changed.md.
CHANGES ?= names order confirm fail

.PHONY: all elsewhere changed started
all: $(call played,$(OUT))
# The same agents on tasks out of distribution, and with a tenth of the words of every observation missing.
elsewhere: $(call played,$(OUT)-ood) $(call played,$(OUT)-noisy)
# The same agents in the same tasks with another interface.
changed: $(foreach change,$(CHANGES),$(call played,$(OUT)-$(change)))
# The seconds that it took are appended to a file, one line for each run.
all elsewhere changed:
	@echo $$(($$(date +%s) - $$(cat $(OUT)/.started))) >> $(OUT)/seconds

started:
	@date +%s > $(OUT)/.started

# -- tasks, demonstrations, imitation ------------------------------------------------------------------------------

$(OUT)/expert.jsonl: $(call given,ENV TRAIN TRAIN_SPLIT EXPERT) | started
	eexp expert '$(ENV)' --split $(TRAIN_SPLIT) -n $(TRAIN) $(EXPERT) $(Q) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_TASKS PANEL_SPLITS)
	eexp panel '$(ENV)' $(PANEL_SPLITS:%=--split %) -n $(PANEL_TASKS) --apart-from $< -o $@

$(OUT)/il.jsonl: $(OUT)/expert.jsonl $(call given,STYLE)
	eexp imitation-data $(Q) $< -o $@

$(OUT)/base.gguf: $(call given,BASE)
	eexp export $(BASE) -o $@

$(OUT)/%/il/eexp.json: $(OUT)/il.jsonl $(call given,BASE UPDATES ADAPTER TUNED_il)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_il) $(Q) $<

# -- experience: what other actions lead to -----------------------------------------------------------------------

# The explorers are imitators of one half of the demonstrations each, and draw in the states of the other half. A policy
# that was trained on a state gives nearly all probability to the expert's action there. Its other actions are noise,
# not mistakes.
define explorer
$(OUT)/half-$1.jsonl: $(OUT)/expert.jsonl
	eexp split --parts 2 --part $1 $$< $(Q) -o $$@

$(OUT)/without-$1.jsonl: $(OUT)/expert.jsonl $(call given,STYLE)
	eexp split --parts 2 --without $1 $(Q) $$< | eexp imitation-data $(Q) -o $$@

$(OUT)/%/explorer-$1/eexp.json: $(OUT)/without-$1.jsonl $(call given,BASE UPDATES ADAPTER TUNED_explorer)
	$$(begin_run)
	eexp finetune --resume -m $(BASE) -o $$(@D) $(ADAPTER) --max-steps $(UPDATES) --seed $$* $(TUNED_explorer) $(Q) $$<

$(OUT)/%/explorer-$1.gguf: $(OUT)/%/explorer-$1/eexp.json
	eexp export $$(<D) -o $$@

# One record holds three pools: admissible actions for the world model, as in the paper; the policy's own actions that
# are admissible, for reflections; and the policy's own actions without that filter, which include its mistakes.
$(OUT)/%/branched-$1.jsonl: $(OUT)/half-$1.jsonl $(OUT)/base.gguf $(OUT)/%/explorer-$1.gguf \
    $(call given,K_WORLD K_OWN K_MISTAKES)
	eexp branch --pool world -k $(K_WORLD) --from admissible --seed $$* $(Q) $$< \
	  | eexp branch --pool own -k $(K_OWN) -m $(OUT)/base.gguf+$(OUT)/$$*/explorer-$1.gguf --threads 1 --seed $$* $(Q) \
	  | eexp branch --pool mistakes -k $(K_MISTAKES) --no-only-admissible \
	      -m $(OUT)/base.gguf+$(OUT)/$$*/explorer-$1.gguf --threads 1 --seed $$* $(Q) -o $$@
endef
$(eval $(call explorer,1))
$(eval $(call explorer,2))

$(OUT)/%/rollout.jsonl: $(OUT)/%/branched-1.jsonl $(OUT)/%/branched-2.jsonl
	cat $^ | eexp rollout $(Q) -o $@

# -- IL + IWM in one run: the world model's examples are WORLD_SHARE of the loss -----------------------------------

$(OUT)/%/world.jsonl: $(OUT)/%/rollout.jsonl
	eexp world-model-data --pool world --predictable environment --seed $* $(Q) $< -o $@

$(OUT)/%/iwm/eexp.json: $(OUT)/il.jsonl $(OUT)/%/world.jsonl $(call given,BASE UPDATES ADAPTER WORLD_SHARE TUNED_iwm)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_iwm) --share world_model=$(WORLD_SHARE) $(Q) \
	  $(OUT)/il.jsonl $(OUT)/$*/world.jsonl

# -- IWM, then IL, half of the updates each (in the paper, all of IL comes after) -----------------------------------

HALF := $(shell echo $$(($(UPDATES) / 2)))

$(OUT)/%/world-model/eexp.json: $(OUT)/%/world.jsonl $(call given,BASE UPDATES ADAPTER TUNED_iwm-first)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(ADAPTER) --max-steps $(HALF) --seed $* $(TUNED_iwm-first) $(Q) $<

$(OUT)/%/iwm-first/eexp.json: $(OUT)/il.jsonl $(OUT)/%/world-model/eexp.json $(call given,UPDATES TUNED_iwm-first)
	$(begin_run)
	eexp finetune --resume -m $(BASE) --init $(OUT)/$*/world-model -o $(@D) --max-steps $(HALF) --seed $* $(TUNED_iwm-first) $(Q) $<

# -- recovery: the policy's own refused actions on the expert's path, and the expert's action after them -----------

$(OUT)/%/recovered.jsonl: $(OUT)/%/rollout.jsonl $(call given,RECOVER)
	eexp recover --pool mistakes $(RECOVER) --seed $* $(Q) $< -o $@

$(OUT)/%/recovery.jsonl: $(OUT)/%/recovered.jsonl
	eexp imitation-data $(Q) $< -o $@

$(OUT)/%/recovery/eexp.json: $(OUT)/%/recovery.jsonl $(call given,BASE UPDATES ADAPTER TUNED_recovery)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_recovery) $(Q) $<

# -- thoughts by a rule before every action, on recovered paths ----------------------------------------------------

# "rules": from what the environment says is known and needed. No outcome of an alternative is in them. "rules-alone" has
# the same on the expert's own path. "outcomes": from what was executed.

$(OUT)/%/rules.jsonl: $(OUT)/%/recovered.jsonl
	eexp reflect --rationale environment --weigh 0 --pool own $(Q) $< -o $@

$(OUT)/%/outcomes.jsonl: $(OUT)/%/recovered.jsonl
	eexp reflect --rationale outcome --pool own $(Q) $< -o $@

$(OUT)/%/rules-alone.jsonl: $(OUT)/%/rollout.jsonl
	eexp reflect --rationale environment --weigh 0 --pool own $(Q) $< -o $@

$(OUT)/%/rules/eexp.json: $(OUT)/%/rules.jsonl $(call given,BASE UPDATES ADAPTER TUNED_rules)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_rules) $(Q) $<

$(OUT)/%/outcomes/eexp.json: $(OUT)/%/outcomes.jsonl $(call given,BASE UPDATES ADAPTER TUNED_outcomes)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_outcomes) $(Q) $<

# "recovery-same" and "rules-same": the examples of those arms in the states that have one in "outcomes" alone, which has
# none where no outcome speaks for the expert's action. "outcomes-exchanged": thoughts of the same lengths, from other
# states. placebo.py takes the texts apart by the prompt style.
PYTHON ?= python
PLACEBO := $(PYTHON) $(HERE)placebo.py

$(OUT)/%/recovery-same.jsonl: $(OUT)/%/recovery.jsonl $(OUT)/%/outcomes.jsonl
	$(PLACEBO) states $^ > $@

$(OUT)/%/rules-same.jsonl: $(OUT)/%/rules.jsonl $(OUT)/%/outcomes.jsonl
	$(PLACEBO) states $^ > $@

$(OUT)/%/outcomes-exchanged.jsonl: $(OUT)/%/outcomes.jsonl
	$(PLACEBO) thoughts $< $(or $(STYLE),react) > $@

# $(call examples,ARM): one training run on the examples of the arm's own name.
define examples
$(OUT)/%/$1/eexp.json: $(OUT)/%/$1.jsonl $(call given,BASE UPDATES ADAPTER TUNED_$1)
	rm -rf $$(@D)
	eexp finetune -m $(BASE) -o $$(@D) $$(TRAINED) $(TUNED_$1) -q $$<
endef
$(foreach arm,recovery-same rules-same outcomes-exchanged,$(eval $(call examples,$(arm))))

$(OUT)/%/rules-alone/eexp.json: $(OUT)/%/rules-alone.jsonl $(call given,BASE UPDATES ADAPTER TUNED_rules-alone)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_rules-alone) $(Q) $<

# -- corrections: the explorers play the demonstrated tasks, and the expert goes on from where they went wrong ---------

# $(call explored,HALF,THE OTHER): each explorer plays the tasks that it was not trained on.
define explored
$(OUT)/tasks-$1.jsonl: $(OUT)/half-$1.jsonl $(OUT)/half-$2.jsonl
	eexp panel '$(ENV)' --split $(TRAIN_SPLIT) -n $$$$(wc -l < $$<) --apart-from $(OUT)/half-$2.jsonl $(Q) -o $$@

$(OUT)/%/explored-$1.jsonl: $(OUT)/tasks-$1.jsonl $(OUT)/base.gguf $(OUT)/%/explorer-$1.gguf $(call given,PLAY)
	eexp eval --panel $$< -m $(OUT)/base.gguf+$(OUT)/$$*/explorer-$1.gguf --threads 1 $(PLAY) $(Q) -o $$@
endef
$(eval $(call explored,1,2))
$(eval $(call explored,2,1))

$(OUT)/%/corrected.jsonl: $(OUT)/%/explored-1.jsonl $(OUT)/%/explored-2.jsonl $(call given,CORRECT)
	cat $(filter %.jsonl,$^) | eexp correct $(CORRECT) $(Q) -o $@

# Refused actions that were corrected are put into the path, before the correction.
$(OUT)/%/corrections.jsonl: $(OUT)/%/corrected.jsonl
	eexp recover $(Q) $< | eexp imitation-data $(Q) -o $@

$(OUT)/%/corrections/eexp.json: $(OUT)/il.jsonl $(OUT)/%/corrections.jsonl \
    $(call given,BASE UPDATES ADAPTER TUNED_corrections)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_corrections) $(Q) $(OUT)/il.jsonl $(OUT)/$*/corrections.jsonl

# Thoughts in the corrected states, too: what was wrong with the agent's action, and what to do instead.
$(OUT)/%/critiques.jsonl: $(OUT)/%/corrected.jsonl
	eexp rollout $(Q) $< | eexp recover $(Q) | eexp reflect --rationale environment --weigh 0 $(Q) -o $@

$(OUT)/%/critiques/eexp.json: $(OUT)/%/rules.jsonl $(OUT)/%/critiques.jsonl \
    $(call given,BASE UPDATES ADAPTER TUNED_critiques)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_critiques) $(Q) $(OUT)/$*/rules.jsonl $(OUT)/$*/critiques.jsonl

# -- preferences: the expert's action before the explorer's, in the states that the explorer itself gets into -----------

$(OUT)/%/preferences.jsonl: $(OUT)/%/explored-1.jsonl $(OUT)/%/explored-2.jsonl
	cat $(filter %.jsonl,$^) | eexp correct --turns 8 $(Q) | eexp preference-data $(Q) -o $@

$(OUT)/%/dpo/eexp.json: $(OUT)/%/preferences.jsonl $(OUT)/il.jsonl $(OUT)/%/il/eexp.json $(call given,BASE TUNED_dpo)
	$(begin_run)
	eexp finetune --resume -m $(BASE) --init $(OUT)/$*/il -o $(@D) --objective dpo $(TUNED_dpo) --seed $* $(Q) \
	  $< $(OUT)/il.jsonl

# -- the sum: thoughts on recovered paths and a world model in one run ---------------------------------------------

$(OUT)/%/rules-iwm/eexp.json: $(OUT)/%/rules.jsonl $(OUT)/%/world.jsonl $(call given,BASE UPDATES ADAPTER WORLD_SHARE TUNED_rules-iwm)
	$(begin_run)
	eexp finetune --resume -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_rules-iwm) --share world_model=$(WORLD_SHARE) $(Q) \
	  $(OUT)/$*/rules.jsonl $(OUT)/$*/world.jsonl

# -- playing ---------------------------------------------------------------------------------------------------------

$(OUT)/%.gguf: $(OUT)/%/eexp.json
	eexp export $(<D) -o $@

$(OUT)-ood/panel.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_TASKS)
	mkdir -p $(@D)
	eexp panel '$(ENV)' --split $(OOD_SPLIT) -n $(PANEL_TASKS) --apart-from $< -o $@

$(OUT)-ood/%.episodes.jsonl: $(OUT)-ood/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY)
	mkdir -p $(@D)
	eexp eval --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --threads 1 $(PLAY) $(Q) -o $@

$(OUT)-noisy/%.episodes.jsonl: $(OUT)/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY NOISE)
	mkdir -p $(@D)
	eexp eval 'noisy:$(NOISE):$(ENV)' --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --threads 1 $(PLAY) $(Q) -o $@

define changed-episodes
$(OUT)-$1/%.episodes.jsonl: $(OUT)/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY)
	mkdir -p $$(@D)
	eexp eval 'changed:$1:$(ENV)' --panel $$< -m $(OUT)/base.gguf+$(OUT)/$$*.gguf --threads 1 $(PLAY) $(Q) -o $$@
endef
$(foreach change,$(CHANGES),$(eval $(call changed-episodes,$(change))))

# An agent that was trained to think, played without a thought: ARM.never.jsonl.
$(OUT)/%.never.jsonl: $(OUT)/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY)
	eexp eval --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --think never --threads 1 $(PLAY) -q -o $@

$(OUT)/%.episodes.jsonl: $(OUT)/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY)
	eexp eval --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --threads 1 $(PLAY) $(Q) -o $@
