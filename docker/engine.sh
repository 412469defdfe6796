# Functions of a container engine for docker/images.sh, with two implementations: Docker, or, if no Docker engine runs,
# buildah with chroot isolation (without daemon and cgroups; containers share the host's network). Sourced, not run.
# Uses $work (a folder for logs and caches) and sets $engine.
# shellcheck shell=bash

# image_config IMAGE FIELD: prints a field of the image's config: a value, or a list or set, one entry per line.
image_config() {
    inspect_image "$1" | python3 -c '
import json, sys
document = json.load(sys.stdin)
config = document[0]["Config"] if isinstance(document, list) else document["Docker"]["config"]
for key in sys.argv[1].split("."):
    config = config.get(key) or []
print(*(config if isinstance(config, list | dict) else [config]), sep="\n")' "$2"
}

choose_engine() {
    if command -v docker > /dev/null && docker info > /dev/null 2>&1; then
        engine=docker
    elif command -v buildah > /dev/null && command -v debootstrap > /dev/null && [ "$(id -u)" = 0 ]; then
        engine=buildah
    else
        echo "images.sh: found no Docker engine ('docker info' fails). Start one, or run this as root with the Debian" \
            "packages buildah and debootstrap (apt-get install buildah debootstrap)." >&2
        exit 1
    fi
    # shellcheck source=/dev/null
    source "$(dirname "${BASH_SOURCE[0]}")/engine-$engine.sh"
}
