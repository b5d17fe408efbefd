#!/usr/bin/env bash
# Builds the image and runs the Compose federation for real: 5 SuperNodes and a malicious one, TLS,
# SuperNode keys; looks at the run directory on the host, submits a second run with other settings,
# and takes everything down again. docker/faults.sh does to it what happens to federations.
#
#   docker/ci.sh             builds what is not built (minutes the first time), then runs
#   docker/ci.sh --if-built  only where the image's packages are built already, as CI does
#   docker/ci.sh --build     builds, runs nothing
#   docker/ci.sh --cuda      builds the image of compose.gpu.yaml (gigabytes) and looks into it
#   docker/ci.sh --enrolment five SuperNodes behind a registrar, whom the server cannot name
#   IMAGE=fedguard:latest docker/ci.sh   runs an image that is built
#
# Exits with 0 where all is well, and where no container engine can run (it says why).
# docker/engine.sh says where engine, base image and packages come from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${ROUNDS:=5}"
mode=${1:-}
name=compose-test
source docker/engine.sh

check_run() { # FOLDER ROUNDS: what the run left on the host
    python3 - "$1" "$2" <<'PYTHON'
import json, sys
from pathlib import Path

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
summary = json.loads((folder / "summary.json").read_text())
clients = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
liars = [one for one in clients if one["malicious"]]
assert len(liars) == rounds, f"{len(liars)} records of malicious clients in {rounds} rounds"
for one in liars:
    assert one["outcome"] == "rejected", f"the malicious client was not rejected: {one}"
honest = [one for one in clients if not one["malicious"] and one["num_examples"]]
assert len(honest) == 5 * rounds, f"{len(honest)} honest updates of {5 * rounds}"
assert (folder / "model.safetensors").stat().st_size and (folder / "report.html").stat().st_size
print(f"{folder.name}: {rounds} rounds, the malicious client rejected in each, accuracy",
      round(summary["final"]["accuracy"], 3))
PYTHON
}

births() { # when each standing container was started
    compose ps -q superlink "${nodes[@]}" |
        xargs "$docker" inspect -f '{{.Name}} {{.State.StartedAt}}' | sort
}

check_nameless() { # FOLDER ROUNDS: nobody in the records of the run has a name
    python3 - "$1" "$2" <<'PYTHON'
import json, sys
from pathlib import Path

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
summary = json.loads((folder / "summary.json").read_text())
clients = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
assert summary["replies"]["accepted"] + summary["replies"]["rejected"] == 5 * rounds, summary["replies"]
handles = {one["handle"] for one in clients}
assert len(handles) == 5 * rounds, f"{len(handles)} handles of {5 * rounds} updates"
assert {one["malicious"] for one in clients} == {None}
print(f"{folder.name}: {5 * rounds} updates under as many handles, accuracy",
      round(summary["final"]["accuracy"], 3))
PYTHON
}

reaches() { # SERVICE HOST PORT: whether one can connect to the other
    compose exec -T "$1" timeout 5 python -c \
        'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)' "$2" "$3" \
        >/dev/null 2>&1
}

holds() { # SERVICE FOLDER ...: the files that it sees there
    compose exec -T "$1" find "${@:2}" -type f 2>/dev/null || true
}

enrolment() { # a registrar that sees no update, a server that can name no sender
    export ENROLMENT=k-pseudonym ATTACK=feature-noise SUPERNODES=5 STRATEGY=median ROUNDS=3
    stand 5 registrar relay
    compose run --no-deps --rm run >"$work/run.log" 2>&1 ||
        { tail -n 40 "$work/run.log" && fail "the run did not complete"; }
    check_nameless "$(newest)" 3
    ! reaches supernode-0 registrar 8001 || fail "a SuperNode reaches the registrar"
    ! reaches registrar relay 8003 || fail "the registrar reaches the relay"
    reaches supernode-0 relay 8003 || fail "a SuperNode does not reach the relay"
    reaches superlink registrar 8001 || fail "the server does not reach the registrar"
    [[ -z "$(holds superlink /federation/registrar /federation/members)" ]] ||
        fail "the server sees the registrar's files"
    [[ -z "$(holds registrar /federation/runs)" ]] || fail "the registrar sees runs"
    [[ -n "$(holds registrar /federation/registrar)" ]] || fail "the registrar has no files"
    say "updates without names; registrar and SuperNodes do not reach one another"
    compose down -v >/dev/null 2>&1
    up=
}

cuda() { # compose.gpu.yaml: one image for all, with CUDA's libraries; a GPU is not needed here
    base_image
    index
    build cuda fedguard:ci-cuda || { tail -n 30 "$work/build.log" && fail "the image does not build"; }
    "$docker" run --rm --network none --entrypoint python fedguard:ci-cuda -c \
        'import fedguard, torch; assert torch.version.cuda; print("CUDA", torch.version.cuda)' ||
        fail "the image holds no PyTorch with CUDA"
    say "image fedguard:ci-cuda: $(megabytes fedguard:ci-cuda) MB"
    find_compose
    cp docker/compose.gpu.yaml "$work/docker/"
    local used
    used=$(TAG=ci compose -f "$work/docker/compose.gpu.yaml" config |
        sed -n 's/^ *image: //p' | sort | uniq -c)
    # supernode-5 is of the file for more SuperNodes, which knows of no GPU.
    [[ "$(grep -c . <<<"$used")" -le 2 && "$used" = *fedguard:ci-cuda* ]] ||
        fail "compose.gpu.yaml leaves services on other images: $used"
    say "$(tr -s ' \n' ' ' <<<"$used")"
}

start_engine
if [[ "$mode" = --cuda ]]; then
    cuda
    exit 0
fi
make_image
[[ "$mode" != --build ]] || exit 0
find_compose
export TAG=ci RUNS_DIR=$work/runs JOIN_TIMEOUT=600 APP_PATIENCE=300
if [[ "$mode" = --enrolment ]]; then
    enrolment
    exit 0
fi
export SUPERNODES=6 MALICIOUS=0.17 ROUNDS
standing=$SECONDS
stand 6
born=$(births)
compose run --no-deps --rm run >"$work/run.log" 2>&1 ||
    { tail -n 40 "$work/run.log" && fail "the first run did not complete"; }
check_run "$(newest)" "$ROUNDS"
say "the first run is complete"
for place in 0 3; do
    other=$((place + 1))
    if compose exec -T "supernode-$place" cat "/federation/supernodes/$other/node.key" \
        >/dev/null 2>&1; then
        fail "SuperNode $place reads the private key of SuperNode $other"
    fi
    compose exec -T "supernode-$place" test -r "/federation/supernodes/$place/node.key" ||
        fail "SuperNode $place cannot read its own key"
done
[[ "$(compose exec -T supernode-0 id -u)" != 0 ]] || fail "a SuperNode runs as root"
ROUNDS=1 STRATEGY=krum compose run --no-deps --rm run >"$work/run.log" 2>&1 ||
    { tail -n 40 "$work/run.log" && fail "the second run, with other settings, did not complete"; }
[[ "$born" = "$(births)" ]] || fail "the second run restarted the federation"
[[ "$(find "$work/runs" -name summary.json | wc -l)" = 2 ]] || fail "two runs, one folder each"
say "a second run with other settings left everybody standing"
compose down -v >/dev/null 2>&1
up=
say "up, two runs and down took $((SECONDS - standing)) s"
