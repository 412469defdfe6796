# The serving images: `ganctl serve` with one archive. A target for each engine: `torchserve`, the default, and `native`,
# which has no Java.
#
#   docker build -f docker/serve.Dockerfile -t ganctl-serve .
#   docker build -f docker/serve.Dockerfile -t ganctl-serve-native --target native .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/demo:/models:ro" ganctl-serve
#
# It serves /models/digits.mar: mounted as above, or copied in with --build-arg MAR=demo/digits.mar.

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

# ---- the dependencies of the native engine: a large layer that changes only with the lock
FROM tools AS deps-native
# torch is needed only by archives of `ganctl package --backend torchscript`, and would be nine tenths of the image.
# TORCH=torch adds it in the lock's version: the CUDA build, whose libraries are useless on a server without a GPU.
# TORCH_INDEX_URL is an index of CPU builds (see PyTorch's "Get started" page). Only torch is then installed from there,
# in the lock's version, but without the lock's hashes, which are those of the CUDA build. TORCH (such as
# "torch==2.13.0") selects another version from that index.
ARG TORCH_INDEX_URL=""
ARG TORCH=""
COPY docker/serve-packages.txt ./
# The lock is used as constraints: it gives versions and hashes, not the packages to install. Triton (a gigabyte) is
# excluded: it compiles kernels for torch.compile, which serving does not use.
RUN --mount=type=secret,id=ca \
    uv venv --python python3 /opt/ganctl \
    && cp requirements.lock constraints.txt \
    && if [ -n "$TORCH_INDEX_URL" ]; then \
        locked="$(awk '/^torch==/ {print $1}' requirements.lock)" \
        && case "$TORCH" in "" | torch) TORCH="$locked" ;; esac \
        && INDEX_URL="$TORCH_INDEX_URL" with-index.sh \
            uv pip install --python /opt/ganctl/bin/python --no-deps "$TORCH" \
        && awk '/^[a-z0-9]/ {keep = !/^torch==/} keep' requirements.lock > constraints.txt \
        && TORCH=torch; \
    fi \
    && if [ -n "$TORCH" ]; then echo "$TORCH" >> serve-packages.txt; fi \
    && echo triton > excludes.txt \
    && with-index.sh uv pip install --python /opt/ganctl/bin/python \
        -c constraints.txt --excludes excludes.txt -r serve-packages.txt
# A third of these packages is not used: ONNX Runtime for C (Python's module contains a copy) and its tools for training
# and conversion, the tests of NumPy, the AVIF format.
RUN cd /opt/ganctl/lib/python3*/site-packages \
    && rm -rf onnxruntime/capi/libonnxruntime.so* onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
        numpy/f2py numpy/distutils PIL/_avif.* pillow.libs/libavif-* \
    && find numpy -name tests -prune -exec rm -rf {} +

# ---- TorchServe and Java, in addition
FROM deps-native AS deps-torchserve
COPY docker/torchserve-packages.txt ./
RUN --mount=type=secret,id=ca \
    with-index.sh uv pip install --python /opt/ganctl/bin/python \
        -c constraints.txt --excludes excludes.txt -r torchserve-packages.txt

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
    && uv pip install --python /opt/ganctl/bin/python --no-deps /dist/*.whl \
    && rm -rf /opt/ganctl/lib/python3*/site-packages/ganctl/training/datasets \
        /opt/ganctl/lib/python3*/site-packages/ganctl/training/pretrained

# ---- the archive, if MAR is given
FROM ${BASE_IMAGE} AS archive
# MAR: an archive's path inside the build context, such as demo/digits.mar.
ARG MAR=""
COPY . /context
RUN install -d /models \
    && if [ -n "$MAR" ]; then install -m 0644 "/context/$MAR" /models/digits.mar; fi

# ---- the base of both images: no package manager, no Perl, no documentation except licenses
FROM ${BASE_IMAGE} AS slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ganctl \
    && if [ -d /usr/share/doc ]; then find /usr/share/doc -type f ! -name copyright -delete; fi \
    && rm -rf /usr/share/info /usr/share/locale /usr/share/man /usr/share/perl* /usr/share/python-wheels \
        /usr/bin/apt* /usr/bin/dpkg* /usr/bin/perl* /usr/lib/*/gconv /usr/lib/*/perl* /usr/lib/apt /usr/lib/dpkg \
        /usr/lib/python3*/ensurepip /usr/lib/*/libapt-* /var/cache/* /var/lib/apt /var/lib/dpkg/info /var/log/* \
        /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip*

# Copied into an empty image, because a deleted file still takes space in the layer that it is in. Variables of the base
# image are not copied.
FROM scratch AS runtime
COPY --from=slim / /
LABEL org.opencontainers.image.licenses="Apache-2.0"
# The server writes to /tmp only (settings, logs, the unpacked archive): with a tmpfs there, the rest can be read-only.
# USER is a name for users that the image does not have (`docker run --user 1000`). ONNX Runtime sends usage data to its
# vendor by default.
ENV PATH=/opt/ganctl/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 HOME=/tmp USER=ganctl PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /tmp
EXPOSE 8080
USER 10001:10001
ENTRYPOINT ["ganctl"]

# ---- the image of the native engine
FROM runtime AS native
LABEL org.opencontainers.image.title="ganctl-serve-native"
COPY --from=deps-native /opt/ganctl /opt/ganctl
COPY --from=app /opt/ganctl /opt/ganctl
COPY --from=archive /models /models
COPY docker/healthcheck.py /opt/ganctl/healthcheck.py
# Healthy means: every worker of the model is READY. /ping is answered as soon as one is.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/ganctl/bin/python", "-I", "-S", "/opt/ganctl/healthcheck.py"]
CMD ["serve", "/models/digits.mar", "--engine", "native", "--host", "0.0.0.0", "--port", "8080"]

# ---- the image of TorchServe; the last stage is the target of a build without --target
FROM runtime AS torchserve
LABEL org.opencontainers.image.title="ganctl-serve"
COPY --from=deps-torchserve /opt/ganctl /opt/ganctl
COPY --from=app /opt/ganctl /opt/ganctl
COPY --from=archive /models /models
COPY docker/healthcheck.py /opt/ganctl/healthcheck.py
# Healthy means: every worker of the model is READY. TorchServe's /ping returns 200 while workers crash.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/ganctl/bin/python", "-I", "-S", "/opt/ganctl/healthcheck.py"]
CMD ["serve", "/models/digits.mar", "--host", "0.0.0.0", "--port", "8080"]
