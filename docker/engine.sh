# What docker/ci.sh and docker/faults.sh share: a container engine, the image, Compose. Sourced by
# them from the repository's folder; `name` is what they call themselves.
#
# An engine that runs already is used and left running; on Debian, as root, one is installed and
# started, with its data in ENGINE (/var/lib/fedguard-engine), and stopped at the end. Where no image
# registry is reached the base image is made of Debian's packages. Packages come from where pip and
# uv are set up to find them on this machine; that is handed to the build and not kept.

: "${ENGINE:=/var/lib/fedguard-engine}"
: "${IMAGE:=}"
work=$(mktemp -d)
started=()
begun=$SECONDS
up=

say() { echo "$name: $* ($((SECONDS - begun)) s)"; }
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
    ! mountpoint -q "$work/runs" || umount "$work/runs" || true
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

build() { # TORCH [IMAGE]: returns 1 where it fails
    DOCKER_BUILDKIT=1 "$docker" build --network host --progress plain \
        --secret "id=index,src=$work/index" --secret "id=authorities,src=$work/authorities" \
        --build-arg "TORCH=$1" --build-arg "TORCH_WHEELS=$wheels" \
        -f docker/Dockerfile -t "${2:-fedguard:ci}" . >"$work/build.log" 2>&1
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
    say "image fedguard:ci: $(megabytes fedguard:ci) MB"
}

megabytes() { # IMAGE
    echo "$(($("$docker" image inspect -f '{{.Size}}' "$1") / 1000000))"
}

stand() { # NUMBER [SERVICE ...]: bring up that many SuperNodes, and these; wait until they are healthy
    nodes=()
    local place since=$SECONDS
    for ((place = 0; place < $1; place++)); do nodes+=("supernode-$place"); done
    mkdir -p "$work/runs" && chmod 777 "$work/runs" && chmod 755 "$work"
    up=1
    compose up -d --no-build "${nodes[@]}" "${@:2}" >"$work/up.log" 2>&1 ||
        { tail -n 20 "$work/up.log" && fail "the federation does not come up"; }
    # Under control groups v1 all containers together weigh as much as one process beside them: on
    # a machine that does other work too, let an engine of our own weigh as its processes would.
    local weight=/sys/fs/cgroup/cpu/docker/cpu.shares
    if [[ -f "$work/dockerd.pid" && -w "$weight" ]]; then echo 6144 >"$weight"; fi
    until healthy; do
        ((SECONDS - since < 900)) || fail "the SuperNodes are not healthy after 900 s"
        sleep 2
    done
    say "SuperLink and SuperNodes are up and healthy"
}

healthy() { # whether all SuperNodes are
    [[ "$(compose ps -q "${nodes[@]}" | xargs "$docker" inspect -f '{{.State.Health.Status}}' |
        grep -cx healthy)" = "${#nodes[@]}" ]]
}

newest() { find "$work/runs" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2; }
