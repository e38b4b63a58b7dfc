# Cross-fitting: alternatives from policies that have not been trained on the states they are asked about. A policy gives
# nearly all probability to the expert's action in a state that it was trained on, and what it says beside it is noise. So
# the demonstrations are split, and each part is branched by the policy that was trained on the others.
#
#   make -f recipes/house/Makefile -f recipes/house/crossfit.mk OUT=demo demo/crossfit.jsonl [PARTS=2]
#
# Continues the recipe of the Makefile beside it, whose variables hold here, too.
PARTS ?= 2
PART_NUMBERS := $(shell seq $(PARTS))

# The demonstrations, each with alternatives of a policy that has not seen it; part after part.
$(OUT)/crossfit.jsonl: $(PART_NUMBERS:%=$(OUT)/crossfit/branched-%.jsonl)
	cat $^ > $@

$(OUT)/crossfit:
	mkdir -p $@

$(OUT)/crossfit/part-%.jsonl: $(OUT)/expert.jsonl | $(OUT)/crossfit
	eexp split --parts $(PARTS) --part $* $< -o $@

$(OUT)/crossfit/without-%.jsonl: $(OUT)/expert.jsonl | $(OUT)/crossfit
	eexp split --parts $(PARTS) --without $* $< | eexp imitation-data -o $@

$(OUT)/crossfit/without-%/eexp.json: $(OUT)/crossfit/without-%.jsonl
	rm -rf $(@D)
	eexp finetune -m tiny -o $(@D) $(TRAINING) $<

$(OUT)/crossfit/without-%.gguf: $(OUT)/crossfit/without-%/eexp.json
	eexp export $(<D) -o $@

$(OUT)/crossfit/branched-%.jsonl: $(OUT)/crossfit/part-%.jsonl $(OUT)/base.gguf $(OUT)/crossfit/without-%.gguf
	eexp branch -k $(K_OWN) -m $(OUT)/base.gguf+$(OUT)/crossfit/without-$*.gguf --threads 1 --seed $(SEED) $< -o $@
