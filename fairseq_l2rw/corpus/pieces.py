"""Sentencepiece: models from a sample of the text, and text cut into pieces."""

import io
import itertools
import random
from typing import Iterable, Iterator, List, Sequence, Tuple

from fairseq_l2rw.corpus.bitext import Pair, read_lines, write_lines
from fairseq_l2rw.errors import L2RWError

CHUNK = 10_000  # pairs encoded at a time


def train_model(paths: Sequence[str], part: float, seed: int, vocab_size: int, normalization: str) -> bytes:
    """Fits a BPE model on a sample of the lines of all `paths`.

    On one thread: the model file records their number, and it should not depend on the machine.

    Args:
        part: of the lines, drawn one by one; 1 takes all.
        seed: which lines these are.
        vocab_size: most pieces of the model; it has fewer where the text has fewer.
        normalization: sentencepiece's normalisation rule.

    Raises:
        L2RWError: there are more characters than pieces, or sentencepiece finds no fault but does not go on.
    """
    import sentencepiece

    def sentences() -> Iterator[str]:
        for path in paths:
            draw = random.Random(f"sentencepiece {seed}")  # the same lines of both languages
            yield from (plain_spaces(line) for line in read_lines(path) if part >= 1 or draw.random() < part)

    # Cover every character where that leaves room for words; on web-crawled text it does not.
    alphabet = {character for sentence in sentences() for character in sentence}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0 if len(alphabet) <= vocab_size // 4 else 0.9995,
            normalization_rule_name=normalization,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if "required_chars" in str(error):
            raise L2RWError(
                f"--vocab-size {vocab_size}: the text has {len(alphabet)} different characters and each needs "
                "a piece; give more"
            ) from error
        raise L2RWError(f"sentencepiece: {' '.join(str(error).split())}; check the training text") from error
    return model.getvalue()


def save_model(model: bytes, path: str) -> int:
    """Writes the model and, to be read by people, its pieces and their scores; returns their number."""
    import sentencepiece

    with open(path, "wb") as handle:
        handle.write(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = range(processor.get_piece_size())
    vocabulary = (f"{processor.id_to_piece(piece)}\t{processor.get_score(piece):g}" for piece in pieces)
    return write_lines(path.removesuffix(".model") + ".vocab", vocabulary)


class Encoder:
    """Cuts pairs into pieces, many at a time.

    Args:
        models: path of the model of the source and of the target.
        workers: threads; they do not change the result.
    """

    def __init__(self, models: Sequence[str], workers: int):
        import sentencepiece

        self._workers = workers
        self._models = [sentencepiece.SentencePieceProcessor(model_file=path) for path in models]

    def pairs(self, pairs: Iterable[Pair]) -> Iterator[Tuple[List[str], List[str]]]:
        """Yields the pieces of both sides of each pair."""
        pairs = iter(pairs)
        while chunk := list(itertools.islice(pairs, CHUNK)):
            yield from zip(*(self._encode(model, side) for model, side in zip(self._models, zip(*chunk))))

    def _encode(self, model, texts: Sequence[str]) -> List[List[str]]:
        return model.encode([plain_spaces(text) for text in texts], out_type=str, num_threads=self._workers)


def plain_spaces(text: str) -> str:
    """Single spaces for whatever Unicode calls white space: fairseq would split a piece or a line at some of it."""
    return " ".join(text.split())
