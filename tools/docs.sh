#!/usr/bin/env bash
# Builds the documentation into site/, warnings are errors: bash tools/docs.sh [build|serve]
# The API reference is read from an installed copy, where crossreid is one ordinary package.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup.sh
crossreid_setup dev
root="$PWD"
copy="$(mktemp -d)"
rm -rf build  # what an interrupted run has left would be installed, too
trap 'rm -rf "$copy" "$root/build" "$root/crossreid.egg-info"' EXIT
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target "$copy" .
CROSSREID_COPY="$copy" NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs "${1:-build}" --strict
