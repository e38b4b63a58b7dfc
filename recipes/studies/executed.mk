# What the same executed alternatives are worth in several forms, on `reactions` (executed.md is the plan of the study).
#
#   make -f recipes/studies/executed.mk OUT=studies/executed-0 TABLE=0 SEEDS=0 UPDATES=960 LR=3e-4 \
#     ARMS="hs hs-apart hs-permuted hs-goals" plays
#   make -f recipes/studies/executed.mk OUT=studies/thoughts-0 TABLE=0 SEEDS=0 ARMS=sr plays
#
#   hs             hindsight demonstrations of all executed outcomes, and imitation
#   hs-apart       the same without every path that solves a task of the panel
#   hs-permuted    placebo: outcomes of alternatives exchanged first
#   hs-goals       placebo: the goals exchanged among the paths
#   hs-sr, hs-apart-sr   with thoughts that look ahead, in one run
#   hs-world       with a world model of the same outcomes, in one run
EXECUTED := $(dir $(lastword $(MAKEFILE_LIST)))
include $(EXECUTED)reactions.mk
HINDSIGHT := $(PYTHON) $(EXECUTED)hindsight_reactions.py

$(OUT)/hs-only.jsonl: $(OUT)/rollout.jsonl $(OUT)/il.jsonl
	$(HINDSIGHT) $^ > $@

$(OUT)/hs-permuted-only.jsonl: $(OUT)/permuted.jsonl $(OUT)/il.jsonl
	$(HINDSIGHT) $^ > $@

$(OUT)/hs-goals-only.jsonl: $(OUT)/rollout.jsonl $(OUT)/il.jsonl
	$(HINDSIGHT) $^ goals > $@

$(OUT)/hs-apart-only.jsonl: $(OUT)/rollout.jsonl $(OUT)/il.jsonl $(OUT)/panel.jsonl
	$(HINDSIGHT) $(wordlist 1,2,$^) apart $(OUT)/panel.jsonl > $@

$(call train_on,hs,hs-only il)
$(call train_on,hs-apart,hs-apart-only il)
$(call train_on,hs-apart-sr,hs-apart-only sr il)
$(call train_on,hs-permuted,hs-permuted-only il)
$(call train_on,hs-goals,hs-goals-only il)
$(call train_on,hs-sr,hs-only sr il)
$(call train_on,hs-world,hs-only world il)

# Every arm is played as its training has it: with a thought where there are thoughts. PLAYS names others.
played_as = $(if $(filter sr%,$1),think,act)
PLAYS ?= $(foreach arm,$(ARMS),$(arm).$(call played_as,$(arm)))
.PHONY: plays
plays: $(foreach play,$(PLAYS),$(SEEDS:%=$(OUT)/%/$(play).jsonl))
