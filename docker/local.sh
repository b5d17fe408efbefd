#!/usr/bin/env bash
# A whole federation on this machine without Docker: the commands of compose.yaml as plain
# processes on loopback, with the same certificates and environment.
#
#   docker/local.sh                          5 SuperNodes, one of them malicious, 5 rounds
#   SUPERNODES=8 MALICIOUS=0.25 STRATEGY=krum docker/local.sh
#   docker/local.sh --strategy xmkckks --rounds 3 --run-config "set='strategy.threshold=3'"
#   docker/local.sh --enrolment k-pseudonym  a registrar beside it; nobody can name an update
#
# An option is a variable of federation.sh in small letters.
#
# Exits with 0 if the run completed. Every process it started is gone when it ends.
set -euo pipefail

while (($#)); do
    name=${1#--}
    case "$name" in
    strategy | attack | dataset | data-dir | malicious | rounds | seed | supernodes | \
        round-timeout | join-timeout | run-config | node-config | enrolment | enrolment-k | encryption) ;;
    *) echo "local.sh: no option $1; allowed: --strategy, --attack, --dataset, --data-dir," \
        "--malicious, --rounds, --seed, --supernodes, --round-timeout, --join-timeout," \
        "--run-config, --node-config, --enrolment, --enrolment-k, --encryption" >&2 && exit 2 ;;
    esac
    (($# > 1)) || { echo "local.sh: $1 needs a value" >&2 && exit 2; }
    name=${name//-/_}
    export "${name^^}=$2"
    shift 2
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ -x "$here/../.venv/bin/flwr" ]] && PATH="$here/../.venv/bin:$PATH"
command -v flwr >/dev/null || { echo "local.sh: no flwr command; install fedguard first" >&2; exit 2; }

: "${FEDERATION:=$PWD/federation}"
mkdir -p "$FEDERATION/logs"
FEDERATION=$(cd "$FEDERATION" && pwd)
: "${RUNS:=$FEDERATION/runs}"
: "${PORT:=8000}"
: "${NODE_PORT:=9094}"
: "${SUPERNODES:=5}"
export FEDERATION RUNS PORT SUPERNODES SUPERLINK_HOST=127.0.0.1 LISTEN=127.0.0.1
# The clients of one machine share its processors.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Clients that are to encrypt insist on it, as they would on machines of their own.
case "${STRATEGY:-}" in
ckks | xmkckks | secagg+) export ENCRYPTION="${ENCRYPTION:-$STRATEGY}" ;;
esac

# Under no name, clients cannot conspire over what they send.
[[ -z "${ENROLMENT:-}" ]] || export ATTACK="${ATTACK:-feature-noise}"
: "${REGISTRAR_PORT:=$((PORT + 1))}"
: "${DOOR_PORT:=$((PORT + 2))}"
: "${RELAY_PORT:=$((PORT + 3))}"
export REGISTRAR_PORT DOOR_PORT RELAY_PORT REGISTRAR_HOST=127.0.0.1 RELAY_HOST=127.0.0.1

started=()

finish() {
    local status=$?
    trap - EXIT INT TERM
    local process
    for process in "${started[@]}"; do kill -TERM "$process" 2>/dev/null || true; done
    for process in "${started[@]}"; do wait_or_kill "$process"; done
    exit "$status"
}

wait_or_kill() { # SuperLink and SuperNodes stop their own children; give them five seconds
    local tries
    for ((tries = 0; tries < 50; tries++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

begin() { # NAME ROLE: start a role in the background, its output in logs/NAME.log
    FLWR_HOME="$FEDERATION/home/$1" "$here/federation.sh" "$2" >>"$FEDERATION/logs/$1.log" 2>&1 &
    started+=("$!")
    echo "$!" >"$FEDERATION/logs/$1.pid"
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$here/federation.sh" certificates
begin superlink superlink
if [[ -n "${ENROLMENT:-}" ]]; then
    begin registrar registrar
    begin relay relay
fi
for ((tries = 0; ; tries++)); do
    "$here/federation.sh" healthy 2>/dev/null && break
    if ((tries > 60)) || ! kill -0 "${started[0]}" 2>/dev/null; then
        tail -n 5 "$FEDERATION/logs/superlink.log" >&2
        exit 1
    fi
    sleep 1
done
FLWR_HOME="$FEDERATION/home/run" "$here/federation.sh" enrol
for ((place = 0; place < SUPERNODES; place++)); do
    PARTITION=$place NODE_PORT=$((NODE_PORT + place)) begin "supernode-$place" supernode
done
# In the background, so that a signal ends the wait at once.
FLWR_HOME="$FEDERATION/home/run" "$here/federation.sh" run &
started+=("$!")
status=0
wait "$!" || status=$?
echo "runs are in $RUNS"
exit "$status"
