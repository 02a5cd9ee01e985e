"""Which part of a corpus this process handles: stretches of whole chunks, so that they concatenate to the whole.

The schedulers' variables: torchrun sets RANK and WORLD_SIZE; a SLURM array sets SLURM_ARRAY_TASK_ID, _COUNT, _MIN and
_STEP. Where both are set (an array whose tasks each start torchrun), every array task is divided among its workers.
"""

import os
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

from fairseq_l2rw.errors import L2RWError


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` (from 0) of ``count``."""

    number: int = 0
    count: int = 1

    def chunks(self, total: int) -> range:
        """The chunks of this shard, of `total` in all: neighbours, in order; none where there are fewer than shards."""
        return range(self.number * total // self.count, (self.number + 1) * total // self.count)

    def file_name(self, path: str) -> str:
        """`path` where there is one shard; else ``out.tsv.00003-of-00008`` (``out.tsv.00003-of-00008.gz``)."""
        if self.count == 1:
            return path
        stem, ending = (path[: -len(".gz")], ".gz") if path.endswith(".gz") else (path, "")
        return f"{stem}.{self.number:05d}-of-{self.count:05d}{ending}"


def choose_shard(
    count: Optional[int], number: Optional[int], environment: Mapping[str, str] = os.environ
) -> Tuple[Shard, str]:
    """The shard that the options name, else the one that the environment does, and where it comes from.

    Args:
        count, number: what --num-shards and --shard-id say; None where they are not given.
        environment: the process's variables.

    Raises:
        L2RWError: options or variables that do not fit each other.
    """
    if count is not None or number is not None:
        shard, source = Shard(number or 0, count or 1), "--num-shards, --shard-id"
        if number is None and shard.count > 1:
            raise L2RWError("--num-shards: which of them? give --shard-id too, from 0 on")
    else:
        shard, source = _from_environment(environment)
    if not 0 <= shard.number < shard.count:
        raise L2RWError(f"{source}: shard {shard.number} of {shard.count}; shards are numbered from 0 to {shard.count - 1}")
    return shard, source


def _from_environment(environment: Mapping[str, str]) -> Tuple[Shard, str]:
    shard, sources = Shard(), []
    if "SLURM_ARRAY_TASK_ID" in environment:
        number, lowest = _integer(environment, "SLURM_ARRAY_TASK_ID"), _integer(environment, "SLURM_ARRAY_TASK_MIN", 0)
        step = _integer(environment, "SLURM_ARRAY_TASK_STEP", 1)
        shard = Shard((number - lowest) // step, _integer(environment, "SLURM_ARRAY_TASK_COUNT"))
        sources.append("SLURM_ARRAY_TASK_ID")
    if "RANK" in environment and "WORLD_SIZE" in environment:
        workers = _integer(environment, "WORLD_SIZE")
        shard = Shard(shard.number * workers + _integer(environment, "RANK"), shard.count * workers)
        sources.append("RANK")
    return shard, ", ".join(sources)


def _integer(environment: Mapping[str, str], name: str, default: Optional[int] = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise L2RWError(f"{name}={text or ''} in the environment: not a number; set it, or give --num-shards 1") from None
