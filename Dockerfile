# GPU image: bash scripts/docker/build.sh, then bash scripts/docker/interactive.sh
FROM pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime

# libsndfile comes with the soundfile wheel. Triton needs a C compiler and Python's headers to load its kernels, and two
# of the evaluation packages are compiled.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev python3-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /workspace/tacotron2-waveglow

# Dependencies have their own layer, so that a code change does not reinstall them. The image's torch satisfies the pin,
# so pip keeps it.
COPY requirements*.txt ./
RUN pip install --no-cache-dir --break-system-packages -r requirements.txt -r requirements-dev.txt \
    && pip install --no-cache-dir --break-system-packages --no-deps -r requirements-eval.txt

ARG USER_ID=1000
ARG GROUP_ID=1000
RUN (getent group "${GROUP_ID}" || groupadd --gid "${GROUP_ID}" voice) \
    && useradd --non-unique --uid "${USER_ID}" --gid "${GROUP_ID}" --create-home voice \
    && chown "${USER_ID}:${GROUP_ID}" .
USER ${USER_ID}:${GROUP_ID}

COPY --chown=${USER_ID}:${GROUP_ID} . .
CMD ["bash"]
