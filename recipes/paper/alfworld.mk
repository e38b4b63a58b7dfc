# ALFWorld: appendix B.1 of the paper, and envs/alfworld of the release (docs/paper.md).
#
# It needs the games: `alfworld-download --data-dir DIR`, ALFWORLD_DATA=DIR (docs/environments/alfworld.md). The expert
# is the planner, whose paths are short, as those of the games' own walkthroughs are. The paper's Table 2 is played on
# valid_seen, and its Table 3 on valid_unseen: PANEL_SPLIT=valid_unseen.
ENV ?= alfworld?expert=planner
PANEL_SPLIT ?= valid_seen

paper.TRAJECTORIES   := 3553 [Table 1]
release.TRAJECTORIES := 3553 [f39f970: NOTES.md]
paper.STYLE   := -
release.STYLE := think [f39f970: NOTES.md]
paper.WORLD_ALTERNATIVES   := admissible:8 [B.1]
release.WORLD_ALTERNATIVES := admissible:all [envs/alfworld/README.md]
paper.REFLECT_ALTERNATIVES   := policy:3:1.0 [B.1]
release.REFLECT_ALTERNATIVES := admissible:3 [envs/alfworld/README.md]
paper.THOUGHT_TEMPERATURE   := -
release.THOUGHT_TEMPERATURE := 0.7 [f39f970: NOTES.md]
paper.EPOCHS   := 2 [B.1]
release.EPOCHS := -
paper.LR   := 1e-5 [B.1]
release.LR := -
paper.BATCH   := 16 [B.1]
release.BATCH := -
paper.WORLD_EPOCHS   := 1 [5.1]
release.WORLD_EPOCHS := -
paper.WORLD_LR   := 1e-5 [B.1]
release.WORLD_LR := -
paper.EVAL_TEMPERATURE   := 0.4 [B.1]
release.EVAL_TEMPERATURE := -
paper.PROMPT_TOKENS   := 4096 [B.1]
release.PROMPT_TOKENS := -
paper.ANSWER_TOKENS   := 1024 [B.1]
release.ANSWER_TOKENS := -

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
