"""Trainings of an experiment as jobs of a queue: corpora, students, conditions; and what is read from them afterwards.

All run the real commands. Folders, under the queue's::

    corpora/CORPUS             data/ as `fairseq-l2rw prepare` makes it, text/ before it
    bases/CORPUS-sSEED-START   the student at update START, when all weights are still 1: trained once for all conditions
    runs/CORPUS/CONDITION-sSEED    checkpoint_last.pt, train.log, influence.tsv.gz, weights.tsv.gz, eval/SPLIT.json

A condition starts from the base as a resumed training does, which is the same to the bit as training it from the beginning
(``tests/benchmarks/test_noisy_bitext.py``).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import read_checkpoint
from benchmarks.detection import over_time, read_weights, weights_by_kind
from benchmarks.jobs import Job, Workshop
from fairseq_l2rw.corpus.bitext import find_text, read_lines, read_pairs, writing
from fairseq_l2rw.corpus.influence_log import read_log
from fairseq_l2rw.corpus.lines import read_labels
from fairseq_l2rw.errors import L2RWError

PACKAGE = Path(__file__).parents[1] / "fairseq_l2rw"
L2RW = ["-m", "fairseq_l2rw.cli.main"]
SPLITS = ("valid", "test")


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Attributes:
        vocabulary: sentencepiece's pieces.
        meta: dev pairs set apart for the teacher.
        updates: student updates.
        start: ``--meta-start``.
        width: of the student's layers.
        options: further options of fairseq-train.
    """

    vocabulary: int
    meta: int
    updates: int
    start: int
    width: int
    options: tuple[str, ...]

    def student(self) -> list[str]:
        """Options of fairseq-train for all trainings of this size."""
        width, inner = str(self.width), str(2 * self.width)
        return [
            "--arch", "transformer_iwslt_de_en", "--encoder-layers", "2", "--decoder-layers", "2", "--share-all-embeddings",
            "--encoder-embed-dim", width, "--decoder-embed-dim", width,
            "--encoder-ffn-embed-dim", inner, "--decoder-ffn-embed-dim", inner,
            "--encoder-attention-heads", "4", "--decoder-attention-heads", "4",
            "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
            "--optimizer", "adam", "--adam-betas", "(0.9,0.98)", "--lr-scheduler", "inverse_sqrt", "--clip-norm", "1.0",
            *self.options,
        ]  # fmt: skip


SIZES = {
    # as scripts/multi30k_de_en.sh
    "multi30k": Size(6000, 800, 2500, 500, 128, tuple(
        "--lr 2e-3 --warmup-updates 300 --dropout 0.15 --max-tokens 3000".split()
    )),
    # as scripts/quickstart.sh
    "toy": Size(2000, 500, 1000, 400, 128, tuple(
        "--lr 2e-3 --warmup-updates 200 --dropout 0.1 --max-tokens 3000 --meta-interval 2 --meta-max-tokens 1000".split()
    )),
    "tatoeba": Size(8000, 0, 4000, 1500, 128, tuple(
        "--lr 2e-3 --warmup-updates 300 --dropout 0.1 --max-tokens 4000".split()
    )),
    # to see that everything runs
    "tiny": Size(300, 30, 14, 6, 32, tuple(
        "--lr 2e-3 --warmup-updates 4 --dropout 0.1 --max-tokens 1000 --meta-interval 1 --meta-max-tokens 300 --teacher-replay 2 "
        "--teacher-hidden-dim 16".split()
    )),
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """A training corpus with its dev and test sets.

    Attributes:
        name: its folder.
        text: prefixes of the raw texts: ``train``, ``valid``, ``test`` and perhaps ``meta``.
        noise: KIND:RATE,... that is added to the training text; empty for none.
        only_clean: leave the spoilt pairs out instead of training on them.
        src, tgt: languages.
    """

    name: str
    text: dict[str, str]
    noise: str = ""
    only_clean: bool = False
    src: str = "de"
    tgt: str = "en"

    def data(self, root: Path) -> Path:
        return root / "corpora" / self.name / "data"

    def labels_file(self, root: Path) -> Path:
        return self.data(root) / "raw" / "train.labels.tsv"

    def labels(self, root: Path) -> dict[int, str]:
        """Raw line -> kind; empty where nothing was spoilt."""
        path = self.labels_file(root)
        return read_labels(str(path)) if path.exists() else {}


@dataclass(frozen=True)
class Condition:
    """What is varied.

    Attributes:
        name: its folder.
        options: of fairseq-train.
        corpus: another corpus than the experiment's.
        alone: trained from the beginning, because the running statistics of the shared base do not fit.
        told: the weights are the true labels (``benchmarks/true_labels.py``).
    """

    name: str
    options: tuple[str, ...] = ()
    corpus: str | None = None
    alone: bool = False
    told: bool = False

    @property
    def learns(self) -> bool:
        return "uniform" not in self.options and not self.told


@dataclass(frozen=True, eq=False)  # so that it can be a key
class Run:
    """One training, and where its results are."""

    corpus: Corpus
    condition: Condition
    seed: int

    @property
    def name(self) -> str:
        return f"runs/{self.corpus.name}/{self.condition.name}-s{self.seed}"


@dataclass
class Experiment:
    """Jobs of an experiment.

    Args:
        root: folder of the queue.
        size: see :data:`SIZES`.
        extra: options of fairseq-train for all trainings, the last to be given.
    """

    root: Path
    size: Size
    extra: tuple[str, ...] = ()
    jobs: dict[str, Job] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def add(self, corpus: Corpus, condition: Condition, seed: int) -> Run:
        """Adds a training and all that it needs."""
        run = Run(corpus, condition, seed)
        if run.name not in self.jobs:
            start = _option([*self.size.student(), *self.extra, *condition.options], "--meta-start", self.size.start)
            # one base will do for all that start later
            shares = 0 < start < self.size.updates and not condition.alone
            base = self._add_base(corpus, seed, min(start, self.size.start)) if shares else None
            data = self._add_corpus(corpus)
            settings = {**self._settings(corpus, seed), "options": list(condition.options)}
            needs = (data,) if base is None else (data, base)
            self.jobs[run.name] = Job(run.name, settings, lambda shop: self._train(shop, run, base), needs)
            self.runs.append(run)
        return run

    def _settings(self, corpus, seed):
        student = [*self.size.student(), *self.extra]
        return {"corpus": corpus.name, "seed": seed, "updates": self.size.updates, "student": student}

    def _add_corpus(self, corpus: Corpus) -> str:
        name = f"corpora/{corpus.name}"
        if name not in self.jobs:
            settings = {"text": corpus.text, "noise": corpus.noise, "only_clean": corpus.only_clean,
                        "vocabulary": self.size.vocabulary, "meta": self.size.meta}  # fmt: skip
            self.jobs[name] = Job(name, settings, lambda shop: make_corpus(shop, corpus, self.size))
        return name

    def _add_base(self, corpus: Corpus, seed: int, start: int) -> str:
        name = f"bases/{corpus.name}-s{seed}-{start}"
        if name not in self.jobs:
            settings = {**self._settings(corpus, seed), "start": start}
            work = lambda shop: self._train_base(shop, corpus, seed, start)  # noqa: E731
            self.jobs[name] = Job(name, settings, work, (self._add_corpus(corpus),))
        return name

    def _command(self, shop: Workshop, corpus: Corpus, seed: int, *options: object, told: bool = False) -> list[object]:
        # with one thread, whatever the machine: results must not depend on its number of cores
        program = ["benchmarks.true_labels", corpus.labels_file(self.root)] if told else ["fairseq_cli.train"]
        return [
            "-m", *program, corpus.data(self.root), "--user-dir", PACKAGE, "--task", "l2rw_translation",
            "--save-dir", shop.folder, "--no-epoch-checkpoints", "--disable-validation", "--no-progress-bar",
            "--log-format", "simple", "--log-interval", "50", "--num-workers", "0", "--max-update", self.size.updates,
            "--meta-start", self.size.start, "--seed", seed, *self.size.student(), *self.extra, *options,
        ]  # fmt: skip

    def _train_base(self, shop: Workshop, corpus: Corpus, seed: int, start: int) -> None:
        """A training that is ended at update `start`, when all weights have been 1."""
        base = shop.folder / "base.pt"
        command = self._command(
            shop, corpus, seed, "--teacher", "deep", "--save-interval-updates", start, "--meta-start", start
        )

        def reached() -> bool:
            found = _checkpoint_at(shop.folder, start)
            if found is not None and not base.exists():
                shutil.copyfile(found, f"{base}.part")
                Path(f"{base}.part").rename(base)
            return base.exists()

        shop.once("train", command, until=reached)
        for path in shop.folder.glob("checkpoint*.pt"):
            path.unlink()

    def _train(self, shop: Workshop, run: Run, base: str | None) -> None:
        last = shop.folder / "checkpoint_last.pt"
        if base is not None and not last.exists():
            shutil.copyfile(self.root / base / "base.pt", f"{last}.part")
            Path(f"{last}.part").rename(last)
        options = list(run.condition.options)
        if run.condition.learns:
            options += ["--influence-log", shop.folder / "influence.tsv.gz"]
        if run.condition.told:  # only the log makes the task tell raw lines; it stays empty
            options += ["--influence-log", shop.folder / "none.tsv.gz"]
        shop.once("train", self._command(shop, run.corpus, run.seed, *options, told=run.condition.told))
        data, cpu = run.corpus.data(self.root), ["--cpu"]
        for split in SPLITS:
            shop.once(f"evaluate-{split}", [*L2RW, "evaluate", data, "--path", last, "--gen-subset", split,
                                            "--out", shop.folder / "eval", "--json", *cpu])  # fmt: skip
        if run.condition.learns and "l2r" not in run.condition.options:
            shop.once("weights", [*L2RW, "weights", data, "--path", last, "--out", shop.folder / "weights.tsv.gz", *cpu])

    # ---- results ------------------------------------------------------------

    def result(self, run: Run) -> dict:
        """What a training that is done has brought."""
        folder = self.root / run.name
        labels = run.corpus.labels(self.root)
        result = {"corpus": run.corpus.name, "condition": run.condition.name, "seed": run.seed, "scores": {}}
        for split in SPLITS:
            content = json.loads((folder / "eval" / f"{split}.json").read_text(encoding="utf-8"))
            result["scores"][split] = {metric: content[metric]["score"] for metric in ("BLEU", "chrF")}
            result["signatures"] = {metric: content[metric]["signature"] for metric in ("BLEU", "chrF")}
        result["seconds"] = dict(line.split("\t") for line in read_lines(str(folder / "times.tsv")))
        kind_of = lambda line: labels.get(line, "clean")  # noqa: E731
        if (folder / "weights.tsv.gz").exists():
            ids, weights = read_weights(folder / "weights.tsv.gz")
            result["weights"] = weights_by_kind(weights, [kind_of(i) for i in ids.tolist()])
        if (folder / "influence.tsv.gz").exists():
            rows = read_log(str(folder / "influence.tsv.gz"))
            all_lines = _Always(labels)
            result["over_time"] = over_time(rows, all_lines, max(1, self.size.updates // 20))
        if "weights" not in result and result.get("over_time"):
            result["weights"] = result["over_time"][-1]["kinds"]  # of the last stretch: l2r has no others
        return result

    def hypotheses(self, run: Run, split: str) -> list[str]:
        return list(read_lines(str(self.root / run.name / "eval" / f"{split}.hyp")))

    def references(self, corpus: Corpus, split: str) -> list[str]:
        return list(read_lines(str(corpus.data(self.root) / "raw" / f"{split}.{corpus.tgt}")))


class _Always(dict):
    """Labels that call every other line clean."""

    def __missing__(self, key):
        return "clean"


def make_corpus(shop: Workshop, corpus: Corpus, size: Size) -> None:
    """Noise, then ``prepare``; clean text where that is wanted."""
    train = corpus.text["train"]
    if corpus.noise:
        raw = [find_text(train, lang) for lang in (corpus.src, corpus.tgt)]
        train = shop.folder / "text" / "train"
        outputs = [f"{train}.{corpus.src}", f"{train}.{corpus.tgt}", f"{train}.labels.tsv"]
        shop.once("corrupt", [*L2RW, "corrupt", "--src", raw[0], "--tgt", raw[1], "--out-src", outputs[0], "--out-tgt", outputs[1],
                              "--labels", outputs[2], "--noise", corpus.noise])  # fmt: skip
        if corpus.only_clean:
            train = shop.folder / "text" / "clean"
            _keep_clean(outputs, [f"{train}.{corpus.src}", f"{train}.{corpus.tgt}"])
    splits = [word for split in ("valid", "test") for word in (f"--{split}", corpus.text[split])]
    meta = ["--meta", corpus.text["meta"]] if "meta" in corpus.text else ["--meta-size", size.meta]
    # the same cleaning for all corpora: by default, those with noise are cleaned less
    cleaning = ["--max-ratio", "0", "--duplicates", "keep"]
    shop.once("prepare", [*L2RW, "prepare", "--src", corpus.src, "--tgt", corpus.tgt, "--train", train, *splits, *meta, *cleaning,
                          "--vocab-size", size.vocabulary, "--out", shop.folder / "data"])  # fmt: skip


def _keep_clean(noisy: list[str], out: list[str]) -> None:
    labels = read_labels(noisy[2])
    with writing(*out) as handles:
        for line, pair in enumerate(read_pairs(*noisy[:2])):
            if labels[line] == "clean":
                for handle, text in zip(handles, pair):
                    handle.write(text + "\n")


def _checkpoint_at(folder: Path, updates: int) -> Path | None:
    """A checkpoint of exactly that many updates, whole."""
    found = sorted(folder.glob(f"checkpoint_*_{updates}.pt"))
    if found:
        return found[0]
    last = folder / "checkpoint_last.pt"
    # fairseq writes no numbered checkpoint where an epoch ends with that update
    if last.exists() and _updates(last) == updates:
        return last
    return None


_SEEN: dict[tuple, int | None] = {}


def _updates(path: Path) -> int | None:
    stat = path.stat()
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key not in _SEEN:
        try:
            _SEEN[key] = read_checkpoint(path)["optimizer_history"][-1]["num_updates"]
        except (RuntimeError, EOFError, OSError):  # not whole yet
            return None
    return _SEEN[key]


def _option(words: list[str], name: str, default: int) -> int:
    """The last value of an option in a list of words."""
    return next((int(value) for word, value in reversed(list(zip(words, words[1:]))) if word == name), default)


# ---- significance -----------------------------------------------------------


def bootstrap(
    systems: dict[str, list[str]], references: list[str], language: str, samples: int = 1000
) -> dict[str, dict[str, dict]]:
    """sacrebleu's paired bootstrap; the first system is what the others are compared with.

    Returns:
        system -> ``BLEU``, ``chrF`` -> ``score``, ``mean``, ``ci`` (half of the 95 % interval) and, but for the first, ``p``.
    """
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    from fairseq_l2rw.translation.evaluate import bleu_tokenizer

    metrics = {"BLEU": BLEU(tokenize=bleu_tokenizer(language), references=[references]), "chrF": CHRF(references=[references])}
    _, scores = PairedTest(list(systems.items()), metrics, references=None, test_type="bs", n_samples=samples)()
    out: dict[str, dict[str, dict]] = {name: {} for name in systems}
    del scores["System"]
    for metric, of_metric in zip(metrics, scores.values()):  # its own names are chrF2 and the like
        for name, result in zip(systems, of_metric):
            # where nothing differs, sacrebleu's p value is the smallest there is
            p = 1.0 if result.p_value is not None and result.score == of_metric[0].score else result.p_value
            out[name][metric] = {"score": result.score, "mean": result.mean, "ci": result.ci, "p": p}
    return out


def mean_and_deviation(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def won_back(own: float, plain: float, clean: float) -> float | None:
    """The part of what the noise costs that a training wins back: 0 is plain training on all pairs, 1 on the clean ones alone; None where it
    costs nothing."""
    return (own - plain) / (clean - plain) if clean > plain else None


def check_raw(raw: str, names: dict[str, str], languages: tuple[str, str]) -> dict[str, str]:
    """Prefixes of the raw texts in a folder: split -> RAW/NAME.

    Raises:
        L2RWError: one is missing.
    """
    if not Path(raw).is_dir():
        raise L2RWError(f"--raw {raw}: no such folder")
    prefixes = {split: str(Path(raw).resolve() / name) for split, name in names.items()}
    for prefix in prefixes.values():
        for language in languages:
            find_text(prefix, language)
    return prefixes
