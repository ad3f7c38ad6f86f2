#!/usr/bin/env bash
# Run the tests on all cores, at most 8: bash test.sh [PYTEST ARGUMENTS ...], for example bash test.sh -m "not slow";
# -n 0 runs them in one process, as a debugger needs
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
source tools/setup.sh
crossreid_setup dev || exit $?
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
