"""``fairseq-l2rw weights``: the teacher's weight of every pair of a binarised split, as TSV."""

import json
import os

from fairseq_l2rw.cli.types import natural_number

NAME = "weights"
HELP = "write the teacher's weight of every sentence pair"
EXAMPLE = "fairseq-l2rw weights data --path checkpoints/checkpoint_last.pt --out weights.tsv --labels corpus/train.labels.tsv"


def add_arguments(parser):
    parser.add_argument("data", metavar="DATA", help="folder of binarised data, as fairseq-l2rw prepare makes it")
    parser.add_argument("--path", required=True, metavar="CHECKPOINT", help="a checkpoint of --task l2rw_translation")
    parser.add_argument("--gen-subset", default="train", metavar="SPLIT", help="split to weigh (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="TSV",
                        help="file to write: id (raw line, from 0), weight, weight of each head, loss (nats per token), "
                             "source, target")  # fmt: skip
    parser.add_argument("--labels", metavar="TSV",
                        help="id and kind of noise of each raw line, as 'toy' and 'corrupt' write them: summed up by "
                             "kind, with the area under the ROC curve of 1 - weight as a detector of noise")  # fmt: skip
    parser.add_argument("--max-tokens", type=natural_number, default=8000, metavar="N",
                        help="size of a batch in tokens (default: %(default)s)")  # fmt: skip
    parser.add_argument("--cpu", action="store_true", help="stay off the GPU")


def run(args):
    from tqdm import tqdm

    from fairseq_l2rw.corpus.bitext import read_pairs, writing
    from fairseq_l2rw.corpus.lines import raw_line_numbers, read_labels
    from fairseq_l2rw.corpus.prepare import read_record
    from fairseq_l2rw.errors import L2RWError

    if not os.path.isfile(args.path):
        raise L2RWError(f"--path {args.path}: no such file; give a checkpoint, as checkpoints/checkpoint_last.pt")
    settings = read_record(args.data)["settings"]
    labels = read_labels(args.labels) if args.labels else None
    numbers = raw_line_numbers(args.data, args.gen_subset)
    raw = [os.path.join(args.data, "raw", f"{args.gen_subset}.{settings[side]}") for side in ("src", "tgt")]

    from fairseq_l2rw.translation.weights import Weigher

    weigher = Weigher(args.data, args.path, args.cpu)
    weights, ids = [], []
    with writing(args.out) as (out,):
        columns = ["id", "weight", *(f"weight_{head}" for head in weigher.heads), "loss", "source", "target"]
        out.write("\t".join(columns) + "\n")
        pairs = tqdm(weigher.weigh(args.gen_subset, args.max_tokens), desc="weights", unit=" pairs", leave=False)
        texts = enumerate(read_pairs(*raw))
        for pair, number in zip(pairs, numbers, strict=False):
            source, target = next(text for line, text in texts if line == number)
            cells = [str(number), *(f"{w:.6g}" for w in (pair.weight, *pair.heads)), f"{pair.loss:.4f}"]
            out.write("\t".join([*cells, _cell(source), _cell(target)]) + "\n")
            weights.append(pair.weight)
            ids.append(number)
    print(json.dumps(_summary(weights, ids, labels, args), indent=2))


def _summary(weights, ids, labels, args):
    import numpy as np
    from sklearn.metrics import roc_auc_score

    weights = np.array(weights)
    result = {"pairs": len(weights), "mean": float(weights.mean()), "weights": args.out}
    if labels is None:
        return result
    kinds = np.array([labels[i] for i in ids])
    noise = kinds != "clean"
    result["kinds"] = {}
    for kind in sorted(set(kinds)):
        of_kind = kinds == kind
        entry = {"pairs": int(of_kind.sum()), "mean": float(weights[of_kind].mean())}
        if kind != "clean" and not noise.all():
            both = of_kind | ~noise
            entry["auc"] = float(roc_auc_score(noise[both], -weights[both]))
        result["kinds"][kind] = entry
    result["auc"] = float(roc_auc_score(noise, -weights)) if 0 < noise.sum() < len(noise) else None
    return result


def _cell(text):
    """A sentence as one TSV cell."""
    return " ".join(text.replace("\t", " ").split("\r"))
