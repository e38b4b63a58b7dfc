# WebArena-Lite: appendix B.8 of the paper, and envs/webarena of the release (docs/paper.md).
#
# It needs one of WebArena's sites, which run in Docker (URL), a file of its tasks (TASKS), and demonstrations on them
# (DEMONSTRATIONS), as trajectories or episodes of eexp. `eexp import webarena-tasks` writes the tasks, with those of
# WebArena-Lite as the split test (docs/environments/web.md). The paper has all five sites in one table, and its
# demonstrations are successful runs of agents on the public leaderboard, which have other actions than eexp; here they
# are what succeeded on the tasks of train. No site was available here: only the steps themselves were tried.
NEEDS := TASKS URL DEMONSTRATIONS
ENV ?= web?tasks=$(TASKS)&url=$(URL)
EXPERT ?= eexp import episodes '$(DEMONSTRATIONS)' --env '$(ENV)' --success

paper.TRAJECTORIES   := 554 [B.8]
release.TRAJECTORIES := -
paper.WORLD_ALTERNATIVES   := policy:5 [B.8]
release.WORLD_ALTERNATIVES := -
paper.WORLD_TARGET   := summary [B.8]
release.WORLD_TARGET := -
paper.REFLECT_ALTERNATIVES   := world:5 [B.8]
release.REFLECT_ALTERNATIVES := -
paper.EPOCHS   := 2 [B.8]
release.EPOCHS := -
paper.LR   := 1e-5 [B.8]
release.LR := -
paper.SCHEDULE   := cosine [B.8]
release.SCHEDULE := -
paper.WORLD_EPOCHS   := 1 [5.1]
release.WORLD_EPOCHS := -
paper.WORLD_LR   := 1e-5 [B.8]
release.WORLD_LR := -
paper.EVAL_TASKS   := 165 [B.8]
release.EVAL_TASKS := -

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
