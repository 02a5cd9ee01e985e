"""``fairseq-l2rw evaluate``: translates a split and scores it with sacrebleu against the raw references."""

import argparse
import json

from fairseq_l2rw.cli.types import natural_number

NAME = "evaluate"
HELP = "translate a split with a checkpoint and score it with sacrebleu (BLEU, chrF, TER) against the raw references"
EXAMPLE = "fairseq-l2rw evaluate data --path checkpoints/checkpoint_last.pt --gen-subset test --json"


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
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.translation.evaluate import Search, evaluate, format_scores

    search = Search(args.beam, args.lenpen, args.batch_size, args.max_tokens, args.cpu)
    result = evaluate(args.data, args.path, args.gen_subset, search, args.out)
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else format_scores(result))
