#!/usr/bin/env bash
# Build the image, which works under any user id. It takes gigabytes, most of them PyTorch with its CUDA libraries.
#
#   bash scripts/docker/build.sh [docker build options]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec docker build -t tacotron2-waveglow "$@" .
