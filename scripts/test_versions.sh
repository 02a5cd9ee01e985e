#!/usr/bin/env bash
# Runs the test suite on several versions of Python and torch, each in an environment of its own.
# Usage: bash scripts/test_versions.sh [PYTHON:TORCH ...]      default: 2.6.0 and newest with 3.10, 3.11 and 3.12
#   PYTHON  a version whose python3.N is on the PATH (or one of pyenv's), or the path of a Python
#   TORCH   a version, or `newest`
# TESTS="tests/cli tests/meta" runs those alone, and the table says so.
# Environments stay in .versions/ (or $VERSIONS_DIR) and are used again. Prints a table; exit status 1 if a suite failed.
# Each fetches a torch, from the public index the CUDA build of some gigabytes: see setup.sh for the way to the CPU build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
folder="${VERSIONS_DIR:-$root/.versions}"
pairs=("$@")
((${#pairs[@]})) || pairs=(3.{10,11,12}:{2.6.0,newest})

find_python() { # VERSION or path
  local found
  if [[ -x "$1" ]]; then
    echo "$1"
    return
  fi
  found="$(type -P "python$1" || true)"
  if [[ -z "$found" ]] || ! "$found" -c '' 2>/dev/null; then
    found="$(compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1.*/bin/python" | sort -V | tail -n 1 || true)"
  fi
  echo "$found"
}

rows=() status=0
for pair in "${pairs[@]}"; do
  wanted="${pair%%:*}" torch="${pair##*:}"
  python="$(find_python "$wanted")"
  if [[ -z "$python" ]]; then
    rows+=("| $wanted | $torch | | not run: no such Python here | $(date -I) |")
    continue
  fi
  env="$folder/$(basename "$wanted")-torch-$torch"
  log="$env.log"
  mkdir -p "$folder"
  [[ -f "$env/bin/activate" ]] || "$python" -m venv "$env"
  result="$(
    set +e
    source "$env/bin/activate"
    if [[ "$torch" == newest ]]; then want=torch; else want="torch==$torch"; fi
    python -c 'import torch' 2>/dev/null || python -m pip install --quiet "$want" >"$log" 2>&1 || { echo "| | torch could not be installed" && exit; }
    bash scripts/test.sh -q -p no:cacheprovider ${TESTS:-} >>"$log" 2>&1
    closing="$(grep -E '^[0-9]+ (passed|failed)|^(no tests|=+ .* in [0-9])' "$log" | tail -n 1)"
    versions="$(python -c 'import torch, importlib.metadata as m; print(torch.__version__, "|", "fairseq-fixed", m.version("fairseq-fixed"), "numpy", m.version("numpy"))' 2>/dev/null || echo "| | not installed")"
    echo "$versions | ${TESTS:+$TESTS: }${closing:-no tests were run: see $log}"
  )"
  [[ "$result" == *" passed"* && "$result" != *" failed"* && "$result" != *" error"* ]] || status=1
  rows+=("| $("$python" -V | cut -d' ' -f2) | $result | $(date -I) |")
done

echo "| Python | torch | with | suite | date |"
echo "| --- | --- | --- | --- | --- |"
printf '%s\n' "${rows[@]}"
exit "$status"
