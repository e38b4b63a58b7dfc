# Few demonstrations, well chosen or at random: imitation of the first N of them by each order of `eexp select`, as many
# updates for all.
#
#   make -f recipes/studies/subsets.mk -j2 ENV=house BASE=tiny OUT=studies/subsets SEEDS="0 1 2" SIZES="25 50 100"
#
# Every training seed has a random subset of its own; the other orders have one. A run that was stopped continues.
SHELL := /bin/bash -o pipefail
include $(dir $(lastword $(MAKEFILE_LIST)))../running.mk
.DELETE_ON_ERROR:
.SECONDARY:

ENV ?= house
BASE ?= tiny
OUT ?= studies/subsets
SEEDS ?= 0 1 2
SIZES ?= 25 50 100
ORDERS ?= coverage length random
TRAIN ?= 200
PANEL_TASKS ?= 200
UPDATES ?= 300
FINETUNE ?= --rank 32 --alpha 64 --batch-trajectories 4 --lr 3e-3
PLAY ?=

export OMP_NUM_THREADS ?= 1

ifeq (,$(filter random,$(ORDERS)))
$(error ORDERS has no random, which all others are compared with)
endif

# $(call played,SIZE,ORDER)
played = $(SEEDS:%=$(OUT)/%/$2-$1.episodes.jsonl)

.PHONY: all
all: $(foreach size,$(SIZES),$(foreach order,$(ORDERS),$(call played,$(size),$(order))))
	@set -e; $(foreach size,$(SIZES),echo; echo $(size) demonstrations; eexp compare --baseline random \
	  $(foreach order,$(ORDERS),$(order)='$(OUT)/*/$(order)-$(size).episodes.jsonl');)

$(OUT)/expert.jsonl:
	@mkdir -p $(@D)
	eexp expert '$(ENV)' -n $(TRAIN) $(Q) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl
	eexp panel '$(ENV)' -n $(PANEL_TASKS) --apart-from $< $(Q) -o $@

$(OUT)/base.gguf:
	@mkdir -p $(@D)
	eexp export $(BASE) -o $@

# $(call subset,ORDER,SIZE)
define subset
$(OUT)/%/$1-$2.jsonl: $(OUT)/expert.jsonl
	@mkdir -p $$(@D)
	eexp select --by $1 -n $2 --seed $$* $(Q) $$< | eexp imitation-data $(Q) -o $$@

$(OUT)/%/$1-$2/eexp.json: $(OUT)/%/$1-$2.jsonl
	$$(begin_run)
	eexp finetune --resume -m $(BASE) -o $$(@D) $(FINETUNE) --max-steps $(UPDATES) --seed $$* $(Q) $$<

$(OUT)/%/$1-$2.episodes.jsonl: $(OUT)/%/$1-$2.gguf $(OUT)/panel.jsonl $(OUT)/base.gguf
	eexp eval --panel $(OUT)/panel.jsonl -m $(OUT)/base.gguf+$$< --threads 1 $(PLAY) $(Q) -o $$@
endef
$(foreach order,$(ORDERS),$(foreach size,$(SIZES),$(eval $(call subset,$(order),$(size)))))

$(OUT)/%.gguf: $(OUT)/%/eexp.json
	eexp export $(<D) -o $@
