#!/usr/bin/env bash
# Run the tests: bash test.sh [PYTEST ARGUMENTS ...], for example bash test.sh -m "not slow"
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
source tools/setup.sh
crossreid_setup dev || exit $?
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest "$@"
