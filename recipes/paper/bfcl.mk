# BFCL, multi-turn: appendix B.3 of the paper, and envs/bfcl_v4 of the release (docs/paper.md).
#
# The expert has the gold calls; the release has the calls of a model that succeeded on the leaderboard. The release
# draws the names of the other functions at random, and lets a model fill in their arguments. Here the policy writes
# whole calls, as in the paper. Tasks out of distribution: PANEL_SPLIT=long_context-test, miss_func-test or
# miss_param-test.
ENV ?= bfcl

paper.TRAJECTORIES   := 125 [B.3]
release.TRAJECTORIES := 123 [f39f970: NOTES.md]
paper.WORLD_ALTERNATIVES   := policy:10 [B.3]
release.WORLD_ALTERNATIVES := policy:10 [envs/bfcl_v4/README.md]
paper.WORLD_TARGET   := -
release.WORLD_TARGET := summary [envs/bfcl_v4/README.md]
paper.REFLECT_ALTERNATIVES   := -
release.REFLECT_ALTERNATIVES := world:3 [envs/bfcl_v4/README.md and f39f970: NOTES.md]
paper.THOUGHT_WORDS   := -
release.THOUGHT_WORDS := 500 [f39f970: NOTES.md]
paper.EPOCHS   := -
release.EPOCHS := 2 [f39f970: il.yaml]
paper.LR   := 1e-5 [B.3]
release.LR := 1e-5 [f39f970: il.yaml]
paper.BATCH   := 16 [B.3]
release.BATCH := 16 [f39f970: il.yaml]
paper.SCHEDULE   := -
release.SCHEDULE := cosine [f39f970: il.yaml]
paper.WARMUP   := -
release.WARMUP := 0.0 [f39f970: il.yaml]
paper.MAX_LENGTH   := -
release.MAX_LENGTH := 8192 [f39f970: il.yaml]
paper.WORLD_EPOCHS   := 1 [5.1]
release.WORLD_EPOCHS := 1 [f39f970: iwm_stage1.yaml]
paper.WORLD_LR   := 1e-5 [B.3]
release.WORLD_LR := 1e-5 [f39f970: iwm_stage1.yaml]

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
