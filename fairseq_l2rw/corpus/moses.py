"""Moses' tokeniser and detokeniser, by the library sacremoses."""

import re
from typing import Iterable, Iterator

from fairseq_l2rw.errors import L2RWError


class Moses:
    """Both for one language: ``de``, ``de_AT`` and ``de-AT`` are all German.

    Raises:
        L2RWError: sacremoses is not installed.
    """

    def __init__(self, language: str):
        try:
            from sacremoses import MosesDetokenizer, MosesTokenizer
        except ImportError as error:
            raise L2RWError("Moses tokens need the library sacremoses: pip install sacremoses") from error
        language = re.split("[-_]", language.lower())[0]
        self._tokenizer, self._detokenizer = MosesTokenizer(language), MosesDetokenizer(language)

    def tokenize(self, lines: Iterable[str]) -> Iterator[str]:
        """Tokens separated by single spaces; ``&``, quotes and brackets are escaped, as Moses does it."""
        return (self._tokenizer.tokenize(line, return_str=True) for line in lines)

    def detokenize(self, lines: Iterable[str]) -> Iterator[str]:
        """Text again, unescaped."""
        return (self._detokenizer.detokenize(line.split()) for line in lines)
