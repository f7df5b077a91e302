#!/usr/bin/env bash
# Start a shell or COMMAND in the image of scripts/docker/build.sh, as you, with this repository mounted and all GPUs.
#
#   bash scripts/docker/interactive.sh [COMMAND ...]
#   DATA=/data/LJSpeech-1.1 bash scripts/docker/interactive.sh    also mounts a corpus, at LJSpeech-1.1
#   GPUS=0,1 bash scripts/docker/interactive.sh                   only these GPUs; GPUS=none: no GPU
#   PORT=6006 bash scripts/docker/interactive.sh                  also opens a port, to this machine only
#   bash scripts/docker/interactive.sh tensorboard --logdir runs --bind_all    at http://localhost:6006
set -euo pipefail
data=${DATA:+$(realpath "$DATA")}
cd "$(dirname "$0")/../.."

image=tacotron2-waveglow
home=/workspace/tacotron2-waveglow
fail() { echo "error: $*" >&2; exit 1; }
command -v docker >/dev/null || fail "docker was not found; install Docker, or do without: make install"
docker image inspect "$image" >/dev/null || fail "image $image: not available; build it: bash scripts/docker/build.sh"

# --ipc=host: data loader processes pass batches through shared memory, which containers limit to 64 MB by default.
# --init: as process 1, a command would ignore signals that it does not handle. --stop-timeout: seconds to save.
options=(--rm --interactive --init --ipc=host --stop-timeout 120 -v "$PWD:$home")
if [ -t 0 ] && [ -t 1 ]; then options+=(--tty); fi

if [[ $(docker info --format '{{.SecurityOptions}}') == *rootless* ]]; then
    options+=(--user 0:0) # in rootless Docker, the container's root is you, without root's rights
else
    options+=(--user "${SUDO_UID:-$(id -u)}:${SUDO_GID:-$(id -g)}" --ulimit memlock=-1)
fi

if [ -z "${GPUS:-}" ]; then
    if [[ $(nvidia-smi --list-gpus 2>/dev/null) == *"GPU 0"* ]]; then GPUS=all; else GPUS=none; fi
fi
case $GPUS in
    all) options+=(--gpus all) ;;
    none) ;;
    *) options+=(--gpus "\"device=$GPUS\"") ;; # Docker splits what is not in quotes at commas
esac
echo "GPUs: $GPUS (GPUS=none: on the CPU; others need the NVIDIA Container Toolkit)" >&2

if [ -n "$data" ]; then
    [ -f "$data/metadata.csv" ] || fail "DATA=$DATA: no corpus (metadata.csv, wavs/); to download LJSpeech, run without DATA: bash scripts/docker/interactive.sh bash scripts/prepare_dataset.sh LJSpeech-1.1"
    mkdir -p LJSpeech-1.1 # which Docker would create as root
    options+=(-v "$data:$home/LJSpeech-1.1")
fi

if [ "${1:-}" = tensorboard ]; then PORT=${PORT:-6006}; fi
if [ -n "${PORT:-}" ]; then options+=(-p "127.0.0.1:$PORT:$PORT"); fi

exec docker run "${options[@]}" "$image" "$@"
