"""Rows of all workers."""

import os
import subprocess
import sys

import pytest
import torch

from fairseq_l2rw.meta import workers

#: (rows of worker 0, rows of worker 1) of each exchange; the last one has none at all
COUNTS = [(3, 3), (2, 5), (0, 4), (4, 0), (1, 0), (0, 0)]

WORKER = f"""
import atexit
import importlib.util
import sys
import torch
import torch.distributed as dist

# the one file: a worker need not load fairseq for it
spec = importlib.util.spec_from_file_location("workers", {workers.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
gather_rows = module.workers().gather
out = []
for counts in {COUNTS}:
    values = torch.arange(counts[rank]) + 100 * rank
    out.append((gather_rows(values.float().unsqueeze(1).repeat(1, 3)), gather_rows(values.double())))
torch.save(out, sys.argv[3])
atexit.register(lambda: print("in a group at the end:", dist.is_initialized()))
module.leave_at_exit()
"""


def test_alone():
    rows, alone = torch.ones(3, 2), workers.workers()
    assert alone.gather(rows) is rows and (alone.rank, alone.count) == (0, 1)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """What each of two workers got."""
    folder = tmp_path_factory.mktemp("workers")
    files = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(folder / "meet"), str(files[rank])],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs, errors = zip(*(p.communicate(timeout=300) for p in processes))
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0, 0], errors
    assert all("in a group at the end: False" in output for output in outputs)  # leave_at_exit
    return [torch.load(f) for f in files]


@pytest.mark.parametrize("exchange", range(len(COUNTS)), ids=[f"{a}+{b}" for a, b in COUNTS])
def test_two_workers(gathered, exchange):
    """In the order of the ranks, the same on both, whatever the numbers of rows."""
    a, b = COUNTS[exchange]
    want = [*range(a), *range(100, 100 + b)]
    for worker in gathered:
        matrix, vector = worker[exchange]
        assert vector.tolist() == want and vector.dtype == torch.float64
        assert matrix.shape == (a + b, 3) and matrix[:, 2].tolist() == want
