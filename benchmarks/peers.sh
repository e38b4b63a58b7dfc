#!/usr/bin/env bash
# Start real servers of AgentGym and OpenEnv; check them, import AgentTraj-L and execute branches with eexp.
#
#   benchmarks/peers.sh [DIR]           # DIR, ./peers by default: servers, their Pythons, data, and what eexp writes
#   PEERS="babyai maze_env" N=50 benchmarks/peers.sh
#
# Needs the network, git, python3 (3.12 for grid_world_env) and eexp[openenv]; Java for sciworld, conda for maze and
# wordle. A server that cannot be installed is told and left out. Exit code 1 if one is, or if anything that was
# compared differs. The tests cannot run this, as they have no network; tests/agentgym_servers.py and
# tests/openenv_server.py speak the same protocols.
set -uo pipefail

DIR=$(realpath -m "${1:-peers}")
PEERS=${PEERS:-textcraft babyai sciworld maze wordle maze_env grid_world_env}
N=${N:-20}  # records of AgentTraj-L for each server
failed=0
started=()
trap 'for group in "${started[@]}"; do kill -- "-$group" 2>/dev/null; done' EXIT

say() { printf '\n== %s\n' "$*"; }
wrong() { say "FAILED: $*"; failed=1; }

fetch() {  # URL: into DIR, once
    local to; to=$DIR/$(basename "$1")
    [ -d "$to" ] || git clone -q --depth 1 "$1" "$to"
}

serve() {  # FOLDER PORT COMMAND...: in a session of its own, until it answers or two minutes are over
    local folder=$1 port=$2; shift 2
    (cd "$folder" && exec setsid "$@") > "$DIR/server-$port.log" 2>&1 &
    started+=($!)
    for _ in $(seq 120); do
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
        sleep 1
    done
    return 1
}

install() {  # FOLDER: what lies there, into a Python of its own
    [ -x "$1/.venv/bin/pip" ] || python3 -m venv "$1/.venv"
    "$1/.venv/bin/pip" install -q -e "$1"
}

agenttraj() {  # the data set, once
    [ -d "$DIR/AgentTraj-L" ] && return
    python3 -m venv "$DIR/hub" && "$DIR/hub/bin/pip" install -q huggingface_hub && "$DIR/hub/bin/python" -c "
from huggingface_hub import snapshot_download
snapshot_download('AgentGym/AgentTraj-L', repo_type='dataset', local_dir='$DIR/AgentTraj-L')"
}

compare() {  # NAME SPEC RECORDS...: check the environment, then branch what the last command wrote and execute it
    local name=$1 spec=$2; shift 2
    eexp env check -n 2 "$spec" "$@" || wrong "$name: env check"
    eexp branch -k 2 --from "$from" "$DIR/$name.jsonl" | eexp rollout --env "$spec" > "$DIR/$name-executed.jsonl" \
        || wrong "$name: rollout"
}

agentgym() {  # NAME PORT URL: of AgentGym, with records of AgentTraj-L
    local name=$1 spec="agentgym:$3?env=$1" file actions=() from=admissible
    case $name in
        textcraft) from=policy; actions=(--action inventory --action "get 1 oak log" --action "get 1 coal") ;;
        sciworld) from=policy; actions=(--action "look around" --action "inventory" --action "task") ;;
    esac
    agenttraj || { wrong "$name: no AgentTraj-L"; return; }
    file=$(find "$DIR/AgentTraj-L" -name "*${name}_train.json" | head -1)
    python3 -c "import json, sys; json.dump(json.load(open(sys.argv[1]))[:$N], sys.stdout)" "$file" > "$DIR/$name.json"
    eexp import agenttraj --env "$spec" --rejects "$DIR/$name-rejects.jsonl" "$DIR/$name.json" > "$DIR/$name.jsonl" \
        || wrong "$name: import agenttraj (see $name-rejects.jsonl)"
    compare "$name" "$spec&train=0-9" "${actions[@]}"
}

openenv() {  # NAME SPEC: of OpenEnv, with what a random player did
    local from=admissible
    eexp eval "$2" -m random -n 4 --max-steps 10 | eexp import episodes --env "$2" > "$DIR/$1.jsonl" \
        || wrong "$1: eval and import"
    compare "$1" "$2"
}

mkdir -p "$DIR"
port=36100
for name in $PEERS; do
    say "$name"
    port=$((port + 1))
    url=http://127.0.0.1:$port
    gym=$DIR/AgentGym/agentenv-$name
    env=$DIR/OpenEnv/envs/$name
    case $name in
        textcraft | babyai | sciworld)
            fetch https://github.com/WooooDyy/AgentGym && install "$gym" \
                && serve "$gym" $port "$gym/.venv/bin/$name" --host 127.0.0.1 --port $port \
                && agentgym "$name" $port "$url" || wrong "$name: no server" ;;
        maze | wordle)
            gym=$DIR/AgentGym/agentenv-lmrlgym python=$DIR/lmrlgym
            fetch https://github.com/WooooDyy/AgentGym \
                && git -C "$DIR/AgentGym" submodule -q update --init agentenv-lmrlgym/lmrlgym \
                && { [ -d "$python" ] || { conda env create -q -p "$python" -f "$gym/lmrlgym/environment.yml" \
                     && (cd "$gym" && conda run -p "$python" bash setup.sh); }; } \
                && serve "$gym" $port "$python/bin/lmrlgym" --host 127.0.0.1 --port $port \
                && agentgym "$name" $port "$url/$name" || wrong "$name: no server" ;;
        maze_env | grid_world_env)
            option=; [ "$name" = maze_env ] && option='?admissible=legal_actions'
            fetch https://github.com/meta-pytorch/OpenEnv && install "$env" \
                && serve "$env" $port "$env/.venv/bin/uvicorn" --host 127.0.0.1 --port $port "$name.server.app:app" \
                && openenv "$name" "openenv:$url$option" || wrong "$name: no server" ;;
        *) wrong "$name: not a server this knows" ;;
    esac
done
exit $failed
