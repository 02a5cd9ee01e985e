"""Run folders as the other commands leave them, with figures that the tests know."""

import json
import random

from fairseq_l2rw.corpus.bitext import write_lines

HEADS = ("misaligned", "untranslated")
CONFIG = (
    "{'_name': None, 'common': {'_name': None, 'seed': %(seed)d, 'cpu': True}, 'dataset': {'valid_subset': 'valid', "
    "'max_tokens': 3000}, 'optimization': {'max_update': 400, 'lr': [0.002], 'stop_min_lr': -1.0}, "
    "'checkpoint': {'save_dir': %(save_dir)r}, 'model': Namespace(arch='tiny', seed=%(seed)d, dropout=0.1), "
    "'task': {'_name': 'l2rw_translation', 'data': %(data)r, 'teacher': %(teacher)r, 'meta_start': 100}, "
    "'criterion': {'_name': 'cross_entropy', 'kind': <Kind.plain: 1>}, 'bpe': None}"
).replace("<Kind.plain: 1>", "Kind.plain")
CLOCK = "2026-11-24 07:%02d:00 | INFO | "


def make_log(path, last=400, done=True, form="simple", teacher="deep", seed=1, data="data", step=20):
    """A log with an entry every `step` updates up to `last`, and a validation every 100."""
    options = {"seed": seed, "save_dir": str(path.parent), "data": data, "teacher": teacher}
    lines = ["a line of something else\n", CLOCK % 0 + f"fairseq_cli.train | {CONFIG % options}\n"]
    for update in range(step, last + 1, step):
        entry = {
            "loss": 9 - update / 100,
            "nll_loss": 8 - update / 100,
            "num_updates": update,
            "wps": 1000,
            "lr": 0.001,
        }
        if teacher != "uniform":
            entry |= {"w_mean": 0.7, "w_std": 0.2, "ess": 0.8}
            entry |= {"meta_loss": 6 - update / 200, "teacher_gnorm": 0.05} if update > 100 else {}
        lines.append(CLOCK % (update // 20) + f"train_inner | {entry_text(entry, form)}\n")
        if update % 100 == 0:
            entry = {"loss": 8 - update / 100, "nll_loss": 7 - update / 100, "num_updates": update}
            lines.append(CLOCK % (update // 20) + f"valid | {summary_text(entry, form)}\n")
    if done:
        lines.append(CLOCK % 59 + "fairseq_cli.train | done training in 100.0 seconds\n")
    path.write_text("".join(lines), encoding="utf-8")


def entry_text(entry, form):
    if form == "json":
        return json.dumps({"epoch": 1, "update": 0.5, **{name: str(value) for name, value in entry.items()}})
    return "epoch 001:     50 / 192 " + ", ".join(f"{name}={value}" for name, value in entry.items())


def summary_text(entry, form):
    if form == "json":
        return json.dumps({"epoch": 1, **{f"valid_{name}": str(value) for name, value in entry.items()}})
    return "epoch 001 | valid on 'valid' subset | " + " | ".join(f"{name} {value}" for name, value in entry.items())


def make_table(path, pairs=300, seed=1):
    """Weights of `pairs` pairs: every third is misaligned and near 0, the rest near 1."""
    numbers = random.Random(seed)
    lines = ["\t".join(["id", "weight", *(f"weight_{head}" for head in HEADS), "loss", "source", "target"])]
    for i in range(pairs):
        low = i % 3 == 0
        first, second = (numbers.uniform(0, 0.2) if low else numbers.uniform(0.8, 1)), numbers.uniform(0.9, 1)
        cells = [i, f"{first * second:.6g}", f"{first:.6g}", f"{second:.6g}", f"{numbers.uniform(1, 6):.4f}"]
        lines.append(
            "\t".join(map(str, [*cells, f"Satz {i} .", f"sentence {i} " + "word " * numbers.randrange(1, 30)]))
        )
    write_lines(str(path), lines)


def make_labels(path, pairs=300):
    write_lines(str(path), ["id\tkind", *(f"{i}\t{'misaligned' if i % 3 == 0 else 'clean'}" for i in range(pairs))])


def make_scores(folder, bleu, split="test"):
    folder.mkdir(parents=True, exist_ok=True)
    scores = {
        name: {"score": bleu + i, "signature": f"signature of {name}"} for i, name in enumerate(("BLEU", "chrF", "TER"))
    }
    (folder / f"{split}.json").write_text(json.dumps({**scores, "n": 100, "hypotheses": "test.hyp"}))


def make_run(folder, bleu=20.0, **log):
    """A complete run."""
    folder.mkdir(parents=True)
    make_log(folder / "train.log", **log)
    make_scores(folder / "eval", bleu)
    if log.get("teacher") != "uniform":
        make_table(folder / "weights.tsv")
        make_labels(folder / "train.labels.tsv")
    return folder
