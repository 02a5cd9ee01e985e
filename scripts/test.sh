#!/usr/bin/env bash
# Runs the test suite: bash scripts/test.sh [pytest arguments]. Sets up first (see setup.sh). Exit status: pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
exec python -m pytest "$@"
