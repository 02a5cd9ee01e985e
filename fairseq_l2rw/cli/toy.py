"""``fairseq-l2rw toy``: a small English-German corpus, clean or with labelled noise in its training part."""

import argparse
import json

from fairseq_l2rw.cli.types import natural_number

NAME = "toy"
HELP = "write a small English-German corpus, with noise if you like"
EXAMPLE = "fairseq-l2rw toy corpus --size 20000 --noise misaligned:0.25,untranslated:0.25"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out", metavar="OUT", help="folder for {train,valid,test}.{de,en} and, with --noise, train.labels.tsv"
    )
    parser.add_argument("--src", default="de", metavar="LANG", help="source language, de or en (default: %(default)s)")
    parser.add_argument(
        "--tgt", default="en", metavar="LANG", help="target language, the other one (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=natural_number, default=20_000, metavar="N", help="training pairs (default: %(default)s)"
    )
    parser.add_argument(
        "--valid-size", type=natural_number, default=1_000, metavar="N", help="validation pairs (default: %(default)s)"
    )
    parser.add_argument(
        "--test-size", type=natural_number, default=500, metavar="N", help="test pairs (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default: %(default)s)")
    parser.add_argument(
        "--noise",
        metavar="KIND:RATE,...",
        help="spoil a part of the training pairs: kinds as for 'fairseq-l2rw corrupt' (default: none)",
    )


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.corpus.corrupt import parse_noise
    from fairseq_l2rw.corpus.toy import write_toy

    noise = parse_noise(args.noise) if args.noise else None
    sizes = {"train": args.size, "valid": args.valid_size, "test": args.test_size}
    print(json.dumps(write_toy(args.out, args.src, args.tgt, sizes, args.seed, noise), indent=2, ensure_ascii=False))
