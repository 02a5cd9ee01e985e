"""What the optimizer really steps for each parameter of the student.

In single precision that is the parameter itself. Mixed precision keeps a master copy in single precision, one for each
parameter or one flat tensor for all, which the optimizer steps and from which the half-precision parameters are then made
anew. The step that is differentiated is the master's; that the parameter is its rounded image counts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class Master:
    """The tensor that is stepped for one parameter.

    Args:
        stepped: the optimizer's parameter.
        like: the student's parameter.
        offset: where it begins in a flat ``stepped``; None where ``stepped`` has its shape.
    """

    def __init__(self, stepped: nn.Parameter, like: Tensor, offset: int | None = None):
        self.stepped, self.offset = stepped, offset
        self.shape, self.count = like.shape, like.numel()

    def part(self, tensor: Tensor) -> Tensor:
        """This parameter's part of a tensor of ``stepped``'s shape (value, gradient, moment), single precision at least."""
        if self.offset is not None:
            tensor = tensor[self.offset : self.offset + self.count].view(self.shape)
        return at_least_single(tensor)


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where it was in half."""
    return tensor.float() if tensor.dtype in HALF else tensor
