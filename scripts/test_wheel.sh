#!/usr/bin/env bash
# Builds the wheel, installs it into an empty folder and tests it from another one: bash scripts/test_wheel.sh
# The checkout is in neither, so a file that the wheel lacks is missed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
mkdir "$place/source" "$place/elsewhere"
cp -r setup.py pyproject.toml README.md LICENSE fairseq_l2rw "$place/source" # a build leaves its traces in its folder
pip="python -m pip --quiet --disable-pip-version-check"
$pip wheel --no-deps --no-build-isolation --no-index --wheel-dir "$place/wheel" "$place/source"
rm -r "$place/source"
$pip install --no-deps --no-index --target "$place/site" "$place"/wheel/*.whl

cp -r tests pyproject.toml "$place/elsewhere"
cd "$place/elsewhere"
export PYTHONPATH="$place/site"
python -c 'import sys, fairseq_l2rw; sys.exit(not fairseq_l2rw.__file__.startswith(sys.argv[1]))' "$place/site"
"$place/site/bin/fairseq-l2rw" --version
"$place/site/bin/fairseq-l2rw" toy corpus --size 20 --valid-size 5 --test-size 5 >/dev/null
python -m pytest -q -p no:cacheprovider tests/meta/test_trainer.py tests/meta/test_probe.py tests/cli/test_main.py
