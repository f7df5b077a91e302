# The image: bash scripts/docker/build.sh, then bash scripts/docker/interactive.sh
# PyPI's PyTorch brings the CUDA libraries, and the host the GPU driver (580 or newer); without a GPU all runs on the CPU.
FROM debian:12-slim

# curl, bzip2 and the certificates are for the download of LJSpeech. Triton needs a C compiler and Python's headers to
# load its kernels, and two of the evaluation packages are compiled.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bzip2 ca-certificates curl g++ make python3.11-dev python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

# The image works under any user id: interactive.sh sets yours, so that files in mounted folders are yours. Hence all
# may write to the home directory (caches of Triton, Numba and Matplotlib) and to the environment (pip install), and
# USER is for programs that ask for the name of the user.
ENV HOME=/home/user USER=user VENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /workspace/tacotron2-waveglow
RUN useradd --uid 1000 --create-home user \
    && echo "PS1='\w> '" > "$HOME/.bashrc" \
    && mkdir "$VENV" \
    && chown user:user . "$VENV" \
    && chmod 777 . "$HOME" "$VENV"
# A number, because Kubernetes cannot tell whether a name is root's.
USER 1000:1000

# make installs the environment as on any machine, and finds it up to date later. PyTorch's gigabytes have their own
# layer, so that a change of the code or of the test packages does not download them again.
COPY Makefile requirements.txt requirements-arpabet.txt ./
RUN umask 0 && make install
COPY requirements*.txt ./
RUN umask 0 && make "$VENV/.installed-dev"

COPY --chown=1000:1000 . .
CMD ["bash"]
