#!/usr/bin/env bash
# Does to the Compose federation what happens to federations: SuperNodes that are killed, paused, cut
# off by the network or have a wrong clock, a ServerApp and a SuperLink that die in a run, a disk that
# is full. Each run must end with the exit code and the records that docs/deploy.md says, in time.
#
#   docker/faults.sh                    every fault
#   docker/faults.sh cut-off full-disk  these alone
#
# Exits with 0 where every fault ended as it should, with 1 where one did not (all are tried), and
# with 0 and a reason where no container engine can run; see docker/engine.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=faults
mode=
source docker/engine.sh

FAULTS=(killed paused cut-off wrong-clock serverapp-dies superlink-dies full-disk)
LIMIT=600 # seconds that a run may take before it counts as one that hangs
TARGET=supernode-2
chosen=("$@")
((${#chosen[@]})) || chosen=("${FAULTS[@]}")
for one in "${chosen[@]}"; do
    [[ " ${FAULTS[*]} " = *" $one "* ]] || { echo "faults.sh: no fault $one; allowed: ${FAULTS[*]}" >&2 && exit 2; }
done

submit() { # VARIABLE=VALUE ...: submit a run in the background
    timeout "$LIMIT" env "$@" "${composer[@]}" -p fedguard-ci --project-directory "$work/docker" \
        -f "$work/docker/compose.yaml" -f "$work/docker/compose.more.yaml" \
        run --no-deps --rm run >"$work/run.log" 2>&1 &
    runner=$!
    known=$(find "$work/runs" -mindepth 1 -maxdepth 1 -type d | wc -l)
}

ended() { # EXIT CODE: wait for the run and compare
    local status=0
    wait "$runner" || status=$?
    [[ "$status" != 124 ]] || { echo "the run hung for $LIMIT s" && return 1; }
    if [[ "$1" = 0 && "$status" != 0 ]] || [[ "$1" != 0 && "$status" = 0 ]]; then
        tail -n 15 "$work/run.log"
        echo "exit code $status, expected $1"
        return 1
    fi
}

round() { # NUMBER: wait until the new run has recorded that round
    local tries
    for ((tries = 0; tries < 4 * LIMIT; tries++)); do
        if (($(find "$work/runs" -mindepth 1 -maxdepth 1 -type d | wc -l) > known)) &&
            (($(cat "$(newest)/rounds.jsonl" 2>/dev/null | wc -l) > $1)); then
            return
        fi
        kill -0 "$runner" 2>/dev/null || { tail -n 15 "$work/run.log" && return 1; }
        sleep 0.25
    done
    echo "round $1 was not reached" && return 1
}

container() { compose ps -q "$1"; }

missed() { # MISSED HERE: client 2 has no update in some round, with a reason, and one in round HERE
    python3 - "$(newest)" "$@" <<'PYTHON'
import json, sys
from pathlib import Path

folder, here = Path(sys.argv[1]), [int(one) for one in sys.argv[2:]]
mine = [one for line in (folder / "clients.jsonl").read_text().splitlines()
        if (one := json.loads(line))["client"] == 2]
lost = [one for one in mine if one["num_examples"] is None]
assert lost, "client 2 missed no round"
assert all(one["reason"] for one in lost), f"a lost reply without a reason: {lost}"
taken = [one["round"] for one in mine if one["num_examples"] is not None]
assert set(here) <= set(taken), f"client 2 took part in rounds {taken}, expected {here}"
assert (folder / "summary.json").exists()
print("client 2:", "; ".join(f"round {one['round']}: {one['reason']}"[:100] for one in lost))
PYTHON
}

goes_on() { # resume the run that ended early; it completes
    local run
    run=$(newest)
    [[ ! -e "$run/summary.json" ]] || { echo "a run that failed has a summary" && return 1; }
    submit RESUME="$(basename "$run")" "$@"
    ended 0 && [[ -e "$run/summary.json" ]]
}

serverapp() { # the process on this machine in which the strategy runs
    "$docker" top "$(container superlink)" -eo pid,args | awk '/flwr-serverapp/ {print $1}'
}

killed() { # and started again while the run goes on
    submit
    round 1 && "$docker" kill "$(container "$TARGET")" >/dev/null || return 1
    round 3 && compose up -d --no-build --no-deps "$TARGET" >>"$work/up.log" 2>&1 || return 1
    ended 0 && missed 1
}

paused() {
    submit ROUND_TIMEOUT=45
    round 1 && "$docker" pause "$(container "$TARGET")" >/dev/null || return 1
    round 3 && "$docker" unpause "$(container "$TARGET")" >/dev/null || return 1
    ended 0 && missed 1
}

cut-off() { # and back on the network while the run goes on
    submit ROUND_TIMEOUT=45
    round 1 && "$docker" network disconnect fedguard-ci_default "$(container "$TARGET")" || return 1
    round 3 && "$docker" network connect fedguard-ci_default "$(container "$TARGET")" || return 1
    ended 0 && missed 1
}

wrong-clock() { # three hours ahead, then two days behind: before the certificates were made
    local found offset place=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1
    debian libfaketime && [[ -f "$place" ]] || { echo "not tried: no libfaketime here" && return 0; }
    chmod 755 "$work"
    install -m 755 "$place" "$work/libfaketime.so.1"
    for offset in +3h -2d; do
        cat >"$work/docker/compose.clock.yaml" <<YAML
services:
  $TARGET:
    environment: {LD_PRELOAD: /libfaketime.so.1, FAKETIME: "$offset"}
    volumes: ["$work/libfaketime.so.1:/libfaketime.so.1:ro"]
YAML
        compose -f "$work/docker/compose.clock.yaml" up -d --no-build --no-deps "$TARGET" \
            >>"$work/up.log" 2>&1 || { tail -n 5 "$work/up.log" && return 1; }
        submit ROUNDS=2 ROUND_TIMEOUT=60 JOIN_TIMEOUT=45
        ended 0 && missed || return 1
        found=$(compose logs --tail 400 "$TARGET" 2>&1 | tr -d '\033' |
            grep -iE 'verify failed|unauthenticated|permission|refused|error' | tail -n 2 |
            cut -c1-160 || true)
        echo "clock $offset: $(python3 - "$(newest)" <<'PYTHON'
import json, sys
from pathlib import Path

lines = (Path(sys.argv[1]) / "clients.jsonl").read_text().splitlines()
mine = [one for line in lines if (one := json.loads(line))["client"] == 2]
print("; ".join(f"round {one['round']}: {one['outcome']} {one['reason'] or ''}" for one in mine)
      or "client 2 was not seated")
PYTHON
        ). Its log: ${found:-nothing of it}"
    done
    compose up -d --no-build --no-deps "$TARGET" >>"$work/up.log" 2>&1
}

serverapp-dies() {
    submit
    round 1 && kill -9 "$(serverapp)" || return 1
    ended 1 && goes_on
}

superlink-dies() {
    submit
    round 1 && "$docker" kill "$(container superlink)" >/dev/null || return 1
    ended 1 || return 1
    compose up -d --no-build --no-deps superlink >>"$work/up.log" 2>&1
    local tries
    for ((tries = 0; tries < 120; tries++)); do
        [[ "$("$docker" inspect -f '{{.State.Health.Status}}' "$(container superlink)")" != healthy ]] || break
        sleep 1
    done
    goes_on
}

full-disk() { # the run folder lies on a small file system of its own
    submit
    round 1 || return 1
    dd if=/dev/zero of="$work/runs/filler" bs=64k >/dev/null 2>&1 || true
    ended 1 || return 1
    rm -f "$work/runs/filler"
    grep -q 'No space left on device' "$work/run.log" ||
        { tail -n 15 "$work/run.log" && echo "the log does not say that the disk is full" && return 1; }
    goes_on
}

start_engine
make_image
find_compose
export TAG=ci SUPERNODES=4 MALICIOUS=0 STRATEGY=median ROUNDS=5 RUNS_DIR=$work/runs
export RUN_CONFIG="local_epochs=1 batch_size=128" APP_PATIENCE=120 JOIN_TIMEOUT=120
mkdir "$work/runs"
[[ " ${chosen[*]} " != *" full-disk "* ]] || { mount -t tmpfs -o size=24m tmpfs "$work/runs"; }
stand 4
bad=()
for one in "${chosen[@]}"; do
    since=$SECONDS
    if "$one"; then
        say "$one: ended as it should, $((SECONDS - since)) s"
    else
        say "$one: FAILED after $((SECONDS - since)) s"
        bad+=("$one")
        compose up -d --no-build "${nodes[@]}" >>"$work/up.log" 2>&1 || true
    fi
    until healthy; do sleep 2; done
done
((${#bad[@]} == 0)) || fail "${bad[*]}"
