#!/bin/sh
# Open a safe by its sounds: an environment for eexp in POSIX shell, without jq and awk.
#
#     eexp expert 'exec:sh examples/safe.sh' -n 20 --split train \
#       | eexp branch -k 3 --from admissible \
#       | eexp rollout --env 'exec:sh examples/safe.sh' \
#       | eexp world-model-data > world-model.jsonl
#
# Each line of standard input is a request, and each line of standard output is the answer to it
# (docs/environments/programs.md has the protocol). A request has no blanks between its parts, `op` comes first and an
# action last, so shell patterns are enough to read it.
#
# The safe has three pins and one dial. The dial clicks if it is set to the number of the next pin. Any other setting
# tells whether the pin sits above or below it. When all three pins have clicked, the handle opens the door.

start() {                               # start ID: begin a task; no other task has the same code of three digits
    case $1 in train/*) n=${1#*/} ;; test/*) n=$((800 + ${1#*/})) ;; esac
    code=$((n * 387 % 1000))
    pins=0 low=0 high=9 opened=false
}

number() { echo $((code / (pins == 0 ? 100 : pins == 1 ? 10 : 1) % 10)); }     # print the number of the next pin

answer() {                              # answer VALID TEXT: print the state after an action
    score=0.$((pins * 25))
    [ $opened = true ] && score=1
    judged="\"done\":$opened,\"score\":$score,\"success\":$opened"
    echo "{\"observation\":\"$2\",\"valid\":$1,$judged}"
}

set_dial() {                            # set_dial N: set the dial to N, and answer
    if [ $pins = 3 ]; then
        answer true "The dial turns freely: all three pins have clicked."
    elif [ "$1" -lt "$(number)" ]; then
        [ "$1" -ge $low ] && low=$(($1 + 1))
        answer true "No click. Pin $((pins + 1)) of 3 sits above $1."
    elif [ "$1" -gt "$(number)" ]; then
        [ "$1" -le $high ] && high=$(($1 - 1))
        answer true "No click. Pin $((pins + 1)) of 3 sits below $1."
    else
        pins=$((pins + 1)) low=0 high=9
        answer true "Click! $pins of 3 pins are set."
    fi
}

step() {                                # step ACTION: take an action, and answer
    case $1 in
        "set dial to "[0-9]) set_dial "${1#set dial to }" ;;
        "pull handle")
            if [ $pins = 3 ]; then
                opened=true
                answer true "The handle gives way and the safe swings open."
            else
                answer true "The handle does not move: $pins of 3 pins are set."
            fi ;;
        *) answer false "You can set the dial to a number from 0 to 9, or pull the handle." ;;
    esac
}

expert() {                              # print the expert's action: halve the range that is left
    if [ $pins = 3 ]; then echo "pull handle"; else echo "set dial to $(((low + high) / 2))"; fi
}

while IFS= read -r request; do
    case $request in
        '{"op":"hello"'*)
            abilities='"max_steps":20,"expert":true,"admissible":true'
            echo '{"protocol":1,"name":"safe","splits":["train","test"],'"$abilities}" ;;
        '{"op":"tasks","split":"train"'*) echo '{"tasks":800}' ;;
        '{"op":"tasks","split":"test"'*) echo '{"tasks":200}' ;;
        '{"op":"reset"'*)
            id=${request#*'"id":"'}
            start "${id%%\"*}"
            text="You stand before a locked safe with a dial and a handle."
            echo '{"instruction":"Open the safe.","observation":"'"$text\"}" ;;
        '{"op":"step"'*)
            action=${request#*'"action":"'}
            step "${action%\"*}" ;;
        '{"op":"admissible"'*)
            printf '{"admissible":["pull handle"'
            for n in 0 1 2 3 4 5 6 7 8 9; do printf ',"set dial to %s"' $n; done
            echo ']}' ;;
        '{"op":"expert"'*) printf '{"action":"%s"}\n' "$(expert)" ;;
        '{"op":"close"'*) exit ;;
        *) echo '{"error":"unknown request"}' ;;
    esac
done
