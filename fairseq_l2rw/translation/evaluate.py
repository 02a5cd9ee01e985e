"""Generates with fairseq, and scores against the raw references with sacrebleu.

The references are the raw text that `prepare` keeps, not text put together again from pieces: a score must not depend
on what the segmentation lost.
"""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

from fairseq_l2rw.corpus.bitext import read_lines, write_lines
from fairseq_l2rw.corpus.prepare import read_record
from fairseq_l2rw.errors import PREFIX, L2RWError

logger = logging.getLogger(__name__)

# sacrebleu's tokenisers for languages that do not separate words by spaces (and Korean, whose words are too long).
_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
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


def evaluate(
    data: str, path: str, subset: str = "test", search: Search = Search(), out: Optional[str] = None
) -> Dict[str, object]:
    """Translates a split, writes OUT/SUBSET.hyp and OUT/SUBSET.json, and returns what the latter says.

    Args:
        data: a folder that `prepare` has made.
        path: a checkpoint, or several separated by ``:`` (an ensemble).
        subset: the split, as ``test``.
        search: see `Search`.
        out: a folder; default: beside the first checkpoint, named after it.
    """
    settings = read_record(data)["settings"]
    references = _read_references(data, subset, settings["tgt"])
    checkpoints = path.split(os.pathsep)
    for checkpoint in checkpoints:
        if not os.path.isfile(checkpoint):
            raise L2RWError(f"--path {checkpoint}: no such file; give a checkpoint, as checkpoints/checkpoint_last.pt")
    metrics = make_metrics(settings["tgt"])  # before the long part: it may lack a tokeniser
    out = out or os.path.splitext(checkpoints[0])[0] + ".eval"
    hypotheses = generate(data, path, subset, settings["src"], settings["tgt"], len(references), search)
    scores = score(hypotheses, references, metrics)
    hypotheses_path = os.path.join(out, f"{subset}.hyp")
    write_lines(hypotheses_path, hypotheses)
    result = {**scores, "n": len(references), "hypotheses": hypotheses_path}
    write_lines(os.path.join(out, f"{subset}.json"), [json.dumps(result, indent=2, ensure_ascii=False)])
    return result


def generate(data: str, path: str, subset: str, src: str, tgt: str, count: int, search: Search) -> List[str]:
    """Runs fairseq-generate in a process of its own and returns the `count` detokenised hypotheses, in corpus order.

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
    return hypotheses


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


def make_metrics(language: str) -> Dict[str, object]:
    """sacrebleu's BLEU, chrF and TER with the settings of its command; the target language chooses BLEU's tokeniser."""
    from sacrebleu.metrics import BLEU, CHRF, TER

    tokenizer = bleu_tokenizer(language)
    try:
        return {"BLEU": BLEU(tokenize=tokenizer), "chrF": CHRF(), "TER": TER()}
    except (ImportError, RuntimeError) as error:
        extra = tokenizer.split("-")[0]
        raise L2RWError(
            f"BLEU for {language} needs the tokeniser {tokenizer}, which is missing: pip install 'sacrebleu[{extra}]'"
        ) from error


def score(
    hypotheses: Sequence[str], references: Sequence[str], metrics: Dict[str, object]
) -> Dict[str, Dict[str, object]]:
    """Name of the metric -> its corpus score and signature, for raw text line by line."""
    scores = {}
    for name, metric in metrics.items():
        result = metric.corpus_score(hypotheses, [references])
        scores[name] = {"score": result.score, "signature": str(metric.get_signature())}
    return scores


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokeniser for a target language: ``zh``, ``zh_CN`` and ``zh-Hans`` are all Chinese."""
    return _TOKENIZERS.get(re.split("[-_]", language.lower())[0], "13a")


def format_scores(result: Dict[str, object]) -> str:
    """The result as a few lines of text."""
    lines = [f"{name:<5} {result[name]['score']:6.2f}  {result[name]['signature']}" for name in ("BLEU", "chrF", "TER")]
    return "\n".join([f"{result['n']} sentences, hypotheses in {result['hypotheses']}", *lines])


def _read_references(data: str, subset: str, tgt: str) -> List[str]:
    raw = os.path.join(data, "raw")
    path = os.path.join(raw, f"{subset}.{tgt}")
    if not os.path.isfile(path):
        there = sorted(name.removesuffix(f".{tgt}") for name in os.listdir(raw) if name.endswith(f".{tgt}"))
        raise L2RWError(f"--gen-subset {subset}: no such split in {data}; choose from {', '.join(there)}")
    if subset == "train":
        raise L2RWError("--gen-subset train: its raw text was cleaned before it was binarised; choose another split")
    return list(read_lines(path))


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
