#!/usr/bin/env bash
# Build the image with a user that has your ids, so that you own the files it writes to mounted folders.
#
#   bash scripts/docker/build.sh [docker build options]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec docker build --build-arg USER_ID="$(id -u)" --build-arg GROUP_ID="$(id -g)" -t tacotron2-waveglow "$@" .
