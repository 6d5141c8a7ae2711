#!/usr/bin/env bash
# What the README's first lines take in a fresh environment, seconds by the clock, three times each:
#   benchmarks/ready_networks.sh RECORDING PHOTO
set -euo pipefail
recording=$(realpath "$1") photo=$(realpath "$2")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet .

cd "$work"
TIMEFORMAT="%R s"
for round in 1 2 3; do
  time venv/bin/seqdsd transcribe an4-ds2 "$recording"
  time venv/bin/seqdsd caption flickr8k-neuraltalk "$photo"
done
