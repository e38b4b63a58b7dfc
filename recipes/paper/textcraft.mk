# TextCraft: not in the paper; envs/textcraft of the release (docs/paper.md).
#
# The release takes its demonstrations from AgentTraj-L: EXPERT='eexp import agenttraj --env textcraft FILE'.
ENV ?= textcraft
SETTINGS ?= release

paper.TRAJECTORIES   := -
release.TRAJECTORIES := 374 [envs/textcraft/README.md]
paper.STYLE   := -
release.STYLE := react [f39f970: build_expert_sft.py]
paper.WORLD_ALTERNATIVES   := -
release.WORLD_ALTERNATIVES := admissible:5 [envs/textcraft/README.md]
paper.REFLECT_ALTERNATIVES   := -
release.REFLECT_ALTERNATIVES := world:3 [f39f970: NOTES.md]
paper.THOUGHT_TEMPERATURE   := -
release.THOUGHT_TEMPERATURE := 0.7 [f39f970: NOTES.md]
paper.THOUGHT_WORDS   := -
release.THOUGHT_WORDS := 350 [f39f970: NOTES.md]
paper.EPOCHS   := -
release.EPOCHS := 2 [f39f970: il.yaml]
paper.LR   := -
release.LR := 1e-5 [f39f970: il.yaml]
paper.BATCH   := -
release.BATCH := 16 [f39f970: il.yaml]
paper.SCHEDULE   := -
release.SCHEDULE := cosine [f39f970: il.yaml]
paper.WARMUP   := -
release.WARMUP := 0.0 [f39f970: il.yaml]
paper.MAX_LENGTH   := -
release.MAX_LENGTH := 4096 [f39f970: il.yaml]
paper.WORLD_EPOCHS   := -
release.WORLD_EPOCHS := 1 [f39f970: iwm_stage1.yaml]
paper.WORLD_LR   := -
release.WORLD_LR := 1e-5 [f39f970: iwm_stage1.yaml]

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
