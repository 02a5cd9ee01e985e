"""``fairseq-l2rw average``: the mean of several checkpoints."""

import argparse
import json
import os

from fairseq_l2rw.cli.types import natural_number

NAME = "average"
HELP = "write the mean of several checkpoints of one training, for translating; the teacher is left out"
EXAMPLE = (
    "fairseq-l2rw average checkpoints --last 5 --out checkpoints/average.pt\n"
    "fairseq-l2rw average checkpoints/checkpoint8.pt checkpoints/checkpoint9.pt --out average.pt"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="checkpoints; or, with --last, one save folder")
    parser.add_argument("--last", type=natural_number, metavar="N", help="the last N checkpoints of the save folder")
    parser.add_argument("--by", choices=("epoch", "update"),
                        help="which ones count for --last: checkpointN.pt or checkpoint_E_N.pt (default: what is there)")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="CHECKPOINT", help="file to write")


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.errors import L2RWError

    folders = [path for path in args.inputs if os.path.isdir(path)]
    missing = [path for path in args.inputs if not os.path.exists(path)]
    if missing:
        raise L2RWError(
            f"{missing[0]}: no such file; give checkpoints, as checkpoints/checkpoint5.pt, or a folder and --last"
        )
    if args.last and (len(args.inputs) > 1 or not folders):
        raise L2RWError("--last: takes one save folder; without --last, name the checkpoints")
    if folders and not args.last:
        raise L2RWError(f"{folders[0]}: a folder; say how many of its checkpoints with --last")

    from fairseq_l2rw.translation.average import average_checkpoints, last_checkpoints

    paths = last_checkpoints(args.inputs[0], args.last, args.by) if args.last else args.inputs
    print(json.dumps(average_checkpoints(paths, args.out), indent=2, ensure_ascii=False))
