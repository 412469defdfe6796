# The training image: `ganctl train` and every other command, on CPU or on an NVIDIA GPU. The CUDA libraries come with
# the torch wheels, so the base needs nothing but Python; the host needs the driver and the NVIDIA container toolkit.
#
#   docker build -f docker/train.Dockerfile -t ganctl-train .
#   docker run --rm --gpus all -v "$PWD/runs:/runs" ganctl-train train --run-dir /runs/first

# Any image with Python ≥ 3.11, its venv module and glibc, such as Debian 12 with python3 and python3-venv.
ARG BASE_IMAGE=python:3.12-slim

# ---- uv, at the version of the lock
FROM ${BASE_IMAGE} AS tools
# INDEX_URL: a package index other than the default one. More certificates: --secret id=ca,src=FILE.pem.
# Build arguments and secrets of a build stage stay out of the final image and its history.
ARG INDEX_URL=""
WORKDIR /src
COPY docker/with-index.sh /usr/local/bin/
COPY requirements.lock ./
RUN --mount=type=secret,id=ca \
    python3 -m venv /opt/uv \
    && awk '/^[a-z0-9]/ {take = /^uv==/} take' requirements.lock > /tmp/uv.txt \
    && with-index.sh /opt/uv/bin/pip install --no-cache-dir --require-hashes -r /tmp/uv.txt
# Compiled here, because the user of the final image cannot write beside the modules. UV_NO_CACHE keeps layers small.
ENV PATH=/opt/uv/bin:$PATH UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never

# ---- the project's direct dependencies, without the rest of pyproject.toml, which changes more often
FROM tools AS wanted
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*project["dependencies"], sep="\n")' > wanted.txt

# ---- the dependencies: a layer of gigabytes that changes only with the lock
FROM tools AS deps
COPY --from=wanted /src/wanted.txt ./
# The lock also has the development tools. As constraints it gives versions and hashes, not the packages to install.
RUN --mount=type=secret,id=ca \
    uv venv --python python3 /opt/ganctl \
    && with-index.sh uv pip install --python /opt/ganctl/bin/python -c requirements.lock -r wanted.txt

# ---- the project: a small layer that changes with every commit, laid over the dependencies in the final stage
FROM tools AS app
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY ganctl ganctl
COPY training training
COPY exports exports
COPY serving serving
RUN --mount=type=secret,id=ca \
    with-index.sh uv build --wheel --python python3 --build-constraints requirements.lock --out-dir /dist \
    && uv venv --python python3 /opt/ganctl \
    && uv pip install --python /opt/ganctl/bin/python --no-deps /dist/*.whl

# ---- the image: no uv, no compiler, no index, no root
FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="ganctl-train" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=deps /opt/ganctl /opt/ganctl
COPY --from=app /opt/ganctl /opt/ganctl
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ganctl \
    && install -d -o ganctl -g ganctl /runs
# HOME and USER are for `docker run --user "$(id -u)"`, a user that the image does not have: a folder for caches, and a
# name. ONNX Runtime sends usage data to its vendor by default. Training needs the driver's parts compute and utility.
ENV PATH=/opt/ganctl/bin:$PATH HOME=/tmp USER=ganctl PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# `ganctl train` without --run-dir numbers its folders under ./runs: from / that is the volume.
WORKDIR /
VOLUME /runs
USER 10001:10001
ENTRYPOINT ["ganctl"]
CMD ["train"]
