"""The influence of single examples: c_i = grad l_i(theta) . v, for all i of a batch at once.

The pass repeats the student's step: the same parameters theta, the same mode, the same dropout masks.

``forward``
    one forward-mode pass: the tangent of l_i in direction v, exact to rounding;
``finite-difference``
    (l_i(theta + e v) - l_i(theta - e v)) / 2 e, two forward passes, for layers that have no
    forward-mode rule; its error is O(e^2) + rounding / e.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairseq_l2rw.meta.clipping import norm
from fairseq_l2rw.meta.functional import swapped
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.student import Student


class NoForwardMode(Exception):
    """A layer of the student has no forward-mode rule; the message is torch's."""


def forward_mode(
    student: Student, parameters: list[nn.Parameter], theta: list[Tensor], vector: list[Tensor], record: BatchRecord
) -> tuple[Tensor, Tensor]:
    """c_i by one forward-mode pass.

    Args:
        theta: the parameters of the step, detached.
        vector: v.
        record: the micro-batch of the step.

    Returns:
        ``(losses, influence)``, both ``[N]``, nats, detached; the losses are those of the step.

    Raises:
        NoForwardMode: a layer has no forward-mode rule.
    """
    # the tangent is scaled to the parameters' range and back: v carries the learning rate
    scale = _scale(theta, vector)
    with torch.no_grad(), record.random_state.replayed(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, v * scale) for t, v in zip(theta, vector)]
        try:
            with swapped(student.module, parameters, duals):
                losses, _ = student.losses(record.batch)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" in str(error) or "forward mode" in str(error).lower():
                raise NoForwardMode(str(error).splitlines()[0]) from error
            raise
        primal, tangent = forward_ad.unpack_dual(losses)
        if tangent is None:
            tangent = torch.zeros_like(primal)
        return primal.detach().clone(), tangent.detach() / scale


def finite_difference(
    student: Student, parameters: list[nn.Parameter], theta: list[Tensor], vector: list[Tensor], record: BatchRecord
) -> tuple[Tensor, Tensor]:
    """c_i by a central difference; arguments and result as :func:`forward_mode`.

    The losses returned are the mean of both sides, right to O(e^2).
    """
    relative = 1e-6 if theta[0].dtype == torch.float64 else 2e-3
    epsilon = relative * _scale(theta, vector)
    sides = []
    for sign in (epsilon, -epsilon):
        values = [torch.add(t, v, alpha=sign) for t, v in zip(theta, vector)]
        with torch.no_grad(), record.random_state.replayed(), swapped(student.module, parameters, values):
            sides.append(student.losses(record.batch)[0])
    plus, minus = sides
    return (plus + minus) / 2, (plus - minus) / (2 * epsilon)


def _scale(theta, vector):
    size = norm(vector)
    return norm(theta) / size if size > 0 else 1.0


MODES = {"forward": forward_mode, "finite-difference": finite_difference}
