# What the studies of `house`, `reactions` and a web site have in common: training, world model first, and playing. A
# makefile sets TUNE, EVAL, and WORLD, the world-model examples, before it includes this file; and, to play with changed
# interfaces, PLAYED_IN, the environment, CHANGES, and `renamed`, how a change is named in a spec.

# $(call arm,NAME,FILES): one training run on all FILES.
define arm
$(OUT)/%/$1/eexp.json: $2 $(call given,BASE UPDATES BATCH LR)
	$$(begin_run)
	eexp finetune --resume -m $(BASE) -o $$(@D) $(TUNE) --max-steps $(UPDATES) --seed $$* $(Q) $$(filter %.jsonl,$$^)
endef

# $(call world,NAME,UPDATES,EXAMPLES): WORLD where no examples are named.
define world
$(OUT)/%/$1/eexp.json: $(or $3,$(WORLD)) $(call given,BASE UPDATES BATCH LR)
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

think_act = never
think_think = always

# A play that was killed goes on where it ended, and has its name when it is complete.
# $(call play,OUTPUT DIRECTORY,ENVIRONMENT OR NONE,act OR think)
define play
$1/%.$3.jsonl: $(OUT)/%.gguf $(OUT)/panel.jsonl
	@mkdir -p $$(@D)
	eexp eval $(if $2,'$2' )--panel $(OUT)/panel.jsonl -m $$< --think $(think_$3) $(EVAL) --resume -o $$@.part && mv $$@.part $$@
endef
$(foreach played,act think,$(eval $(call play,$(OUT),$(PLAYED_HERE),$(played))))
$(foreach change,$(CHANGES),$(foreach played,act think,$(eval $(call play,$(OUT)-$(change),changed:$(call renamed,$(change)):$(PLAYED_IN),$(played)))))
