# What the studies of `house` and `reactions` have in common: reinforcement learning (recipes/rl) that goes on from STARTS,
# with the demonstrations and thoughts that each start was trained on at a share of the loss, so that it stays near to
# where it began. A makefile sets STARTS, ROUNDS, RL, ENV, TRAIN, EVAL, `how`, the play of an arm, and `examples_of` before
# it includes this file; and RL_PANEL, a file of tasks, where they are not those of the training split beyond the
# demonstrations.
#
# Every start plays ROUNDS rounds of the same tasks, which neither the demonstrations nor the panel have, then the panel.

# The share of the loss that these examples have, by kind, without thoughts and with them.
ANCHOR_act ?= imitation=0.2
ANCHOR_think ?= imitation=0.1 reflection=0.1
# LR is that of the arms.
RL_LR ?= 2e-4

.PHONY: rl
rl: $(foreach one,$(STARTS),$(SEEDS:%=$(OUT)-rl/%/$(one).$(call how,$(one)).jsonl))

# $(call further,START): rounds of play and updates from the agent of an arm, then the panel.
define further
$(OUT)-rl/%/$1/$(ROUNDS).gguf: $(OUT)/%/$1/eexp.json $(RL_PANEL)
	$(MAKE) -f $(HERE)../rl/Makefile OUT=$(OUT)-rl/$$*/$1 ENV='$(ENV)' BASE=$(OUT)/$$*/$1 SEED=$$* ROUNDS=$(ROUNDS) \
	  SKIP=$(TRAIN) PANEL=$(RL_PANEL) LR=$(RL_LR) $(RL) PLAY="--think $(think_$(call how,$1)) $(filter-out $(Q),$(EVAL))" \
	  ANCHOR="$(call examples_of,$1)" ANCHOR_SHARE="$(ANCHOR_$(call how,$1))"

$(OUT)-rl/%/$1.$(call how,$1).jsonl: $(OUT)-rl/%/$1/$(ROUNDS).gguf $(OUT)/panel.jsonl
	eexp eval --panel $(OUT)/panel.jsonl -m $(OUT)-rl/$$*/$1/base.gguf$$$$(test -s $$< && echo +$$<) \
	  --think $(think_$(call how,$1)) $(EVAL) --resume -o $$@.part && mv $$@.part $$@
endef
$(foreach one,$(STARTS),$(eval $(call further,$(one))))
