"""A corpus that ``prepare --shards`` has dealt out to several folders."""

import re

from fairseq_l2rw.corpus.prepare import Settings, prepare
from integration.commands import TEACHER, TRANSFORMER, train


def test_training_takes_one_shard_an_epoch(corpus, tmp_path):
    prefixes = {split: str(corpus / split) for split in ("train", "valid")}
    settings = Settings("de", "en", vocab_size=300, meta_size=30, shards=2)
    argument = prepare(str(tmp_path / "data"), prefixes, settings)["data"]
    options = [*TRANSFORMER, *TEACHER, "--meta-start", 0, "--max-epoch", 2, "--max-tokens", 4000, "--no-save"]
    log = train(argument, tmp_path / "save", *options).stdout
    loaded = re.findall(r"loaded ([\d,]+) examples from: .*/(shard\d)/train\.de-en\.de", log)
    assert [shard for _, shard in loaded[:2]] == ["shard0", "shard1"]  # and the one of an epoch that does not come
    assert sum(int(count.replace(",", "")) for count, _ in loaded[:2]) == 599
    assert "dev batches from 'meta' (30 pairs)" in log
