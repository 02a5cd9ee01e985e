"""What the speed and memory benchmarks train: a Transformer under fairseq's own trainer, on random or on given text.

The random text has Zipf-distributed words and log-normal lengths; a target is its source, word by word renamed, so that there is
something to learn. ``--data`` takes a binarised folder of your own instead.
"""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from fairseq import options as fairseq_options
from fairseq import tasks, utils
from fairseq.data import Dictionary, indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer

import fairseq_l2rw.translation  # noqa: F401  (registers the task)
from benchmarks.apart import most_resident
from fairseq_l2rw.meta.train_scale import FIRST

SOURCE, TARGET = "de", "en"
clock = time.perf_counter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Size of model and batches, and where the result goes."""
    parser.add_argument("--data", help="binarised folder with splits train and meta or valid (default: random text)")
    parser.add_argument("--width", type=int, default=128, help="of the Transformer; feed-forward layers have twice that")
    parser.add_argument("--layers", type=int, default=2, help="of encoder and decoder each")
    parser.add_argument("--vocabulary", type=int, default=4000, help="of the random text, shared by both languages")
    parser.add_argument("--max-tokens", type=int, default=2000, help="of a training batch")
    parser.add_argument("--dev-share", type=float, default=0.25, help="size of a dev batch, as a part of that")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--cpu", action="store_true", help="stay off the GPU")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: CPU time of the process, for a machine that does other things as well")  # fmt: skip
    parser.add_argument("--json", default=f"runs/{parser.prog.rpartition('.')[2]}.json",
                        help="file for the result with machine, versions and configuration; '' for none (default: %(default)s)")  # fmt: skip


def prepare(arguments) -> None:
    """Threads and clock; to be called before anything else."""
    global clock
    torch.set_num_threads(arguments.threads)
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]


def write_random_text(folder: str, vocabulary: int, seed: int, sizes: dict[str, int]) -> str:
    """Writes binarised splits (name -> sentence pairs) and dictionaries; returns the folder."""
    rng, path = np.random.default_rng(seed), Path(folder)
    dictionary = Dictionary()
    for i in range(vocabulary):
        dictionary.add_symbol(f"w{i}", n=vocabulary - i)
    renamed = dictionary.nspecial + rng.permutation(vocabulary)
    for language in (SOURCE, TARGET):
        dictionary.save(str(path / f"dict.{language}.txt"))
    for split, count in sizes.items():
        builders = {}
        for language in (SOURCE, TARGET):
            prefix = path / f"{split}.{SOURCE}-{TARGET}.{language}"
            builders[language] = prefix, indexed_dataset.make_builder(f"{prefix}.bin", "mmap", len(dictionary))
        for length in np.clip(rng.lognormal(2.8, 0.5, count).astype(int), 2, 60):
            words = np.minimum(rng.zipf(1.2, length) - 1, vocabulary - 1)
            for language, ids in ((SOURCE, words + dictionary.nspecial), (TARGET, renamed[words])):
                builders[language][1].add_item(torch.tensor([*ids.tolist(), dictionary.eos()]))
        for prefix, builder in builders.values():
            builder.finalize(f"{prefix}.idx")
    return folder


class Training:
    """A training that is taken update by update.

    Args:
        data: binarised folder.
        arguments: those of :func:`add_arguments`.
        options: further words for ``fairseq-train``.
    """

    def __init__(self, data: str, arguments, task: str, *options: object):
        words = [
            data, "--task", task, "--source-lang", SOURCE, "--target-lang", TARGET,
            "--arch", "transformer", "--share-all-embeddings", "--dropout", arguments.dropout,
            *(word for side in ("encoder", "decoder") for word in (
                f"--{side}-layers", arguments.layers, f"--{side}-embed-dim", arguments.width,
                f"--{side}-ffn-embed-dim", 2 * arguments.width, f"--{side}-attention-heads", 4)),
            "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
            "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", "0.002", "--lr-scheduler", "inverse_sqrt",
            "--warmup-updates", "100", "--clip-norm", "1.0", "--max-tokens", arguments.max_tokens,
            "--seed", arguments.seed, "--num-workers", "0", "--max-update", "100000", *(["--cpu"] if arguments.cpu else []),
            *options,
        ]  # fmt: skip
        if arguments.data:
            languages = _languages(data)
            words[words.index("--source-lang") + 1], words[words.index("--target-lang") + 1] = languages
        parser = fairseq_options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, [str(word) for word in words]))
        if cfg.distributed_training.distributed_world_size > 1:
            distributed_utils.distributed_init(cfg)
        utils.set_torch_seed(arguments.seed)
        metrics.reset()
        self.task = tasks.setup_task(cfg.task)
        model, criterion = self.task.build_model(cfg.model), self.task.build_criterion(cfg.criterion)
        self.trainer = Trainer(cfg, self.task, model, criterion)
        self.model, self.criterion, self.cfg = model, criterion, cfg
        epoch = self.trainer.get_train_iterator(epoch=1)
        self.trainer.begin_epoch(1)
        self.batches = [batch for batch, _ in zip(epoch.next_epoch_itr(shuffle=True), range(64))]
        self.updates = 0

    def update(self) -> int:
        """One student update (and the teacher's, where one is due); returns its target tokens."""
        batch = self.batches[self.updates % len(self.batches)]
        self.updates += 1
        with metrics.aggregate():
            self.trainer.train_step([batch])
        return int(batch["ntokens"])


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def spread(values: list[float]) -> dict:
    """Median and quartiles."""
    first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(middle), "quartiles": [float(first), float(third)], "all": [float(v) for v in values]}


def dev_tokens(arguments) -> int:
    """Size of a dev batch, ``--dev-share`` of a training batch."""
    return max(1, int(arguments.dev_share * arguments.max_tokens))


def words_per_second(trainings: dict[str, Training], updates: int, rounds: int) -> dict[str, list[float]]:
    """name -> target tokens a second of each round of so many updates.

    The trainings take turns update by update, so that a change of the machine's load meets all of them alike. A first round does
    not count.
    """
    updates_of = {name: functools.partial(timed, training.update) for name, training in trainings.items()}
    taken = interleaved(updates_of, rounds * updates, warm_up=updates)

    def speed(some):
        return sum(words for _, words in some) / sum(spent for spent, _ in some)

    return {name: [speed(each[i : i + updates]) for i in range(0, len(each), updates)] for name, each in taken.items()}


def timed(function) -> tuple:
    """How long a call takes, and what it returns."""
    _wait()
    began = clock()
    result = function()
    _wait()
    return clock() - began, result


def seconds(function) -> float:
    """How long a call takes."""
    return timed(function)[0]


def settle(training: Training, turns: int = FIRST) -> None:
    """Updates before the first that counts: so many turns of each head, each of which measures the train scale; then the batches
    begin anew."""
    meta = training.task.meta
    if meta.train_scale is not None:
        for _ in range(turns * len(meta.config.heads) * meta.config.interval):
            training.update()
    training.updates = 0


def interleaved(contenders: dict, rounds: int, warm_up: int = 1) -> dict[str, list]:
    """name -> what each call of its function returned, the contenders taking turns so that a change of the machine's load
    meets all of them; the first rounds do not count."""
    out = {name: [] for name in contenders}
    for turn in range(rounds + warm_up):
        for name, measure in contenders.items():
            value = measure()
            if turn >= warm_up:
                out[name].append(value)
    return out


#: environment in which glibc gives freed blocks back at once, and is a third slower
WITHOUT_HOLES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def most_taken(arguments: argparse.Namespace, before: float) -> float:
    """MiB that this process took at most: of the GPU's memory, or of the CPU's above ``before``."""
    gpu = torch.cuda.is_available() and not arguments.cpu
    return torch.cuda.max_memory_allocated() / 2**20 if gpu else most_resident() - before


def resident() -> float:
    """MiB that it has there now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return most_resident()


def median(values) -> float:
    return statistics.median(values)


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _languages(folder):
    (dictionary, *others) = sorted(Path(folder).glob("train.*-*.*.idx"))
    return dictionary.name.split(".")[1].split("-")
