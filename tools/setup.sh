#!/usr/bin/env bash
# Finds a Python that can run the framework, or makes .venv for it. Sourced by train.sh and test.sh; run by hand it
# prints that Python. It sets PYTHON. "dev" as first argument adds the developers' tools.
#
# torch and torchvision come from the same index at the versions of constraints.txt: a "+cpu" torch beside the
# torchvision of PyPI (which is built for CUDA) fails at import, so the two are always installed together.

crossreid_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

crossreid_usable() {  # python, module...: whether these modules can be imported
    local python="$1"
    shift
    "$python" - "$@" >/dev/null 2>&1 <<'CHECK'
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.exit(0 if sys.version_info >= (3, 10) else 1)
CHECK
}

crossreid_explain() {  # say why the current Python was not taken, where the reason is a known trap
    "$1" - 2>/dev/null <<'CHECK'
import importlib.metadata as m
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return ""
torch, vision = version("torch"), version("torchvision")
if torch and vision and ("+cpu" in torch) != ("+cpu" in vision):
    print(f"torch {torch} and torchvision {vision} in this Python do not match: one is a CPU build, the other is not;"
          " torchvision cannot be imported. Using .venv with a matching pair instead.")
CHECK
}

crossreid_setup() {
    local modules=(torch torchvision ignite yacs numpy PIL tensorboard scipy sklearn tqdm safetensors) tools=() current venv="$crossreid_root/.venv"
    [ "${1:-}" = dev ] && tools=(pytest xdist hypothesis ruff mypy importlinter onnxruntime onnxscript jinja2 matplotlib fastapi httpx faiss material mkdocstrings_handlers.python)
    current="${PYTHON:-python3}"
    if ! command -v "$current" >/dev/null; then
        echo "error: no $current: install Python 3.10 or newer, or set PYTHON to one" >&2
        return 2
    fi
    for PYTHON in "$venv/bin/python" "$current"; do
        if [ -x "$(command -v "$PYTHON")" ] && crossreid_usable "$PYTHON" "${modules[@]}" "${tools[@]}"; then
            export PYTHON
            return 0
        fi
    done
    crossreid_explain "$current" >&2
    if ! "$current" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $("$current" --version) is too old: set PYTHON to a Python 3.10 or newer" >&2
        return 2
    fi
    echo "making $venv (PyTorch and its CUDA libraries: some minutes, about 6 GB)" >&2
    PYTHON="$venv/bin/python"
    "$current" -m venv "$venv" || return 2
    local extra=()
    [ "${1:-}" = dev ] && extra=(-r "$crossreid_root/requirements-dev.txt")
    if ! "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$crossreid_root/constraints.txt" \
        -r "$crossreid_root/requirements.txt" "${extra[@]}" >&2; then
        echo "error: pip could not install the packages; its message is above, run the command again to go on" >&2
        return 2
    fi
    if ! crossreid_usable "$PYTHON" "${modules[@]}"; then
        crossreid_explain "$PYTHON" >&2
        echo "error: the packages in $venv cannot be imported: remove $venv and run the command again" >&2
        return 2
    fi
    export PYTHON
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    crossreid_setup "$@" && echo "$PYTHON"
fi
