"""What benchmarks/same_output.py calls: every command that writes records, with every option, and what they read.

The calls of RECORDS, SET_ASIDE, TEXTS and FAILS are arguments of eexp. In them @NAME is what the call NAME wrote to
standard output, @NAME/FILE a file that it wrote and @NAME/ its directory; any other @NAME is a file of GIVEN or of
DERIVED, and @server the URL of a server of models. A new option needs a call here, or an entry in NO_EFFECT.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from conversations import agenttraj_of, calling_of, eto_of, messages_of  # noqa: E402

TINY = "-m tiny --threads 1"
#: Two ways to run a model that cover the options of llama.cpp; every command with a model is called in both.
ENGINES = (
    "-m tiny --context 2000 --threads 1 --batch 96 --cache-type f32 --gpu-layers 0 --no-flash-attention "
    "--trust-remote-code",
    "-m tiny --threads 1 --cache-type q8_0 --flash-attention",
)
SAFE = "exec:sh @safe.sh"
DYING = f"exec:{sys.executable} -S @dying.py"
ASIDE = "--on-error skip --rejects rejects.jsonl -o records.jsonl -q"

#: Calls that write records and set none aside.
RECORDS = {
    # -- expert
    "expert": "expert house -n 6",
    "few": "expert house --skip 6 -n 2 -o expert.jsonl -q",
    "held-out-expert": "expert house --skip 20 -n 3",
    "expert-ood": "expert house --split ood --skip 2 -n 5 --admissible 4 --max-steps 15 --seed 3 --all",
    "expert-noise": "expert house -n 6 --noise 0.3 --seed 5",
    "expert-whole-lists": "expert house -n 2 --admissible all",
    "expert-noisy": "expert noisy:0.2:house -n 3",
    "expert-program": f"expert '{SAFE}' -n 3",
    "expert-class": "expert countdown:Countdown -n 3",
    # -- branch
    "branch-admissible": "branch --from admissible -k 3 @expert",
    "branch": f"branch {TINY} -k 3 @expert",
    "branch-default": "branch @few/expert.jsonl",
    "branch-mixed": f"branch --from mixed {TINY} -k 4 --temperature 2 --max-tokens 12 --seed 4 @expert",
    "branch-scored": f"branch --from scored {TINY} -k 3 --temperature 0.5 @expert",
    "branch-scored-best": f"branch --from scored {TINY} -k 2 --temperature 0 @expert-ood",
    "branch-replacement": f"branch --replacement {TINY} --rounds 3 --min-p 0.2 @expert",
    "branch-invalid": f"branch --no-only-admissible {TINY} --temperature 3 --top-p 0.9 --min-p 0 --rounds 2 @expert",
    "branch-only-admissible": f"branch --only-admissible {TINY} --temperature 3 @expert-whole-lists",
    "branch-ban": f"branch --ban look --ban 'go to' --from mixed {TINY} @expert",
    "branch-add": "branch --add 9 --from admissible @rollout",
    "branch-pool": "branch --from admissible --pool other -k 2 --seed 2 @branch",
    "branch-pools": f"branch {TINY} --pool policy -k 2 @branch-pool",
    "branch-style": f"branch {TINY} --prompt-style @style.toml -k 2 @expert",
    "branch-list-style": f"branch {TINY} --prompt-style react-list -k 2 @few/expert.jsonl",
    "branch-random": "branch -m random -k 2 @expert",
    "branch-adapter": "branch -m tiny+@export-adapter/adapter.gguf --threads 1 -k 2 @few/expert.jsonl",
    "branch-transformers": "branch -m hf:tiny -k 2 @few/expert.jsonl",
    "branch-transformers-full": "branch -m hf:@train-full/model -k 2 --from scored @few/expert.jsonl",
    "branch-server": "branch -m @server#actor -k 3 --no-only-admissible @expert",
    "branch-server-floor": "branch -m @server#actor -k 3 --min-p 0.3 --top-p 0.7 @expert",
    "branch-engine-0": f"branch {ENGINES[0]} -k 2 @few/expert.jsonl",
    "branch-engine-1": f"branch {ENGINES[1]} -k 2 @few/expert.jsonl",
    "branch-noisy": "branch --from admissible -k 2 @expert-noisy",
    "branch-noise": "branch --from admissible -k 2 @expert-noise",
    "branch-program": "branch --from admissible -k 2 @expert-program",
    "branch-dying": "branch --from admissible -k 1 @expert-aside/records.jsonl",
    "branch-class": "branch --from admissible -k 2 @expert-class",
    # -- rollout
    "rollout": "rollout @branch",
    "rollout-admissible": "rollout -j 1 @branch-admissible",
    "rollout-invalid": "rollout --fork replay -j 2 @branch-invalid",
    "rollout-process": "rollout --fork process --timeout 60 @branch-invalid",
    "rollout-state": "rollout --fork state --memory 4G @branch-invalid",
    "rollout-again": "rollout --env house --fork auto --again @rollout",
    "rollout-audit": "rollout -j 1 --audit 0.5 @branch",
    "rollout-no-audit": "rollout -j 1 --audit 0 @branch-invalid",
    "few-rolled": "rollout -j 1 @branch-default",
    "rollout-pools": "rollout -j 1 -q @branch-pools",
    "rollout-server": "rollout -j 1 @branch-server",
    "rollout-noisy": "rollout -j 1 @branch-noisy",
    "rollout-program": f"rollout -j 1 --env '{SAFE}' @branch-program",
    "rollout-class": "rollout -j 1 --env countdown:Countdown @branch-class",
    "rollout-noise": "rollout -j 1 @branch-noise",
    # -- follow
    "follow": "follow -m expert @rollout",
    "follow-random": "follow -m random --steps 3 --pool policy --first 2 --seed 3 @rollout-pools",
    "follow-tiny": f"follow --env house {TINY} --steps 2 --max-tokens 12 --temperature 1 --parallel 4 @few-rolled",
    "follow-think": f"follow {TINY} --steps 1 --think always --prompt-style think --max-tokens 9 --first 1 @few-rolled",
    "follow-no-thoughts": f"follow {TINY} --steps 1 --think never --max-tokens 9 --first 1 @few-rolled",
    "follow-engine-0": f"follow --steps 1 --first 1 --max-tokens 9 {ENGINES[0]} @few-rolled",
    "follow-engine-1": f"follow --steps 1 --first 1 --max-tokens 9 {ENGINES[1]} @few-rolled",
    "follow-again": "follow -m random --again @follow-random",
    "follow-program": f"follow -m random --env '{SAFE}' --timeout 60 --memory 4G @rollout-program",
    # -- summarise, recover
    "summarise": "summarise -m @server#writer --longer-than 60 --temperature 1 --max-tokens 40 --seed 2 @rollout",
    "summarise-style": "summarise -m @server#writer --longer-than 90 --prompt-style think @rollout",
    "recover": "recover @rollout-invalid",
    "recover-server": "recover @rollout-server",
    "recover-some": "recover --share 0.5 --most 1 --seed 4 @rollout-invalid",
    "recover-likely": "recover --min-probability 0.05 @rollout-invalid",
    "recover-pool": "recover --pool policy @rollout-pools",
    # -- world-model-data
    "world-verdict": "world-model-data --verdict alone @rollout",
    "world-imagined": "world-model-data --verdict after --predictable environment @rollout",
    "world": "world-model-data @rollout",
    "world-no-expert": "world-model-data --no-expert --max-invalid-fraction 1 --max-repeats all @rollout-invalid",
    "world-few": "world-model-data --expert --first 1 --max-repeats 1 --max-invalid-fraction 0 --seed 3 "
    "@rollout-invalid",
    "world-pool": "world-model-data --pool other --prompt-style think @rollout-pools",
    "world-summaries": "world-model-data --summaries @summarise",
    "world-no-summaries": "world-model-data --no-summaries @summarise",
    "world-changes": "world-model-data --changes @rollout",
    "world-environment": "world-model-data --predictable environment --unknown-weight 0.25 @rollout",
    "world-model": f"world-model-data --predictable model --min-probability 0.3 {TINY} @rollout",
    "world-engine-0": f"world-model-data --predictable model --unknown-weight 0.5 {ENGINES[0]} --first 0 @rollout",
    "world-engine-1": f"world-model-data --predictable model {ENGINES[1]} --first 0 @rollout",
    "world-recovered": "world-model-data @recover",
    "world-noisy": "world-model-data @rollout-noisy",
    # -- reflect
    "reflect": "reflect @rollout",
    "reflect-environment": "reflect --rationale environment --weigh 2 @rollout-admissible",
    "reflect-all-states": "reflect --rationale outcome --weigh 0 --prompt-style think @rollout-pools",
    "reflect-pool": "reflect --rationale outcome --pool policy --first 1 @rollout-pools",
    "reflect-search": "reflect --rationale search --ahead 3 @rollout-admissible",
    "reflect-each": "reflect --rationale outcome --per-alternative @rollout-admissible",
    "reflect-recovered": "reflect --rationale outcome @recover",
    "reflect-tiny": f"reflect {TINY} --no-guard all --max-tokens 16 @few-rolled",
    "reflect-unverified": f"reflect {TINY} --no-guard verify --no-guard cut-off --no-guard invented "
    "--no-guard repeated --no-guard length --no-guard setup --no-guard hindsight --no-guard other-action "
    "--max-tokens 16 @few-rolled",
    "reflect-engine-0": f"reflect {ENGINES[0]} --no-guard all --max-tokens 8 @few-rolled",
    "reflect-engine-1": f"reflect {ENGINES[1]} --no-guard all --max-tokens 8 @few-rolled",
    "reflect-verify": "reflect --weigh 0 --prompt-style think --verify tiny --threads 1 --rejects rejects.jsonl "
    "@rollout-noise",
    "reflect-own": "reflect -m @server#thinker --no-outcomes --keep-matching --retries 6 --no-guard all "
    "--rejects rejects.jsonl @rollout",
    "reflect-own-tiny": f"reflect {TINY} --no-outcomes --keep-matching --no-guard all --max-tokens 24 "
    "--rejects rejects.jsonl @few-rolled",
    # -- preference-data
    "preferences": "preference-data @rollout-invalid",
    "preferences-some": "preference-data --worse refused --worse unchanged --most 1 --pool policy --first 2 "
    "--prompt-style think @rollout-pools",
    "preferences-later": "preference-data --worse later @follow",
    "preferences-ended": "preference-data --worse ended --worse score @rollout-invalid",
    "judgements": "preference-data --judge @rollout-invalid",
    "judgements-outcomes": "preference-data --judge --with-outcomes --prompt-style think @rollout-invalid",
    # -- imitation-data, split
    "imitation": "imitation-data @expert",
    "imitation-style": "imitation-data --prompt-style @style.toml @expert",
    "imitation-thoughts": "imitation-data --thoughts --prompt-style think @import-agenttraj",
    "imitation-no-thoughts": "imitation-data --no-thoughts --prompt-style react-list @import-agenttraj",
    "imitation-recall": "imitation-data --recall @expert --recall-count 2 @held-out-expert",
    "imitation-recovered": "imitation-data @recover-server",
    "held-out": "imitation-data @held-out-expert",
    "split": "split --part 1 @expert",
    "split-parts": "split --parts 4 --part 1 --part 3 --seed 2 @imitation @world",
    "split-without": "split --parts 3 --without 2 @eval-random",
    # -- mix
    "mix": "mix @imitation @world @reflect",
    "mix-marks": "mix --shuffle --seed 3 --limit 40 @imitation@0.5*2 @world@0.3 @reflect@1.5",
    "mix-ordered": "mix --no-shuffle -q -o mixed.jsonl @imitation @reflect*0.5",
    "mix-exact": "mix --duplicates exact --apart-from @panel --apart-from @split @imitation @imitation @world",
    "mix-near": "mix --duplicates near --similarity 0.5 @imitation @world",
    "mix-share": "mix --duplicates keep --share imitation=0.3 --share reflection=0.2 --share-by examples "
    "@imitation @world @reflect",
    "mix-share-tokens": "mix --share world_model=0.4 --share-by tokens --tokenizer tiny @imitation @world",
    "mix-share-targets": "mix --share imitation=0.2 --share-by targets --tokenizer tiny @imitation @world",
    # -- score
    "score": "score --summary losses.jsonl -o scored.jsonl @imitation @reflect",
    "score-engine-0": f"score {ENGINES[0]} @world-environment",
    "score-engine-1": f"score {ENGINES[1]} @imitation",
    "score-transformers": "score -m hf:tiny+@train/adapter @held-out",
    "score-adapter": "score -m tiny+@export-adapter/adapter.gguf --threads 1 @held-out",
    # -- finetune, export
    "train": "finetune -m tiny -o adapter --max-steps 3 --batch-trajectories 2 --rank 4 --alpha 8 --lr 3e-3 "
    "--schedule linear --warmup 0.5 --seed 3 --validate @held-out --validate-every 1 --keep best --save-every 2 -q "
    "@mix",
    "train-full": "finetune -o model --full --epochs 0.5 --batch-size 8 --shuffle examples --schedule constant "
    "--weight-decay 0.1 --max-grad-norm 0.3 --packing none --tokens-per-batch 900 --keep last "
    "--prompt-style @style.toml @imitation-style",
    "train-long": "finetune -m tiny -o adapter --epochs 2 --max-steps 5 --batch-size 12 --shuffle trajectories "
    "--action-weight 3 --share reflection=0.4 --rslora --schedule cosine --gradient-checkpointing --packing tree "
    "--trust-remote-code @reflect @imitation",
    "train-on": "finetune -m tiny -o adapter --init @train/adapter --budget-like @train-long/adapter @imitation",
    "train-preferences": "finetune -m tiny -o adapter --objective dpo --beta 0.2 --sft-weight 0.5 --max-steps 2 "
    "@preferences",
    "train-policy": "finetune -m tiny -o adapter --clip 0.2 --keep-optimizer --max-steps 2 @policy",
    "train-policy-on": "finetune -m tiny -o adapter --init @train-policy/adapter --keep-optimizer "
    "--max-steps 2 @policy",
    "train-mini-batches": "finetune -m tiny -o adapter --mini-batches 2 --share imitation=0.2 @policy @imitation",
    "train-half": "finetune -m tiny -o adapter --dtype bfloat16 --max-steps 2 @imitation",
    "train-default": "finetune --dtype float32 -m tiny -o adapter @imitation",
    "export-adapter": "export @train/adapter -o adapter.gguf",
    "export-adapter-f16": "export @train-long/adapter --base tiny --type f16 -q -o adapter.gguf",
    "export-full": "export @train-full/model -o model.gguf",
    **{
        f"export-{kind}": f"export tiny --type {kind} -o tiny.gguf" for kind in ("f32", "f16", "bf16", "q8_0", "q4_k_m")
    },
    # -- panel, eval
    "panel": "panel house -n 8 -o - -q",
    "panel-splits": "panel house --split test --split ood -n 4 --seed 2",
    "panel-apart": "panel house -n 8 --apart-from @eval-random --apart-from @imitation",
    "eval-random": "eval house -m random -n 8 --seed 3",
    "eval-expert": "eval house -m expert -n 8",
    "eval-short": "eval house -m expert -n 8 --max-steps 8",
    "eval-shorter": "eval house -m expert -n 8 --max-steps 5",
    "eval-train": "eval house -m expert --split train --skip 3 -n 4 --max-steps 9",
    "eval-tiny": f"eval house -n 6 --max-steps 12 {TINY} --temperature 1 --trials 2 --parallel 3",
    # -- correct, reward
    "correct": "correct --turns 2 --admissible 3 --seed 4 --workers 2 @eval-tiny",
    "correct-program": f"correct --env '{SAFE}' --timeout 60 --memory 4G @eval-program",
    "reward": "reward --workers 2 @eval-tiny",
    # -- relabel
    "relabel": "relabel --workers 2 @rollout",
    "relabel-house": "relabel --env house --timeout 60 --memory 4G -q -o - --apart-from @panel --pool policy "
    "@rollout-pools",
    "relabel-stitched": "relabel --stitch 1 --no-prune --per-goal 2 --per-trajectory 2 --first 1 --seed 4 "
    "--admissible 3 @rollout",
    "reward-program": f"reward --by similarity --env '{SAFE}' --timeout 60 --memory 4G @eval-program",
    "policy-turns": "policy-data --turn-rewards 0.5 @reward",
    # -- select
    "select": "select @expert-noise",
    "select-few": "select --by length --reverse -n 3 @expert-noise",
    "select-random": "select --by random --seed 3 @imitation",
    "select-influence": "select --by influence -m tiny --like @held-out -n 4 @imitation",
    "select-influence-of": "select --by influence -m tiny --init @train/adapter --like @held-out -n 4 @imitation",
    "policy": "policy-data --refused 0.1 @eval-tiny",
    "policy-scaled": "policy-data --reward score --scale --refused 0.5 --prompt-style react @eval-tiny",
    "policy-none": "policy-data --reward none --turn-rewards 1 --baseline episodes @reward",
    "eval-ahead-with": f"eval house -n 2 --max-steps 4 {TINY} --look-ahead 2 --look-ahead-with tiny",
    "eval-recall": f"eval house -n 2 --max-steps 4 {TINY} --recall @expert --recall-count 2",
    "eval-ahead": f"eval house -n 4 --max-steps 6 {TINY} --look-ahead 3",
    "eval-panel": f"eval --panel @panel {TINY} --only-admissible --max-steps 8",
    "eval-panel-env": "eval noisy:0.1:house --panel @panel-splits --skip 2 -n 4 -m random",
    "eval-thoughts": f"eval house -n 4 --max-steps 6 {TINY} --think always --max-tokens 40",
    "eval-no-thoughts": f"eval house -n 4 --max-steps 6 {TINY} --think never --prompt-style think --seed 2 "
    "--temperature 0.7",
    "eval-auto": f"eval house -n 4 --max-steps 6 {TINY} --think auto --prompt-style think --max-tokens 30",
    "eval-server": "eval house -n 4 --max-steps 6 -m @server#actor --temperature 1",
    "eval-server-thoughts": "eval house -n 4 --max-steps 6 -m @server#thinker --think always --temperature 1 --seed 1",
    "eval-default": "eval house -n 4 --max-steps 6",
    "eval-adapter": "eval house -n 4 --max-steps 6 -m tiny+@export-adapter/adapter.gguf --threads 1",
    "eval-full": "eval house -n 4 --max-steps 6 -m @export-full/model.gguf --threads 1",
    "eval-transformers": "eval house -n 3 --max-steps 4 -m hf:@train/adapter",
    "eval-engine-0": f"eval house -n 3 --max-steps 5 {ENGINES[0]}",
    "eval-engine-1": f"eval house -n 3 --max-steps 5 {ENGINES[1]}",
    "eval-program": f"eval '{SAFE}' -n 3 --max-steps 5 -m random --timeout 60 --memory 4G",
    "eval-class": "eval countdown:Countdown -n 3 -m expert",
    "arm-random": "eval house -m random -n 6 -o random.episodes.jsonl",
    "arm-expert": "eval house -m expert -n 6 -o expert.episodes.jsonl",
    # -- shards of the input, and their merge
    **{f"shard-{n}": f"branch --from admissible -k 2 --shard {n}/2 @expert" for n in (1, 2)},
    **{f"shard-rollout-{n}": f"rollout -j 1 @shard-{n}" for n in (1, 2)},
    "merge": "merge @shard-rollout-2 @shard-rollout-1",
    "merge-to": "merge -q -o merged.jsonl @shard-1 @shard-2",
    "shard-expert": "expert house -n 6 --shard 2/2",
    "shard-eval": "eval house -m random -n 8 --trials 2 --shard 1/2",
    "shard-rollout": "rollout -j 1 --shard 1/2 @branch-admissible",
    "shard-import": "import episodes --shard 1/2 -j 1 @eval-expert @eval-random",
    "shard-follow": "follow -m random --steps 2 --shard 1/2 @rollout",
    "shard-correct": "correct --workers 2 --shard 1/2 @eval-tiny",
    "shard-reward": "reward --workers 2 --shard 1/2 @eval-tiny",
    "shard-recover": "recover --shard 2/2 @rollout-invalid",
    "shard-summarise": "summarise -m @server#writer --longer-than 60 --shard 1/2 @rollout",
    "shard-world": "world-model-data --shard 1/2 @rollout",
    "shard-reflect": "reflect --rationale outcome --shard 1/2 @rollout",
    "shard-imitation": "imitation-data --shard 2/3 @expert",
    "shard-preferences": "preference-data --shard 1/2 @rollout-invalid",
    "shard-score": "score --shard 1/2 @held-out",
    "shard-split": "split --part 1 --shard 1/2 @imitation",
    # -- import
    "import": "import messages @messages.jsonl",
    "import-named": "import messages --name kitchen --task-key task --action whole @messages.jsonl",
    "import-marked": "import messages --action marked --distinct @marked.jsonl",
    "import-calls": "import messages --action argument @calls.jsonl",
    "import-closing": "import messages --drop-closing @calls.jsonl",
    "import-sharegpt": "import sharegpt @eto.jsonl",
    "import-env": "import messages --env house --split train --admissible 7 --seed 3 -j 1 --timeout 60 --memory 4G "
    "@messages.jsonl",
    "import-actions": "import messages --env house -j 1 @actions.jsonl",
    "import-drop": "import messages --env house --drop-invalid -j 1 @mistaken.jsonl",
    "import-trust": "import messages --env house --trust environment -j 1 @changed.jsonl",
    "import-trust-record": "import messages --env house --trust record --success --min-score 0.5 -j 1 @messages.jsonl",
    "import-agenttraj": "import agenttraj @agenttraj.jsonl",
    "import-agenttraj-env": "import agenttraj --env house --match '{split}:{id}' --map @names.json -j 1 "
    "@agenttraj.jsonl",
    "import-eto": "import eto @eto.jsonl",
    "import-eto-env": "import eto --env house -j 1 @eto.jsonl",
    "import-atif": "import atif @export-log-atif",
    "import-atif-env": "import atif --env house -j 1 @export-log-atif-episodes",
    "import-verifiers": "import verifiers @export-log-verifiers",
    "import-branches": "import verifiers --branches all @export-log-verifiers-alternatives",
    "import-branches-last": "import verifiers --branches last @export-log-verifiers-alternatives",
    "import-inspect-env": "import inspect --env house --min-score 0.2 -j 1 @export-log-inspect-trajectories",
    "import-episodes": "import episodes --success -j 1 @eval-expert @eval-random",
    "import-episodes-drop": "import episodes --drop-invalid --distinct --min-score 0 -j 1 @eval-tiny",
    "import-episodes-as-they-are": "import episodes --no-replay --name played --min-score 0 @eval-tiny",
    "import-tasks": "import webarena-tasks --site reddit=http://localhost:9999 --test @webarena.json "
    "--storage @storage.json @webarena.json",
    "import-rows": "import expert_sft --name kitchen @export-log-rows @messages.jsonl",
    "import-rows-world": "import iwm_sft --task-key id @export-log-rows-world",
    "import-rows-reflection": "import reflection_sft @export-log-rows-reflection",
    # -- export-log
    "export-log-atif": "export-log --format atif @rollout @expert-noise",
    "export-log-atif-episodes": "export-log --format atif @eval-expert @eval-tiny",
    "export-log-verifiers": "export-log --format verifiers @eval-expert @import-agenttraj",
    "export-log-verifiers-server": "export-log --format verifiers @eval-server",
    "export-log-inspect": "export-log --format inspect @eval-server-thoughts",
    "export-log-inspect-trajectories": "export-log --format inspect @expert",
    "export-log-verifiers-alternatives": "export-log --format verifiers --alternatives @rollout",
    "export-log-traces": "export-log --format hf-traces --alternatives --sessions traces @rollout",
    "export-log-sessions": "export-log --format hf-traces --sessions traces @eval-expert",
    "card": "card @rollout @imitation @eval-expert",
    "card-fields": "card --title House --license cc-by-4.0 --language en --tag agents --field "
    "task_categories=text-generation -q -o README.md @rollout",
    "export-log-rows": "export-log --format sft @imitation",
    "export-log-rows-world": "export-log --format sft @world",
    "export-log-rows-reflection": "export-log --format sft @reflect",
    # -- tables as records, what is the contract of others
    "stats": "stats --json @rollout @mix @eval-tiny",
    "stats-tokens": "stats --json --tokenizer tiny --apart-from @panel --apart-from @split @imitation @world",
    "compare": "compare --json a=@eval-short a=@eval-shorter b=@eval-expert",
    "compare-looks": "compare --json --baseline b --confidence 0.9 --looks 3 --common a=@eval-short b=@eval-default",
    "compare-tiny": "compare --json tiny=@eval-default adapter=@eval-adapter full=@eval-full",
    "power": "power --json a=@eval-short a=@eval-shorter --baseline a --tasks 50 --tasks 80 --runs 2",
    "power-rate": "power --json --rate 0.2 --runs 1 --runs 4 --run-sd 0.05 --alike 0.4 --confidence 0.99",
    "compare-power": "compare --json --power a=@eval-short a=@eval-shorter --baseline a --tasks 50 --tasks 80 --runs 2",
    **{f"schema-{kind}": f"schema {kind}" for kind in ("trajectory", "example", "preference", "episode", "task")},
    **{f"style-{name}": f"prompts show {name}" for name in ("react", "react-list", "think", "code", "@style.toml")},
}

#: Calls that set records aside.
SET_ASIDE = {
    "correct-aside": f"correct {ASIDE} @bad-episodes.jsonl @eval-tiny",
    "relabel-aside": f"relabel {ASIDE} @bad.jsonl",
    "relabel-skip": "relabel --on-error skip @bad.jsonl @recover",
    "reward-aside": f"reward {ASIDE} @bad-episodes.jsonl @eval-tiny",
    "expert-aside": f"expert '{DYING}' -n 3 {ASIDE}",
    "expert-skip": "expert countdown:Countdown -n 5 --on-error skip",
    "branch-aside": f"branch --from admissible {ASIDE} @bad.jsonl",
    "branch-skip": "branch --from admissible --on-error skip @bad.jsonl @recover",
    "rollout-aside": f"rollout -j 1 {ASIDE} @bad-branched.jsonl",
    "rollout-dying": f"rollout -j 1 --env '{DYING}' {ASIDE} @branch-dying",
    "summarise-aside": f"summarise -m @server#writer --longer-than 20 {ASIDE} @rollout",
    "summarise-tiny": f"summarise {TINY} --longer-than 90 --max-tokens 12 --on-error skip @rollout",
    "summarise-engine-0": f"summarise {ENGINES[0]} --longer-than 90 --max-tokens 12 {ASIDE} @few-rolled",
    "summarise-engine-1": f"summarise {ENGINES[1]} --longer-than 90 --max-tokens 12 {ASIDE} @few-rolled",
    "recover-aside": f"recover {ASIDE} @bad.jsonl @rollout-invalid",
    "world-aside": f"world-model-data {ASIDE} @bad.jsonl @rollout",
    "world-aside-model": f"world-model-data --predictable model {TINY} {ASIDE} @bad-branched.jsonl @few-rolled",
    "preferences-aside": f"preference-data {ASIDE} @bad.jsonl @rollout-invalid",
    "reflect-aside": f"reflect --rationale outcome {ASIDE} @bad.jsonl @rollout",
    "reflect-server": f"reflect -m @server#writer --max-tokens 90 --temperature 1 --retries 1 --seed 2 {ASIDE} "
    "@rollout",
    "reflect-server-strict": "reflect --rationale model -m @server#writer --min-words 14 --max-words 17 "
    "--no-guard setup --no-guard invented --on-error skip @rollout",
    **{
        f"reflect-no-{guard}": f"reflect -m @server#writer --retries 0 --no-guard {guard} {ASIDE} @rollout"
        for guard in ("cut-off", "repeated", "length", "setup", "hindsight", "other-action", "invented")
    },
    **{
        f"reflect-guard-{guard}": f"reflect --rationale outcome --guard {guard} --max-words 40 {ASIDE} @rollout"
        for guard in ("cut-off", "repeated", "length", "setup", "hindsight", "other-action", "invented")
    },
    "follow-aside": f"follow -m expert {ASIDE} @bad.jsonl @rollout",
    "select-loss": f"select --by loss {ASIDE} @bad.jsonl @score/scored.jsonl",
    "policy-aside": f"policy-data --refused 1 {ASIDE} @bad.jsonl @eval-tiny",
    "imitation-aside": f"imitation-data {ASIDE} @bad.jsonl",
    "split-aside": f"split --part 1 --part 2 {ASIDE} @bad.jsonl @imitation",
    "score-aside": f"score {ASIDE} @bad-examples.jsonl",
    "train-aside": "finetune -m tiny -o adapter --max-steps 1 --max-length 150 --on-error skip --rejects rejects.jsonl "
    "@imitation @bad-examples.jsonl",
    "export-log-aside": f"export-log --format atif {ASIDE} @bad.jsonl @imitation",
    "eval-aside": f"eval '{DYING}' -n 3 -m random --max-steps 12 --split train {ASIDE}",
    "import-aside": f"import messages {ASIDE} @bad-messages.jsonl",
    "import-env-aside": f"import messages --env house -j 1 {ASIDE} @changed.jsonl @bad-messages.jsonl",
    "import-rows-aside": f"import reflection_sft {ASIDE} @bad-messages.jsonl @export-log-rows-reflection",
    "import-inspect": f"import inspect {ASIDE} @export-log-inspect",
    "import-verifiers-aside": f"import verifiers {ASIDE} @export-log-verifiers-server",
    "import-episodes-aside": f"import episodes -j 1 {ASIDE} @bad-episodes.jsonl",
}

#: Calls for people: what they print may get better words. The exit code has to stay.
TEXTS = {
    "show": "show -n 2 @rollout @world @eval-tiny",
    "show-row": "show --row tiny -n 5 @world @reflect",
    "show-sample": "show --sample --seed 2 @mix",
    "show-id": "show --id house/train/0 @rollout",
    "show-tree": "show --tree --full @rollout",
    "show-summary": "show --summary @rollout-pools @eval-tiny",
    "show-run": "show @train/adapter",
    "show-plot": "show --plot losses.png @train/adapter @train-long/adapter",
    "stats-text": "stats --plot lengths.svg @rollout @mix",
    "compare-text": "compare --by-kind --refused --plot rates.svg a=@eval-random b=@eval-expert",
    "mix-dry-run": "mix --dry-run --limit 20 @imitation @world@0.5",
    "train-dry-run": "finetune -m tiny -o adapter --dry-run @mix",
    "report": "report @arm-random/ @arm-expert/ -o page.html --seed 2 --tasks 3 --title Study --baseline random "
    "--confidence 0.9 --name expert=Expert --megabytes 0.05 --common -q",
    "view": "view @rollout @mix -m tiny -o page.html -n 20 --megabytes 0.2 --seed 2 -q",
    "models": "models",
    "models-list": "models list",
    "models-check": "models check tiny --seed 1",
    "models-check-json": "models check tiny --json",
    "plugins": "plugins",
    "plugins-json": "plugins --others --check --json",
    "prompts-list": "prompts list",
    "prompts-record": "prompts show @style.toml --record @import-agenttraj --id agenttraj/house_1 --step 2",
    "prompts-check": "prompts check @style.toml",
    "env-show": "env show house --task train/3",
    "env-check": f"env check '{SAFE}' -n 1 --seed 2 --action look --timeout 20",
    "env-check-json": "env check house -n 1 --json",
    "env-conformance": "env check house -n 1 --conformance",
    "env-accuracy": "env accuracy 'worldmodel:tiny?max_tokens=9&env=house' @eval-expert",
    "env-accuracy-json": "env accuracy 'worldmodel:tiny?max_tokens=9&env=house' @expert --json",
    "env-play": "env play house --task test/3 --split test -o played.jsonl",
    "panel-check": "panel --check @panel --apart-from @expert",
}
FAILS = {"panel-check-leak": ("panel --check @panel --apart-from @eval-random", 1)}
STDIN = {"env-play": b"look\n?\n!\ngo to kitchen\nopen fridge\n"}

#: Options that change no record, and why. "COMMAND --option" is of one command, "--option=VALUE" one value of it.
NO_EFFECT = {
    "--resume": "the final bytes are those of an undisturbed run, which test_resume.py and kills.py hold",
    "finetune --load-in-4bit": "needs bitsandbytes, which `make install` leaves out; test_finetune.py has it",
    "finetune --report-to": "sends the curves elsewhere as well, with the time of day",
    "--on": "the bytes of --on ray are those of local workers, which tests/workers/test_ray.py holds",
    "view --follow": "serves the page instead of writing it; tests/viewer has it",
    "view --diff": "serves the page instead of writing it; tests/viewer has it",
    "view --port": "serves the page instead of writing it",
    "view --open": "opens a browser",
    "--costs": "the times of a run are written to a file of their own; tests/evidence/test_costing.py",
    "plan": "reads the times of runs; tests/evidence/test_costing.py",
    "env list": "text, and opens what happens to be installed",
    "env record": "waits for a person in a window; tests/envs/test_env_web.py",
}


@dataclass(frozen=True)
class Call:
    """One call of eexp: its arguments, the exit code that it has to end with, and whether it prints text for people."""

    words: str
    code: int = 0
    text: bool = False


CALLS = {
    **{name: Call(words) for name, words in RECORDS.items()},
    **{name: Call(words, code=4) for name, words in SET_ASIDE.items()},
    **{name: Call(words, text=True) for name, words in TEXTS.items()},
    **{name: Call(words, code, text=True) for name, (words, code) in FAILS.items()},
}

# -- what the calls read besides what other calls have written ---------------------------------------------------------

GIVEN = {
    "safe.sh": (ROOT / "examples" / "safe.sh").read_text(),
    "style.toml": 'name = "mine"\n\n[act]\nsystem = "Act. Write: Do: <action>"\nlist_admissible = true\n\n'
    '[action]\nopen = "Do: "\n\n[thought]\nopen = "Because: "\nask = "\\nSay why first."\n\n[history]\nsteps = 4\n',
    "storage.json": "{}",
    "webarena.json": json.dumps(
        {
            "sites": ["reddit"],
            "task_id": 1,
            "start_url": "__REDDIT__",
            "intent": "Do it.",
            "eval": {"eval_types": ["string_match"], "reference_answers": {"must_include": ["a", "b"]}},
        }
    ),
    "names.json": json.dumps({f"house_{n}": f"train:train/{n}" for n in range(6)}),
    "countdown.py": '''
from eexp.envs import Environment, Observation
from eexp.errors import InputError


class Countdown(Environment):
    """Bring a number down to 0, by one or by two."""

    max_steps = 12

    def splits(self):
        return ["train", "test"]

    def tasks(self, split):
        self.check_split(split)
        return ({"id": f"{split}/{n}", "split": split, "start": 3 * n + 4} for n in range(6))

    def reset(self, task):
        if task["start"] == 13:
            raise InputError("an unlucky number", "$.task.start")
        self.number = task["start"]
        return self.seen()

    def step(self, action):
        if action not in self.admissible():
            return Observation("That is not possible.", valid=False)
        self.number -= {"take one": 1, "take two": 2}[action]
        return self.seen()

    def seen(self):
        done = self.number == 0
        return Observation(f"{self.number} are left.", done, score=float(done), success=done)

    def instruction(self):
        return "Take all."

    def admissible(self):
        return ["take one", "take two"][: self.number]

    def expert(self):
        return self.admissible()[-1]
''',
    "dying.py": """
import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "hello":
        answer = {"protocol": 1, "splits": ["train", "test"], "expert": True, "admissible": True}
    elif op == "tasks":
        answer = {"tasks": 4}
    elif op == "reset":
        left, task = 4, request["task"]["id"]
        answer = {"observation": "4 are left.", "instruction": "Take all."}
    elif op == "step":
        if (task.endswith("1") and left == 3) or (task.endswith("2") and request["action"] == "wait"):
            sys.exit(1)
        left -= request["action"] == "take one"
        answer = {"observation": f"{left} are left.", "done": not left, "score": 1 - left / 4, "success": not left}
    elif op == "admissible":
        answer = {"admissible": ["take one", "wait"]}
    elif op == "expert":
        answer = {"action": "take one"}
    else:
        break
    print(json.dumps(answer), flush=True)
""",
}

Read = Callable[[str], list[dict]]


def lines(records: list) -> bytes:
    """Return records as JSONL."""
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def _spoiled(records: list[dict], **wrong: object) -> bytes:
    """Return records with bad ones among them: another type, a wrong value, no JSON, half a line."""
    first, second, *rest = records
    return lines([first, {**second, **wrong}, {**second, "type": "thing"}, *rest[:2]]) + b'{"a": nan}\n{"type": "ex'


def _marked(read: Read) -> bytes:
    """Return conversations in which every action has a thought before it, one of them twice."""
    conversations = [messages_of(trajectory) for trajectory in read("expert")]
    for message in (m for c in conversations for m in c["messages"] if m["role"] == "assistant"):
        message["content"] = f"Thought: This may help.\nAction: {message['content']}"
    return lines([*conversations, conversations[0]])


def _mistaken(read: Read) -> bytes:
    """Return conversations, without observations, with an action that the environment refuses."""
    conversations = [messages_of(trajectory, observations=False) for trajectory in read("expert")]
    for conversation in conversations[::2]:
        conversation["messages"].insert(2, {"role": "assistant", "content": "eat the door"})
    return lines(conversations)


def _changed(read: Read) -> bytes:
    """Return conversations of which some have observations that the environment does not make."""
    conversations = [messages_of(trajectory) for trajectory in read("expert")]
    for conversation in conversations[::2]:
        conversation["messages"][3]["content"] = "You see nothing at all."
    return lines(conversations)


def _diverging(read: Read) -> bytes:
    """Return branched trajectories of which one was recorded elsewhere and one names a program."""
    records = read("branch")
    records[1]["steps"][1]["observation"] = "You are at sea."
    records[2]["env"] = "exec:true"
    return _spoiled(records, steps=3)


#: Files made from what the calls of the same tree wrote; `read` returns the records of a call's standard output.
DERIVED: dict[str, Callable[[Read], bytes]] = {
    "messages.jsonl": lambda read: lines([{"task": n, **messages_of(t)} for n, t in enumerate(read("expert"))]),
    "actions.jsonl": lambda read: lines([messages_of(t, observations=False) for t in read("expert")]),
    "calls.jsonl": lambda read: lines([calling_of(t) for t in read("expert")]),
    "agenttraj.jsonl": lambda read: lines([agenttraj_of(t, n) for n, t in enumerate(read("expert"))]),
    "eto.jsonl": lambda read: lines([eto_of(t, n) for n, t in enumerate(read("expert"))]),
    "marked.jsonl": _marked,
    "mistaken.jsonl": _mistaken,
    "changed.jsonl": _changed,
    "bad.jsonl": lambda read: _spoiled(read("expert"), instruction=3),
    "bad-branched.jsonl": _diverging,
    "bad-episodes.jsonl": lambda read: _spoiled(read("eval-tiny"), success=3),
    "bad-examples.jsonl": lambda read: _spoiled(read("held-out"), prompt=[]),
    "bad-messages.jsonl": lambda read: _spoiled([messages_of(t) for t in read("expert")], messages=[{"role": "cook"}]),
}

# -- the server --------------------------------------------------------------------------------------------------------

_ACTIONS = ("go to kitchen", "go to lounge", "go to bedroom", "open fridge", "open cupboard", "open chest", "look")
_SENTENCES = (
    "What is asked for is not here, so I look for it in a place that I have not seen yet.",
    "I have it now and it only has to be brought to where it belongs.",
    "The expert opens the fridge, as in option 2.",
    "I go to the garage, where the zebra is.",
    "It may be in there. It may be in there.",
    "The goal still needs something, and here I can",
    "Yes.",
)


def _completion(body: dict) -> dict:
    """Return texts that every word of the request decides."""
    draw = random.Random(json.dumps(body, sort_keys=True))
    choices = []
    for _ in range(body.get("n", 1)):
        action, sentence = draw.choice(_ACTIONS), draw.choice(_SENTENCES)
        text = {"actor": f"Action: {action}", "thinker": f"Thought: {sentence}\nAction: {action}"}
        content = text.get(body["model"], sentence)
        tokens = [{"token": word, "logprob": -draw.randrange(1, 3000) / 1000} for word in content.split(" ")]
        end = "length" if draw.random() < 0.1 else "stop"
        choices.append({"message": {"content": content}, "finish_reason": end, "logprobs": {"content": tokens}})
    return {"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 9}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        names = ("actor", "thinker", "writer")
        self.answer({"data": [{"id": name, "owned_by": "vllm"} for name in names]})

    def do_POST(self) -> None:
        self.answer(_completion(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    def answer(self, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def model_server() -> Iterator[str]:
    """Serve chat completions; yields the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
