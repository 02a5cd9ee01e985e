#!/usr/bin/env bash
# Runs the test suite: bash scripts/test.sh [pytest arguments]. Sets up first (see setup.sh). Exit status: pytest's.
# Files of tests run side by side, up to four, one thread each; `-n 0` runs one after the other, as a debugger needs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
