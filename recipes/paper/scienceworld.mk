# ScienceWorld: appendix B.6 of the paper, and envs/scienceworld of the release (docs/paper.md).
#
# The paper's prompts begin with a one-shot example, which the prompt styles of eexp do not have. For Llama-3.1-8B, the
# paper proposes 2 alternatives for a reflection instead of 3: REFLECT_ALTERNATIVES=policy:2:1.0. The release takes its
# demonstrations from AgentTraj-L: EXPERT='eexp import agenttraj FILE --env scienceworld ...' (docs/import.md).
ENV ?= scienceworld

paper.TRAJECTORIES   := 1000 [Table 1]
release.TRAJECTORIES := 2038 [envs/scienceworld/README.md]
paper.STYLE   := -
release.STYLE := react [f39f970: build_expert_sft.py]
paper.WORLD_ALTERNATIVES   := admissible:3 [B.6]
release.WORLD_ALTERNATIVES := admissible:3 [envs/scienceworld/README.md]
paper.REFLECT_ALTERNATIVES   := policy:3:1.0 [B.6]
release.REFLECT_ALTERNATIVES := policy:3:1.0 [envs/scienceworld/README.md]
paper.THOUGHT_TEMPERATURE   := -
release.THOUGHT_TEMPERATURE := 0.7 [f39f970: NOTES.md]
paper.THOUGHT_WORDS   := -
release.THOUGHT_WORDS := 500 [f39f970: NOTES.md]
paper.EPOCHS   := 1 [B.6]
release.EPOCHS := 1 [f39f970: il.yaml]
paper.LR   := 5e-6 [B.6]
release.LR := 5e-6 [f39f970: il.yaml]
paper.BATCH   := 32 [B.6]
release.BATCH := 32 [f39f970: il.yaml]
paper.SCHEDULE   := -
release.SCHEDULE := cosine [f39f970: il.yaml]
paper.WARMUP   := -
release.WARMUP := 0.0 [f39f970: il.yaml]
paper.MAX_LENGTH   := -
release.MAX_LENGTH := 4096 [f39f970: il.yaml]
paper.WORLD_EPOCHS   := 1 [5.1]
release.WORLD_EPOCHS := 1 [f39f970: iwm_stage1.yaml]
paper.WORLD_LR   := 5e-6 [B.6]
release.WORLD_LR := 5e-6 [f39f970: iwm_stage1.yaml]
paper.EVAL_TEMPERATURE   := 0.4 [B.6]
release.EVAL_TEMPERATURE := -
paper.PROMPT_TOKENS   := 4096 [B.6]
release.PROMPT_TOKENS := -
paper.ANSWER_TOKENS   := 1024 [B.6]
release.ANSWER_TOKENS := -

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
