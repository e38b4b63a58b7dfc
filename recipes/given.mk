# Make again what depends on a setting, when the setting has changed. A makefile lists its settings in TRACKED, includes
# this file, and names those that a rule depends on: $(call given,ENV TRAIN).
#
# There is a file for each setting, which is written again when the setting has changed. A dry run (make -n) writes
# nothing: the files that it would write count as phony, so that everything that depends on them is shown.
quoted = '$(subst ','\'',$1)'
CHANGED := $(foreach setting,$(TRACKED),$(shell printf '%s' $(call quoted,$($(setting))) | cmp -s - $(OUT)/.settings/$(setting) \
  || echo $(setting)))
ifneq (,$(findstring n,$(firstword -$(MAKEFLAGS))))
.PHONY: $(CHANGED:%=$(OUT)/.settings/%)
else
$(foreach setting,$(CHANGED),$(shell mkdir -p $(OUT)/.settings; printf '%s' $(call quoted,$($(setting))) > $(OUT)/.settings/$(setting)))
endif
given = $(1:%=$(OUT)/.settings/%)
include $(dir $(lastword $(MAKEFILE_LIST)))running.mk
