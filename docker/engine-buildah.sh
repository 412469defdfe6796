# The functions of engine.sh for buildah. debootstrap makes the base image, a Debian (cached in $work), so only the
# package indexes of Debian and Python are needed.
# shellcheck shell=bash disable=SC2154  # $work comes from images.sh

user=10001  # of both images
volume=""
containers=()

prepare_engine() {
    base="${BASE_IMAGE:-localhost/ganctl-base}"
    if [ -z "${BASE_IMAGE:-}" ] && ! buildah inspect --type image "$base" > /dev/null 2>&1; then make_base; fi
    volume="$work/volume-$$"
    install -d -o "$user" -g "$user" "$volume"
    # Cached layers make a second build fast, but the driver vfs copies the whole image for each layer.
    layers=false
    if buildah info | grep -q '"GraphDriverName": "overlay"'; then layers=true; fi
}

make_base() {
    local archive="$work/base.tar" mirror suite container
    if [ ! -f "$archive" ]; then
        # shellcheck disable=SC2016
        read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(LABEL)' \
            'Created-By: Packages' | awk '$3 == "Debian" && $2 !~ /-/ {print $1, $2; exit}')
        if [ -z "${mirror:-}" ]; then
            echo "images.sh: apt has no Debian mirror for the base image. Run 'apt-get update' first." >&2
            return 1
        fi
        echo "making a base image: Debian $suite with Python"
        rm -rf "$work/rootfs"
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$work/rootfs" "$mirror" \
            > "$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" >&2; return 1; }
        tar -C "$work/rootfs" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -cf "$archive.part" .
        rm -rf "$work/rootfs"
        mv "$archive.part" "$archive"
    fi
    container="$(buildah from scratch)"
    buildah add -q "$container" "$archive" / > /dev/null
    buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit -q --rm "$container" "$base" > /dev/null
}

inspect_image() { buildah inspect --type image "$1"; }

image_size() { buildah images --format '{{.Size}}' "$1" | head -n 1; }

# build IMAGE DOCKERFILE [ARGUMENT…]
build() {
    buildah bud --isolation chroot --format docker --layers="$layers" -t "$1" -f "$2" \
        --build-arg "BASE_IMAGE=$base" "${@:3}" .
}

create() {
    local declared
    container="$(buildah from "$1")"
    containers+=("$container")
    # A declared volume and -v would be mounted over each other in undefined order; remove the declared one.
    for declared in $(image_config "$1" Volumes); do buildah config --volume "$declared-" "$container"; done
}

# run_once IMAGE COMMAND…: runs a command in a new container, with the smoke test's volume at /runs.
run_once() {
    local container status=0
    create "$1"
    buildah run --isolation chroot -v "$volume:/runs" "$container" -- "${@:2}" || status=$?
    buildah rm "$container" > /dev/null
    return "$status"
}

# start IMAGE: starts the image's entry point and command with the archive at /models; sets $server and $port. The ports
# are free ones, because the network is the host's.
start() {
    local container command
    create "$1"
    server="$container"
    port="$(free_ports)"
    mapfile -t command < <(image_config "$1" Entrypoint; image_config "$1" Cmd)
    root="$(buildah mount "$server")"
    touch "$work/started"
    # SIGTERM to `buildah run` would kill the server, so the server writes its process id (there is no pid namespace).
    # shellcheck disable=SC2016
    buildah run --isolation chroot -v "$volume:/models:ro" "$server" -- \
        sh -c 'echo $$ > /tmp/smoke.pid; exec "$@"' sh "${command[@]}" --port "$port" > "$work/serve.log" 2>&1 &
    runner=$!
}

# free_ports: prints the first of five consecutive free ports (inference, management, metrics, two of gRPC).
free_ports() {
    python3 -c '
import socket
def free(port):
    with socket.socket() as probe:
        try: probe.bind(("127.0.0.1", port))
        except OSError: return False
        return True
print(next(base for base in range(18080, 28080, 10) if all(free(base + i) for i in range(5))))'
}

running() { kill -0 "$runner" 2> /dev/null; }

server_log() { cat "$work/serve.log"; }

# inside COMMAND…: runs a command in the running server's container.
inside() {
    buildah run --isolation chroot --env "GANCTL_HEALTH_URL=http://127.0.0.1:$((port + 1))/models/digits" \
        "$server" -- "$@"
}

# stop: sends SIGTERM, as an engine does; returns the server's exit status.
stop() {
    kill -TERM "$(cat "$root/tmp/smoke.pid")"
    wait "$runner"
}

# written_files: prints the files that the server wrote outside /tmp.
written_files() {
    find "$root" -xdev -type f -newer "$work/started" ! -path "$root/tmp/*" ! -path "$root/etc/*" -printf '/%P\n'
}

clean_engine() {
    if [ -z "$volume" ]; then return; fi
    if [ -n "${runner:-}" ] && running; then stop 2> /dev/null || true; fi
    local container
    for container in "${containers[@]}"; do
        buildah umount "$container" > /dev/null 2>&1 || true
        buildah rm "$container" > /dev/null 2>&1 || true
    done
    rm -rf "${volume:?}" "$work/started"
}
