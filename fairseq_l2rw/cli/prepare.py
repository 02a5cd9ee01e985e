"""``fairseq-l2rw prepare``: sentencepiece and fairseq-preprocess in one step."""

import argparse
import json

from fairseq_l2rw.cli.types import natural_number

NAME = "prepare"
HELP = "turn raw parallel text into a data folder for fairseq (cleaning, sentencepiece, fairseq-preprocess)"
EXAMPLE = (
    "fairseq-l2rw prepare --src de --tgt en --train corpus/train --valid corpus/valid --test corpus/test "
    "--meta-size 500 --out data"
)
NORMALIZATIONS = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--src", required=True, metavar="LANG", help="source language, the ending of its raw files")
    parser.add_argument("--tgt", required=True, metavar="LANG", help="target language")
    for split, what in (("train", "training"), ("valid", "validation"), ("test", "test")):
        parser.add_argument(
            f"--{split}",
            required=True,
            metavar="PREFIX",
            help=f"{what} text: PREFIX.LANG or PREFIX.LANG.gz, for both languages",
        )
    meta = parser.add_mutually_exclusive_group()
    meta.add_argument("--meta", metavar="PREFIX", help="trusted text for the teacher, as a split 'meta' of its own")
    meta.add_argument(
        "--meta-size",
        type=natural_number,
        default=0,
        metavar="N",
        help="cut N pairs off the validation text for it instead",
    )
    parser.add_argument("--out", required=True, metavar="DATA", help="folder to make")
    parser.add_argument(
        "--vocab-size",
        type=natural_number,
        default=6000,
        metavar="N",
        help="most pieces of a model (default: %(default)s)",
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--joint",
        dest="joint",
        action="store_true",
        default=True,
        help="one model and dictionary for both languages (default)",
    )
    models.add_argument(
        "--separate", dest="joint", action="store_false", help="a model and a dictionary for each language"
    )
    parser.add_argument(
        "--max-pieces",
        type=natural_number,
        default=250,
        metavar="N",
        help="drop longer training pairs (default: %(default)s)",
    )
    parser.add_argument(
        "--max-ratio",
        type=float,
        default=0,
        metavar="R",
        help="drop training pairs with one side more than R times as long as the other, in pieces; 0: off (default)",
    )
    parser.add_argument(
        "--normalization", choices=NORMALIZATIONS, default="nmt_nfkc", help="of sentencepiece (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which pairs --meta-size takes (default: %(default)s)")
    parser.add_argument(
        "--workers",
        type=natural_number,
        default=1,
        metavar="N",
        help="processes; the result is the same (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.corpus.prepare import Settings, prepare

    prefixes = {"train": args.train, "valid": args.valid, "test": args.test}
    if args.meta:
        prefixes["meta"] = args.meta
    names = ("src", "tgt", "vocab_size", "joint", "meta_size", "seed", "max_pieces", "max_ratio", "normalization")
    settings = Settings(**{name: getattr(args, name) for name in names})
    print(json.dumps(prepare(args.out, prefixes, settings, args.workers), indent=2, ensure_ascii=False))
