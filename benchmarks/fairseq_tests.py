"""Runs fairseq's own translation tests with our task and criterion in the place of fairseq's.

    git clone https://github.com/facebookresearch/fairseq
    python -m benchmarks.fairseq_tests fairseq                      # about twenty minutes on two cores
    python -m benchmarks.fairseq_tests fairseq --only fconv --plain   # without us, for comparison

Only the ``tests`` folder of the source is used, and copied: beside the rest of the source Python would import that instead of the
installed fairseq. In each command line of a test ``--task translation`` becomes ``--task l2rw_translation`` with ``--meta-start 0
--meta-interval 1``, and ``label_smoothed_cross_entropy`` becomes ``l2rw_cross_entropy``; the tests of the label-smoothed loss get our
criterion class. A test that trains counts only if a teacher update ran in it. A test of another task, criterion or kind of model is "not
applicable", and the reason stands in the table. The tests draw their data anew each time, and ``test_max_positions`` fails on some
draws, without us too: here every test begins with the same random numbers. Whatever fails is run once more without us (``--plain`` does that alone): only the safe
globals are allowed there, without which fairseq reads no checkpoint on today's torch.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from benchmarks.record import ROOT, table, write_json

SUITE = ("test_binaries.py::TestTranslation", "test_reproducibility.py", "test_label_smoothing.py", "test_checkpoint_utils.py")
SEED = 1  # of the data that a test draws
TASK, CRITERION = "l2rw_translation", "l2rw_cross_entropy"
TEACHER = "--meta-start 0 --meta-interval 1 --teacher-replay 2 --teacher-hidden-dim 16".split()


@dataclass
class Seen:
    """What happened within one test."""

    trainings: int = 0
    teacher_updates: int = 0
    criterions: int = 0
    announced: set = field(default_factory=set)


class Suite:
    """A plugin of pytest: puts our task in, if asked to, and keeps the results."""

    def __init__(self, ours: bool):
        self.ours = ours
        self.rows: list[dict] = []
        self.seen = Seen()
        if ours:
            self._substitute()
        else:
            torch.serialization.add_safe_globals([argparse.Namespace])

    # ---- substitution -------------------------------------------------------

    def _substitute(self) -> None:
        import fairseq.options

        import fairseq_l2rw.translation  # noqa: F401  registers task and criterion
        from fairseq_l2rw.meta.trainer import MetaTrainer

        parse = fairseq.options.parse_args_and_arch
        fairseq.options.parse_args_and_arch = lambda parser, words=None, *args, **kw: parse(parser, self.words(parser, words), *args, **kw)
        after_step = MetaTrainer.after_step

        def counted(trainer, *args, **kwargs):
            report = after_step(trainer, *args, **kwargs)
            self.seen.teacher_updates += report is not None
            return report

        MetaTrainer.after_step = counted

    def words(self, parser, words):
        """A test's command line with our task and criterion; skips a test that asks for others."""
        words = [str(word) for word in words or []]
        trains = "--arch" in words
        last = lambda option, default: next((b for a, b in zip(words[-2::-1], words[::-1]) if a == option), default)  # noqa: E731
        task, criterion = last("--task", "translation"), last("--criterion", CRITERION)
        if task != "translation":
            pytest.skip(f"another task: {task}")
        if criterion not in (CRITERION, "cross_entropy", "label_smoothed_cross_entropy"):
            pytest.skip(f"another criterion: {criterion}")
        words += ["--task", TASK]  # the last one counts
        if "--criterion" in words:
            words += ["--criterion", CRITERION]
        if trains and "--valid-subset" not in words:
            self.seen.trainings += 1
            words += TEACHER
        return words

    def put_criterion(self, module) -> None:
        """Our criterion under the names that a test module knows fairseq's by."""
        from fairseq_l2rw.translation.criterion import L2RWCrossEntropyCriterion

        seen = self

        class Smoothed(L2RWCrossEntropyCriterion):
            @classmethod
            def build_criterion(cls, args, task):
                seen.seen.criterions += 1
                return cls(task, args.sentence_avg, args.label_smoothing)

        class Plain(Smoothed):
            @classmethod
            def build_criterion(cls, args, task):
                seen.seen.criterions += 1
                return cls(task, args.sentence_avg, 0.0)

        for name, criterion in (("LabelSmoothedCrossEntropyCriterion", Smoothed), ("CrossEntropyCriterion", Plain)):
            if hasattr(module, name):
                setattr(module, name, criterion)

    # ---- pytest's hooks -----------------------------------------------------

    def pytest_runtest_setup(self, item):
        self.seen = Seen()
        random.seed(SEED)
        torch.manual_seed(SEED)
        if self.ours:
            self.put_criterion(item.module)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        result = yield
        assert not (self.ours and self.seen.trainings and not self.seen.teacher_updates), "no teacher update ran in it"
        return result

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed or (report.when == "setup" and report.skipped):
            outcome, why = report.outcome, ""
            if report.skipped:
                outcome, why = "not applicable", str(report.longrepr[2]).removeprefix("Skipped: ")
            elif report.failed:
                why = str(getattr(report.longrepr, "reprcrash", None) and report.longrepr.reprcrash.message).split("\n")[0][:200]
            self.rows.append({
                "test": report.nodeid.split("/")[-1], "outcome": outcome, "teacher updates": self.seen.teacher_updates or None,
                "why": why or self._what(), "seconds": round(report.duration, 1),
            })  # fmt: skip
            print(table(self.rows[-1:]), file=sys.stderr, flush=True)

    def _what(self) -> str:
        if not self.ours or self.seen.teacher_updates:
            return ""
        return "the loss alone" if self.seen.criterions else "no training in it"


def run(source: Path, ours: bool, only: str | None) -> list[dict]:
    """Runs the suite on a copy of the tests; one row a test."""
    if not (source / "tests" / "test_binaries.py").is_file():
        sys.exit(f"{source}: no tests/test_binaries.py there; give a folder with fairseq's source, as git clone makes it")
    suite = Suite(ours)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        shutil.copytree(source / "tests", Path(folder, "tests"))
        Path(folder, "tests", "__init__.py").touch()
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        sys.path.insert(0, folder)
        options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir", folder, *(["-k", only] if only else [])]
        pytest.main([*options, *(os.path.join("tests", name) for name in SUITE)], plugins=[suite])
        sys.path.remove(folder)
        os.chdir(here)
    return suite.rows


def without_us(source: Path, rows: list[dict]) -> None:
    """Runs what failed once more without us, in a process of its own, and writes into the rows what came out."""
    for row in rows:
        if row["outcome"] != "failed":
            continue
        with tempfile.TemporaryDirectory() as folder:
            name, out = row["test"].split("::")[-1], Path(folder, "plain.json")
            command = [sys.executable, "-m", "benchmarks.fairseq_tests", str(source), "--plain", "--only", name, "--out", str(out)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        row["why"] += " (fails without us as well)" if done.returncode else " (passes without us)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with fairseq's source")
    parser.add_argument("--only", metavar="EXPRESSION", help="pytest's -k: choose tests by name")
    parser.add_argument("--plain", action="store_true", help="without us")
    parser.add_argument("--out", default="fairseq_tests.json", help="JSON file (default: %(default)s)")
    args = parser.parse_args()
    args.source, args.out = args.source.resolve(), str(Path(args.out).resolve())
    rows = run(args.source, not args.plain, args.only)
    if not args.plain:
        without_us(args.source, rows)
    write_json(args.out, {"source": args.source.name, "only": args.only, "plain": args.plain}, rows)
    print(table(rows))
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in ("passed", "failed", "not applicable")}
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    sys.exit(1 if counts["failed"] or not rows else 0)


if __name__ == "__main__":
    main()
