"""``fairseq-l2rw corrupt``: spoils a part of a raw bitext and writes down what was done to each line."""

import argparse
import json

NAME = "corrupt"
HELP = "add noise to a raw bitext, with a label file that says what was done to each line"
EXAMPLE = (
    "fairseq-l2rw corrupt --src train.de --tgt train.en --out-src noisy.de --out-tgt noisy.en "
    "--labels noisy.labels.tsv --noise misaligned:0.25,untranslated:0.25"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from fairseq_l2rw.corpus.corrupt import KINDS

    parser.add_argument("--src", required=True, metavar="FILE", help="raw source text; .gz is read as gzip")
    parser.add_argument("--tgt", required=True, metavar="FILE", help="raw target text, line by line its translation")
    parser.add_argument(
        "--out-src", required=True, metavar="FILE", help="where the source goes; .gz is written as gzip"
    )
    parser.add_argument("--out-tgt", required=True, metavar="FILE", help="where the target goes")
    parser.add_argument(
        "--labels", required=True, metavar="FILE", help="where the labels go, as TSV: id (0-based line), kind"
    )
    parser.add_argument(
        "--noise",
        required=True,
        metavar="KIND:RATE,...",
        help=f"the part of the pairs for each kind: {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--third",
        metavar="FILE",
        help="text in a third language, for wrong-language: its line N replaces the target of pair N; a shorter text "
        "begins again at its end",
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.corpus.corrupt import corrupt_files, parse_noise

    kinds = corrupt_files(
        args.src, args.tgt, args.out_src, args.out_tgt, args.labels, parse_noise(args.noise), args.seed, args.third
    )
    print(json.dumps({"kinds": kinds, "labels": args.labels}, indent=2, ensure_ascii=False))
