"""``fairseq-l2rw prepare``: cleaning, sentencepiece and fairseq-preprocess in one step."""

import argparse
import json

from fairseq_l2rw.cli.types import natural_number

NAME = "prepare"
HELP = "turn raw parallel text into a data folder for fairseq (cleaning, sentencepiece, fairseq-preprocess)"
EXAMPLE = (
    "fairseq-l2rw prepare --src de --tgt en --train corpus/train --valid corpus/valid --test corpus/test "
    "--meta-size 500 --out data\n"
    "fairseq-l2rw prepare --src de --tgt en --train crawl.tsv.zst --columns 3,4 --valid dev --meta trusted "
    "--vocab-size 32000 --shards 8 --workers 16 --out data"
)
NORMALIZATIONS = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--src", required=True, metavar="LANG", help="source language, the ending of its raw files")
    parser.add_argument("--tgt", required=True, metavar="LANG", help="target language")
    files = "PREFIX.LANG for both languages, or a table PREFIX.tsv; plain, .gz or .zst"
    parser.add_argument("--train", required=True, metavar="PREFIX", help=f"training text: {files}")
    parser.add_argument("--valid", required=True, metavar="PREFIX", help="validation text, likewise; never cleaned")
    parser.add_argument("--test", metavar="PREFIX", help="test text, likewise; never cleaned")
    meta = parser.add_mutually_exclusive_group()
    meta.add_argument("--meta", metavar="PREFIX", help="trusted text for the teacher, as a split 'meta' of its own")
    meta.add_argument("--meta-size", type=natural_number, default=0, metavar="N",
                      help="cut N pairs off the validation text for it instead")  # fmt: skip
    parser.add_argument("--columns", type=_two_numbers, default=(1, 2), metavar="SRC,TGT",
                        help="columns of a table, counted from 1 (default: 1,2)")  # fmt: skip
    parser.add_argument(
        "--out", required=True, metavar="DATA", help="folder to make; after a kill the same command goes on"
    )

    pieces = parser.add_argument_group("pieces")
    pieces.add_argument("--vocab-size", type=natural_number, default=6000, metavar="N",
                        help="most pieces of a model (default: %(default)s)")  # fmt: skip
    models = pieces.add_mutually_exclusive_group()
    models.add_argument("--joint", dest="joint", action="store_true", default=True,
                        help="one model and dictionary for both languages (default)")  # fmt: skip
    models.add_argument(
        "--separate", dest="joint", action="store_false", help="a model and a dictionary for each language"
    )
    pieces.add_argument("--normalization", choices=NORMALIZATIONS, default="nmt_nfkc",
                        help="of sentencepiece (default: %(default)s)")  # fmt: skip
    pieces.add_argument("--sample", type=natural_number, default=1_000_000, metavar="N",
                        help="sentences that sentencepiece is trained on, at most (default: %(default)s)")  # fmt: skip
    pieces.add_argument("--seed", type=int, default=1,
                        help="which sentences these are, and which pairs --meta-size takes (default: %(default)s)")  # fmt: skip

    cleaning = parser.add_argument_group(
        "cleaning",
        "Of the training text alone, by whole pairs; the text itself stays as it is. Pairs with an empty side always go. "
        "Where PREFIX.labels.tsv says what 'corrupt' did to each line, a noise experiment is under way: duplicates and "
        "--max-ratio, which would take a part of its noise away, are off unless you ask for them, and the counts say how "
        "many pairs of each kind went.",
    )
    cleaning.add_argument("--max-pieces", type=int, default=250, metavar="N",
                          help="drop pairs with a longer side; 0: off (default: %(default)s)")  # fmt: skip
    cleaning.add_argument("--max-ratio", type=float, metavar="R",
                          help="drop pairs with one side more than R times as long as the other, in pieces; 0: off "
                               "(default: 1.5)")  # fmt: skip
    cleaning.add_argument("--duplicates", choices=("drop", "keep"), help="pairs that were there before (default: drop)")
    cleaning.add_argument("--held-out", choices=("drop", "keep"), default="drop",
                          help="pairs that are in the validation, test or meta text as well (default: %(default)s)")  # fmt: skip
    cleaning.add_argument("--no-clean", action="store_true", help="keep every pair but the empty ones")

    size = parser.add_argument_group("size")
    size.add_argument("--shards", type=natural_number, default=1, metavar="N",
                      help="deal the training pairs out to DATA/shard0, DATA/shard1, ...; fairseq-train then takes one an "
                           "epoch, from DATA/shard0:DATA/shard1:... (default: %(default)s)")  # fmt: skip
    size.add_argument("--workers", type=natural_number, default=1, metavar="N",
                      help="processes; the result is the same (default: %(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.corpus.prepare import Settings, prepare
    from fairseq_l2rw.errors import L2RWError

    prefixes = {split: getattr(args, split) for split in ("train", "valid", "test", "meta") if getattr(args, split)}
    cleaning = {
        "max_pieces": args.max_pieces,
        "max_ratio": args.max_ratio,
        "drop_duplicates": None if args.duplicates is None else args.duplicates == "drop",
        "drop_held_out": args.held_out == "drop",
    }
    if args.no_clean:
        if args.max_ratio or args.duplicates == "drop":
            raise L2RWError(
                "--no-clean: keeps what --max-ratio and --duplicates drop would take; give one or the other"
            )
        cleaning = {"max_pieces": 0, "max_ratio": 0.0, "drop_duplicates": False, "drop_held_out": False}
    names = ("src", "tgt", "vocab_size", "joint", "meta_size", "seed", "normalization", "sample", "shards", "columns")
    settings = Settings(**{name: getattr(args, name) for name in names}, **cleaning)
    print(json.dumps(prepare(args.out, prefixes, settings, args.workers), indent=2, ensure_ascii=False))


def _two_numbers(text: str):
    try:
        first, second = (natural_number(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not two column numbers, as 1,2") from None
    return first, second
