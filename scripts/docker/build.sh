#!/usr/bin/env bash
# Build the image, for a user with your own ids, so that what it writes to mounted folders is yours.
#
#   bash scripts/docker/build.sh [docker build options]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec docker build --build-arg USER_ID="$(id -u)" --build-arg GROUP_ID="$(id -g)" -t tacotron2-waveglow "$@" .
