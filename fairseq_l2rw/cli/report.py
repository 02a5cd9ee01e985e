"""``fairseq-l2rw report``: one HTML page about a run, or about several beside each other."""

import json
import os

from fairseq_l2rw.cli.types import natural_number

NAME = "report"
HELP = (
    "write an HTML page about a run (also while it goes on), or about several: scores, weights, curves, pairs, options"
)
EXAMPLE = "fairseq-l2rw report runs/deep runs/uniform --out report.html"


def add_arguments(parser):
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+",
                        help="--save-dir of a training; read in it: train.log (else another .log), eval/*.json as "
                             "'evaluate --out RUN_DIR/eval' writes it, weights.tsv, influence*.gz")  # fmt: skip
    parser.add_argument("--out", metavar="HTML", help="file to write (default: report.html in RUN_DIR; of several, in the "
                                                      "folder that they have in common)")  # fmt: skip
    parser.add_argument("--labels", metavar="TSV",
                        help="id and kind of noise of each raw line (default: train.labels.tsv in RUN_DIR, or the one that "
                             "'prepare' has kept with the data)")  # fmt: skip
    parser.add_argument("--pairs", type=natural_number, default=10, metavar="N",
                        help="sentence pairs in each list (default: %(default)s)")  # fmt: skip


def run(args):
    from fairseq_l2rw.errors import L2RWError

    try:
        from fairseq_l2rw.report.page import write_page
    except ModuleNotFoundError as error:
        raise L2RWError(f"report needs {error.name}, which is not installed: pip install matplotlib jinja2") from error
    from fairseq_l2rw.report.run import read_runs

    out = args.out or os.path.join(os.path.commonpath([os.path.abspath(run) for run in args.runs]), "report.html")
    write_page(read_runs(args.runs, args.labels), out, args.pairs)
    print(json.dumps({"report": out}, indent=2))
