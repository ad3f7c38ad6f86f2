#!/usr/bin/env bash
# Lint, types and import contracts. The last two read an installed copy, where crossreid is one ordinary package.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup.sh
crossreid_setup dev
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
rm -rf build  # what an interrupted run has left would be installed, too
root="$PWD"
copy="$(mktemp -d)"
trap 'rm -rf "$copy" "$root/build" "$root/crossreid.egg-info"' EXIT
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target "$copy" .
config="$PWD/pyproject.toml"
cd "$copy"
MYPYPATH="$copy" "$PYTHON" -m mypy --config-file "$config" --cache-dir /tmp/crossreid-mypy -p crossreid
PYTHONPATH="$copy" "$(dirname "$PYTHON")/lint-imports" --config "$config" --cache-dir /tmp/crossreid-imports
