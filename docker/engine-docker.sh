# The functions of engine.sh for Docker.
# shellcheck shell=bash disable=SC2034  # $server and $port are for images.sh

volume=""
servers=()

prepare_engine() {
    base="${BASE_IMAGE:-python:3.12-slim}"
    volume="ganctl-smoke-$$"
    docker volume create "$volume" > /dev/null  # takes its owner from the image's /runs at first use
}

inspect_image() { docker image inspect "$1"; }

image_size() { docker image ls --format '{{.Size}}' "$1"; }

# build IMAGE DOCKERFILE [ARGUMENT…]
build() { DOCKER_BUILDKIT=1 docker build -t "$1" -f "$2" --build-arg "BASE_IMAGE=$base" "${@:3}" .; }

# run_once IMAGE COMMAND…: runs a command in a new container, with the smoke test's volume at /runs.
run_once() { docker run --rm -v "$volume:/runs" --entrypoint "$2" "$1" "${@:3}"; }

# start IMAGE: starts the server as in a deployment, read-only, with the archive at /models; sets $server and $port.
start() {
    server="$1-smoke-$$"
    servers+=("$server")
    docker run -d --name "$server" --read-only --tmpfs /tmp:exec --cap-drop ALL --security-opt no-new-privileges \
        -v "$volume:/models:ro" -p 127.0.0.1::8080 "$1" > /dev/null
    port="$(docker port "$server" 8080/tcp | head -n 1 | sed 's/.*://')"
}

running() { [ "$(docker inspect -f '{{.State.Running}}' "$server")" = true ]; }

server_log() { docker logs "$server" 2>&1; }

# inside COMMAND…: runs a command in the running server's container.
inside() { docker exec "$server" "$@"; }

# stop: sends SIGTERM, as an engine does; returns the server's exit status.
stop() {
    docker stop -t 30 "$server" > /dev/null
    return "$(docker inspect -f '{{.State.ExitCode}}' "$server")"
}

# written_files: prints the files that the server wrote outside /tmp; none here, because the root is read-only.
written_files() { :; }

clean_engine() {
    for server in "${servers[@]}"; do docker rm -f "$server" > /dev/null 2>&1 || true; done
    if [ -n "$volume" ]; then docker volume rm -f "$volume" > /dev/null 2>&1 || true; fi
}
