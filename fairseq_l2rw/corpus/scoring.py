"""A corpus goes through a scorer chunk by chunk: constant memory, in order, in shards, resumable."""

import logging
from dataclasses import asdict
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from fairseq_l2rw.corpus.chunked_file import ChunkedFile
from fairseq_l2rw.corpus.score_files import Layout
from fairseq_l2rw.corpus.score_summary import ScoreSummary
from fairseq_l2rw.corpus.shards import Shard
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)

CHUNK = 10_000  # raw lines that are in memory together; their pairs are sorted by length together

#: lines -> for each, the text of its columns, or None where it has a reason
Scorer = Callable[[Sequence[Any]], List[Optional[Mapping[str, str]]]]


def score_corpus(
    corpus, scorer: Scorer, out: str, layout: Layout, shard: Shard, summary: ScoreSummary, made_from: Dict[str, Any],
    chunk: int = CHUNK,
) -> str:  # fmt: skip
    """Writes the scores of a corpus, or of a shard of it; returns the name of the file.

    What an earlier run with the same settings has left half-written is gone on with. The rows of the shards, joined in
    their order, are those of the whole, to the byte.

    Args:
        corpus: has ``lines``, their number, and ``read(first, last)``.
        scorer: see `Scorer`.
        out: name of the file for the whole corpus.
        layout: what is written.
        shard: which part.
        summary: is told of every row.
        made_from: all else that decides the rows, as plain JSON.
        chunk: lines handled together; part of what decides the last digits.
    """
    from tqdm import tqdm

    todo = shard.chunks(-(-corpus.lines // chunk))
    settings = {"layout": asdict(layout), "shard": asdict(shard), "chunk": chunk, "lines": corpus.lines, **made_from}
    file = ChunkedFile(shard.file_name(out), settings)
    done = min(len(todo) * chunk, file.chunks * chunk)
    if file.chunks:
        logger.info("%s: %d lines are there from an earlier run; going on after them", file.path, done)
        summary.load_state_dict(file.notes)
    if shard.number == 0 and corpus.lines == 0 and not file.chunks:
        file.write(layout.header, summary.state_dict())
    total = max(0, min(todo.stop * chunk, corpus.lines) - todo.start * chunk)
    try:
        with tqdm(total=total, initial=done, desc=layout.number, unit=" pairs", unit_scale=True, leave=False) as bar:
            for number in todo[file.chunks :]:
                lines = corpus.read(number * chunk, min((number + 1) * chunk, corpus.lines))
                cells = scorer(lines)
                summary.add(lines, cells)
                file.write((layout.header if number == 0 else "") + layout.text(lines, cells), summary.state_dict())
                bar.update(len(lines))
    except L2RWError:
        file.discard()
        raise
    file.finish()
    return file.path
