#!/bin/sh
# Runs a command with the build's package index and extra CA certificates, where they are given:
#   with-index.sh COMMAND…
# INDEX_URL (a build argument) names the index for pip and uv; the build secret `ca` holds certificates in PEM form that
# are trusted beside the system's. Neither leaves the build stages. A base image that sets PIP_INDEX_URL, PIP_CERT or
# SSL_CERT_FILE for itself is respected.
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
