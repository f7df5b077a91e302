#!/usr/bin/env bash
# Measure on one GPU what matters for training and synthesis, within 9 minutes: tests, speeds, latencies, memory, losses.
#
#   bash scripts/benchmarks/gpu_report.sh OUT             writes OUT/report.md, OUT/report.json and OUT/PART.log
#   bash scripts/benchmarks/gpu_report.sh OUT PART ...    only some parts
#   bash scripts/benchmarks/gpu_report.sh OUT --cpu       the same at a small size without a GPU, as a check of the parts
#   bash scripts/benchmarks/gpu_report.sh --help          all options
set -euo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
fi
repository=$(cd "$(dirname "$0")/../.." && pwd)
for python in ${PYTHON:+"$PYTHON"} python "$repository/.venv/bin/python" python3; do
    if "$python" -c "import hydra, importlib.util; assert importlib.util.find_spec('torch')" 2>/dev/null; then
        PYTHONPATH="$repository:$repository/scripts${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m benchmarks.gpu_report "$@"
    fi
done
echo "error: no Python with this project's packages was found; run: make install, then: source .venv/bin/activate" >&2
exit 1
