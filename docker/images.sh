#!/usr/bin/env bash
# `make images`: builds the training and the serving image and tries both for real: a short training, an export, an
# archive; that archive served, asked for a digit, its health watched, and ended. Takes no arguments. Uses Docker, or
# buildah where no Docker engine runs (see engine.sh). Leaves the images ganctl-train and ganctl-serve, nothing else.
#
# Environment, all optional: BASE_IMAGE (Python ≥ 3.11 with venv), INDEX_URL (package index, else PIP_INDEX_URL's),
# EXTRA_CA (certificates in PEM form, else SSL_CERT_FILE's), TORCH_INDEX_URL and TORCH (see serve.Dockerfile).
set -euo pipefail
cd "$(dirname "$0")/.."

work="$PWD/.images"
mkdir -p "$work"
# shellcheck source=docker/engine.sh
source docker/engine.sh
choose_engine
table=()
step=""
server="" port=""  # of the serving container, once started

# begin WHAT … passed: one step of the work, timed, told when it is done and again in the closing table.
begin() {
    step="$1"
    started=$SECONDS
}

passed() {
    table+=("$(printf '%-74s %5d s' "$step" $((SECONDS - started)))")
    echo "ok: ${table[-1]}"
}

fail() {
    echo "images.sh: $*" >&2
    exit 1
}

finish() {
    local status=$?
    trap - EXIT
    if [ "$status" != 0 ]; then
        echo "images.sh: failed at: $step" >&2
        if [ -n "$server" ]; then server_log | tail -n 40 >&2; fi
    fi
    clean_engine
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# logged NAME COMMAND…: output to a file of its own in .images/, the end of it shown where the command fails.
logged() {
    "${@:2}" > "$work/$1.log" 2>&1 || { tail -n 40 "$work/$1.log" >&2; fail "${*:2} failed; more in .images/$1.log"; }
}

build_arguments=()
if [ -n "${INDEX_URL:-${PIP_INDEX_URL:-}}" ]; then
    build_arguments+=(--build-arg "INDEX_URL=${INDEX_URL:-$PIP_INDEX_URL}")
fi
ca="${EXTRA_CA:-${SSL_CERT_FILE:-}}"
if [ -n "$ca" ]; then build_arguments+=(--secret "id=ca,src=$ca"); fi
serve_arguments=()
if [ -n "${TORCH_INDEX_URL:-}${TORCH:-}" ]; then
    serve_arguments+=(--build-arg "TORCH_INDEX_URL=${TORCH_INDEX_URL:-}" --build-arg "TORCH=${TORCH:-}")
fi

begin "a base image ($engine)"
prepare_engine
passed
begin "build ganctl-train"
logged build-train build ganctl-train docker/train.Dockerfile "${build_arguments[@]}"
passed
begin "build ganctl-serve"
logged build-serve build ganctl-serve docker/serve.Dockerfile "${build_arguments[@]}" "${serve_arguments[@]}"
passed

for image in ganctl-train ganctl-serve; do
    begin "$image: runs as a user that is not root, without build tools"
    # shellcheck disable=SC2016
    logged user run_once "$image" sh -c \
        '[ "$(id -u)" != 0 ] && ! touch /opt/ganctl/x 2> /dev/null && ! command -v uv gcc cc make'
    passed
    begin "$image: ganctl --help, ganctl doctor"
    logged help run_once "$image" ganctl --help
    logged "doctor-${image#ganctl-}" run_once "$image" ganctl doctor
    passed
done

mapfile -t ganctl < <(image_config ganctl-train Entrypoint)
begin "ganctl-train: train, 20 steps"
logged train run_once ganctl-train "${ganctl[@]}" train --preset conv --max-steps 20 --run-dir /runs/smoke
passed
begin "ganctl-train: export"
logged export run_once ganctl-train "${ganctl[@]}" export /runs/smoke --out /runs/export
passed
begin "ganctl-train: package"
logged package run_once ganctl-train "${ganctl[@]}" package /runs/export --out /runs
passed

mapfile -t health < <(image_config ganctl-serve Healthcheck.Test)
[ "${health[0]}" = CMD ] || fail "the serving image has no health check of its own: ${health[*]}"
begin "ganctl-serve: unhealthy before the workers are READY"
start ganctl-serve
unhealthy=0
: > "$work/unhealthy.log"
deadline=$((SECONDS + 120))
until inside "${health[@]:1}" > "$work/health.log" 2>&1; do
    unhealthy=$((unhealthy + 1))
    cat "$work/health.log" >> "$work/unhealthy.log"
    running || fail "the server ended before it was ready"
    [ "$SECONDS" -lt "$deadline" ] || fail "not healthy after 120 s: $(cat "$work/health.log")"
    sleep 0.5
done
[ "$unhealthy" -gt 0 ] || fail "the health check passed while the server was still starting"
step="ganctl-serve: unhealthy $unhealthy times, then healthy: $(head -n 1 "$work/health.log")"
passed

begin "ganctl-serve: draws a PNG digit over HTTP"
# The server listens beyond loopback, so it asks for its token, which only its own user can read.
# shellcheck disable=SC2016
token="$(inside python3 -c '
import glob, json
print(json.load(open(glob.glob("/tmp/ganctl-*/key_file.json")[0]))["inference"]["key"])')"
python3 docker/smoke_request.py "http://127.0.0.1:$port/predictions/digits" "$token" "$work/digit.png"
passed

begin "ganctl-serve: writes nothing outside /tmp"
written="$(written_files)"
[ -z "$written" ] || fail "a read-only root would not do: $written"
passed
begin "ganctl-serve: ends with status 0 on SIGTERM, and is unhealthy then"
stop || fail "it ended with status $?"
if [ "$engine" = buildah ] && inside "${health[@]:1}" > /dev/null 2>&1; then fail "healthy after its end"; fi
passed

echo
printf '%s\n' "${table[@]}"
for image in ganctl-train ganctl-serve; do
    printf '%-74s %s\n' "$image: size of the image" "$(image_size "$image")"
done
