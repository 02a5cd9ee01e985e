"""What decides the result of ``fairseq-l2rw prepare``, beside the text itself."""

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple


@dataclass(frozen=True)
class Settings:
    """Options of the command.

    Attributes:
        src, tgt: languages, the endings of the raw files.
        vocab_size: most pieces that a sentencepiece model may have; it has fewer where the text has fewer.
        joint: one model and one dictionary for both languages.
        meta_size: pairs cut off the validation set for the teacher; 0 for none.
        seed: which pairs these are, and which sentences sentencepiece sees.
        max_pieces: training pairs with a longer side are dropped; 0 drops none.
        max_ratio: training pairs whose sides differ more, in pieces, are dropped; 0 drops none. None: 1.5, but 0 where a
            label file stands beside the text, because a noise experiment would lose its noise.
        drop_duplicates: drop training pairs that were there before. None: yes, but no where there is a label file.
        drop_held_out: drop training pairs that are in another split.
        normalization: sentencepiece's normalisation rule.
        sample: sentences that sentencepiece is trained on, at most (drawn one by one, so it may be a few more or less).
        shards: folders that the training pairs are dealt out to.
        columns: of a TSV, the columns of source and target, counted from 1.
    """

    src: str
    tgt: str
    vocab_size: int = 6000
    joint: bool = True
    meta_size: int = 0
    seed: int = 1
    max_pieces: int = 250
    max_ratio: Optional[float] = None
    drop_duplicates: Optional[bool] = None
    drop_held_out: bool = True
    normalization: str = "nmt_nfkc"
    sample: int = 1_000_000
    shards: int = 1
    columns: Tuple[int, int] = (1, 2)

    @property
    def languages(self) -> Tuple[str, str]:
        return self.src, self.tgt

    @property
    def shard_names(self) -> List[str]:
        """The shards' folders in DATA; none where DATA has the training pairs itself."""
        return [f"shard{number}" for number in range(self.shards)] if self.shards > 1 else []

    def resolve(self, labelled: bool) -> "Settings":
        """The same without None."""
        ratio = self.max_ratio if self.max_ratio is not None else 0.0 if labelled else 1.5
        duplicates = self.drop_duplicates if self.drop_duplicates is not None else not labelled
        return replace(self, max_ratio=ratio, drop_duplicates=duplicates)

    @property
    def models(self) -> Dict[str, str]:
        """Language -> file name of its sentencepiece model in DATA."""
        return {lang: "spm.model" if self.joint else f"spm.{lang}.model" for lang in self.languages}
