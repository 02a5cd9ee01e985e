#!/usr/bin/env bash
# Makes the environment that the other scripts run in: the active virtual environment, or .venv in the repository root.
#
#   source scripts/setup.sh     from a script: afterwards `python`, `fairseq-train`, `fairseq-l2rw` are the environment's
#   bash scripts/setup.sh       only makes it
#
# Safe to repeat: when nothing has changed since the last time it installs nothing. PYTHON=... says which Python .venv is
# made with. pip is left alone: its variables and its pip.conf (index, constraints, proxy, cache) hold for every step.
# A torch that is there stays as it is. All messages go to stderr; exit status 2 when something is missing.
set -euo pipefail

L2RW_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
L2RW_TORCH="torch==2.13.0" # the tested one; any from 2.6 on that is there already is kept
L2RW_FAIRSEQ="fairseq-fixed>=0.12.3.1,<0.12.4"
L2RW_TESTED="3.11 and 3.12"

l2rw_say() { echo "setup: $*" >&2; }
l2rw_fail() {
  l2rw_say "$*"
  exit 2
}

# Prints "3.11" for a Python that really runs (a shim of a version manager may exist and fail), else nothing.
l2rw_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

l2rw_in_range() { [[ "$1" == 3.10 || "$1" == 3.11 || "$1" == 3.12 ]]; }

# Says in one line why VERSION will not do.
l2rw_wrong_version() { # VERSION WHERE
  local minor="${1#*.}"
  if [[ "$1" == 2.* || "$minor" -lt 10 ]]; then
    l2rw_fail "Python $1 ($2) is too old: 3.10 to 3.12 are needed (tested: $L2RW_TESTED). Install one and run again, or name it: PYTHON=/path/to/python3.11"
  fi
  l2rw_fail "Python $1 ($2) is newer than what works: 3.10 to 3.12 are needed (tested: $L2RW_TESTED). Install one and run again, or name it: PYTHON=/path/to/python3.11"
}

# Prints the Python that .venv is to be made with.
l2rw_find_python() {
  local name path version found="" wrong="" wrong_path="" bare=""
  if [[ -n "${PYTHON:-}" ]]; then
    version="$(l2rw_version "$PYTHON")"
    [[ -n "$version" ]] || l2rw_fail "PYTHON=$PYTHON does not run"
    l2rw_in_range "$version" || l2rw_wrong_version "$version" "PYTHON=$PYTHON"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || bare="$PYTHON"
    found="$PYTHON"
  else
    for name in python3.11 python3.12 python3.10 python3 python; do
      while IFS= read -r path; do
        version="$(l2rw_version "$path")"
        [[ -n "$version" ]] || continue
        if ! l2rw_in_range "$version"; then
          [[ -n "$wrong" ]] || { wrong="$version" && wrong_path="$path"; }
        elif ! "$path" -c 'import venv, ensurepip' 2>/dev/null; then
          bare="${bare:-$path}"
        else
          found="$path"
          bare=""
          break 2
        fi
      done < <(type -aP "$name" 2>/dev/null || true)
    done
  fi
  if [[ -n "$bare" ]]; then
    version="$(l2rw_version "$bare")"
    l2rw_fail "$bare cannot make a virtual environment (no venv or ensurepip). Debian, Ubuntu: apt install python$version-venv"
  fi
  if [[ -z "$found" ]]; then
    [[ -z "$wrong" ]] || l2rw_wrong_version "$wrong" "$wrong_path"
    l2rw_fail "no Python found: 3.10 to 3.12 are needed (tested: $L2RW_TESTED). Install one, or name it: PYTHON=/path/to/python3.11"
  fi
  echo "$found"
}

# Sets L2RW_ENV and L2RW_PYTHON, and makes the environment if there is none.
l2rw_find_environment() {
  local version python
  if [[ -n "${VIRTUAL_ENV:-}" ]]; then
    L2RW_ENV="$VIRTUAL_ENV"
    L2RW_PYTHON="$L2RW_ENV/bin/python"
    version="$(l2rw_version "$L2RW_PYTHON")"
    [[ -n "$version" ]] || l2rw_fail "the active virtual environment $L2RW_ENV has no Python that runs: deactivate it, and .venv is used"
    l2rw_in_range "$version" || l2rw_wrong_version "$version" "the active virtual environment $L2RW_ENV"
  else
    L2RW_ENV="$L2RW_ROOT/.venv"
    L2RW_PYTHON="$L2RW_ENV/bin/python"
    # bin/activate is the last thing that venv writes: without it the making was interrupted.
    if [[ ! -f "$L2RW_ENV/bin/activate" || -z "$(l2rw_version "$L2RW_PYTHON")" ]]; then
      python="$(l2rw_find_python)"
      l2rw_say "making $L2RW_ENV with $python (Python $(l2rw_version "$python"))"
      "$python" -m venv --clear "$L2RW_ENV" >&2 || l2rw_fail "$python could not make $L2RW_ENV (its message is above)"
    fi
  fi
}

# What the stamp holds: it changes when the set-up, the requirements, the Python or the place of the checkout do.
l2rw_fingerprint() {
  local facts
  facts="$(cat "$L2RW_ROOT/setup.py" "$L2RW_ROOT/pyproject.toml" "$L2RW_ROOT/scripts/setup.sh" && "$L2RW_PYTHON" -V && echo "$L2RW_ROOT")"
  cksum <<<"$facts"
}

# Asks one thing of the environment, without the working directory or the user's site-packages in the way.
l2rw_ask() { "$L2RW_PYTHON" -I - "$@"; }

# True if all that the stamp promises is there (a moment's look at the metadata, nothing is imported).
l2rw_is_ready() {
  [[ -f "$L2RW_ENV/.fairseq_l2rw-setup" && "$(<"$L2RW_ENV/.fairseq_l2rw-setup")" == "$(l2rw_fingerprint)" ]] || return 1
  l2rw_ask "$L2RW_ROOT" <<'PY' 2>/dev/null
import importlib.metadata, json, pathlib, sys, urllib.parse
for name in "torch fairseq-fixed numpy sacrebleu sentencepiece babel num2words scikit-learn pytest pytest-cov pytest-xdist ruff mypy".split():
    importlib.metadata.version(name)
ours = json.loads(importlib.metadata.distribution("fairseq_l2rw").read_text("direct_url.json"))
place = urllib.parse.unquote(urllib.parse.urlsplit(ours["url"]).path)
sys.exit(not (ours["dir_info"].get("editable") and pathlib.Path(place).resolve() == pathlib.Path(sys.argv[1]).resolve()))
PY
}

# fairseq looks for a relative --user-dir in the working directory and beside its own package, and nowhere else. An
# editable installation has nothing there, so a package that leads to the checkout is put beside it, and
# `--user-dir fairseq_l2rw` works from any directory. (Not a symbolic link: a later `pip install` of fairseq_l2rw would
# write through it into the checkout.) It is entered in the installation's record, so pip takes it away again.
l2rw_put_beside_fairseq() {
  l2rw_ask "$L2RW_ROOT" <<'PY'
import importlib.metadata, importlib.util, os, pathlib, sys
package = pathlib.Path(importlib.util.find_spec("fairseq").origin).parents[1] / "fairseq_l2rw"
package.mkdir(exist_ok=True)
(package / "__init__.py").write_text(f"""# Leads to the checkout of an editable installation (scripts/setup.sh).
__path__.insert(0, {os.path.join(sys.argv[1], "fairseq_l2rw")!r})
__file__ = __path__[0] + "/__init__.py"
with open(__file__, encoding="utf-8") as file:
    code = compile(file.read(), __file__, "exec")
exec(code)
""")
ours = importlib.metadata.distribution("fairseq_l2rw")
record = next(ours.locate_file(file) for file in ours.files if file.match("*.dist-info/RECORD"))
entry = os.path.relpath(package / "__init__.py", ours.locate_file("")) + ",,\n"
if entry not in record.read_text().splitlines(keepends=True):
    with open(record, "a") as file:
        file.write(entry)
PY
}

l2rw_installed() { # prints the version of distribution $1, or nothing
  l2rw_ask "$1" <<'PY'
import importlib.metadata, sys
try:
    print(importlib.metadata.version(sys.argv[1]))
except importlib.metadata.PackageNotFoundError:
    pass
PY
}

# Fails with one line unless C++ extensions of Python can be built.
l2rw_check_build_tools() {
  local version include cxx
  version="$(l2rw_version "$L2RW_PYTHON")"
  cxx="${CXX:-}"
  for cxx in ${cxx%% *} c++ g++ clang++; do
    type -P "$cxx" >/dev/null && break
    cxx=""
  done
  [[ -n "$cxx" ]] || l2rw_fail "no C++ compiler, and fairseq has to be built (there is no wheel of it for Python $version). Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; or use Python 3.12, where it need not be built"
  include="$(l2rw_ask <<<'import sysconfig; print(sysconfig.get_paths()["include"])')"
  [[ -f "$include/Python.h" ]] || l2rw_fail "no Python headers ($include/Python.h), and fairseq has to be built (there is no wheel of it for Python $version). Debian, Ubuntu: apt install python$version-dev; Fedora: dnf install python3-devel"
}

# Runs pip with all its output in the log; shows the lines that say what it does and, every ten seconds, that it lives.
l2rw_watch() { # LABEL pip arguments
  local label="$1" line status start=$SECONDS stage=""
  shift
  while true; do
    status=0
    IFS= read -r -t 10 line || status=$?
    if ((status > 128)); then # a time-out: nothing was said, or half a line
      printf '%s' "$line" >>"$L2RW_LOG"
      l2rw_say "  $label: $((SECONDS - start)) s${stage:+, $stage}"
    elif ((status > 0)); then # the end
      break
    else
      echo "$line" >>"$L2RW_LOG"
      case "$line" in
        *"building '"*extension*) stage="compiling ${line#*building }" stage="${stage% extension*}" && l2rw_say "  $label: $((SECONDS - start)) s, $stage" ;;
        "Installing collected"*) stage="installing" && l2rw_say "  ${line:0:150}" ;;
        *"Downloading "* | *"Building wheel"* | "Successfully"*) l2rw_say "  ${line:0:150}" ;;
      esac
    fi
  done < <("$L2RW_PYTHON" -m pip "$@" -v 2>&1 || echo "l2rw: pip ended with status $?")
  if tail -n 1 "$L2RW_LOG" | grep -q '^l2rw: pip ended with status'; then
    tail -n 30 "$L2RW_LOG" >&2
    l2rw_fail "pip could not install $label: the end of $L2RW_LOG is above"
  fi
}

l2rw_install() {
  local version torch wheels pinned
  version="$(l2rw_version "$L2RW_PYTHON")"
  [[ -w "$L2RW_ENV" ]] || l2rw_fail "$L2RW_ENV cannot be written to: deactivate it or change its owner"
  "$L2RW_PYTHON" -m pip --version >/dev/null 2>&1 || l2rw_fail "$L2RW_ENV has no pip: run $L2RW_PYTHON -m ensurepip"
  L2RW_LOG="$L2RW_ENV/fairseq_l2rw-setup.log"
  : >"$L2RW_LOG"
  rm -f "$L2RW_ENV/.fairseq_l2rw-setup"
  wheels="$L2RW_ENV/.fairseq_l2rw-wheels"
  rm -rf "$wheels"

  # What can be wrong is told before anything large is fetched.
  torch="$(l2rw_installed torch)"
  if [[ -n "$torch" ]]; then
    l2rw_ask "$torch" <<<'import re, sys; sys.exit(tuple(map(int, re.findall(r"\d+", sys.argv[1])[:2])) < (2, 6))' ||
      l2rw_fail "torch $torch in $L2RW_ENV is older than 2.6, which the safe loading of checkpoints needs: upgrade it there, or deactivate the environment"
  fi
  if [[ -n "$(l2rw_installed fairseq)" ]]; then
    l2rw_fail "another fairseq ($(l2rw_installed fairseq)) is in $L2RW_ENV and fairseq-fixed cannot stand beside it: run $L2RW_PYTHON -m pip uninstall fairseq fairseq-fixed, then this again"
  fi
  if [[ -z "$(l2rw_installed fairseq-fixed)" ]]; then
    l2rw_say "looking for a wheel of fairseq-fixed for Python $version (20 MB)"
    if ! "$L2RW_PYTHON" -m pip download --no-deps --only-binary=fairseq-fixed -d "$wheels" "$L2RW_FAIRSEQ" >>"$L2RW_LOG" 2>&1; then
      l2rw_say "there is none: fairseq-fixed is built from source"
      l2rw_check_build_tools
    fi
  fi

  if [[ -z "$torch" ]]; then
    l2rw_say "installing $L2RW_TORCH. To fetch: 0.2 GB for the CPU build; 2 to 3 GB for the CUDA build, which is what the public index has for Linux."
    l2rw_say "for the CPU build there: stop with Ctrl-C, set PIP_EXTRA_INDEX_URL to the CPU index that the selector on pytorch.org names, run again; or install torch into $L2RW_ENV yourself"
    "$L2RW_PYTHON" -m pip install "$L2RW_TORCH" >&2 || l2rw_fail "pip could not install $L2RW_TORCH (its message is above)"
    torch="$(l2rw_installed torch)"
  else
    l2rw_say "torch $torch is there and stays"
  fi
  # Nothing that follows may replace this torch.
  pinned="$L2RW_ENV/.fairseq_l2rw-constraints.txt"
  echo "torch==$torch" >"$pinned"

  l2rw_say "installing the build tools (setuptools, wheel, cython, numpy; about 25 MB)"
  l2rw_watch "build tools" install -c "$pinned" "setuptools>=64" wheel cython numpy
  if [[ -n "$(compgen -G "$wheels/*.whl")" ]]; then
    l2rw_say "installing fairseq-fixed from its wheel, with what it depends on (about 60 MB)"
    l2rw_watch "fairseq-fixed" install -c "$pinned" "$wheels"/*.whl
  elif [[ -z "$(l2rw_installed fairseq-fixed)" ]]; then
    l2rw_say "building fairseq-fixed: 11 MB of source, about 60 MB of what it depends on, then 2 to 5 minutes of compiling (its output is in $L2RW_LOG)"
    # Without isolation: an isolated build would fetch a torch of its own, some gigabytes. Without CUDA_HOME: the CUDA
    # extensions are not used here, and nvcc seldom matches torch's CUDA.
    (unset CUDA_HOME && l2rw_watch "fairseq-fixed" install -c "$pinned" --no-build-isolation "$L2RW_FAIRSEQ")
  fi
  rm -rf "$wheels"

  l2rw_say "installing fairseq_l2rw from this checkout, with the test tools (about 20 MB)"
  l2rw_watch "fairseq_l2rw" install -c "$pinned" --no-build-isolation -e "$L2RW_ROOT[test]"
  l2rw_put_beside_fairseq || l2rw_fail "fairseq or fairseq_l2rw cannot be found in $L2RW_ENV after their installation"
  l2rw_fingerprint >"$L2RW_ENV/.fairseq_l2rw-setup"
  l2rw_say "done in $SECONDS s: Python $version, torch $torch, fairseq-fixed $(l2rw_installed fairseq-fixed)"
}

l2rw_setup() {
  l2rw_find_environment
  if ! l2rw_is_ready; then
    l2rw_install
  fi
  export VIRTUAL_ENV="$L2RW_ENV"
  export PATH="$L2RW_ENV/bin:$PATH"
  unset PYTHONHOME
}

l2rw_setup
