"""``fairseq-l2rw filter``: keeps the best part of a raw bitext by the weights of its pairs."""

import json

from fairseq_l2rw.cli.types import natural_number

NAME = "filter"
HELP = "keep the best part of a raw bitext by weight"
EXAMPLE = """
fairseq-l2rw filter --weights weights.tsv --input corpus/train.de corpus/train.en --out best.de best.en --keep 0.7
fairseq-l2rw filter --weights crawl.scores --input crawl.tsv --out best.tsv --tokens 50000000
"""


def add_arguments(parser):
    parser.add_argument("--weights", required=True, metavar="FILE",
                        help="what 'fairseq-l2rw weights' wrote, in any of its formats, for every raw line")  # fmt: skip
    parser.add_argument("--input", required=True, nargs="+", metavar="FILE",
                        help="the raw source file and target file, or one TSV file; .gz is read as gzip")  # fmt: skip
    parser.add_argument("--scol", type=natural_number, default=1, metavar="N",
                        help="column of the source in that TSV (default: %(default)s)")  # fmt: skip
    parser.add_argument("--tcol", type=natural_number, default=2, metavar="N",
                        help="column of the target (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", required=True, nargs="+", metavar="FILE",
                        help="as many files to write, in the same order; lines are unchanged; .gz is written as gzip")  # fmt: skip
    rule = parser.add_mutually_exclusive_group(required=True)
    rule.add_argument("--keep", type=float, metavar="PART",
                      help="keep this part of the raw lines, 0 to 1, those with the highest weights (exactly as many; of "
                           "lines with equal weights the first ones)")  # fmt: skip
    rule.add_argument("--threshold", type=float, metavar="W", help="keep lines with a weight of W or more")
    rule.add_argument("--tokens", type=natural_number, metavar="N",
                      help="keep the lines with the highest weights that have N words on the target side in all (split at "
                           "spaces)")  # fmt: skip
    parser.add_argument("--column", metavar="NAME",
                        help="column of the weights to go by, as weight_misaligned (default: weight, or gain)")  # fmt: skip
    parser.add_argument("--labels", metavar="TSV", help="id and kind of noise of each raw line: kept lines of each kind")


def run(args):
    from fairseq_l2rw.corpus.filter import Rule, Text, filter_bitext
    from fairseq_l2rw.errors import L2RWError

    if len(args.input) > 2:
        raise L2RWError("--input: give one TSV file, or the source file and the target file")
    text = Text(tuple(args.input), (args.scol, args.tcol))
    rule = Rule(args.keep, args.threshold, args.tokens)
    account = filter_bitext(args.weights, text, args.out, rule, args.column, args.labels)
    print(json.dumps({**account, "out": args.out}, indent=2, ensure_ascii=False))
