# TravelPlanner: appendix B.7 of the paper, and envs/travelplanner of the release (docs/paper.md).
#
# It needs the benchmark's database and queries (docs/environments/travelplanner.md). An action here is a whole plan,
# and the alternatives to it differ in one slot. In the paper every slot is an action, and all valid ones are executed;
# the release spreads its 8 over the constraints that they break.
NEEDS := DATABASE QUERIES
ENV ?= travelplanner?database=$(DATABASE)&queries=$(QUERIES)&alternatives=99
PANEL_SPLIT ?= validation

paper.TRAJECTORIES   := 45 [B.7]
release.TRAJECTORIES := -
paper.WORLD_ALTERNATIVES   := admissible:all [B.7]
release.WORLD_ALTERNATIVES := admissible:all [f39f970: NOTES.md]
paper.REFLECT_ALTERNATIVES   := admissible:30 [B.7]
release.REFLECT_ALTERNATIVES := admissible:8 [envs/travelplanner/README.md]
paper.THOUGHT_TEMPERATURE   := 0.9 [B.7]
release.THOUGHT_TEMPERATURE := -
paper.EPOCHS   := 5 [B.7]
release.EPOCHS := 5 [f39f970: il.yaml]
paper.LR   := 1e-5 [B.7]
release.LR := 1e-5 [f39f970: il.yaml]
paper.BATCH   := 128 [B.7: 16 on each of 8 GPUs]
release.BATCH := 128 [f39f970: il.yaml]
paper.SCHEDULE   := cosine [B.7]
release.SCHEDULE := cosine [f39f970: il.yaml]
paper.WARMUP   := -
release.WARMUP := 0.0 [f39f970: il.yaml]
paper.MAX_LENGTH   := 32768 [B.7]
release.MAX_LENGTH := 32768 [f39f970: il.yaml]
paper.WORLD_EPOCHS   := 5 [B.7]
release.WORLD_EPOCHS := 1 [f39f970: iwm_stage1.yaml]
paper.WORLD_LR   := 1e-5 [B.7]
release.WORLD_LR := 1e-5 [f39f970: iwm_stage1.yaml]
paper.EVAL_TASKS   := 180 [B.7]
release.EVAL_TASKS := -
paper.EVAL_TEMPERATURE   := 0 [B.7]
release.EVAL_TEMPERATURE := -
paper.ANSWER_TOKENS   := 8192 [B.7]
release.ANSWER_TOKENS := 8192 [f39f970: sr.yaml in a comment]

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
