"""Meta-Weight-Net as its authors published it: a control, written from its equations, apart from our core's hypergradients.

Source: Shu et al. 2019, "Meta-Weight-Net: learning an explicit mapping for sample weighting", equations 3 to 5 and
algorithm 1, with the settings of the authors' MW-Net.py. V(l; omega) is a 1-100-1 network with a sigmoid::

    theta'(omega) = theta - lr grad_theta 1/N sum_i V(l_i(theta); omega) l_i(theta)     virtual, plain SGD, same batch
    omega <- Adam(omega, grad_omega 1/M sum_j l_j^meta(theta'(omega)))                 lr 1e-3, decay 1e-4 (in the gradient)
    w_i = V(l_i(theta); omega), computed anew;  the student's step is on 1/N sum_i w_i l_i(theta)

The authors differentiate the virtual step by a graph of the gradient. Its losses count as data in V, so with v the gradient of
the meta loss at theta'::

    grad_omega = -lr 1/N sum_i grad_omega V(l_i; omega) <grad_theta l_i, v>

and the products come from one forward-mode pass: the same numbers in less time. ``graph=True`` is the authors' way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fairseq_l2rw.meta import RandomState
from fairseq_l2rw.meta.functional import evaluating, swapped
from fairseq_l2rw.vision.student import Batch, ImageStudent, own_statistics

HIDDEN, LR, WEIGHT_DECAY = 100, 1e-3, 1e-4


class MetaWeightNet:
    """V, its optimizer, and its update.

    Args:
        student: the classifier; its ``dev_batchnorm`` holds for the virtual student on the meta batch, too (as published: ``batch``).
        graph: differentiate the virtual step by a graph of the gradient.
    """

    def __init__(self, student: ImageStudent, graph: bool = False):
        self.student, self.graph = student, graph
        device = next(student.module.parameters()).device
        self.net = nn.Sequential(nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Sigmoid()).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)

    def weights(self, losses: Tensor) -> Tensor:
        """w_i = V(l_i) ``[N]``; the losses count as data."""
        return self.net(losses.detach().unsqueeze(1)).squeeze(1)

    def update(self, batch: Batch, meta: Batch, lr: float) -> float:
        """One step on omega; returns the virtual student's loss on the meta batch.

        Args:
            batch: the training batch of the student's next step.
            lr: the student's learning rate.
        """
        theta = [p.detach().requires_grad_() for p in self.student.module.parameters()]
        state = RandomState.capture()
        with own_statistics(self.student.module):
            losses = self._losses(theta, batch)
        weights = self.weights(losses)
        seen = weights if self.graph else weights.detach()
        gradients = torch.autograd.grad((seen * losses).mean(), theta, create_graph=self.graph)
        virtual = [p - lr * g for p, g in zip(theta, gradients)]
        dev_statistics = own_statistics if self.student.dev_batchnorm == "batch" else evaluating
        with dev_statistics(self.student.module):
            meta_loss = self._losses(virtual, meta).mean()
        parameters = list(self.net.parameters())
        if self.graph:
            found = torch.autograd.grad(meta_loss, parameters)
        else:
            v = torch.autograd.grad(meta_loss, virtual)
            found = torch.autograd.grad(-lr * (weights * self._products(theta, v, batch, state)).mean(), parameters)
        for p, g in zip(parameters, found):
            p.grad = g
        self.optimizer.step()
        return float(meta_loss.detach())

    @torch.no_grad()
    def _products(self, theta: list[Tensor], v: tuple[Tensor, ...], batch: Batch, state: RandomState) -> Tensor:
        """<grad_theta l_i, v> ``[N]``, detached, by forward mode; ``state`` is the generator's before the virtual step's pass."""
        with state.replayed(), forward_ad.dual_level(), own_statistics(self.student.module):
            duals = [forward_ad.make_dual(p.detach(), t) for p, t in zip(theta, v)]
            return forward_ad.unpack_dual(self._losses(duals, batch)).tangent

    def _losses(self, parameters: list[Tensor], batch: Batch) -> Tensor:
        module = self.student.module
        with swapped(module, list(module.parameters()), parameters):
            return self.student.losses(batch)[0]

    def state_dict(self) -> dict:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
