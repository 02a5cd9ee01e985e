"""Reading fairseq's checkpoints, which may come from strangers: nothing in them is executed.

Since torch 2.6 ``torch.load`` executes nothing but what is on an allow-list (``weights_only=True``), and
fairseq's own checkpoints hold a few objects that are not on torch's. Those few are named here, each with its
reason; the safe loader is never switched off.

That alone is not enough: fairseq passes some options of a model to ``eval``, and a checkpoint brings the options of its model along.
So the one function by which fairseq reads checkpoints is put behind a check. What fairseq can use it reads as before; what it
would run, or fail on with a traceback, is refused with one line.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
import re
from pathlib import Path
from typing import Any, Iterator

import torch
from fairseq import checkpoint_utils
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairseq_l2rw.errors import L2RWError

#: what fairseq writes into a checkpoint, or sends to its workers, besides tensors and plain Python
SAFE_GLOBALS = (
    argparse.Namespace,  # cfg.model, cfg.task of architectures and tasks without a dataclass; holds attributes only
    _TensorPlaceholder,  # one worker reads a checkpoint and sends it to the others, with this in a tensor's place; a number
)

#: options that fairseq's models, optimizers and criterions evaluate as Python (a test compares this list with fairseq's source)
EVALUATED = frozenset(
    "encoder_layers decoder_layers encoder_attention decoder_attention self_attention project_input gated_attention "
    "downsample pretrained conv_feature_layers conv_aggregator_layers character_filters adam_betas adamax_betas "
    "adafactor_eps lamb_betas wer_args".split()
)

#: what torch's safe loader says of things that are no part of a checkpoint
_FORBIDDEN = re.compile(r"GLOBAL (\S+)|function (\S+)|class (\S+)|types allowlisted|persistent_load")


def allow_fairseq_globals() -> None:
    """Adds :data:`SAFE_GLOBALS` to torch's allow-list; calling it again changes nothing."""
    torch.serialization.add_safe_globals(list(SAFE_GLOBALS))


def guard_reading() -> None:
    """Puts the check around fairseq's ``load_checkpoint_to_cpu``; calling it again changes nothing."""
    read = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(read, "_is_guarded", False):
        return

    @functools.wraps(read)
    def guarded(path, *args, **kwargs):
        try:
            state = read(path, *args, **kwargs)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise L2RWError(explain_unreadable(path, error)) from error
        refuse_code(path, state)
        if "load_on_all_ranks" in kwargs and state.get("cfg") is not None:
            # it is a trainer that reads, which sends all of it to the other workers, through the safe loader; it goes by its own options
            state["cfg"] = OmegaConf.to_container(OmegaConf.create(state["cfg"]), resolve=True, enum_to_str=True)
        return state

    guarded._is_guarded = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = guarded


def explain_unreadable(path: str, error: Exception) -> str:
    """One line for a checkpoint that could not be read: what is wrong with it and what to do."""
    message = str(error)
    if "Weights only load failed" in message and (found := _FORBIDDEN.search(message)):
        what = next((name for name in found.groups() if name), "an object of another kind")
        return (
            f"{path}: refused: it holds {what.rstrip('.')}, which is no part of a checkpoint and could run code on this machine; "
            "take a checkpoint from people you trust, saved with tensors and plain values alone"
        )
    reason = f"it lacks {message}" if isinstance(error, KeyError) else re.split(r"\n|\. |: ", message)[0]
    return f"{path}: cut short, or no checkpoint of fairseq-train ({reason or type(error).__name__}); {_another(path)}"


def refuse_code(path: str, state: dict) -> None:
    """Raises L2RWError if an option in the checkpoint, which fairseq would evaluate as Python, is more than a plain value."""
    try:
        options = [
            OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part
            for part in (state.get("cfg"), state.get("args"))
        ]
    except OmegaConfBaseException as error:
        raise L2RWError(f"{path}: its configuration cannot be read ({str(error).splitlines()[0]}); {_another(path)}") from error
    for name, value in _options(options):
        if name in EVALUATED and isinstance(value, (str, bytes)) and not is_plain(value):
            raise L2RWError(
                f"{path}: refused: its option {name} is {value!r:.80}, which fairseq would run as Python code; "
                "take a checkpoint from people you trust"
            )


def is_plain(text: str | bytes) -> bool:
    """Is it a literal, or sums and multiples of literals, as ``[(512, 3)] * 20``?"""
    allowed = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Load, ast.BinOp, ast.Add, ast.Mult, ast.UnaryOp, ast.USub)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, allowed) for node in ast.walk(tree))


def _options(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values at every depth of namespaces, mappings and sequences; without recursion, which has an end."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, dict):
            yield from value.items()
            pending.extend(value.values())
        elif isinstance(value, (list, tuple)):
            pending.extend(value)


def _another(path: str) -> str:
    """The remedy: the newest other checkpoint beside it, if there is one."""
    here = Path(path)
    others = [other for other in here.parent.glob("*.pt") if other.name != here.name and other.stat().st_size > 0]
    if not others:
        return "fetch or write it again"
    newest = max(others, key=lambda other: other.stat().st_mtime)
    return f"give an earlier one: {os.fspath(newest)} lies beside it (training takes it with --restore-file)"
