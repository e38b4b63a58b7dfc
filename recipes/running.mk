# How the recipes run stages, included by their makefiles.

# -q where nobody watches; on a terminal, stages show how far they have come.
Q := $(shell [ -t 2 ] || echo -q)

# $(begin_run), before `eexp finetune --resume`: an interrupted run goes on, unless something that it was made of is newer.
begin_run = [ -e $(@D)/checkpoints/run.json ] && [ -z "$$(find $^ -newer $(@D)/checkpoints/run.json)" ] || rm -rf $(@D)
