# SearchQA: appendix B.5 of the paper, and envs/searchqa of the release (docs/paper.md).
#
# It needs passages and questions (docs/environments/searchqa.md). The demonstrations of the paper are right episodes of
# another model, Search-R1: record them with `eexp eval` and `eexp import episodes --success`, and give that as EXPERT.
NEEDS := PASSAGES QUESTIONS
ENV ?= searchqa?passages=$(PASSAGES)&questions=$(QUESTIONS)

paper.TRAJECTORIES   := 2082 [B.5]
release.TRAJECTORIES := -
paper.WORLD_ALTERNATIVES   := policy:30:1.0 [B.5]
release.WORLD_ALTERNATIVES := policy:30:1.0 [f39f970: NOTES.md]
paper.WORLD_TARGET   := summary [B.5]
release.WORLD_TARGET := summary [f39f970: NOTES.md]
paper.WORLD_RATIO   := 1 [B.5]
release.WORLD_RATIO := 1 [f39f970: iwm_stage1.yaml in a comment]
paper.REFLECT_ALTERNATIVES   := world:2 [B.5]
release.REFLECT_ALTERNATIVES := world:2 [f39f970: NOTES.md]
paper.EPOCHS   := 3 [B.5]
release.EPOCHS := 3 [f39f970: il.yaml]
paper.LR   := 1e-5 [B.5]
release.LR := 1e-5 [f39f970: il.yaml]
paper.BATCH   := 128 [B.5: 2 times 16 on each of 4 GPUs]
release.BATCH := 128 [f39f970: il.yaml]
paper.SCHEDULE   := -
release.SCHEDULE := cosine [f39f970: il.yaml]
paper.WARMUP   := -
release.WARMUP := 0.0 [f39f970: il.yaml]
paper.MAX_LENGTH   := 8192 [B.5]
release.MAX_LENGTH := 8192 [f39f970: il.yaml]
paper.WORLD_EPOCHS   := 3 [B.5: the same settings]
release.WORLD_EPOCHS := 1 [f39f970: iwm_stage1.yaml]
paper.WORLD_LR   := 1e-5 [B.5]
release.WORLD_LR := 1e-5 [f39f970: iwm_stage1.yaml]
paper.EVAL_TASKS   := 500 [B.5]
release.EVAL_TASKS := -

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
