# What the studies of `house` and `reactions` have in common: world model, then imitation, and playing. A makefile sets
# TUNE, EVAL, and WORLD, the world-model examples, before it includes this file.

# $(call after,NAME,UPDATES OF EACH): world model, then imitation.
define after
$(OUT)/%/$1-world/eexp.json: $(WORLD) $(call given,BASE UPDATES BATCH LR)
	$$(begin_run)
	eexp finetune --resume -m $(BASE) -o $$(@D) $(TUNE) --max-steps $2 --seed $$* $(Q) $$<
$(OUT)/%/$1/eexp.json: $(OUT)/il.jsonl $(OUT)/%/$1-world/eexp.json
	$$(begin_run)
	eexp finetune --resume -m $(OUT)/$$*/$1-world -o $$(@D) $(TUNE) --max-steps $2 --seed $$* $(Q) $$<
endef
$(eval $(call after,iwm,$(HALF)))
$(eval $(call after,iwm-extra,$(UPDATES)))

$(OUT)/%.gguf: $(OUT)/%/eexp.json
	eexp export $(<D) -o $@

# A play that was killed goes on where it ended, and has its name when it is complete.
$(OUT)/%.act.jsonl: $(OUT)/%.gguf $(OUT)/panel.jsonl
	eexp eval --panel $(OUT)/panel.jsonl -m $< --think never $(EVAL) --resume -o $@.part && mv $@.part $@

$(OUT)/%.think.jsonl: $(OUT)/%.gguf $(OUT)/panel.jsonl
	eexp eval --panel $(OUT)/panel.jsonl -m $< --think always $(EVAL) --resume -o $@.part && mv $@.part $@
