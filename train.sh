#!/usr/bin/env bash
# Train: bash train.sh DEVICES CONFIG [KEY VALUE ...]
#   bash train.sh 0,1 configs/duke2market.yml           two GPUs
#   bash train.sh cpu configs/demo.yml                  no GPU, no download: the built-in domains
#   bash train.sh cpu:2 configs/demo.yml SOLVER.EPOCHS 4 two processes on the CPU
# Paths are relative to the folder that the command is run from.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit 2
if [ $# -lt 2 ]; then
    sed -n '2,6s/^# //p' "$root/train.sh" >&2
    exit 2
fi
source "$root/tools/setup.sh"
crossreid_setup || exit $?
exec "$PYTHON" "$root/train.py" --devices "$@"
