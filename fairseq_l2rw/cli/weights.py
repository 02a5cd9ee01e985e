"""``fairseq-l2rw weights``: the teacher's weight of every pair of a binarised split or of raw text."""

import json
import logging
import os

from fairseq_l2rw.cli.types import natural_number, whole_number

NAME = "weights"
HELP = "write the teacher's weight of every sentence pair"
EXAMPLE = """
fairseq-l2rw weights data --path checkpoints/checkpoint_last.pt --out weights.tsv
fairseq-l2rw weights data --path checkpoints/checkpoint_last.pt --input crawl.tsv --format append --out crawl.weights.tsv
fairseq-l2rw weights data --from-log influence.tsv.gz --out gains.tsv
"""


def add_arguments(parser):
    parser.add_argument("data", metavar="DATA", help="folder of binarised data, as fairseq-l2rw prepare makes it")
    parser.add_argument("--path", metavar="CHECKPOINT[:CHECKPOINT...]",
                        help="a checkpoint of --task l2rw_translation; of several, as of trainings with different seeds, the "
                             "mean of their weights is taken, which separates better")  # fmt: skip
    parser.add_argument("--from-log", metavar="FILE",
                        help="instead: sum up what --influence-log wrote during training, at no extra pass: 'gain', what each "
                             "pair did for the dev objective (nats per token; higher is better, 0: never seen)")  # fmt: skip
    parser.add_argument("--gen-subset", default="train", metavar="SPLIT", help="split to weigh (default: %(default)s)")
    parser.add_argument("--input", nargs="+", metavar="FILE",
                        help="weigh raw text instead: a TSV file, or the source file and the target file; .gz is read as gzip")  # fmt: skip
    parser.add_argument("--scol", type=natural_number, default=1, metavar="N",
                        help="column of the source in that TSV (default: %(default)s)")  # fmt: skip
    parser.add_argument("--tcol", type=natural_number, default=2, metavar="N",
                        help="column of the target (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sentencepiece", nargs="+", metavar="MODEL",
                        help="one model for both languages, or one for each (default: those in DATA)")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE",
                        help="file to write, a row for every raw line; .gz is written as gzip")  # fmt: skip
    parser.add_argument("--format", choices=("tsv", "scores", "append"), default="tsv",
                        help="tsv: columns under a header; scores: one number a line, as Marian and OpusFilter read it; "
                             "append: one more column on the input (default: %(default)s)")  # fmt: skip
    parser.add_argument("--columns", metavar="NAME,...",
                        help="columns of tsv (default: all): id (raw line, from 0), weight, weight_KIND for each head, loss "
                             "(nats per target token), reason (why a line has no weight), source, target")  # fmt: skip
    parser.add_argument("--labels", metavar="TSV",
                        help="id and kind of noise of each raw line, as 'toy' and 'corrupt' write them: summed up by "
                             "kind, with the area under the ROC curve of 1 - weight as a detector of noise")  # fmt: skip
    parser.add_argument("--max-tokens", type=natural_number, default=8000, metavar="N",
                        help="size of a batch in tokens (default: %(default)s)")  # fmt: skip
    parser.add_argument("--chunk", type=natural_number, default=10_000, metavar="N",
                        help="lines in memory at a time; the same for all shards (default: %(default)s)")  # fmt: skip
    parser.add_argument("--num-shards", type=natural_number, metavar="N",
                        help="parts that the corpus is cut into, for as many processes; each writes OUT.NUMBER-of-N "
                             "(default: what torchrun or a SLURM array says, else 1)")  # fmt: skip
    parser.add_argument("--shard-id", type=whole_number, metavar="I", help="the part to do, from 0")
    parser.add_argument("--cpu", action="store_true", help="stay off the GPU")


def run(args):
    from fairseq_l2rw.corpus.lines import iter_labels
    from fairseq_l2rw.corpus.score_files import Layout, choose_columns
    from fairseq_l2rw.corpus.score_summary import ScoreSummary
    from fairseq_l2rw.corpus.scoring import score_corpus
    from fairseq_l2rw.corpus.shards import choose_shard

    _check(args)
    shard, source = choose_shard(args.num_shards, args.shard_id)
    labels = iter_labels(args.labels) if args.labels else None
    corpus, scorer, number, columns, made_from = _from_log(args) if args.from_log else _from_checkpoint(args)
    layout = Layout(args.format, number, choose_columns(args.columns, columns))
    if shard.count > 1:
        logging.getLogger(__name__).info("shard %d of %d (%s)", shard.number, shard.count, source)
    summary = ScoreSummary(number, labels, args.labels or "")
    made_from = {**made_from, "data": os.path.abspath(args.data), "labels": args.labels}
    path = score_corpus(corpus, scorer, args.out, layout, shard, summary, made_from, args.chunk)
    print(json.dumps({**summary.result(), "weights": path}, indent=2, ensure_ascii=False))


def _check(args):
    from fairseq_l2rw.errors import L2RWError

    if (args.path is None) == (args.from_log is None):
        raise L2RWError("give one of --path CHECKPOINT (weigh now) and --from-log FILE (sum up what training logged)")
    for path in _checkpoints(args):
        if not os.path.isfile(path):
            raise L2RWError(f"--path {path}: no such file; give a checkpoint, as checkpoints/checkpoint_last.pt")
    if args.from_log and args.input:
        raise L2RWError("--input: the log of a training is about its own corpus; leave --input out")
    if args.input and len(args.input) > 2:
        raise L2RWError("--input: give one TSV file, or the source file and the target file")
    if args.columns and args.format != "tsv":
        raise L2RWError(f"--columns: --format {args.format} has none; leave it out")
    for path in [*(args.input or []), *(args.sentencepiece or [])]:
        if not os.path.isfile(path):
            raise L2RWError(f"{path}: no such file; check the name")
        if os.path.realpath(path) == os.path.realpath(args.out):
            raise L2RWError(f"--out {args.out}: the same file as the input; give it a name of its own")


def _checkpoints(args):
    """Separated as fairseq-generate has it, but for one file whose name has a colon."""
    if args.path is None:
        return []
    return [args.path] if os.path.isfile(args.path) else args.path.split(os.pathsep)


def _from_log(args):
    from fairseq_l2rw.corpus.chunked_file import identity
    from fairseq_l2rw.corpus.influence_sum import NUMBER, InfluenceSum
    from fairseq_l2rw.translation.corpora import BinarisedCorpus

    corpus = BinarisedCorpus(args.data, args.gen_subset)
    folder = os.path.dirname(os.path.abspath(args.out))
    os.makedirs(folder, exist_ok=True)
    sums = InfluenceSum(args.from_log, corpus.lines, folder)
    made_from = {"log": identity(args.from_log), "split": args.gen_subset}
    return corpus, sums.score, NUMBER, sums.columns, made_from


def _from_checkpoint(args):
    from fairseq_l2rw.corpus.chunked_file import identity
    from fairseq_l2rw.translation.corpora import BinarisedCorpus, RawCorpus, dictionary_folder, sentencepiece_paths
    from fairseq_l2rw.translation.weigher_ensemble import WeigherEnsemble
    from fairseq_l2rw.translation.weights import Weigher, WeightScorer

    corpus = None if args.input else BinarisedCorpus(args.data, args.gen_subset)
    device = "cpu" if args.cpu else None
    if device is None and "LOCAL_RANK" in os.environ:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else None
    paths = _checkpoints(args)
    folder = dictionary_folder(args.data)
    weigher = Weigher(folder, paths[0], device) if len(paths) == 1 else WeigherEnsemble(folder, paths, device)
    if args.input:
        models = args.sentencepiece or sentencepiece_paths(args.data, weigher.languages)
        models = models * 2 if len(models) == 1 else models
        corpus = RawCorpus(args.input, (args.scol, args.tcol), models, weigher.dictionaries)
    scorer = WeightScorer(weigher, args.max_tokens)
    checkpoint = identity(paths[0]) if len(paths) == 1 else [identity(path) for path in paths]
    made_from = {"checkpoint": checkpoint, "max_tokens": args.max_tokens, "split": args.gen_subset}
    made_from["input"] = [[path, identity(path), args.scol, args.tcol] for path in args.input or []]
    return corpus, scorer.score, "weight", scorer.columns, made_from
