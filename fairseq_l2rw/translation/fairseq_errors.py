"""fairseq's own exceptions that a user can mend, in one line.

Inside they stay what they are, for programs that catch them; the line is made at the outer edge of a command (see
:func:`fairseq_l2rw.errors.install_exit_hook`).
"""

from __future__ import annotations

import re

#: what fairseq says -> what to do about it; the groups are taken over
_KNOWN = (
    (
        r"Cannot load model parameters from checkpoint (.*); please ensure that the architectures match\.",
        r"\1: its parameters do not fit this model (--arch and its sizes, the dictionaries of DATA); give the options it was "
        r"trained with, or another --save-dir",
    ),
    (r"Model file not found: (.*)", r"\1: no such file; give a checkpoint, as checkpoints/checkpoint_last.pt"),
    (
        r"Could not infer language pair, please provide it explicitly",
        r"no binarised data found in DATA; give a folder that fairseq-preprocess or 'fairseq-l2rw prepare' has made, or --source-lang "
        r"and --target-lang",
    ),
    (
        r"Must specify batch size either with --max-tokens or --batch-size",
        r"no size of a batch; give --max-tokens or --batch-size",
    ),
    (
        r"--cpu-offload requires --ddp-backend=fully_sharded",
        r"--cpu-offload: fairseq has it with --ddp-backend fully_sharded only; leave it out",
    ),
    (
        r"Dataset not found: (\S+) \((.*)\)",
        r"\2: no binarised split '\1'; binarise one under that name, or name another split",
    ),
    (
        r"Size of sample #(\S+) is invalid \(=(.*)\) since max_positions=(.*), skip this example with (\S+)",
        r"pair \1 (counted from 0) of a split is longer (\2) than the model takes (\3); give \4 to leave such pairs out",
    ),
)


def explain(error: BaseException) -> str | None:
    """What to print instead of a traceback; None for an exception that is not known here."""
    for pattern, line in _KNOWN:
        found = re.fullmatch(pattern, str(error), re.DOTALL)
        if found:
            return found.expand(line)
    if type(error) is FileNotFoundError and error.filename is not None:
        return f"{error.filename}: no such file or folder; check the path"
    return None
