#!/usr/bin/env bash
# Compute the mels of a prepared corpus in parallel. Rerun it after an interruption or a change of the audio config.
#
#   bash scripts/prepare_mels.sh DIR [audio.fmax=7600 num_processes=4 ...]
#
# All options: python scripts/prepare_mels.py --help
set -euo pipefail
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
case ${1:-} in
    -h | --help) usage; exit ;;
    '' | -*) usage >&2; exit 2 ;;
esac
root=$1
shift
python=${PYTHON:-python}
if ! "$python" -c "import hydra" 2>/dev/null; then
    echo "error: $python does not have this project's packages; run: make install, then: source .venv/bin/activate" >&2
    exit 1
fi
exec "$python" "$(dirname "$0")/prepare_mels.py" "data.root=$root" "$@"
