"""What is installed, what will not work, and the remedy.

Needs nothing but the standard library: it has to run where torch or fairseq is missing or broken. So installations are
read from their metadata and files; what only an import can tell is asked of another process.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

TESTED_PYTHONS = ((3, 11), (3, 12))
OLDEST_TORCH = (2, 6)
EXTENSIONS = ("data_utils_fast", "token_block_utils_fast")  # the compiled parts of fairseq that translation needs
NEEDED = ("numpy", "sacrebleu", "sentencepiece", "babel", "num2words", "scikit-learn", "matplotlib", "jinja2")
INSTALL_FAIRSEQ = (
    "pip uninstall -y fairseq fairseq-fixed, then bash scripts/setup.sh (Python 3.12: or pip install fairseq-fixed)"
)

# Run with the facts that need an import; prints them as JSON.
_IMPORTS = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
facts = {}
try:
    import torch
    facts["gpus"] = torch.cuda.device_count()
    facts["cuda"] = torch.version.cuda
except Exception as error:
    facts["torch_error"] = f"{type(error).__name__}: {error}"
else:
    try:
        import fairseq.tasks
    except Exception as error:
        facts["fairseq_error"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(facts))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        value: What was found.
        problem: What will not work because of it; empty if all is well.
        remedy: What to do about it; empty if all is well.
    """

    name: str
    value: str
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class FairseqCopy:
    """A distribution that provides the package ``fairseq``.

    Attributes:
        distribution: Its name, as pip knows it.
        version: Its version.
        folder: The folder of its package ``fairseq``, where its metadata tells.
    """

    distribution: str
    version: str
    folder: Optional[Path]


def examine(path: Optional[Sequence[str]] = None, environment: Optional[Mapping[str, str]] = None) -> List[Finding]:
    """Looks at the installation that `path` makes.

    Args:
        path: Where modules and metadata are looked for; default: ``sys.path``.
        environment: Environment variables (PATH, CXX); default: the process's.

    Returns:
        The findings, in the order in which they are shown.
    """
    path = list(sys.path if path is None else path)
    environment = os.environ if environment is None else environment
    versions = _versions(path)
    imports = _ask_imports(path)
    findings = [_python(), _torch(versions, imports), *_fairseq(path, versions, imports)]
    for name in NEEDED:
        version = versions.get(name)
        findings.append(
            Finding(name, version) if version else Finding(name, "missing", f"{name} is needed", f"pip install {name}")
        )
    findings.append(_compiler(environment, built="fairseq-fixed" in versions))
    gpus = imports.get("gpus")
    findings.append(Finding("GPUs", "unknown (torch does not import)" if gpus is None else str(gpus)))
    return findings


def _versions(path: Sequence[str]) -> Dict[str, str]:
    """Normalised name -> version of every distribution; of two of one name, the one that is imported."""
    versions: Dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=list(path)):
        name = distribution.metadata["Name"]
        if name:
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return versions


def _ask_imports(path: Sequence[str]) -> Dict[str, object]:
    command = [sys.executable, "-c", _IMPORTS, json.dumps(list(path))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"torch_error": f"the interpreter ended with status {done.returncode}"}


def _python() -> Finding:
    value = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 10):
        return Finding("Python", value, "Python 3.10 or later is needed", "make the environment with Python 3.11")
    if sys.version_info[:2] not in TESTED_PYTHONS:
        value += ", not tested"
    return Finding("Python", value)


def _torch(versions: Mapping[str, str], imports: Mapping[str, object]) -> Finding:
    version = versions.get("torch")
    if version is None:
        return Finding("torch", "missing", "torch is needed", "bash scripts/setup.sh, or pip install 'torch>=2.6'")
    if _numbers(version)[:2] < OLDEST_TORCH:
        problem = "torch before 2.6 has no allow-list for the safe loading of checkpoints"
        return Finding("torch", version, problem, "pip install --upgrade 'torch>=2.6'")
    if "torch_error" in imports:
        return Finding("torch", version, f"it does not import: {imports['torch_error']}", "install torch again")
    cuda = imports.get("cuda")
    return Finding("torch", f"{version} ({f'CUDA {cuda}' if cuda else 'CPU only'})")


def _fairseq(path: Sequence[str], versions: Mapping[str, str], imports: Mapping[str, object]) -> List[Finding]:
    """Which fairseq is installed, which one is imported, whether that works, and its compiled parts."""
    copies = fairseq_copies(path)
    folder = _imported_folder("fairseq", path)
    if folder is None:
        value = ", ".join(f"{copy.distribution} {copy.version}" for copy in copies) or "missing"
        return [Finding("fairseq", value, "no package fairseq can be imported", INSTALL_FAIRSEQ)]

    value = ", ".join(f"{copy.distribution} {copy.version}" for copy in copies) or "a copy that pip does not know"
    value += f", imported from {folder}"
    problem = _wrong_fairseq(copies, folder)
    if not problem and "fairseq_error" in imports:
        problem = f"it does not import: {imports['fairseq_error']}"
    findings = [Finding("fairseq", value, problem, INSTALL_FAIRSEQ if problem else "")]

    missing = [name for name in EXTENSIONS if not any((folder / "data").glob(f"{name}*.so"))]
    if missing:
        problem = f"fairseq's extensions are not compiled: {', '.join(missing)}"
        findings.append(Finding("compiled extensions", "missing", problem, INSTALL_FAIRSEQ))
    else:
        findings.append(Finding("compiled extensions", ", ".join(EXTENSIONS)))
    return findings


def fairseq_copies(path: Sequence[str]) -> List[FairseqCopy]:
    """The distributions on `path` that provide a top-level package ``fairseq``, whatever they are called."""
    copies = []
    for distribution in importlib.metadata.distributions(path=list(path)):
        packages = [file for file in distribution.files or [] if str(file) == "fairseq/__init__.py"]
        folder = Path(str(packages[0].locate())).parent if packages else None
        # An editable installation lists no files of the package, but its top-level names.
        top_level = (distribution.read_text("top_level.txt") or "").split()
        if folder is not None or "fairseq" in top_level:
            copies.append(FairseqCopy(distribution.metadata["Name"], distribution.version, folder))
    return sorted(set(copies), key=lambda copy: copy.distribution)


def _wrong_fairseq(copies: Sequence[FairseqCopy], folder: Path) -> str:
    """What is wrong with the fairseq in `folder`, "" if nothing is."""
    others = [copy for copy in copies if re.sub(r"[-_.]+", "-", copy.distribution).lower() != "fairseq-fixed"]
    fixed = [copy for copy in copies if copy not in others]
    ours = [copy for copy in fixed if copy.folder is None or copy.folder.resolve() == folder.resolve()]
    effects = _effects(folder)
    if others:
        names = ", ".join(f"{copy.distribution} {copy.version}" for copy in others)
        if fixed:
            return f"{names} is installed beside fairseq-fixed, and each overwrites the other's files{effects}"
        return f"{names} is installed instead of fairseq-fixed{effects}"
    if not ours:
        return f"this is not the one of fairseq-fixed{effects}"
    return effects.lstrip(": ")


def _effects(folder: Path) -> str:
    """What will not work with the fairseq in `folder`, read from its sources."""
    effects = []
    checkpoints = _text(folder / "checkpoint_utils.py")
    if "get_checkpoint_dict" not in checkpoints:
        effects.append("it cannot restore the teacher when training is resumed (as 0.12.2, it saves no state of the task)")
    if re.search(r"weights_only\s*=\s*False", checkpoints):
        effects.append("it switches the safe loader off (weights_only=False), so a checkpoint can run any code")
    return ": " + "; ".join(effects) if effects else ""


def _compiler(environment: Mapping[str, str], built: bool) -> Finding:
    candidates = [environment["CXX"].split()[0]] if environment.get("CXX", "").strip() else []
    for name in (*candidates, "c++", "g++", "clang++"):
        found = shutil.which(name, path=environment.get("PATH", ""))
        if found:
            return Finding("C++ compiler", found)
    if built:
        return Finding("C++ compiler", "none (fairseq is built already: not needed)")
    if sys.version_info[:2] == (3, 12):
        return Finding("C++ compiler", "none (fairseq-fixed has a wheel for Python 3.12: not needed)")
    return Finding(
        "C++ compiler",
        "none",
        "fairseq-fixed has to be built on this Python",
        "install one (Debian, Ubuntu: apt install g++), or use Python 3.12",
    )


def _imported_folder(package: str, path: Sequence[str]) -> Optional[Path]:
    """The folder that ``import package`` would take, without importing it."""
    if list(path) == sys.path:
        spec = importlib.util.find_spec(package)  # knows editable installations too
    else:
        spec = importlib.machinery.PathFinder.find_spec(package, list(path))
    if spec is None or not spec.origin:
        return None
    return Path(spec.origin).parent


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0]))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
