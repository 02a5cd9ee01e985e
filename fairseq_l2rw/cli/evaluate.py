"""``fairseq-l2rw evaluate``: translates a split and scores it with sacrebleu against the raw references."""

import argparse
import json

from fairseq_l2rw.cli.types import natural_number

NAME = "evaluate"
HELP = "translate a split with a checkpoint and score it with sacrebleu (BLEU, chrF, TER) against the raw references"
EXAMPLE = (
    "fairseq-l2rw evaluate data --path checkpoints/checkpoint_last.pt --gen-subset test --json\n"
    "fairseq-l2rw evaluate data --path deep/average.pt --against uniform/average.pt"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder that 'fairseq-l2rw prepare' has made")
    parser.add_argument(
        "--path", required=True, metavar="CHECKPOINT", help="checkpoint, or several joined by ':' as an ensemble"
    )
    parser.add_argument(
        "--gen-subset", default="test", metavar="SPLIT", help="split to translate (default: %(default)s)"
    )
    parser.add_argument("--beam", type=natural_number, default=5, metavar="N", help="beam size (default: %(default)s)")
    parser.add_argument("--lenpen", type=float, default=1.0, metavar="X", help="length penalty (default: %(default)s)")
    parser.add_argument("--batch-size", type=natural_number, metavar="N", help="sentences in a batch")
    parser.add_argument("--max-tokens", type=natural_number, metavar="N", help="tokens in a batch (default: 8000)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU (default: use it if there is one)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for SPLIT.hyp and SPLIT.json (default: CHECKPOINT's name with .eval)"
    )
    parser.add_argument("--against", metavar="OTHER",
                        help="compare with this by a paired bootstrap: a checkpoint (.pt), which is translated with too, "
                             "or a file with one translation a line")  # fmt: skip
    parser.add_argument("--samples", type=natural_number, default=1000, metavar="N",
                        help="resamples of the bootstrap (default: %(default)s)")  # fmt: skip
    parser.add_argument("--references", metavar="FILE", help="raw references (default: those that 'prepare' keeps)")
    parser.add_argument("-lc", "--lowercase", action="store_true", help="score without case, as sacrebleu's -lc")
    parser.add_argument("--detokenize", action="store_true",
                        help="the model was trained on Moses tokens: put them together before scoring; fairseq's own BLEU, "
                             "of the tokens, is given as well")  # fmt: skip
    parser.add_argument("--compound-split", action="store_true",
                        help="add BLEU with both sides Moses-tokenised and split at compound hyphens, to compare with the "
                             "literature on WMT14 English-German")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.translation.evaluate import Scoring, Search, evaluate, format_scores

    search = Search(args.beam, args.lenpen, args.batch_size, args.max_tokens, args.cpu)
    scoring = Scoring(args.references, args.lowercase, args.detokenize, args.compound_split, args.samples)
    result = evaluate(args.data, args.path, args.gen_subset, search, args.out, scoring, args.against)
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else format_scores(result))
