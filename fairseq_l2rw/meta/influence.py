"""The influence of single examples: c_i = grad l_i(theta) . v, for all i of a batch at once.

The pass repeats the student's step: the same parameters theta, the same mode, the same dropout masks.

``forward``
    one forward-mode pass: the tangent of l_i in direction v, exact to rounding;
``finite-difference``
    (l_i(theta + e v) - l_i(theta - e v)) / 2 e, two forward passes, for layers that have no
    forward-mode rule; its error is O(e^2) + rounding / e.

The direction may name fewer parameters than there are: it is zero for those that follow (``--meta-params``).

The curvature term of windows of more than one step, H v = grad_theta sum_i w_i grad l_i . v / W, is a second-order
derivative: exactly by a graph of the gradient, or by a central difference of two gradients.
"""

from __future__ import annotations

from typing import Any, Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairseq_l2rw.meta.clipping import norm
from fairseq_l2rw.meta.functional import RandomState, in_mode, swapped
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
        vector: v, of the first parameters; forward mode costs nothing for the others.
        record: the micro-batch of the step.

    Returns:
        ``(losses, influence)``, both ``[N]``, nats, detached; the losses are those of the step.

    Raises:
        NoForwardMode: a layer has no forward-mode rule.
    """
    # the tangent is scaled to the parameters' range and back: v carries the learning rate
    scale = _scale(theta, vector)
    with record.random_state.replayed():
        losses, along = _tangents(student, parameters, theta, (v * scale for v in vector), record.batch)
    return losses, along / scale


def check_forward_mode(student: Student, parameters: list[nn.Parameter], count: int, batch: Any) -> None:
    """Has every layer that the first ``count`` parameters reach a forward-mode rule, in the training step? Changes nothing.

    Raises:
        NoForwardMode: one has none.
    """
    theta = [p.detach() for p in parameters]
    with RandomState.capture().replayed(), in_mode(student.module, training=True):
        _tangents(student, parameters, theta, (torch.zeros_like(t) for t in theta[:count]), batch)


def _tangents(student, parameters, theta, directions: Iterable[Tensor], batch) -> tuple[Tensor, Tensor]:
    """Losses and their tangents ``[N]``, detached; the directions are those of the first parameters."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(theta, directions)]
        try:
            with swapped(student.module, parameters, duals + theta[len(duals) :]):
                losses, _ = student.losses(batch)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" in str(error) or "forward mode" in str(error).lower():
                raise NoForwardMode(str(error).splitlines()[0]) from error
            raise
        primal, tangent = forward_ad.unpack_dual(losses)
        if tangent is None:
            tangent = torch.zeros_like(primal)
        return primal.detach().clone(), tangent.detach()


def finite_difference(
    student: Student, parameters: list[nn.Parameter], theta: list[Tensor], vector: list[Tensor], record: BatchRecord
) -> tuple[Tensor, Tensor]:
    """c_i by a central difference; arguments and result as :func:`forward_mode`.

    The losses returned are the mean of both sides, right to O(e^2).
    """
    epsilon = _relative_step(theta) * _scale(theta, vector)
    sides = []
    for sign in (epsilon, -epsilon):
        values = [torch.add(t, v, alpha=sign) for t, v in zip(theta, vector)] + theta[len(vector) :]
        with torch.no_grad(), record.random_state.replayed(), swapped(student.module, parameters, values):
            sides.append(student.losses(record.batch)[0])
    plus, minus = sides
    return (plus + minus) / 2, (plus - minus) / (2 * epsilon)


def curvature(
    student: Student,
    parameters: list[nn.Parameter],
    theta: list[Tensor],
    vector: list[Tensor],
    record: BatchRecord,
    denominator: Tensor,
) -> list[Tensor]:
    """H v of one micro-batch, exact, detached, of the parameters of v; arguments as :func:`forward_mode`, and W."""
    moved = [t.detach().requires_grad_() for t in theta[: len(vector)]]
    theta = moved + theta[len(vector) :]
    # the fused attention kernels have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        gradients = _step_gradient(student, parameters, theta, moved, record, denominator, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(gradients, vector) if g is not None)
        return _filled(torch.autograd.grad(along, moved, allow_unused=True), moved)


def curvature_by_difference(student, parameters, theta, vector, record, denominator) -> list[Tensor]:
    """H v of one micro-batch by a central difference of gradients; arguments as :func:`curvature`."""
    epsilon = _relative_step(theta) * _scale(theta, vector)
    sides = []
    for sign in (epsilon, -epsilon):
        moved = [torch.add(t, v, alpha=sign).requires_grad_() for t, v in zip(theta, vector)]
        values = moved + theta[len(vector) :]
        with torch.enable_grad():
            sides.append(_filled(_step_gradient(student, parameters, values, moved, record, denominator), moved))
    return [(plus - minus) / (2 * epsilon) for plus, minus in zip(*sides)]


def _step_gradient(student, parameters, theta, moved, record, denominator, create_graph=False):
    with record.random_state.replayed(), swapped(student.module, parameters, theta):
        losses, _ = student.losses(record.batch)
    loss = (record.weights * losses).sum() / denominator
    return torch.autograd.grad(loss, moved, create_graph=create_graph, allow_unused=True)


def _filled(gradients, like):
    return [torch.zeros_like(t) if g is None else g.detach() for g, t in zip(gradients, like)]


def _relative_step(theta):
    return 1e-6 if theta[0].dtype == torch.float64 else 2e-3


def _scale(theta, vector):
    size = norm(vector)
    return norm(theta[: len(vector)]) / size if size > 0 else 1.0


MODES = {"forward": forward_mode, "finite-difference": finite_difference}
CURVATURES = {"forward": curvature, "finite-difference": curvature_by_difference}
