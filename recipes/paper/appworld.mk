# AppWorld: envs/appworld of the release; the paper does not play it (docs/paper.md).
#
# It needs AppWorld's data and a Python that has its package (docs/environments/appworld.md). The release wrote a call to
# every API in reach, 91 a state, by another model, and kept 10 of each state for the world model, one third of them
# errors at most. Its first reflections weighed alternatives, and the agent that learned them invented menus and guessed
# passwords; so the final ones have no alternatives (K = 0), only what the expert's action led to. Nearest to this are
# thoughts without outcomes, kept where the action that follows is the expert's. The release has no settings of training for it.
NEEDS := ROOT APPWORLD_PYTHON
ENV ?= appworld?root=$(ROOT)&python=$(APPWORLD_PYTHON)
PANEL_SPLIT ?= test_normal
SETTINGS ?= release
REFLECT ?= --no-outcomes --keep-matching
INVALID ?= 0.3

paper.TRAJECTORIES   := -
release.TRAJECTORIES := 90 [f39f970: NOTES.md]
paper.STYLE   := -
release.STYLE := code [f39f970: NOTES.md]
paper.WORLD_ALTERNATIVES   := -
release.WORLD_ALTERNATIVES := policy:10:1.0 [envs/appworld/README.md and f39f970: NOTES.md]
paper.THOUGHT_TEMPERATURE   := -
release.THOUGHT_TEMPERATURE := 0.7 [f39f970: NOTES.md]
paper.THOUGHT_WORDS   := -
release.THOUGHT_WORDS := 120 [f39f970: NOTES.md]

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
