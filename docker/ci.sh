#!/usr/bin/env bash
# Builds the image and runs the Compose federation for real: 5 SuperNodes and a malicious one, TLS,
# SuperNode keys; looks at the run directory on the host, submits a second run with other settings,
# and takes everything down again.
#
#   docker/ci.sh             builds what is not built (minutes the first time), then runs
#   docker/ci.sh --if-built  only where the image's packages are built already, as CI does
#   docker/ci.sh --build     builds, runs nothing
#   IMAGE=fedguard:latest docker/ci.sh   runs an image that is built
#
# Exits with 0 where all is well, and where no container engine can run (it says why). An engine
# that runs already is used and left running; on Debian, as root, one is installed and started, with
# its data in ENGINE (/var/lib/fedguard-engine), and stopped. Where no image registry is reached the
# base image is made of Debian's packages. Packages come from where pip and uv are set up to find
# them on this machine; that is handed to the build and not kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${ENGINE:=/var/lib/fedguard-engine}"
: "${ROUNDS:=5}"
: "${IMAGE:=}"
mode=${1:-}
work=$(mktemp -d)
started=()
begun=$SECONDS
up=

say() { echo "compose-test: $* ($((SECONDS - begun)) s)"; }
skip() { say "skipped: $*" && exit 0; }
fail() { say "FAILED: $*" >&2 && exit 1; }

finish() {
    local status=$?
    trap - EXIT INT TERM
    if [[ -n "$up" ]]; then
        ((status == 0)) || compose logs --tail 15 2>&1 | tail -n 120 || true
        compose down -v --remove-orphans >/dev/null 2>&1 || true
    fi
    local process
    for process in "${started[@]}"; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$work"
    ((status == 0)) && say "everything is down"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

debian() { # PACKAGE ...: install what is missing; 1 where this machine cannot
    [[ "$(id -u)" = 0 ]] && command -v apt-get >/dev/null || return 1
    dpkg -s "$@" >/dev/null 2>&1 && return
    apt-get -qq update >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" \
        >/dev/null 2>&1
}

find_client() { # a docker command that builds with BuildKit: with buildx, or old enough to hold it
    local found
    while read -r found; do
        if "$found" buildx version >/dev/null 2>&1 ||
            "$found" --version 2>/dev/null | grep -Eq 'version (19|2[0-2])\.'; then
            docker=$found
            return
        fi
    done < <(type -ap docker)
    return 1
}

start_engine() {
    if [[ "$mode" = --if-built && ! -d "$ENGINE" ]] && ! timeout 20 docker info >/dev/null 2>&1; then
        skip "no image is built here; docker/ci.sh builds it, or COMPOSE_TEST=1 in .ci/run"
    fi
    find_client || debian docker.io || skip "no container engine, and none can be installed"
    hash -r
    find_client || skip "no docker command here can build with BuildKit"
    timeout 20 "$docker" info >/dev/null 2>&1 && return
    debian docker.io iptables || skip "no container engine runs, and none can be installed"
    mkdir -p "$ENGINE"
    dockerd --data-root "$ENGINE/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
        --host "unix://$work/docker.sock" >"$work/dockerd.log" 2>&1 &
    started+=("$!")
    export DOCKER_HOST="unix://$work/docker.sock"
    local tries
    for ((tries = 0; tries < 60; tries++)); do
        timeout 20 "$docker" info >/dev/null 2>&1 && return
        kill -0 "${started[0]}" 2>/dev/null || break
        sleep 1
    done
    skip "the container engine does not start: $(tail -n 1 "$work/dockerd.log")"
}

find_compose() {
    if "$docker" compose version >/dev/null 2>&1; then
        composer=("$docker" compose)
    else
        command -v docker-compose >/dev/null || debian docker-compose || skip "no docker compose"
        composer=(docker-compose)
    fi
    # Docker Compose 1 knows no `name`; -p says it to both.
    mkdir "$work/docker"
    sed '/^name:/d' docker/compose.yaml >"$work/docker/compose.yaml"
    local python=python3
    [[ ! -x .venv/bin/python ]] || python=.venv/bin/python
    "$python" docker/supernodes.py 6 >"$work/docker/compose.more.yaml"
}

compose() {
    "${composer[@]}" -p fedguard-ci --project-directory "$work/docker" \
        -f "$work/docker/compose.yaml" -f "$work/docker/compose.more.yaml" "$@"
}

base_image() {
    local version name
    version=$(sed -n 's/^ARG PYTHON=//p' docker/Dockerfile)
    name="python:$version-slim-bookworm"
    "$docker" image inspect "$name" >/dev/null 2>&1 && return
    timeout 120 "$docker" pull "$name" >/dev/null 2>&1 && return
    say "no image registry is reached: making $name of Debian's packages"
    debian debootstrap || skip "no base image: debootstrap cannot be installed"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$work/root" >"$work/debootstrap.log" 2>&1 ||
        fail "debootstrap: $(tail -n 1 "$work/debootstrap.log")"
    tar -C "$work/root" --one-file-system -c --exclude='./var/cache/apt/*' \
        --exclude='./var/lib/apt/lists/*' . | "$docker" import - "$name" >/dev/null
}

# What pip and uv on this machine are told about where packages are, as build secrets.
index() {
    local key value wheel version
    : >"$work/index"
    wheels=
    value=${SSL_CERT_FILE:-${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}}
    [[ ! -f "$value" ]] || cp "$value" "$work/authorities"
    [[ -f "$work/authorities" ]] || : >"$work/authorities"
    if [[ -s "$work/authorities" ]]; then
        echo "export SSL_CERT_FILE=/run/secrets/authorities PIP_CERT=/run/secrets/authorities" \
            >>"$work/index"
    fi
    value=${PIP_INDEX_URL:-$(pip config get global.index-url 2>/dev/null || true)}
    [[ -z "$value" ]] || printf 'export UV_DEFAULT_INDEX=%q PIP_INDEX_URL=%q\n' "$value" "$value" \
        >>"$work/index"
    for key in UV_DEFAULT_INDEX UV_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL \
        HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
        [[ -z "${!key:-}" ]] || printf 'export %s=%q\n' "$key" "${!key}" >>"$work/index"
    done
    value=${PIP_FIND_LINKS:-$(pip config get global.find-links 2>/dev/null || true)}
    [[ -d "${value%% *}" ]] || return 0
    wheel=$(find "${value%% *}" -name 'torch-*+cpu-cp311-*x86_64.whl' | sort -V | tail -n 1)
    [[ -n "$wheel" ]] || return 0
    # A folder of this machine: the build sees it on loopback.
    python3 -u -m http.server 0 --bind 127.0.0.1 --directory "${value%% *}" >"$work/wheels" 2>&1 &
    started+=("$!")
    until grep -q 'port [0-9]' "$work/wheels"; do sleep 0.2; done
    echo "export UV_FIND_LINKS=http://127.0.0.1:$(sed -n 's/.*port \([0-9]*\).*/\1/p' "$work/wheels")/" \
        >>"$work/index"
    version=${wheel##*/torch-} && version=${version%%-*}
    wheels="torch==$version torchvision==0.$((${version:2:2} + 15)).0"
}

build() { # TORCH: returns 1 where it fails
    DOCKER_BUILDKIT=1 "$docker" build --network host --progress plain \
        --secret "id=index,src=$work/index" --secret "id=authorities,src=$work/authorities" \
        --build-arg "TORCH=$1" --build-arg "TORCH_WHEELS=$wheels" \
        -f docker/Dockerfile -t fedguard:ci . >"$work/build.log" 2>&1
}

make_image() {
    local packages
    if [[ -n "$IMAGE" ]]; then
        "$docker" tag "$IMAGE" fedguard:ci || fail "there is no image $IMAGE"
        return
    fi
    packages="fedguard:packages-$(cat constraints.txt pyproject.toml docker/Dockerfile |
        sha256sum | cut -c1-12)"
    if [[ "$mode" = --if-built ]] && ! "$docker" image inspect "$packages" >/dev/null 2>&1; then
        skip "the image's packages are not built here; docker/ci.sh builds them"
    fi
    base_image
    index
    if ! build cpu; then
        tail -n 3 "$work/build.log"
        say "no CPU builds of PyTorch are reached: building with those of constraints.txt"
        build cuda || { tail -n 30 "$work/build.log" && fail "the image does not build"; }
    fi
    "$docker" tag fedguard:ci "$packages"
    say "image fedguard:ci: $(($("$docker" image inspect -f '{{.Size}}' fedguard:ci) / 1000000)) MB"
}

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

newest() { find "$work/runs" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2; }

births() { # when each standing container was started
    compose ps -q superlink supernode-{0..5} |
        xargs "$docker" inspect -f '{{.Name}} {{.State.StartedAt}}' | sort
}

start_engine
make_image
[[ "$mode" != --build ]] || exit 0
find_compose
export TAG=ci SUPERNODES=6 MALICIOUS=0.17 ROUNDS RUNS_DIR=$work/runs JOIN_TIMEOUT=600
export APP_PATIENCE=300
mkdir "$work/runs" && chmod 777 "$work/runs" && chmod 755 "$work"
standing=$SECONDS
up=1
compose up -d --no-build supernode-{0..5} >"$work/up.log" 2>&1 ||
    { tail -n 20 "$work/up.log" && fail "the federation does not come up"; }
# Under control groups v1 all containers together weigh as much as one process beside them: on a
# machine that does other work too, let an engine of our own weigh as its processes would.
weight=/sys/fs/cgroup/cpu/docker/cpu.shares
if [[ -f "$work/dockerd.pid" && -w "$weight" ]]; then echo 6144 >"$weight"; fi
healthy() { # whether all SuperNodes are
    [[ "$(compose ps -q supernode-{0..5} | xargs "$docker" inspect -f '{{.State.Health.Status}}' |
        grep -cx healthy)" = 6 ]]
}
until healthy; do
    ((SECONDS - standing < 900)) || fail "the SuperNodes are not healthy after 900 s"
    sleep 2
done
say "SuperLink and SuperNodes are up and healthy"
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
