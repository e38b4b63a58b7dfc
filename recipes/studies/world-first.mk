# What the studies of `house` and `reactions` have in common: world model, then imitation, and playing. A makefile sets
# TUNE, EVAL, and WORLD, the world-model examples, before it includes this file.

# $(call world,NAME,UPDATES)
define world
$(OUT)/%/$1/eexp.json: $(WORLD) $(call given,BASE UPDATES BATCH LR)
	$$(begin_run)
	eexp finetune --resume -m $(BASE) -o $$(@D) $(TUNE) --max-steps $2 --seed $$* $(Q) $$<
endef
$(eval $(call world,iwm-world,$(HALF)))
$(eval $(call world,iwm-extra-world,$(UPDATES)))

# $(call after,WORLD MODEL,NAME,UPDATES,EXAMPLES)
define after
$(OUT)/%/$2/eexp.json: $4 $(OUT)/%/$1/eexp.json
	$$(begin_run)
	eexp finetune --resume -m $(OUT)/$$*/$1 -o $$(@D) $(TUNE) --max-steps $3 --seed $$* $(Q) $$(filter %.jsonl,$$^)
endef
$(eval $(call after,iwm-world,iwm,$(HALF),$(OUT)/il.jsonl))
$(eval $(call after,iwm-extra-world,iwm-extra,$(UPDATES),$(OUT)/il.jsonl))

$(OUT)/%.gguf: $(OUT)/%/eexp.json
	eexp export $(<D) -o $@

# A play that was killed goes on where it ended, and has its name when it is complete.
$(OUT)/%.act.jsonl: $(OUT)/%.gguf $(OUT)/panel.jsonl
	eexp eval --panel $(OUT)/panel.jsonl -m $< --think never $(EVAL) --resume -o $@.part && mv $@.part $@

$(OUT)/%.think.jsonl: $(OUT)/%.gguf $(OUT)/panel.jsonl
	eexp eval --panel $(OUT)/panel.jsonl -m $< --think always $(EVAL) --resume -o $@.part && mv $@.part $@
