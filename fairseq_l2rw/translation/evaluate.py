"""Generates with fairseq, and scores against the raw references with sacrebleu.

The references are the raw text that `prepare` keeps, not text put together again from pieces: a score must not depend
on what the segmentation lost.

Where the model was trained on Moses-tokenised text, as the recipes of the literature do, `Scoring` says so: hypotheses are
then detokenised for the scores above, and two more figures compare with that literature, fairseq's own BLEU and BLEU with
both sides tokenised and compounds split at their hyphens.
"""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

from fairseq_l2rw.corpus.bitext import read_lines, write_lines
from fairseq_l2rw.corpus.lines import data_folder
from fairseq_l2rw.corpus.moses import Moses
from fairseq_l2rw.corpus.prepare import read_record
from fairseq_l2rw.errors import PREFIX, L2RWError

logger = logging.getLogger(__name__)

# sacrebleu's tokenisers for languages that do not separate words by spaces (and Korean, whose words are too long).
_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_FAIRSEQ_BLEU = re.compile(rb"^Generate .* BLEU4 = ([0-9.]+),")
_HYPHEN = re.compile(r"(\S)-(\S)")
_SCORES = ("BLEU", "chrF", "TER", "BLEU_compound", "BLEU_fairseq")
_HYPOTHESIS = re.compile(rb"H-(\d+)\t[^\t]*\t(.*)")


@dataclass(frozen=True)
class Search:
    """How hypotheses are looked for; options of fairseq-generate.

    Attributes:
        beam: hypotheses kept at each step.
        lenpen: length penalty; above 1 favours longer ones.
        batch_size, max_tokens: size of a batch, in sentences and in tokens; None leaves it to the other.
        cpu: stay off the GPU.
    """

    beam: int = 5
    lenpen: float = 1.0
    batch_size: Optional[int] = None
    max_tokens: Optional[int] = None
    cpu: bool = False

    def options(self) -> List[str]:
        """The same as command-line options."""
        options = ["--beam", str(self.beam), "--lenpen", str(self.lenpen)]
        if self.batch_size:
            options += ["--batch-size", str(self.batch_size)]
        if self.max_tokens or not self.batch_size:
            options += ["--max-tokens", str(self.max_tokens or 8_000)]
        return options + (["--cpu"] if self.cpu else [])


@dataclass(frozen=True)
class Scoring:
    """How hypotheses are compared with the references.

    Attributes:
        references: file of raw references, instead of those that `prepare` keeps.
        lowercase: sacrebleu's ``-lc``: BLEU and chrF without case.
        detokenize: the model speaks Moses tokens; they are put together before scoring.
        compound_split: add BLEU_compound: both sides Moses-tokenised and split at compound hyphens.
        samples: resamples of the paired bootstrap.
    """

    references: Optional[str] = None
    lowercase: bool = False
    detokenize: bool = False
    compound_split: bool = False
    samples: int = 1000


@dataclass(frozen=True)
class Translation:
    """What fairseq-generate gave: hypotheses in corpus order, and the score that it prints itself (None without one)."""

    hypotheses: List[str]
    fairseq_bleu: Optional[float]


def evaluate(
    data: str,
    path: str,
    subset: str = "test",
    search: Search = Search(),
    out: Optional[str] = None,
    scoring: Scoring = Scoring(),
    against: Optional[str] = None,
) -> Dict[str, object]:
    """Translates a split, writes OUT/SUBSET.hyp and OUT/SUBSET.json, and returns what the latter says.

    Args:
        data: a folder that `prepare` has made.
        path: a checkpoint, or several separated by ``:`` (an ensemble).
        subset: the split, as ``test``.
        search: see `Search`.
        out: a folder; default: beside the first checkpoint, named after it.
        scoring: see `Scoring`.
        against: checkpoints likewise, or a text file with translations line by line, to be compared with.
    """
    settings = read_record(data)["settings"]
    src, tgt = settings["src"], settings["tgt"]
    references = _read_references(data, subset, tgt, scoring.references)
    checkpoints = _check_checkpoints("--path", path)
    if against is not None and against.endswith(".pt"):
        _check_checkpoints("--against", against)
    others = None if against is None or against.endswith(".pt") else _read_translations(against, len(references))
    metrics = make_metrics(tgt, scoring.lowercase)  # before the long part: it may lack a tokeniser
    moses = Moses(tgt) if scoring.detokenize or scoring.compound_split else None
    out = out or os.path.splitext(checkpoints[0])[0] + ".eval"

    def translate(paths: str) -> Translation:
        found = generate(data, paths, subset, src, tgt, len(references), search)
        return replace(found, hypotheses=list(moses.detokenize(found.hypotheses))) if scoring.detokenize else found

    translation = translate(path)
    hypotheses = translation.hypotheses
    result: Dict[str, object] = score(hypotheses, references, metrics)
    if scoring.compound_split:
        result["BLEU_compound"] = score_compound_split(hypotheses, references, moses)
    if scoring.detokenize and translation.fairseq_bleu is not None:
        result["BLEU_fairseq"] = {
            "score": translation.fairseq_bleu,
            "signature": "fairseq-generate, on the model's own tokens",
        }
    written = {f"{subset}.hyp": hypotheses}
    if against is not None:
        if others is None:
            others = written[f"{subset}.against.hyp"] = translate(against).hypotheses
        compared = compare(hypotheses, others, references, make_metrics(tgt, scoring.lowercase), scoring.samples)
        result["against"] = {"other": against, **compared}
    result.update({"n": len(references), "hypotheses": os.path.join(out, f"{subset}.hyp")})
    for name, lines in written.items():
        write_lines(os.path.join(out, name), lines)
    write_lines(os.path.join(out, f"{subset}.json"), [json.dumps(result, indent=2, ensure_ascii=False)])
    return result


def generate(data: str, path: str, subset: str, src: str, tgt: str, count: int, search: Search) -> Translation:
    """Runs fairseq-generate in a process of its own.

    The task is fairseq's plain `translation`; this package comes along as user dir, so that checkpoints are read with
    the safe loader.
    """
    import fairseq_l2rw

    command = [sys.executable, "-m", "fairseq_cli.generate", data, "--path", path, "--gen-subset", subset]
    command += ["--task", "translation", "--source-lang", src, "--target-lang", tgt]
    command += ["--user-dir", os.path.dirname(os.path.abspath(fairseq_l2rw.__file__))]
    command += ["--post-process", "sentencepiece", "--log-format", "none", *search.options()]
    # With the default of 8, fairseq's batch_by_size drops what is left over in the last batch: up to seven sentences.
    command += ["--required-batch-size-multiple", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}  # unbuffered: the progress bar follows it
    with tempfile.TemporaryFile() as messages:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=messages) as process:
            log: List[bytes] = []
            hypotheses = collect_hypotheses(_watch(process.stdout, f"translating {subset}", count, log), count)
        if process.returncode:
            messages.seek(0)
            _report_failure(process.returncode, log, messages.read())
    missing = [number for number, text in enumerate(hypotheses) if text is None]
    if missing:
        raise L2RWError(
            f"--gen-subset {subset}: fairseq-generate gave {count - len(missing)} of {count} translations (the first "
            f"missing one is of line {missing[0] + 1}); {data} does not fit the raw text beside it, prepare it again"
        )
    scores = [match for line in log if (match := _FAIRSEQ_BLEU.search(line))]
    return Translation(hypotheses, float(scores[-1][1]) if scores else None)


def collect_hypotheses(log: Iterable[bytes], count: int) -> List[Optional[str]]:
    """The best hypothesis of each of `count` sentences in a fairseq-generate log; None where there is none.

    fairseq prints them by length, so they are put back in corpus order. A line ends at ``\\n`` alone: a hypothesis may
    contain what Python's text mode takes for a line end.
    """
    hypotheses: List[Optional[str]] = [None] * count
    for line in log:
        match = _HYPOTHESIS.fullmatch(line.removesuffix(b"\n"))
        if match and int(match[1]) < count and hypotheses[int(match[1])] is None:
            hypotheses[int(match[1])] = match[2].decode("utf-8")
    return hypotheses


def make_metrics(language: str, lowercase: bool = False) -> Dict[str, object]:
    """sacrebleu's BLEU, chrF and TER with the settings of its command; the target language chooses BLEU's tokeniser.

    Raises:
        L2RWError: the tokeniser is not installed.
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    tokenizer = bleu_tokenizer(language)
    try:
        return {"BLEU": BLEU(tokenize=tokenizer, lowercase=lowercase), "chrF": CHRF(lowercase=lowercase), "TER": TER()}
    except (ImportError, RuntimeError) as error:
        extra = tokenizer.split("-")[0]
        raise L2RWError(
            f"BLEU for {language} needs the tokeniser {tokenizer}, which is missing: pip install 'sacrebleu[{extra}]'"
        ) from error


def score(
    hypotheses: Sequence[str], references: Sequence[str], metrics: Dict[str, object]
) -> Dict[str, Dict[str, object]]:
    """Name of the metric -> its corpus score and signature, for raw text line by line.

    BLEU's entry also has the brevity penalty ``bp``, a factor of the score, and ``ratio``, tokens of the hypotheses over
    those of the references.
    """
    scores = {}
    for name, metric in metrics.items():
        result = metric.corpus_score(hypotheses, [references])
        scores[name] = {"score": result.score, "signature": str(metric.get_signature())}
        if name == "BLEU":
            scores[name].update(bp=result.bp, ratio=result.ratio)
    return scores


def compare(
    hypotheses: Sequence[str],
    others: Sequence[str],
    references: Sequence[str],
    metrics: Dict[str, object],
    samples: int,
) -> Dict[str, Dict[str, object]]:
    """sacrebleu's paired bootstrap (Koehn 2004) of two systems on the same references; `others` are its baseline.

    Returns:
        Name of the metric -> score of the others and of ours, 95 % intervals (mean ± ci of the resamples), p value of the
        hypothesis that the difference is chance, signature with sample size and seed (SACREBLEU_SEED, else 12345).
    """
    from sacrebleu.significance import PairedTest

    systems = [("other", others), ("this", hypotheses)]
    signatures, columns = PairedTest(systems, metrics, [references], test_type="bs", n_samples=samples)()
    compared = {}
    for name, theirs in zip(metrics, signatures):  # the test calls chrF chrF2, after its beta
        other, this = columns[theirs]
        compared[name] = {
            "other": {"score": other.score, "mean": float(other.mean), "ci": float(other.ci)},
            "this": {"score": this.score, "mean": float(this.mean), "ci": float(this.ci)},
            # where nothing differs, sacrebleu's count of larger differences is empty and its p value the smallest there is
            "p_value": 1.0 if this.score == other.score else float(this.p_value),
            "signature": str(signatures[theirs]),
        }
    return compared


def score_compound_split(hypotheses: Sequence[str], references: Sequence[str], moses: Moses) -> Dict[str, object]:
    """BLEU as papers on WMT14 English-German give it: Moses tokens, and ``a-b`` counted as ``a ##AT##-##AT## b``.

    Splitting raises the figure; it compares with that literature and with nothing else.
    """
    from sacrebleu.metrics import BLEU

    sides = [
        [_HYPHEN.sub(r"\1 ##AT##-##AT## \2", line) for line in moses.tokenize(side)]
        for side in (hypotheses, references)
    ]
    metric = BLEU(tokenize="none", force=True)
    value = metric.corpus_score(sides[0], [sides[1]]).score
    return {"score": value, "signature": f"{metric.get_signature()}, Moses tokens, split at compound hyphens"}


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokeniser for a target language: ``zh``, ``zh_CN`` and ``zh-Hans`` are all Chinese."""
    return _TOKENIZERS.get(re.split("[-_]", language.lower())[0], "13a")


def format_scores(result: Dict[str, object]) -> str:
    """The result as a few lines of text."""
    lines = [f"{result['n']} sentences, hypotheses in {result['hypotheses']}"]
    width = max(len(name) for name in result if name in _SCORES)
    for name in _SCORES:
        if name in result:
            length = f"  (BP = {result[name]['bp']:.3f}, ratio = {result[name]['ratio']:.3f})" if "bp" in result[name] else ""
            lines.append(f"{name:<{width}} {result[name]['score']:6.2f}  {result[name]['signature']}{length}")
    if "against" in result:
        lines.append(f"against {result['against']['other']} (paired bootstrap):")
        for name, entry in result["against"].items():
            if name != "other":
                this, other = entry["this"], entry["other"]
                lines.append(
                    f"{name:<{width}} {this['score']:6.2f} (95 %: {this['mean']:.2f} ± {this['ci']:.2f}) against "
                    f"{other['score']:.2f} ({other['mean']:.2f} ± {other['ci']:.2f}), p = {entry['p_value']:.4f}"
                )
    return "\n".join(lines)


def _check_checkpoints(option: str, path: str) -> List[str]:
    checkpoints = path.split(os.pathsep)
    for checkpoint in checkpoints:
        if not os.path.isfile(checkpoint):
            raise L2RWError(
                f"{option} {checkpoint}: no such file; give a checkpoint, as checkpoints/checkpoint_last.pt"
            )
    return checkpoints


def _read_references(data: str, subset: str, tgt: str, given: Optional[str]) -> List[str]:
    raw = os.path.join(data_folder(data), "raw")
    path = os.path.join(raw, f"{subset}.{tgt}")
    if not os.path.isfile(path):
        there = sorted(name.removesuffix(f".{tgt}") for name in os.listdir(raw) if name.endswith(f".{tgt}"))
        raise L2RWError(f"--gen-subset {subset}: no such split in {data}; choose from {', '.join(there)}")
    if subset == "train":
        raise L2RWError("--gen-subset train: its raw text was cleaned before it was binarised; choose another split")
    references = list(read_lines(path))
    if given is None:
        return references
    others = list(read_lines(given))
    if len(others) != len(references):
        raise L2RWError(f"--references {given}: {len(others)} lines, and the split {subset} has {len(references)}")
    return others


def _read_translations(path: str, count: int) -> List[str]:
    lines = list(read_lines(path))
    if len(lines) != count:
        raise L2RWError(
            f"--against {path}: {len(lines)} lines, and {count} sentences are translated; give a checkpoint (.pt) or a file "
            "with one translation a line"
        )
    return lines


def _watch(lines: Iterable[bytes], what: str, count: int, log: List[bytes]) -> Iterator[bytes]:
    """Passes the lines on with a progress bar, and keeps those that are messages."""
    from tqdm import tqdm

    with tqdm(total=count, desc=what, unit=" sentences", mininterval=1.0, leave=False) as bar:
        for line in lines:
            if line.startswith(b"H-"):
                bar.update()
            elif not re.match(rb"[STDPAEIR]-\d+\t", line):
                log.append(line)
            yield line


def _report_failure(status: int, log: Sequence[bytes], messages: bytes) -> None:
    """Shows what fairseq-generate said and raises with its last line; an error of ours is passed on as it is."""
    text = messages.decode("utf-8", "replace").strip()
    last = text.splitlines()[-1] if text else f"exit status {status}"
    if last.startswith(PREFIX):
        raise L2RWError(last.removeprefix(PREFIX))
    sys.stderr.write(b"".join(log).decode("utf-8", "replace") + text + "\n")
    raise L2RWError(f"fairseq-generate failed: {last}; its messages stand above")
