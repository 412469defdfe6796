#!/bin/sh
# Runs a command with the build's package index and extra CA certificates, if they are given:
#   with-index.sh COMMAND…
# INDEX_URL (a build argument) is the index for pip and uv. The build secret `ca` holds certificates in PEM form, which
# are trusted in addition to the system's. Both stay in the build stages. PIP_INDEX_URL, PIP_CERT and SSL_CERT_FILE of
# the base image stay in effect.
set -eu

INDEX_URL="${INDEX_URL:-${PIP_INDEX_URL:-}}"
if [ -n "$INDEX_URL" ]; then
    export PIP_INDEX_URL="$INDEX_URL" UV_DEFAULT_INDEX="$INDEX_URL"
fi

bundle="${SSL_CERT_FILE:-${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}}"
if [ -s /run/secrets/ca ]; then
    merged="$(mktemp)"
    trap 'rm -f "$merged"' EXIT
    { if [ -f "$bundle" ]; then cat "$bundle"; fi; echo; cat /run/secrets/ca; } > "$merged"
    bundle="$merged"
fi
if [ -f "$bundle" ]; then
    export PIP_CERT="$bundle" SSL_CERT_FILE="$bundle"
fi

"$@"
