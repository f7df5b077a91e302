#!/usr/bin/env bash
# Start a shell or COMMAND in the image of scripts/docker/build.sh, with this repository mounted and all GPUs visible.
#
#   bash scripts/docker/interactive.sh [COMMAND ...]
#   DATA=/data/LJSpeech-1.1 bash scripts/docker/interactive.sh    also mounts a corpus, at LJSpeech-1.1
set -euo pipefail
cd "$(dirname "$0")/../.."
mounts=(-v "$PWD:/workspace/tacotron2-waveglow")
if [ -n "${DATA:-}" ]; then
    mounts+=(-v "$(realpath "$DATA"):/workspace/tacotron2-waveglow/LJSpeech-1.1")
fi
terminal=()
[ -t 0 ] && terminal=(-it)
# --ipc=host: data loader processes pass batches through shared memory, which containers limit to 64 MB by default.
exec docker run --rm "${terminal[@]}" --gpus all --ipc=host --ulimit memlock=-1 "${mounts[@]}" tacotron2-waveglow "$@"
