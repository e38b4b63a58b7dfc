# The steps of the paper (arXiv 2510.08558), from demonstrations to a table of success. A makefile for an environment
# sets what the paper and the authors' release say about it, and includes this file (docs/paper.md):
#
#   make -f recipes/paper/scienceworld.mk BASE=Qwen/Qwen2.5-7B-Instruct          # run it: a GPU, and the hub
#   make -f recipes/paper/scienceworld.mk BASE=Qwen/Qwen2.5-7B-Instruct -n       # what would be run
#   make -f recipes/paper/scienceworld.mk settings                               # both columns, and where they stand
#   make -f recipes/paper/scienceworld.mk BASE=... SETTINGS=release EPOCHS=2     # the other column, one setting changed
#
# An environment has two lines for each setting: what is said, and in brackets where. "-" stands for what is not said:
#
#   paper.EPOCHS   := 2 [B.1]
#   release.EPOCHS := - [docs/TRAINING_YAMLS has no file for it]
#
# SETTINGS chooses the column. Where it has "-", the other column is used, and where both have it, the option is left
# out, so that the default of eexp holds. A line at the start of every run says so.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := table

NAME := $(notdir $(basename $(firstword $(MAKEFILE_LIST))))
SETTINGS ?= paper
ifeq (,$(filter $(SETTINGS),paper release))
$(error SETTINGS is paper or release, not "$(SETTINGS)")
endif
OTHER := $(if $(filter paper,$(SETTINGS)),release,paper)

# -- settings ----------------------------------------------------------------------------------------------------------

# Their names, in the order of the method, and what they are called in tables.
NAMES := TRAJECTORIES STYLE WORLD_ALTERNATIVES WORLD_TARGET WORLD_RATIO REFLECT_ALTERNATIVES THOUGHT_TEMPERATURE \
  THOUGHT_WORDS EPOCHS LR BATCH SCHEDULE WARMUP MAX_LENGTH WORLD_EPOCHS WORLD_LR EVAL_TASKS EVAL_TEMPERATURE \
  PROMPT_TOKENS ANSWER_TOKENS
label.TRAJECTORIES := demonstrations
label.STYLE := prompt style
label.WORLD_ALTERNATIVES := alternatives for the world model
label.WORLD_TARGET := target of the world model
label.WORLD_RATIO := world-model examples for each of imitation
label.REFLECT_ALTERNATIVES := alternatives for reflections
label.THOUGHT_TEMPERATURE := temperature of reflections
label.THOUGHT_WORDS := longest reflection, in words
label.EPOCHS := epochs of imitation and of SR
label.LR := learning rate
label.BATCH := examples in an update
label.SCHEDULE := schedule of the learning rate
label.WARMUP := share of updates to warm up
label.MAX_LENGTH := longest example, in tokens
label.WORLD_EPOCHS := epochs of the world model
label.WORLD_LR := learning rate of the world model
label.EVAL_TASKS := tasks played
label.EVAL_TEMPERATURE := temperature in play
label.PROMPT_TOKENS := longest prompt in play, in tokens
label.ANSWER_TOKENS := longest answer, in tokens

# $(call stated,COLUMN,NAME) is what a column says, empty for "-"; $(call source,COLUMN,NAME) is where.
empty :=
space := $(empty) $(empty)
parts = $(subst [, ,$(subst $(space),~,$(strip $($1.$2))))
spaced = $(strip $(subst ~, ,$1))
stated = $(filter-out -,$(call spaced,$(word 1,$(call parts,$1,$2))))
source = $(call spaced,$(subst ],,$(word 2,$(call parts,$1,$2))))

# A setting of the command line or of the environment is the user's own. The others are those of the chosen column.
define choose
ifeq ($$(origin $1),undefined)
$1 := $$(or $$(call stated,$$(SETTINGS),$1),$$(call stated,$$(OTHER),$1))
ifeq (,$$(call stated,$$(SETTINGS),$1))
$$(if $$($1),$$(eval BORROWED += $1))
endif
else
OWN += $1
endif
endef
$(foreach name,$(NAMES),$(eval $(call choose,$(name))))

ENV ?= $(NAME)
OUT ?= paper/$(NAME)-$(SETTINGS)
SEED ?= 0
ARMS ?= prompt il iwm sr
TRAIN_SPLIT ?= train
PANEL_SPLIT ?= test
# All transitions to refused actions are kept.
INVALID ?= 1
# The policy that proposes actions, and the model that writes reflections and summaries: the base model, as in the
# paper. WRITER=rule composes reflections from the outcomes, without a model, and leaves observations as they are.
MODEL = $(if $(or $(filter tiny,$(BASE)),$(wildcard $(BASE)),$(findstring :,$(BASE))),$(BASE),hf:$(BASE))
POLICY ?= $(MODEL)
WRITER ?= $(MODEL)
# The demonstrations: the environment's own expert, unless another command is given, such as `eexp import ...`.
EXPERT ?= eexp expert '$(ENV)' --split $(TRAIN_SPLIT) -n $(TRAJECTORIES) --admissible all
# All weights are trained; with ADAPTER="--rank 64 --alpha 128", an adapter. TRAINER may start several processes:
# TRAINER="torchrun --nproc-per-node 8 -m eexp finetune".
ADAPTER ?=
TRAINER ?= eexp finetune
# Further options of these commands.
BRANCH ?=
SUMMARISE ?=
REFLECT ?=
FINETUNE ?=
PLAY ?=

ifneq (settings,$(MAKECMDGOALS))
ifeq (,$(BASE))
$(error name the model to train, such as BASE=Qwen/Qwen2.5-7B-Instruct)
endif
# What the spec of the environment is made of, where the user gives none.
MISSING := $(if $(filter file,$(origin ENV)),$(foreach name,$(NEEDS),$(if $($(name)),,$(name)=...)))
ifneq (,$(strip $(MISSING)))
$(error $(NAME) needs $(strip $(MISSING)) ($(firstword $(MAKEFILE_LIST)) says what they are))
endif
unsaid := $(foreach name,$(NAMES),$(if $($(name))$(filter $(OWN),$(name)),,$(name)))
$(info # $(NAME): the settings of the $(SETTINGS)$(if $(OWN),$(space)but for: $(strip $(OWN))).)
$(if $(BORROWED),$(info # From the $(OTHER), where the $(SETTINGS) says nothing: $(strip $(BORROWED)).))
$(if $(unsaid),$(info # Said by neither; the default of eexp, if there is an option for it: $(strip $(unsaid)).))
endif

ifneq (,$(STYLE))
export EEXP_PROMPT_STYLE := $(STYLE)
endif

TRACKED := $(NAMES) INVALID ENV BASE SEED TRAIN_SPLIT PANEL_SPLIT POLICY WRITER EXPERT ADAPTER BRANCH SUMMARISE REFLECT FINETUNE PLAY
ifneq (settings,$(MAKECMDGOALS))
include $(dir $(lastword $(MAKEFILE_LIST)))../given.mk
endif

.PHONY: table settings
table: $(OUT)/table.txt

# One row a setting: label, the paper's value and its section, the release's value and its file.
cell = $(or $(call stated,$1,$2),-)$(if $(call source,$1,$2), ($(call source,$1,$2)))
settings:
	@echo '| | paper | release |'
	@echo '|---|---|---|'
	@$(foreach name,$(NAMES),$(if $(paper.$(name))$(release.$(name)),echo '| $(label.$(name)) | $(call cell,paper,$(name)) | $(call cell,release,$(name)) |';))

# -- 1. demonstrations, and the tasks to play --------------------------------------------------------------------------

$(OUT)/expert.jsonl: $(call given,ENV EXPERT)
	# Demonstrations, with the admissible actions of every state where these are known.
	mkdir -p $(@D)
	$(EXPERT) -o $@

$(OUT)/panel.jsonl: $(OUT)/expert.jsonl $(call given,ENV PANEL_SPLIT EVAL_TASKS)
	# The tasks to play, none of which is demonstrated.
	eexp panel '$(ENV)' --split $(PANEL_SPLIT)$(if $(EVAL_TASKS), -n $(EVAL_TASKS)) --apart-from $< -o $@

# -- 2. alternatives in every state ------------------------------------------------------------------------------------

# Alternatives are said as `admissible:K` (drawn uniformly; K may be `all`), `policy:K` or `policy:K:TEMPERATURE`; those
# for reflections also as `world:K`, the first K of the world model's. The policy's texts are drawn one by one, K of
# them, and what they lack of K is filled up from the admissible actions, where these are known.
draw = eexp branch --pool $1 $(call draw_from,$(subst :, ,$2)) --seed $(SEED)$(if $(BRANCH), $(BRANCH))
draw_from = $(strip $(if $(filter admissible,$(word 1,$1)),-k $(subst all,100000,$(word 2,$1)) --from admissible,$(if $(filter \
  policy,$(word 1,$1)),-k $(word 2,$1) -m '$(POLICY)' $(if $(word 3,$1),--temperature $(word 3,$1)) --replacement \
  --rounds 1 $(if $(ANSWER_TOKENS),--max-tokens $(ANSWER_TOKENS)),$(error no alternatives: "$1"))))

SHARED := $(filter world:%,$(REFLECT_ALTERNATIVES))
# The pools are called world and reflect; world-1, world-2 and so on where the world model's come from several draws.
numbered = $(foreach words,$1,$(eval COUNT += x)world-$(words $(COUNT))=$(words))
DRAWS := $(if $(word 2,$(WORLD_ALTERNATIVES)),$(call numbered,$(WORLD_ALTERNATIVES)),world=$(strip $(WORLD_ALTERNATIVES))) \
  $(if $(SHARED)$(if $(REFLECT_ALTERNATIVES),,none),,reflect=$(strip $(REFLECT_ALTERNATIVES)))
ifneq (,$(and $(word 2,$(WORLD_ALTERNATIVES)),$(filter reflect=%,$(DRAWS))))
$(error with several draws for the world model, reflections take theirs from it: REFLECT_ALTERNATIVES=world:K)
endif
WORLD_POOL := $(if $(SHARED),,--pool world)
REFLECT_POOL := $(if $(SHARED),--first $(word 2,$(subst :, ,$(SHARED))),$(if $(REFLECT_ALTERNATIVES),--pool reflect))

# Written with one stage of the pipe a line.
define pipe

	  |
endef
$(OUT)/branched.jsonl: $(OUT)/expert.jsonl $(call given,WORLD_ALTERNATIVES REFLECT_ALTERNATIVES POLICY ANSWER_TOKENS SEED \
    STYLE BRANCH)
	# Alternatives to the expert's action in every state.
	cat $<$(foreach pool,$(DRAWS), \$(pipe) $(strip $(call draw,$(word 1,$(subst =, ,$(pool))),$(word 2,$(subst =, ,$(pool)))))) > $@

# -- 3. their outcomes, each from its own state ------------------------------------------------------------------------

$(OUT)/rollout.jsonl: $(OUT)/branched.jsonl $(call given,ENV)
	# Each alternative executed from its own state.
	eexp rollout --env '$(ENV)' $< -o $@

# The world model's targets may be summaries of long observations. A trajectory with an observation of which no summary can
# be used is set aside, and named in a file beside them: exit code 4.
TARGETS := $(OUT)/$(if $(and $(filter summary,$(WORLD_TARGET)),$(filter-out rule,$(WRITER))),summarised,rollout).jsonl

$(OUT)/summarised.jsonl: $(OUT)/rollout.jsonl $(call given,WRITER SEED SUMMARISE)
	# Long observations in fewer words.
	eexp summarise -m '$(WRITER)' --seed $(SEED)$(if $(SUMMARISE), $(SUMMARISE)) \
	  --rejects $(OUT)/summarised.rejects.jsonl $< -o $@ || [ $$? -eq 4 ]

# -- 4. examples: imitation, world model, reflection -------------------------------------------------------------------

$(OUT)/il.jsonl: $(OUT)/expert.jsonl $(call given,STYLE)
	# Imitation: from a state to the expert's action.
	eexp imitation-data $< -o $@

# The expert's own transitions and those of the alternatives, with INVALID, the largest share of refused actions.
$(OUT)/world.jsonl: $(TARGETS) $(OUT)/il.jsonl $(call given,WORLD_RATIO INVALID SEED STYLE)
	# World model: from a state and an action to what is observed next.
	eexp world-model-data $(strip $(WORLD_POOL) --max-invalid-fraction $(INVALID) --max-repeats all --seed $(SEED)) $< \
	  $(if $(WORLD_RATIO),| eexp mix --limit $$(($(WORLD_RATIO) * $$(wc -l < $(OUT)/il.jsonl))) --seed $(SEED)) > $@

$(OUT)/reflection.jsonl: $(OUT)/rollout.jsonl \
    $(call given,REFLECT_ALTERNATIVES WRITER THOUGHT_TEMPERATURE THOUGHT_WORDS ANSWER_TOKENS SEED STYLE REFLECT)
	# Reflection: from a state to a thought and the expert's action.
	eexp reflect $(REFLECT_POOL) $(if $(filter rule,$(WRITER)),--rationale outcome,-m '$(WRITER)' \
	  $(if $(THOUGHT_TEMPERATURE),--temperature $(THOUGHT_TEMPERATURE)) $(if $(ANSWER_TOKENS),--max-tokens $(ANSWER_TOKENS))) \
	  $(if $(THOUGHT_WORDS),--max-words $(THOUGHT_WORDS)) --seed $(SEED) $(REFLECT) \
	  --rejects $(OUT)/reflection.rejects.jsonl $< -o $@ || [ $$? -eq 4 ]

$(OUT)/sr.jsonl: $(OUT)/il.jsonl $(OUT)/reflection.jsonl $(call given,SEED)
	# SR learns reflections and imitation together.
	eexp mix $(OUT)/il.jsonl $(OUT)/reflection.jsonl --seed $(SEED) -o $@

# -- 5. training: imitation; a world model, then imitation; imitation with reflections ---------------------------------

# Examples that are too long are set aside, and named in a file beside the model: exit code 4.
UPDATES := $(strip $(if $(ADAPTER),$(ADAPTER),--full) $(if $(BATCH),--batch-size $(BATCH)) --shuffle examples \
  $(if $(SCHEDULE),--schedule $(SCHEDULE)) $(if $(WARMUP),--warmup $(WARMUP)) \
  $(if $(MAX_LENGTH),--max-length $(MAX_LENGTH)) --seed $(SEED) $(FINETUNE))
IMITATED := $(strip $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(LR),--lr $(LR)))
PREDICTED := $(strip $(if $(WORLD_EPOCHS),--epochs $(WORLD_EPOCHS)) \
  $(if $(or $(WORLD_LR),$(LR)),--lr $(or $(WORLD_LR),$(LR))))
# $(call train,FROM,OPTIONS,EXAMPLES)
train = { $(begin_run); } && $(TRAINER) --resume $1 -o $(@D)$(if $2, $2) $(UPDATES) --rejects $(@D).rejects.jsonl $3 || [ $$? -eq 4 ]
TRAINED_WITH := BASE ADAPTER EPOCHS LR BATCH SCHEDULE WARMUP MAX_LENGTH SEED FINETUNE

$(OUT)/il/eexp.json: $(OUT)/il.jsonl $(call given,$(TRAINED_WITH))
	# IL: imitation alone.
	$(call train,-m '$(MODEL)',$(IMITATED),$<)

$(OUT)/world/eexp.json: $(OUT)/world.jsonl $(call given,$(TRAINED_WITH) WORLD_EPOCHS WORLD_LR)
	# IWM, first part: the world model.
	$(call train,-m '$(MODEL)',$(PREDICTED),$<)

$(OUT)/iwm/eexp.json: $(OUT)/il.jsonl $(OUT)/world/eexp.json $(call given,$(TRAINED_WITH))
	# IWM, second part: the same weights, and all of imitation.
	$(call train,$(if $(ADAPTER),-m '$(MODEL)' --init $(OUT)/world,-m $(OUT)/world),$(IMITATED),$<)

$(OUT)/sr/eexp.json: $(OUT)/sr.jsonl $(call given,$(TRAINED_WITH))
	# SR: imitation and reflections, as many epochs as imitation.
	$(call train,-m '$(MODEL)',$(IMITATED),$<)

# -- 6. playing --------------------------------------------------------------------------------------------------------

PLAYED := $(strip $(if $(EVAL_TEMPERATURE),--temperature $(EVAL_TEMPERATURE)) $(if $(ANSWER_TOKENS),--max-tokens $(ANSWER_TOKENS)) \
  $(if $(and $(PROMPT_TOKENS),$(ANSWER_TOKENS)),--context $(shell echo $$(($(or $(PROMPT_TOKENS),0) + $(or $(ANSWER_TOKENS),0))))) \
  --seed $(SEED) $(PLAY))
PLAYED_WITH := ENV EVAL_TEMPERATURE PROMPT_TOKENS ANSWER_TOKENS SEED PLAY

$(OUT)/prompt.episodes.jsonl: $(OUT)/panel.jsonl $(call given,$(PLAYED_WITH) BASE STYLE)
	# Play of the base model, with a prompt alone.
	eexp eval '$(ENV)' --panel $< -m '$(MODEL)' $(PLAYED) -o $@

$(OUT)/%.episodes.jsonl: $(OUT)/panel.jsonl $(OUT)/%/eexp.json $(call given,$(PLAYED_WITH))
	# Play of $*.
	eexp eval '$(ENV)' --panel $< -m $(OUT)/$* $(PLAYED) -o $@

$(OUT)/table.txt: $(foreach arm,$(ARMS),$(OUT)/$(arm).episodes.jsonl)
	eexp compare $(foreach arm,$(ARMS),$(arm)=$(OUT)/$(arm).episodes.jsonl) $(if $(filter il,$(ARMS)),--baseline il) | tee $@
