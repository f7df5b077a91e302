# The speech server on a CPU; scripts/docker/compose.yaml and scripts/kubernetes/serve.yaml start it. By hand:
#   docker build -f scripts/docker/server.Dockerfile -t tacotron2-waveglow-server .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 tacotron2-waveglow-server
#
# Not a target of ../../Dockerfile, because they have no layer in common: that image is to work in (CUDA, a compiler,
# the tests, folders that all may write to), this one has PyTorch for CPUs, and its user may write to nothing.
FROM debian:12-slim AS environment

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

# PyPI's PyTorch brings the CUDA libraries, except on ARM. What is left out, only training and plots import.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY requirements.txt requirements-arpabet.txt requirements-server.txt ./
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN grep -v -E '^(tensorboard|matplotlib)==' requirements.txt > serving.txt \
    && python3.11 -m venv /opt/venv \
    && /opt/venv/bin/pip install --index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.txt)" \
    && /opt/venv/bin/pip install -r serving.txt -r requirements-arpabet.txt -r requirements-server.txt \
    && /opt/venv/bin/pip uninstall -y pip

FROM debian:12-slim

# tini, because as process 1 Python would ignore a SIGTERM that comes before the server handles it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.11 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --no-create-home user
COPY --from=environment /opt/venv /opt/venv

# Caches go to /tmp, which a read-only container needs as a tmpfs.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=user PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/tacotron2-waveglow
COPY LICENSE ./LICENSE
COPY common ./common
COPY conf ./conf
COPY synthesis ./synthesis
COPY tacotron2 ./tacotron2
COPY waveglow ./waveglow
COPY scripts/checkout.py scripts/serve.py ./scripts/
RUN python -m compileall -q .

# A folder that is mounted here replaces the bundled voice.
COPY demo/voice /voices/voice

# A number, because Kubernetes cannot tell whether a name is root's. Any other works too.
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --retries=6 \
    CMD ["python", "-I", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["tini", "--", "python", "scripts/serve.py", "host=0.0.0.0", "port=8000"]
CMD ["voices=/voices"]
