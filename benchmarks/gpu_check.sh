#!/bin/sh
# All that has to be seen on a GPU, in at most 8 minutes and without a network; see benchmarks/README.md.
#
#   benchmarks/gpu_check.sh [--wheels DIR] [--with-torch] [--data DIR] [--device cpu] [--out FILE]
#
# --wheels DIR   what is missing is installed from there, into a virtual environment that sees the system's torch
# --with-torch   torch, torchaudio and torchvision as well, instead of those that are there
# The rest goes to `python -m benchmarks.gpu_check`.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
out=${OUT:+$OUT/gpu_check.md}
out=${out:-gpu_check.md}
wheels= with_torch=
count=$#
while [ "$count" -gt 0 ]; do
    one=$1 && shift && count=$((count - 1))
    case $one in
        --wheels) wheels=$1 && shift && count=$((count - 1)) ;;
        --with-torch) with_torch=1 ;;
        --out) out=$1 && shift && count=$((count - 1)) ;;
        *) set -- "$@" "$one" ;;
    esac
done

if [ -n "$wheels" ]; then
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    "$python" -m venv --system-site-packages "$environment" || exit 1
    python=$environment/bin/python
    install="$python -m pip install --quiet --no-index --find-links $wheels"
    if [ -n "$with_torch" ]; then $install --ignore-installed torch torchaudio torchvision || exit 1; fi
    # Each on its own, without what it depends on: torch, if it is there, stays as it is.
    for wheel in "$wheels"/*.whl; do
        case ${wheel##*/} in
            torch-* | torchaudio-* | torchvision-* | triton-* | nvidia_*)
                [ -n "$with_torch" ] || continue ;;
        esac
        $install --no-deps "$wheel" || echo "gpu_check: $wheel could not be installed" >&2
    done
    if ! "$python" -c 'import torchaudio, torchvision' 2>/dev/null; then
        echo "gpu_check: torchaudio or torchvision does not fit the torch that is here: give --with-torch" >&2
    fi
fi
export PYTHONPATH=. OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
timeout -k 5 480 "$python" -m benchmarks.gpu_check --out "$out" "$@"
