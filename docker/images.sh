#!/usr/bin/env bash
# `make images`: builds the training image and the serving image and tests both. The training image trains for a few
# steps, exports and packages; the serving image serves that archive and answers a request. Checks health, writes and
# shutdown, too. Takes no arguments. Uses Docker, or buildah if no Docker engine runs (see engine.sh). Only the images
# ganctl-train and ganctl-serve remain.
#
# Optional environment variables: BASE_IMAGE (Python ≥ 3.11 with venv), INDEX_URL (package index; default:
# PIP_INDEX_URL), EXTRA_CA (certificates in PEM form; default: SSL_CERT_FILE), TORCH_INDEX_URL and TORCH (see
# serve.Dockerfile).
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

# begin_step NAME: starts the timer of a step. end_step: prints its time and adds it to the table at the end.
begin_step() {
    step="$1"
    started=$SECONDS
}

end_step() {
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

# logged NAME COMMAND…: writes the output to .images/NAME.log; prints its last lines if the command fails.
logged() {
    "${@:2}" > "$work/$1.log" 2>&1 || { tail -n 40 "$work/$1.log" >&2; fail "${*:2} failed; see .images/$1.log"; }
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

begin_step "a base image ($engine)"
prepare_engine
end_step
begin_step "build ganctl-train"
logged build-train build ganctl-train docker/train.Dockerfile "${build_arguments[@]}"
end_step
begin_step "build ganctl-serve"
logged build-serve build ganctl-serve docker/serve.Dockerfile "${build_arguments[@]}" "${serve_arguments[@]}"
end_step

for image in ganctl-train ganctl-serve; do
    begin_step "$image: does not run as root, and has no build tools"
    # shellcheck disable=SC2016
    logged user run_once "$image" sh -c \
        '[ "$(id -u)" != 0 ] && ! touch /opt/ganctl/x 2> /dev/null && ! command -v uv gcc cc make'
    end_step
    begin_step "$image: ganctl --help, ganctl doctor"
    logged help run_once "$image" ganctl --help
    logged "doctor-${image#ganctl-}" run_once "$image" ganctl doctor
    end_step
done

mapfile -t ganctl < <(image_config ganctl-train Entrypoint)
begin_step "ganctl-train: train, 20 steps"
logged train run_once ganctl-train "${ganctl[@]}" train --preset conv --max-steps 20 --run-dir /runs/smoke
end_step
begin_step "ganctl-train: export"
logged export run_once ganctl-train "${ganctl[@]}" export /runs/smoke --out /runs/export
end_step
begin_step "ganctl-train: package"
logged package run_once ganctl-train "${ganctl[@]}" package /runs/export --out /runs
end_step

mapfile -t health < <(image_config ganctl-serve Healthcheck.Test)
[ "${health[0]}" = CMD ] || fail "the serving image has no health check of its own: ${health[*]}"
begin_step "ganctl-serve: unhealthy before the workers are READY"
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
end_step

begin_step "ganctl-serve: answers a request with a PNG digit"
# The server listens beyond loopback, so it demands a token, which only its own user can read.
# shellcheck disable=SC2016
token="$(inside python3 -c '
import glob, json
print(json.load(open(glob.glob("/tmp/ganctl-*/key_file.json")[0]))["inference"]["key"])')"
python3 docker/smoke_request.py "http://127.0.0.1:$port/predictions/digits" "$token" "$work/digit.png"
end_step

begin_step "ganctl-serve: writes nothing outside /tmp"
written="$(written_files)"
[ -z "$written" ] || fail "found files outside /tmp: $written"
end_step
begin_step "ganctl-serve: exits with status 0 on SIGTERM, and is then unhealthy"
stop || fail "the server exited with status $?"
if [ "$engine" = buildah ] && inside "${health[@]:1}" > /dev/null 2>&1; then
    fail "the health check passed after the server had exited"
fi
end_step

echo
printf '%s\n' "${table[@]}"
for image in ganctl-train ganctl-serve; do
    printf '%-74s %s\n' "$image: size of the image" "$(image_size "$image")"
done
