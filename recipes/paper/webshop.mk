# WebShop: appendix B.2 of the paper, and envs/webshop of the release (docs/paper.md).
#
# It is played in `shop`, a shop in WebShop's terms with a catalogue and an expert of its own (docs/environments/shop.md).
# With SERVER, TEST_TASKS and DEMONSTRATIONS, it is WebShop itself on a server of AgentGym (docs/environments/agentgym.md),
# which has no expert. The paper's demonstrations are those of people who used WebShop; with a server they are a file of
# AgentTraj-L, or what another EXPERT writes. The paper does not say how many actions the policy proposes at each of its
# three temperatures: one is what its 7.95 transitions in a state suggest. Its reflections are on states of
# demonstrations of fewer than 15 steps, which is not done here.
ifneq (,$(SERVER)$(TEST_TASKS)$(DEMONSTRATIONS))
SERVER ?= http://localhost:36001
NEEDS := TEST_TASKS DEMONSTRATIONS
ENV ?= agentgym:$(SERVER)?env=webshop&test=$(TEST_TASKS)
EXPERT ?= eexp import agenttraj '$(DEMONSTRATIONS)' --env '$(ENV)' --success
endif
ENV ?= shop

paper.TRAJECTORIES   := 1571 [B.2]
release.TRAJECTORIES := -
paper.WORLD_ALTERNATIVES   := policy:1:0.5 admissible:5 policy:1:0.8 policy:1:0.9 [B.2, but for the ones: see above]
release.WORLD_ALTERNATIVES := -
paper.WORLD_TARGET   := summary [B.2]
release.WORLD_TARGET := -
paper.REFLECT_ALTERNATIVES   := world:3 [B.2]
release.REFLECT_ALTERNATIVES := world:3 [envs/webshop/README.md]
paper.EPOCHS   := -
release.EPOCHS := -
paper.LR   := 1e-5 [B.2]
release.LR := -
paper.BATCH   := 4 [B.2]
release.BATCH := -
paper.WORLD_EPOCHS   := 1 [5.1]
release.WORLD_EPOCHS := -
paper.WORLD_LR   := 1e-5 [B.2]
release.WORLD_LR := -

include $(dir $(lastword $(MAKEFILE_LIST)))steps.mk
