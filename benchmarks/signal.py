"""Where is the signal? Influences of single pairs, and weights, as detectors of each kind of noise, at one checkpoint.

    python -m benchmarks.signal DATA --path runs/noisy/checkpoint_last.pt --out signal
    python -m benchmarks.signal DATA --path ... --out signal-spoilt --spoil misaligned,misordered,swapped,truncated,dropped,joined

A sample of the training pairs is looked at (dropout off, c_i / n_i unless the row says otherwise): one step of the student's own
optimizer on all of them gives the direction v = S(lambda) (``adam``: the checkpoint's optimizer, clipping included; ``sgd``: -lambda),
forward mode gives c_i = grad l_i . v. c is linear in lambda, so a pass for the clean dev gradient and one for each kind of spoilt
dev batch give every objective. The rows of the table:

* the loss per token, and the norm of the pair's own gradient per token;
* influence, J the dev loss; J contrastive in one sum; J_k for each head alone; ``heads``: the largest of the heads' c, each over its
  dev scale (a pair must pass every test);
* each again with the SGD direction, with fewer and more dev batches, through some parameters only, over the norm of the pair's own
  gradient in place of its number of tokens;
* ``regression``: the heads' c_i / n_i as an MLP on the features predicts them, learnt from the other four fifths of the pairs;
* the weights of the checkpoint's teacher, and of each of its heads, where there is one;
* ``classifier``: what the features hold, an MLP trained on the true labels, five folds: a bound that no teacher can be expected to pass.

The columns: area under the ROC curve for each kind of noise against the clean pairs, and the signal-to-noise ratio of all noise.
With --spoil the clean pairs of the sample are spoilt on the fly, in each way: kinds that the student never trained on.
With --average the student has the mean of other checkpoints' parameters, as a second view of the pairs; the optimizer stays --path's.
"""

# Python puts a script's own folder first on its path, where this file takes the place of the standard library's signal.
if __name__ == "signal":
    raise SystemExit("benchmarks are modules: run them from the repository root, as python -m benchmarks.NAME")

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch

from benchmarks import figures
from benchmarks.detection import ALL, CLEAN, by_kind, weights_by_kind
from benchmarks.record import table, write_json
from fairseq_l2rw.corpus.lines import raw_line_numbers, read_labels
from fairseq_l2rw.errors import L2RWError, install_exit_hook

PARAMETERS = {
    "encoder + cross-attention": r"^encoder\.layers\.|encoder_attn",
    "decoder layers": r"^decoder\.layers\.",
    "embeddings": r"embed_tokens",
}
MLP = {"hidden_layer_sizes": (128,), "activation": "tanh", "alpha": 1.0, "max_iter": 300, "random_state": 1}


@dataclass(frozen=True)
class Batch:
    """Training pairs: a collated batch and the kind of each pair."""

    sample: dict
    kinds: list[str]


class Probe:
    """Student (and teacher, where there is one) of a checkpoint, the sample, and influences of its pairs.

    Args:
        data: folder of ``fairseq-l2rw prepare``.
        path: a checkpoint of ``--task l2rw_translation``.
        kinds: of spoilt dev batches.
        dev_tokens: size of a dev batch.
        average: checkpoints whose mean parameters take the place of those at `path`.
    """

    def __init__(self, data: str, path: str, kinds: list[str], dev_tokens: int, average: Sequence[str] = ()):
        from fairseq import checkpoint_utils, optim, utils
        from fairseq.dataclass.utils import overwrite_args_by_name

        import fairseq_l2rw  # noqa: F401  (registers the task)
        from fairseq_l2rw.meta.linearize import rule_for
        from fairseq_l2rw.translation.capture import Capture
        from fairseq_l2rw.translation.dev_batches import DevBatches
        from fairseq_l2rw.translation.task import L2RWTranslationTask

        state = checkpoint_utils.load_checkpoint_to_cpu(path)
        saved = state.get("extra_state", {}).get(L2RWTranslationTask.__name__)
        uniform = saved is None
        overrides = {"data": data, "influence_log": None, **({"teacher": "deep"} if uniform else {})}
        overwrite_args_by_name(state["cfg"], overrides)  # fairseq itself overrides nothing in a state that it is given
        models, cfg, self.task = checkpoint_utils.load_model_ensemble_and_task([path], state=state)
        if not isinstance(self.task, L2RWTranslationTask):
            raise L2RWError(f"--path {path}: no checkpoint of --task l2rw_translation; give one (--teacher uniform will do)")
        self.model = models[0].eval()
        if average:
            try:
                self.model.load_state_dict(mean_parameters(average))
            except RuntimeError as error:
                raise L2RWError(f"--average {average[0]}: another model than {path}; give checkpoints of one training") from error
        self.criterion = self.task.build_criterion(cfg.criterion)
        self.meta = self.task.make_meta(self.model, Capture.of(self.model, cfg.task, self.task.tgt_dict.pad()))
        self.teacher = None
        if not uniform:
            self.meta.load_state_dict(saved["meta"])
            self.teacher = self.meta.teacher
        self.updates = self.meta.updates = state["optimizer_history"][-1]["num_updates"]
        self.student, self.kinds = self.meta.student, kinds
        self.names, self.parameters = zip(*((n, p) for n, p in self.model.named_parameters() if p.requires_grad))
        self.parameters = list(self.parameters)
        wrapper = optim.build_optimizer(cfg.optimizer, self.parameters)
        wrapper.load_state_dict(state["last_optimizer_state"])
        self.optimizer = wrapper.optimizer
        self.rule, self.clip_norm = rule_for(self.optimizer), float(cfg.optimization.clip_norm or 0)
        split = self.task.meta_subset
        self.task.load_dataset(split)
        limits = utils.resolve_max_positions(self.task.max_positions(), self.model.max_positions(), dev_tokens)
        self.dev_batches = DevBatches(self.task.dataset(split), dev_tokens, None, limits, seed=1)

    # ---- the sample ---------------------------------------------------------

    def sample(self, labels: dict[int, str], data: str, pairs: int, seed: int, max_tokens: int) -> list[Batch]:
        """Random training pairs, in batches of like length."""
        from fairseq.data import data_utils

        self.task.load_dataset("train", combine=False, epoch=1)
        dataset = self.task.dataset("train")
        lines = [line for line, _ in zip(raw_line_numbers(data, "train"), range(len(dataset)))]
        chosen = np.random.default_rng(seed).permutation(len(dataset))[:pairs]
        chosen = sorted(chosen.tolist(), key=lambda i: max(dataset.size(i)))
        batches = data_utils.batch_by_size(chosen, num_tokens_fn=dataset.num_tokens, max_tokens=max_tokens)
        out = []
        for indices in batches:
            sample = dataset.collater([dataset[int(i)] for i in indices])
            out.append(Batch(sample, [labels.get(lines[i], CLEAN) for i in sample["id"].tolist()]))
        return out

    def spoil(self, batches: list[Batch], kinds: list[str]) -> list[Batch]:
        """The clean pairs of the batches, as they are and spoilt in each way."""
        out = []
        for number, batch in enumerate(batches):
            clean = self._clean_part(batch)
            if clean is None:
                continue
            out.append(Batch(clean, [CLEAN] * len(clean["id"])))
            for kind in kinds:
                spoilt = self.student.corrupt(clean, kind, number)
                if spoilt is not None:
                    out.append(Batch(spoilt, [kind] * len(spoilt["id"])))
        return out

    def _clean_part(self, batch):
        dataset = self.task.dataset("train")
        ids = [i for i, kind in zip(batch.sample["id"].tolist(), batch.kinds) if kind == CLEAN]
        return dataset.collater([dataset[i] for i in ids]) if ids else None

    # ---- gradients and directions -------------------------------------------

    def dev_gradients(self, batches: int) -> dict[str, list[list[torch.Tensor]]]:
        """Term (``clean``, or a kind) -> its gradient on each of the first so many dev batches."""
        from fairseq_l2rw.meta.objective import CLEAN as TERM
        from fairseq_l2rw.meta.objective import Objective

        self.dev_batches.load_state_dict({"epoch": 0, "position": 0})
        out: dict[str, list] = {term: [] for term in (CLEAN, *self.kinds)}
        for number in range(batches):
            batch = self.dev_batches()
            for kind in self.kinds:
                objective = Objective({kind: 1.0}, momentum=0.0, seed=number)
                dev = objective.dev_gradient(self.student, self.parameters, batch)
                if dev is None:
                    continue
                out[kind].append(objective.averages[kind])  # without momentum: the gradient itself
                if len(out[CLEAN]) <= number:
                    out[CLEAN].append(objective.averages[TERM])
        if not all(out.values()):
            raise L2RWError("the dev batches cannot be spoilt in every way; give larger ones with --dev-tokens")
        return out

    def step(self, batches: list[Batch]):
        """One step of the optimizer on all pairs; gives the :class:`StepRecord`. The student is at theta' afterwards."""
        from fairseq_l2rw.meta.window import Window

        window = Window(1, self.rule, self.optimizer, self.parameters, keep_earlier=False)
        self.model.zero_grad()
        total = sum(int(b.sample["ntokens"]) for b in batches)
        for batch in batches:
            losses, _ = self.student.losses(batch.sample)
            (losses.sum() / total).backward()
        raw = None
        if self.clip_norm > 0:
            raw = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm))
        window.before_step(raw, self.clip_norm)
        self.optimizer.step()
        window.after_step([])
        return window.steps[0]

    def influence(self, step, vector: list[torch.Tensor], batches: list[Batch]) -> np.ndarray:
        """c_i of all pairs, nats."""
        from fairseq_l2rw.meta import influence
        from fairseq_l2rw.meta.functional import RandomState
        from fairseq_l2rw.meta.records import BatchRecord

        if not any(v.any() for v in vector):
            return np.zeros(sum(len(b.kinds) for b in batches))
        out = []
        for batch in batches:
            record = BatchRecord(batch.sample, *[None] * 6, random_state=RandomState.capture())
            out.append(influence.forward_mode(self.student, self.parameters, step.parameters, vector, record)[1])
        return torch.cat(out).double().numpy()

    def gradient_norms(self, batches: list[Batch]) -> np.ndarray:
        """||grad l_i|| of all pairs, nats, by a backward pass for each."""
        norms = []
        for batch in batches:
            for i in range(len(batch.kinds)):
                losses, _ = self.student.losses(self.student.subset(batch.sample, torch.tensor([i])))
                norms.append(float(torch.nn.utils.get_total_norm(torch.autograd.grad(losses.sum(), self.parameters))))
        return np.array(norms)

    def chosen(self, pattern: str) -> list[bool]:
        """Which parameters a pattern is found in."""
        return [re.search(pattern, name) is not None for name in self.names]

    # ---- what else is known of the pairs ------------------------------------

    @torch.no_grad()
    def rows(self, batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features ``[N, D]``, losses and target tokens ``[N]`` of all pairs."""
        parts = []
        for batch in batches:
            net_input, target = batch.sample["net_input"], batch.sample["target"]
            with self.task.capture.states() as states:
                net_output = self.model(**net_input)
            losses, _, n_tokens = self.criterion.sentence_losses(self.model, net_output, batch.sample)
            source = net_input["src_tokens"]
            lengths = source.ne(self.task.source_dictionary.pad()).sum(1)
            parts.append((self.meta.features(losses, n_tokens, lengths, states.internal(source, target)), losses, n_tokens))
        return tuple(torch.cat(part) for part in zip(*parts))


def mean_parameters(paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """The mean students of some checkpoints."""
    from fairseq_l2rw.translation.average import average_checkpoints

    with tempfile.TemporaryDirectory() as folder:
        average_checkpoints(paths, f"{folder}/average.pt")
        return torch.load(f"{folder}/average.pt", map_location="cpu", weights_only=True)["model"]


def dot(a, b) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b)))


def mean(gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [sum(parts) / len(parts) for parts in zip(*gradients)]


class Influences:
    """c_i of each term in one direction, and the objectives that follow from them.

    Args:
        c: term -> c_i ``[N]``.
        contrast: kind -> alpha.
        products: (term a, term b) -> -<g_a, S(g_b)>, the influence of an average dev pair of a on term b, per token.
    """

    def __init__(self, c, contrast, products):
        self.c, self.contrast, self.products = c, contrast, products

    def head(self, kind: str) -> np.ndarray:
        return self.c[CLEAN] - self.contrast[kind] * self.c[kind]

    def dev_scale(self, kind: str) -> float:
        """Half the distance between an average clean and an average spoilt dev pair, per token."""
        of = lambda term: self.products[term, CLEAN] - self.contrast[kind] * self.products[term, kind]  # noqa: E731
        return abs(of(CLEAN) - of(kind)) / 2

    def detectors(self, size: np.ndarray | float = 1.0) -> dict[str, np.ndarray]:
        """Name of the objective -> c_i over the pair's `size`, high for noise (it raises J)."""
        out = {"loss": self.c[CLEAN], "contrastive, one sum": self.c[CLEAN] - sum(a * self.c[k] for k, a in self.contrast.items())}
        for kind in self.contrast:
            out[f"head {kind}"] = self.head(kind)
        out["heads"] = np.max([self.head(kind) / self.dev_scale(kind) for kind in self.contrast], axis=0)
        return {name: c / size for name, c in out.items()}

    def midpoint(self, kind: str) -> float:
        """alpha at which an average clean and an average spoilt dev pair have opposite influences of equal size."""
        p = self.products
        return (p[CLEAN, CLEAN] + p[kind, CLEAN]) / (p[CLEAN, kind] + p[kind, kind])


def measure(probe: Probe, batches: list[Batch], contrast: dict[str, float], dev: int, more: int) -> tuple[list[dict], dict]:
    """All rows of the table, and the midpoints of alpha."""
    from fairseq_l2rw.meta.hypergradient import StepVector

    kinds = [kind for batch in batches for kind in batch.kinds]
    features, losses, n_tokens = probe.rows(batches)
    n = n_tokens.double().numpy()
    table_rows = []

    def add(what, scores, objective="", direction="", parameters="", dev_batches=None, weights=False):
        found = weights_by_kind(scores, kinds) if weights else by_kind(scores, kinds)
        row = {"detector": what, "objective": objective, "direction": direction, "parameters": parameters, "dev batches": dev_batches}
        row.update({f"AUC {kind}": entry["auc"] for kind, entry in found.items() if "auc" in entry})
        row["SNR all"] = found[ALL].get("snr")
        table_rows.append(row)

    add("loss per token", losses.double().numpy() / n)
    norms = probe.gradient_norms(batches)  # of the student before the step, as the influences are
    add("gradient's norm per token", norms / n)
    step = probe.step(batches)
    step_vector = StepVector(probe.rule, step)
    gradients = probe.dev_gradients(max(dev, more))
    everything = [True] * len(probe.parameters)

    def influences(direction, where, count) -> Influences:
        terms, vectors, c = {t: mean(g[:count]) for t, g in gradients.items()}, {}, {}
        for term, adjoint in terms.items():
            v = step_vector(adjoint) if direction == "adam" else [-a for a in adjoint]
            vectors[term] = [part if here else torch.zeros_like(part) for part, here in zip(v, where)]
            c[term] = probe.influence(step, vectors[term], batches)
        # other dev batches than those of the vectors, where there are any: within one batch its own noise inflates the products
        others = {t: mean(g[count:] or g[:count]) for t, g in gradients.items()}
        products = {(a, b): dot(others[a], vectors[b]) for a in terms for b in terms}
        return Influences(c, contrast, products)

    direction = "adam" if "exp_avg" in getattr(probe.rule, "STATE", ()) else "optimizer"
    base = influences("adam", everything, dev)
    per_token, over_norm = "influence", "influence over the gradient's norm"
    sizes = {per_token: n, "influence, not per token": 1.0, over_norm: norms}
    variations = [(base, direction, "all", dev, size) for size in sizes]
    variations += [(influences("sgd", everything, dev), "sgd", "all", dev, size) for size in (per_token, over_norm)]
    variations += [(influences("adam", everything, count), direction, "all", count, per_token) for count in dict.fromkeys((1, more)) if count != dev]
    variations += [(influences("adam", probe.chosen(pattern), dev), direction, name, dev, per_token) for name, pattern in PARAMETERS.items()]
    for found, way, where, count, size in variations:
        for objective, scores in found.detectors(sizes[size]).items():
            add(size, scores, objective, way, where, count)
    if probe.teacher is not None:
        add_weights(probe, features, add)
    scaled = np.stack([base.head(kind) / n / base.dev_scale(kind) for kind in contrast], axis=1)
    for what, columns in feature_sets(probe, features).items():
        add(f"regression on {what}", regress(columns, scaled).max(axis=1), "heads", direction, "all", dev)
        add(f"classifier on {what}", classify(columns, kinds), objective="true labels")
    midpoints = {kind: {"alpha": contrast[kind], "midpoint": base.midpoint(kind), "dev scale": base.dev_scale(kind)} for kind in contrast}
    return table_rows, midpoints


def add_weights(probe: Probe, features: torch.Tensor, add) -> None:
    """Rows of the teacher's weights; none for a teacher whose weights exist in training only."""
    try:
        with torch.no_grad():
            heads = probe.teacher(features).double().numpy()
    except L2RWError:
        return
    name = probe.task.cfg.teacher
    add(f"weights of {name}", heads.prod(axis=1), weights=True)
    if heads.shape[1] > 1:
        for number, head in enumerate(probe.meta.config.heads):
            add(f"weights of {name}", heads[:, number], objective=f"head {head}", weights=True)


def feature_sets(probe: Probe, features: torch.Tensor) -> dict[str, np.ndarray]:
    """What a teacher may see: surface, states (with their product and distance), both."""
    from fairseq_l2rw.meta import FeatureLayout
    from fairseq_l2rw.meta.networks import interactions

    surface, internal = FeatureLayout(probe.task.capture.widths()).split(features)
    surface, states = surface.double().numpy(), torch.cat(interactions(internal), dim=1).double().numpy()
    return {"surface": surface, "states": states, "both": np.concatenate([surface, states], axis=1)}


def regress(columns: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Targets ``[N, K]`` as an MLP predicts them that was trained on those of the other four fifths of the pairs."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mlp = MLPRegressor(early_stopping=len(targets) > 200, **MLP)
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), mlp), transformer=StandardScaler())
    return cross_val_predict(model, columns, targets, cv=KFold(5, shuffle=True, random_state=1)).reshape(targets.shape)


def classify(columns: np.ndarray, kinds: list[str]) -> np.ndarray:
    """Chance of noise, of an MLP that was trained on the labels of the other four fifths of the pairs."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.array([kind != CLEAN for kind in kinds])
    mlp = MLPClassifier(early_stopping=len(labels) > 200, **MLP)
    folds = StratifiedKFold(5, shuffle=True, random_state=1)
    return cross_val_predict(make_pipeline(StandardScaler(), mlp), columns, labels, cv=folds, method="predict_proba")[:, 1]


def parse_contrast(text: str | None) -> dict[str, float]:
    from fairseq_l2rw.meta.config import parse_contrast as parse
    from fairseq_l2rw.translation.config import DEFAULT_CONTRAST, KINDS

    contrast = parse(text or DEFAULT_CONTRAST, KINDS)
    if not contrast:
        raise L2RWError("--contrast is empty: name at least one KIND:ALPHA")
    # `auto` is 1.7 times the midpoint; the fixed alphas that trials found near it stand in, 0.3 where there are none
    fixed = parse("misaligned:0.5,untranslated:0.45,misordered:0.12,truncated:0.3", KINDS)
    return {kind: fixed.get(kind, 0.3) if alpha == "auto" else alpha for kind, alpha in contrast.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.signal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="folder of fairseq-l2rw prepare")
    parser.add_argument("--path", required=True, metavar="CHECKPOINT", help="of --task l2rw_translation, with or without a teacher")
    parser.add_argument("--average", metavar="CHECKPOINT,...", help="give the student the mean of these checkpoints' parameters")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for signal.json and the figure")
    parser.add_argument("--labels", metavar="TSV", help="kind of noise of each raw line (default: DATA/raw/train.labels.tsv)")
    parser.add_argument("--pairs", type=int, default=2000, metavar="N", help="training pairs looked at (default: %(default)s)")
    parser.add_argument("--spoil", metavar="KIND,...", help="spoil the clean pairs of the sample in these ways instead")
    parser.add_argument("--contrast", metavar="KIND:ALPHA,...", help="heads and what they subtract (default: the product's)")
    parser.add_argument("--dev-batches", type=int, default=4, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--more-dev-batches", type=int, default=10, metavar="N", help="a row with so many (default: %(default)s)")
    parser.add_argument("--dev-tokens", type=int, default=3000, metavar="N", help="size of a dev batch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: %(default)s)")
    args = parser.parse_args(argv)
    path = Path(args.labels or Path(args.data) / "raw" / "train.labels.tsv")
    if not path.exists() and not args.spoil:
        raise L2RWError(f"{path}: no labels; name the file that corrupt wrote with --labels, or kinds with --spoil")
    average = args.average.split(",") if args.average else []
    for option, file in [("--path", args.path), *(("--average", file) for file in average)]:
        if not Path(file).is_file():
            raise L2RWError(f"{option} {file}: no such file; give a checkpoint")
    labels = read_labels(str(path)) if path.exists() else {}
    torch.manual_seed(args.seed)
    contrast = parse_contrast(args.contrast)
    probe = Probe(args.data, args.path, list(contrast), args.dev_tokens, average)
    batches = probe.sample(labels, args.data, args.pairs, args.seed, args.dev_tokens)
    if args.spoil:
        from fairseq_l2rw.translation.corruptions import CORRUPTIONS

        unknown = set(args.spoil.split(",")) - set(CORRUPTIONS)
        if unknown:
            raise L2RWError(f"--spoil: unknown kind '{min(unknown)}'; choose from {', '.join(CORRUPTIONS)}")
        batches = probe.spoil(batches, args.spoil.split(","))
    rows, midpoints = measure(probe, batches, contrast, args.dev_batches, args.more_dev_batches)
    configuration = {**vars(args), "updates": probe.updates, "contrast": contrast, "teacher": probe.task.cfg.teacher if probe.teacher is not None else "uniform"}
    write_json(Path(args.out) / "signal.json", configuration, {"detectors": rows, "alpha": midpoints})
    print(table(rows))
    print()
    print(table([{"kind": kind, **entry} for kind, entry in midpoints.items()], digits=6))
    values = {" ".join(str(row[c]) for c in ("detector", "objective", "direction", "parameters", "dev batches") if row[c] not in (None, "")): (row[f"AUC {ALL}"], 0.0)
              for row in rows if row.get(f"AUC {ALL}") is not None}  # fmt: skip
    figures.bars(Path(args.out) / "signal", values, "area under the ROC curve, all noise", {"chance": 0.5})
    return 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
