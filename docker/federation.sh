#!/usr/bin/env bash
# The commands of a federation, one role each. compose.yaml runs them in containers and local.sh as
# plain processes; nothing else differs.
#
#   federation.sh certificates | superlink | enrol | registrar | relay | supernode | run | runs
#   | stop | metrics | healthy | alive
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

: "${FEDERATION:=/federation}"      # certificates, keys, SuperLink's database
: "${RUNS:=$FEDERATION/runs}"       # one folder per run
: "${SUPERLINK_HOST:=superlink}"    # name or address that SuperNodes connect to
: "${LISTEN:=0.0.0.0}"              # address that the SuperLink listens on
: "${PORT:=8000}"                   # the SuperLink's one port
: "${NODE_PORT:=9094}"              # a SuperNode's own port, on loopback only
: "${SUPERNODES:=5}"
: "${PARTITION:=}"                  # which client a SuperNode is: 0 to SUPERNODES - 1
: "${ENCRYPTION:=}"                 # the one strategy that a SuperNode takes part in: xmkckks
: "${MALICIOUS:=0.2}"               # share of the SuperNodes that attack
: "${STRATEGY:=geminiguard}"
: "${ATTACK:=}"                    # empty: a sign-flip four times as long as it would be
: "${DATASET:=digits}"
: "${DATA_DIR:=}"
: "${DATA_MOUNT:=$DATA_DIR}"        # where server and clients see DATA_DIR
: "${ROUNDS:=5}"
: "${SEED:=0}"
: "${ROUND_TIMEOUT:=600}"           # seconds that the server waits for a round's replies
: "${JOIN_TIMEOUT:=180}"            # seconds that it waits for all SuperNodes before round 1
: "${RUN_CONFIG:=}"                 # more of the run configuration: rounds=20 lr=0.05
: "${RESUME:=}"                     # folder in runs/ of a run to go on with: flower-123
: "${NODE_CONFIG:=}"                # more of a SuperNode's own: fedguard-smallest-threshold=4
: "${RENEW:=}"                      # anything: certificates makes the SuperLink's anew
: "${ENROLMENT:=}"                  # k-pseudonym: clients that the aggregator cannot name
: "${ENROLMENT_K:=$SUPERNODES}"     # members that share their labels
: "${REGISTRAR_HOST:=registrar}"
: "${REGISTRAR_PORT:=8001}"
: "${DOOR_PORT:=8002}"              # where the aggregator takes updates in
: "${RELAY_HOST:=relay}"            # through which clients reach it
: "${RELAY_PORT:=8003}"
: "${APP_PATIENCE:=60}"             # seconds that an app's process has to start; Flower's own is 30
: "${METRICS_PORT:=9464}"           # where Prometheus reads, with the service metrics
: "${LOG_FORMAT:=}"                 # json: a JSON object a line
: "${APP:=$here/..}"                # folder with the Flower app's pyproject.toml
: "${FLWR_HOME:=$HOME/.flwr}"
export FLWR_HOME FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1

connect() { # tell the flwr command where the SuperLink is
    mkdir -p "$FLWR_HOME"
    cat >"$FLWR_HOME/config.toml" <<TOML
[superlink]
default = "federation"

[superlink.federation]
address = "$SUPERLINK_HOST:$PORT"
root-certificates = "$FEDERATION/public/ca.crt"
TOML
}

own_place() { # what this SuperNode alone may read; elsewhere its key may lie where it wants
    if [[ ! "$PARTITION" =~ ^[0-9]+$ ]]; then
        echo "PARTITION=$PARTITION names no client; set it to 0 to SUPERNODES - 1" >&2
        exit 2
    fi
    place="$FEDERATION/supernodes/$PARTITION"
}

case "$ENROLMENT" in
"" | k-pseudonym) ;;
*)
    echo "ENROLMENT=$ENROLMENT cannot be deployed; allowed: k-pseudonym" >&2
    exit 2
    ;;
esac

case "$LOG_FORMAT" in
"") ;;
json) exec > >(exec python "$here/json_logs.py" "${1:-}" "$PARTITION") 2>&1 ;;
*) echo "LOG_FORMAT=$LOG_FORMAT is not known; allowed: json, or nothing" >&2 && exit 2 ;;
esac

case "${1:-}" in
certificates)
    python "$here/certificates.py" "$FEDERATION" --supernodes "$SUPERNODES" --host "$SUPERLINK_HOST" \
        ${RENEW:+--renew} \
        ${ENROLMENT:+--registrar "$REGISTRAR_HOST" --host "$RELAY_HOST"}
    if [[ -n "$ENROLMENT" ]]; then
        python -m fedguard.enrolment members "$FEDERATION" --members "$SUPERNODES" --k "$ENROLMENT_K"
        for ((i = 0; i < SUPERNODES; i++)); do
            install -m 600 "$FEDERATION/members/$i.json" "$FEDERATION/supernodes/$i/member.json"
        done
    fi
    ;;
superlink)
    mkdir -p "$RUNS" "$FEDERATION/state"
    cd "$RUNS/.."
    exec python "$here/supervise.py" "$FLWR_HOME/superlink.pid" \
        python "$here/patient.py" "$APP_PATIENCE" flower-superlink --host "$LISTEN" --port "$PORT" \
        --ssl-certfile "$FEDERATION/superlink/server.pem" \
        --ssl-keyfile "$FEDERATION/superlink/server.key" \
        --ssl-ca-certfile "$FEDERATION/public/ca.crt" \
        --enable-supernode-auth \
        --database "$FEDERATION/state/superlink.db" \
        --disable-runtime-dependency-installation
    ;;
healthy)
    exec python - "$SUPERLINK_HOST" "$PORT" "$FEDERATION/public/ca.crt" <<'PYTHON'
import ssl, sys, urllib.request
host, port, authority = sys.argv[1:]
trusted = ssl.create_default_context(cafile=authority)
urllib.request.urlopen(f"https://{host}:{port}/health", timeout=5, context=trusted).read()
PYTHON
    ;;
alive)
    own_place
    ((PARTITION < SUPERNODES)) || exit 0
    exec python "$here/supervise.py" --look "$FLWR_HOME/supernode.pid" "http://127.0.0.1:$NODE_PORT/health"
    ;;
enrol)
    connect
    keys=()
    for ((place = 0; place < SUPERNODES; place++)); do
        keys+=("$FEDERATION/public/$place.pub")
    done
    python "$here/submit.py" enrol "${keys[@]}"
    ;;
registrar)
    [[ -n "$ENROLMENT" ]] || exec sleep infinity # a service that this federation does without
    exec python -m fedguard.enrolment registrar "$FEDERATION" --listen "$LISTEN:$REGISTRAR_PORT"
    ;;
relay)
    [[ -n "$ENROLMENT" ]] || exec sleep infinity
    exec python -m fedguard.enrolment relay --listen "$LISTEN:$RELAY_PORT" --to "$SUPERLINK_HOST:$DOOR_PORT"
    ;;
supernode)
    own_place
    # One more than the federation has: a service that it does without.
    ((PARTITION < SUPERNODES)) || exec sleep infinity
    own="partition-id=$PARTITION num-partitions=$SUPERNODES"
    # What a client encrypts with is its own, whatever the next run's strategy is.
    own+=" fedguard-roster=\"$FEDERATION/public/roster.json\""
    own+=" fedguard-identity=\"$place/identity\" fedguard-ledger=\"${LEDGER:-$place/ledger}\""
    # From now on this client sends nothing in the clear, whoever asks.
    [[ -z "$ENCRYPTION" ]] || own+=" fedguard-encryption=\"$ENCRYPTION\""
    if [[ -n "$ENROLMENT" ]]; then
        own+=" fedguard-credential=\"${CREDENTIAL:-$place/member.json}\""
        own+=" fedguard-authority=\"$FEDERATION/public/ca.crt\""
    fi
    exec python "$here/supervise.py" "$FLWR_HOME/supernode.pid" \
        python "$here/patient.py" "$APP_PATIENCE" flower-supernode --superlink "$SUPERLINK_HOST:$PORT" \
        --root-certificates "$FEDERATION/public/ca.crt" \
        --auth-supernode-private-key "${SUPERNODE_KEY:-$place/node.key}" \
        --host 127.0.0.1 --port "$NODE_PORT" \
        --node-config "$own $NODE_CONFIG"
    ;;
run)
    connect
    settings="strategy=\"$STRATEGY\" attack=\"$ATTACK\" malicious=$MALICIOUS clients=$SUPERNODES"
    settings+=" rounds=$ROUNDS seed=$SEED dataset=\"$DATASET\" data_dir=\"${DATA_DIR:+$DATA_MOUNT}\""
    settings+=" round_timeout=$ROUND_TIMEOUT join_timeout=$JOIN_TIMEOUT"
    if [[ -n "$ENROLMENT" ]]; then
        settings+=" enrolment=\"$ENROLMENT\" set=\"enrolment.k=$ENROLMENT_K"
        settings+=" enrolment.registrar=$REGISTRAR_HOST:$REGISTRAR_PORT"
        settings+=" enrolment.door=$RELAY_HOST:$RELAY_PORT enrolment.listen=$LISTEN:$DOOR_PORT enrolment.folder=$FEDERATION\""
    fi
    [[ -z "$RESUME" ]] || settings+=" out=\"runs/$RESUME\" resume=true"
    python "$here/submit.py" run "$APP" --run-config "$settings $RUN_CONFIG"
    ;;
metrics)
    exec python -m fedguard.commands.metrics "$RUNS" --listen "$LISTEN:$METRICS_PORT"
    ;;
runs)
    connect
    exec flwr list
    ;;
stop)
    connect
    exec flwr stop "${2:?the number of the run, as federation.sh runs prints it}"
    ;;
*)
    sed -n '2,6p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
