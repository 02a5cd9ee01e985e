"""Meta-Weight-Net as its authors published it: a control, written from its equations and apart from our core.

Source: Shu et al. 2019, "Meta-Weight-Net: learning an explicit mapping for sample weighting", equations 3 to 5 and
algorithm 1, with the settings of the authors' MW-Net.py. V(l; omega) is a 1-100-1 network with a sigmoid::

    theta'(omega) = theta - lr grad_theta 1/N sum_i V(l_i(theta); omega) l_i(theta)     virtual, plain SGD, same batch
    omega <- Adam(omega, grad_omega 1/M sum_j l_j^meta(theta'(omega)))                 lr 1e-3, decay 1e-4 (in the gradient)
    w_i = V(l_i(theta); omega), computed anew;  the student's step is on 1/N sum_i w_i l_i(theta)

The virtual step is differentiated by a graph of the gradient, which is what that method costs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_l2rw.vision.student import Batch, ImageStudent, own_statistics

HIDDEN, LR, WEIGHT_DECAY = 100, 1e-3, 1e-4


class MetaWeightNet:
    """V, its optimizer, and its update.

    Args:
        student: the classifier.
        batchnorm: statistics of the virtual student on the meta batch, ``batch`` (as published) or ``running``.
    """

    def __init__(self, student: ImageStudent, batchnorm: str = "batch"):
        self.student, self.batchnorm = student, batchnorm
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
        module = self.student.module
        theta = {name: p.detach().requires_grad_() for name, p in module.named_parameters()}
        with own_statistics(module):
            losses = self._losses(theta, batch)
            weighted = (self.weights(losses) * losses).mean()
            gradients = torch.autograd.grad(weighted, list(theta.values()), create_graph=True)
        virtual = {name: p - lr * g for (name, p), g in zip(theta.items(), gradients)}
        if self.batchnorm == "batch":
            with own_statistics(module):
                meta_loss = self._losses(virtual, meta).mean()
        else:
            module.eval()
            meta_loss = self._losses(virtual, meta).mean()
            module.train()
        parameters = list(self.net.parameters())
        for p, g in zip(parameters, torch.autograd.grad(meta_loss, parameters)):
            p.grad = g
        self.optimizer.step()
        return float(meta_loss.detach())

    def _losses(self, parameters: dict[str, Tensor], batch: Batch) -> Tensor:
        logits, _ = torch.func.functional_call(self.student.module, parameters, (batch.images,))
        return F.cross_entropy(logits, batch.labels, reduction="none")

    def state_dict(self) -> dict:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
