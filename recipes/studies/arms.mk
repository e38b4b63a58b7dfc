# The arms of a study over several training seeds, on one environment and one base; the Makefile beside this says which.
#
#   make -f arms.mk -j2 ENV=house BASE=tiny OUT=studies/house SEEDS="0 1 2 3 4" ARMS="il sr"
#
# Everything hangs on what it is made of: files, and the settings named in its rule. Change K_MISTAKES, and what was drawn
# with it is made again, and nothing else is. A run that was stopped goes on where it was.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:

ENV ?= house
BASE ?= tiny
OUT ?= studies/$(ENV)
SEEDS ?= 0 1 2 3 4
ARMS ?= il iwm recovery sr
# Demonstrations, from tasks of TRAIN_SPLIT; and the panel, PANEL_TASKS tasks each of PANEL_SPLITS, none of them demonstrated.
TRAIN ?= 200
TRAIN_SPLIT ?= train
PANEL_TASKS ?= 500
PANEL_SPLITS ?= test
OOD_SPLIT ?= ood
EXPERT ?=
PLAY ?=
NOISE ?= 0.1
# A prompt style of its own: a file; without it, the default.
STYLE ?=
# Alternatives of a state: admissible ones for the world model, the policy's own for reflections, and its mistakes.
K_WORLD ?= 2
K_OWN ?= 3
K_MISTAKES ?= 3
# Which mistakes are put on the expert's path: by default up to three in every state that has any.
RECOVER ?=
# Every arm: as many updates, of an adapter of one shape. How many trajectories are in an update, and how fast it learns, is
# what was best for imitation of six settings, on other tasks and seeds; thoughts are four times as long, and learned well
# from a quarter as many.
UPDATES ?= 500
ADAPTER ?= --rank 32 --alpha 64
TUNED ?= --batch-trajectories 2 --lr 3e-3
TUNED_il ?= --batch-trajectories 8 --lr 3e-3
TUNED_recovery ?= --batch-trajectories 8 --lr 3e-3
$(foreach arm,explorer il iwm iwm-first recovery thoughts sr sr-outcome all,$(eval TUNED_$(arm) ?= $(TUNED)))
# What the world model's examples are of the loss.
WORLD_SHARE ?= 0.05

export OMP_NUM_THREADS ?= 1
ifneq (,$(STYLE))
export EEXP_PROMPT_STYLE := $(STYLE)
endif
TRAINED = $(ADAPTER) --max-steps $(UPDATES) --seed $*

# A file for each setting, written anew where the setting is another than last time. A dry run (make -n) writes nothing: what
# it would write counts as phony, so that all that hangs on it is shown.
SETTINGS := ENV BASE STYLE TRAIN TRAIN_SPLIT PANEL_TASKS PANEL_SPLITS EXPERT PLAY NOISE K_WORLD K_OWN K_MISTAKES RECOVER UPDATES ADAPTER WORLD_SHARE \
  $(filter TUNED_%,$(.VARIABLES))
CHANGED := $(foreach setting,$(SETTINGS),$(shell printf '%s' '$($(setting))' | cmp -s - $(OUT)/.settings/$(setting) \
  || echo $(setting)))
ifneq (,$(findstring n,$(firstword -$(MAKEFLAGS))))
.PHONY: $(CHANGED:%=$(OUT)/.settings/%)
else
$(foreach setting,$(CHANGED),$(shell mkdir -p $(OUT)/.settings; printf '%s' '$($(setting))' > $(OUT)/.settings/$(setting)))
endif
given = $(1:%=$(OUT)/.settings/%)

played = $(foreach arm,$(ARMS),$(SEEDS:%=$1/%/$(arm).episodes.jsonl))

.PHONY: all elsewhere started
all: $(call played,$(OUT))
# The same agents on tasks out of distribution, and with a tenth of the words of every observation missing.
elsewhere: $(call played,$(OUT)-ood) $(call played,$(OUT)-noisy)
# How long all of it took, one line a run.
all elsewhere:
	@echo $$(($$(date +%s) - $$(cat $(OUT)/.started))) >> $(OUT)/seconds

started:
	@date +%s > $(OUT)/.started

# -- tasks, demonstrations, imitation ------------------------------------------------------------------------------

$(OUT)/expert.jsonl: $(call given,ENV TRAIN TRAIN_SPLIT EXPERT) | started
	eexp expert '$(ENV)' --split $(TRAIN_SPLIT) -n $(TRAIN) $(EXPERT) -q -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_TASKS PANEL_SPLITS)
	eexp panel '$(ENV)' $(PANEL_SPLITS:%=--split %) -n $(PANEL_TASKS) --apart-from $< -o $@

$(OUT)/il.jsonl: $(OUT)/expert.jsonl $(call given,STYLE)
	eexp imitation-data -q $< -o $@

$(OUT)/base.gguf: $(call given,BASE)
	eexp export $(BASE) -o $@

$(OUT)/%/il/eexp.json: $(OUT)/il.jsonl $(call given,BASE UPDATES ADAPTER TUNED_il)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_il) -q $<

# -- experience: what other actions lead to -----------------------------------------------------------------------

# Who explores: imitators of one half of the demonstrations, each on the states of the other half. One that was trained on a
# state gives nearly all probability to the expert's action there, and what it says beside it is noise, not its mistakes.
define explorer
$(OUT)/half-$1.jsonl: $(OUT)/expert.jsonl
	eexp split --parts 2 --part $1 $$< -q -o $$@

$(OUT)/without-$1.jsonl: $(OUT)/expert.jsonl $(call given,STYLE)
	eexp split --parts 2 --without $1 -q $$< | eexp imitation-data -q -o $$@

$(OUT)/%/explorer-$1/eexp.json: $(OUT)/without-$1.jsonl $(call given,BASE UPDATES ADAPTER TUNED_explorer)
	rm -rf $$(@D)
	eexp finetune -m $(BASE) -o $$(@D) $(ADAPTER) --max-steps $(UPDATES) --seed $$* $(TUNED_explorer) -q $$<

$(OUT)/%/explorer-$1.gguf: $(OUT)/%/explorer-$1/eexp.json
	eexp export $$(<D) -o $$@

# Three pools in one record: admissible actions, as in the paper, for the world model; the policy's own that are admissible,
# for reflections; and the policy's own as they come, among which are its mistakes.
$(OUT)/%/branched-$1.jsonl: $(OUT)/half-$1.jsonl $(OUT)/base.gguf $(OUT)/%/explorer-$1.gguf \
    $(call given,K_WORLD K_OWN K_MISTAKES)
	eexp branch --pool world -k $(K_WORLD) --from admissible --seed $$* -q $$< \
	  | eexp branch --pool own -k $(K_OWN) -m $(OUT)/base.gguf+$(OUT)/$$*/explorer-$1.gguf --threads 1 --seed $$* -q \
	  | eexp branch --pool mistakes -k $(K_MISTAKES) --no-only-admissible \
	      -m $(OUT)/base.gguf+$(OUT)/$$*/explorer-$1.gguf --threads 1 --seed $$* -q -o $$@
endef
$(eval $(call explorer,1))
$(eval $(call explorer,2))

$(OUT)/%/rollout.jsonl: $(OUT)/%/branched-1.jsonl $(OUT)/%/branched-2.jsonl
	cat $^ | eexp rollout -q -o $@

# -- IL + IWM in one run: the world model's examples are WORLD_SHARE of the loss -----------------------------------

$(OUT)/%/world.jsonl: $(OUT)/%/rollout.jsonl
	eexp world-model-data --pool world --predictable environment --seed $* -q $< -o $@

$(OUT)/%/iwm/eexp.json: $(OUT)/il.jsonl $(OUT)/%/world.jsonl $(call given,BASE UPDATES ADAPTER WORLD_SHARE TUNED_iwm)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_iwm) --share world_model=$(WORLD_SHARE) -q \
	  $(OUT)/il.jsonl $(OUT)/$*/world.jsonl

# -- IWM, then IL, as in the paper: half of the updates each --------------------------------------------------------

HALF := $(shell echo $$(($(UPDATES) / 2)))

$(OUT)/%/world-model/eexp.json: $(OUT)/%/world.jsonl $(call given,BASE UPDATES ADAPTER TUNED_iwm-first)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(ADAPTER) --max-steps $(HALF) --seed $* $(TUNED_iwm-first) -q $<

$(OUT)/%/iwm-first/eexp.json: $(OUT)/il.jsonl $(OUT)/%/world-model/eexp.json $(call given,UPDATES TUNED_iwm-first)
	rm -rf $(@D)
	eexp finetune -m $(BASE) --init $(OUT)/$*/world-model -o $(@D) --max-steps $(HALF) --seed $* $(TUNED_iwm-first) -q $<

# -- recovery: the policy's own refused actions on the expert's path, and the expert's action after them -----------

$(OUT)/%/recovered.jsonl: $(OUT)/%/rollout.jsonl $(call given,RECOVER)
	eexp recover --pool mistakes $(RECOVER) --seed $* -q $< -o $@

$(OUT)/%/recovery.jsonl: $(OUT)/%/recovered.jsonl
	eexp imitation-data -q $< -o $@

$(OUT)/%/recovery/eexp.json: $(OUT)/%/recovery.jsonl $(call given,BASE UPDATES ADAPTER TUNED_recovery)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_recovery) -q $<

# -- SR: a thought before every action, on recovered paths; from what the environment says is known and needed, or from the
# -- outcomes alone. "thoughts" are the first kind on the expert's own path: no alternative and no outcome is in them ---

$(OUT)/%/sr.jsonl: $(OUT)/%/recovered.jsonl
	eexp reflect --rationale environment --weigh 0 --pool own -q $< -o $@

$(OUT)/%/sr-outcome.jsonl: $(OUT)/%/recovered.jsonl
	eexp reflect --rationale outcome --pool own -q $< -o $@

$(OUT)/%/thoughts.jsonl: $(OUT)/%/rollout.jsonl
	eexp reflect --rationale environment --weigh 0 --pool own -q $< -o $@

$(OUT)/%/sr/eexp.json: $(OUT)/%/sr.jsonl $(call given,BASE UPDATES ADAPTER TUNED_sr)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_sr) -q $<

$(OUT)/%/sr-outcome/eexp.json: $(OUT)/%/sr-outcome.jsonl $(call given,BASE UPDATES ADAPTER TUNED_sr-outcome)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_sr-outcome) -q $<

$(OUT)/%/thoughts/eexp.json: $(OUT)/%/thoughts.jsonl $(call given,BASE UPDATES ADAPTER TUNED_thoughts)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_thoughts) -q $<

# -- the sum: thoughts on recovered paths and a world model in one run ---------------------------------------------

$(OUT)/%/all/eexp.json: $(OUT)/%/sr.jsonl $(OUT)/%/world.jsonl $(call given,BASE UPDATES ADAPTER WORLD_SHARE TUNED_all)
	rm -rf $(@D)
	eexp finetune -m $(BASE) -o $(@D) $(TRAINED) $(TUNED_all) --share world_model=$(WORLD_SHARE) -q \
	  $(OUT)/$*/sr.jsonl $(OUT)/$*/world.jsonl

# -- playing ---------------------------------------------------------------------------------------------------------

$(OUT)/%.gguf: $(OUT)/%/eexp.json
	eexp export $(<D) -o $@

$(OUT)-ood/panel.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_TASKS)
	mkdir -p $(@D)
	eexp panel '$(ENV)' --split $(OOD_SPLIT) -n $(PANEL_TASKS) --apart-from $< -o $@

$(OUT)-ood/%.episodes.jsonl: $(OUT)-ood/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY)
	mkdir -p $(@D)
	eexp eval --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --threads 1 $(PLAY) -q -o $@

$(OUT)-noisy/%.episodes.jsonl: $(OUT)/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY NOISE)
	mkdir -p $(@D)
	eexp eval 'noisy:$(NOISE):$(ENV)' --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --threads 1 $(PLAY) -q -o $@

$(OUT)/%.episodes.jsonl: $(OUT)/panel.jsonl $(OUT)/base.gguf $(OUT)/%.gguf $(call given,PLAY)
	eexp eval --panel $< -m $(OUT)/base.gguf+$(OUT)/$*.gguf --threads 1 $(PLAY) -q -o $@
