# tau-bench, retail: appendix B.4 of the paper, and envs/tau-bench of the release (docs/paper.md).
#
# It needs a checkout of the benchmark: EEXP_TAU_BENCH=DIR (docs/environments/tau.md). The paper and the release take
# the expert's tool away before the policy proposes alternatives, which eexp does not. Their users are played by a
# model, and their demonstrations are a model's own successes; here, without ENV='tau?user=MODEL' and another EXPERT,
# the instruction alone is the user, and the expert looks up what the gold calls need.
ENV ?= tau

paper.TRAJECTORIES   := 452 [B.4]
release.TRAJECTORIES := 458 [f39f970: NOTES.md]
paper.WORLD_ALTERNATIVES   := policy:5 [B.4]
release.WORLD_ALTERNATIVES := policy:5:1.0 [f39f970: NOTES.md]
paper.REFLECT_ALTERNATIVES   := world:3 [B.4]
release.REFLECT_ALTERNATIVES := world:3 [f39f970: NOTES.md]
paper.THOUGHT_WORDS   := -
release.THOUGHT_WORDS := 500 [f39f970: NOTES.md]
paper.EPOCHS   := 6 [B.4]
release.EPOCHS := 6 [f39f970: il.yaml]
paper.LR   := 1e-5 [B.4]
release.LR := 1e-5 [f39f970: il.yaml]
paper.BATCH   := 16 [B.4]
release.BATCH := 16 [f39f970: il.yaml]
paper.SCHEDULE   := -
release.SCHEDULE := cosine [f39f970: il.yaml]
paper.WARMUP   := -
release.WARMUP := 0.0 [f39f970: il.yaml]
paper.MAX_LENGTH   := -
release.MAX_LENGTH := 8192 [f39f970: il.yaml]
paper.WORLD_EPOCHS   := 1 [B.4]
release.WORLD_EPOCHS := 1 [f39f970: iwm_stage1.yaml]
paper.WORLD_LR   := 5e-6 [B.4]
release.WORLD_LR := 5e-6 [f39f970: iwm_stage1.yaml]
paper.EVAL_TASKS   := 115 [B.4]
release.EVAL_TASKS := -

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
