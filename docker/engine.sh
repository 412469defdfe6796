# What docker/images.sh needs of a container engine, in two forms behind the same names: Docker, or, where no Docker
# engine runs, buildah with chroot isolation (no daemon, no cgroups, no network of its own: containers see the host's).
# Sourced, not run. Uses $work (a folder for logs and caches) and sets $engine.
# shellcheck shell=bash

# image_config IMAGE FIELD: the entries of a list (or a set, or the one value) of the image's config, one a line.
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
        echo "images.sh: no Docker engine answers ('docker info' fails), and its stand-in is not complete: it takes" \
            "root and the Debian packages buildah and debootstrap (apt-get install buildah debootstrap)." >&2
        exit 1
    fi
    # shellcheck source=/dev/null
    source "$(dirname "${BASH_SOURCE[0]}")/engine-$engine.sh"
}
