"""What the influences measured of a single example say, beside what its features say.

The teacher's loss has its stationary weight at ``logit p - E[t] / tau`` (see ``MetaTrainer._learn``; t: the influence over the
scale). The teacher knows E[t] by the features alone, and errs in the same way at every visit of an example that it takes for
another kind. An example that was measured n times, with mean t_i, has a better guess, the best linear one where what the
features do not know has a part ``rho`` of the variance of a single measurement (Henderson, 1975: best linear unbiased prediction):

    logit_i = (1 - kappa) logit(x_i) + kappa (logit p - t_i / tau),    kappa = n rho / (1 + (n - 1) rho)
"""

from __future__ import annotations

import torch
from torch import Tensor

#: measurements that count at most, so that the mean forgets how the student was long ago
MOST = 8.0


class OwnInfluence:
    """Means of the scaled influences of each example and head.

    Args:
        heads: how many there are.
        reliability: rho, between 0 and 1.
        prior_logit, prior_strength: logit p and tau.

    Attributes:
        means, counts: ``[K, M]``, single precision, on the CPU; M grows to the largest number of an example, 8 bytes each and head.
    """

    def __init__(self, heads: int, reliability: float, prior_logit: float, prior_strength: float):
        self.reliability, self.prior_logit, self.prior_strength = reliability, prior_logit, prior_strength
        self.means, self.counts = torch.zeros(heads, 0), torch.zeros(heads, 0)

    def add(self, head: int, ids: Tensor, targets: Tensor) -> None:
        """Takes measurements ``[N]`` of the examples ``ids [N]``, in their order; an example may come twice."""
        ids, targets = ids.cpu(), targets.detach().float().cpu()
        if len(ids) and (missing := int(ids.max()) + 1 - self.means.shape[1]) > 0:
            more = torch.zeros(len(self.means), max(missing, self.means.shape[1] // 2))
            self.means, self.counts = torch.cat([self.means, more], 1), torch.cat([self.counts, more], 1)
        for i, target in zip(ids.tolist(), targets.tolist()):
            count = min(float(self.counts[head, i]) + 1, MOST)
            self.counts[head, i] = count
            self.means[head, i] += (target - float(self.means[head, i])) / count

    def corrected(self, ids: Tensor, logits: Tensor) -> Tensor:
        """logit_i ``[N, K]`` of the examples ``ids [N]``, from the teacher's ``logits [N, K]``."""
        known = ids.cpu().clamp(max=self.means.shape[1] - 1)
        inside = (ids.cpu() < self.means.shape[1]).unsqueeze(1)
        if not inside.any():
            return logits
        n = (self.counts[:, known].T * inside).to(logits)
        kappa = n * self.reliability / (1 + (n - 1) * self.reliability)
        own = self.prior_logit - self.means[:, known].T.to(logits) / self.prior_strength
        return torch.where(n > 0, (1 - kappa) * logits + kappa * own, logits)

    def state_dict(self) -> dict:
        return {"means": self.means, "counts": self.counts}

    def load_state_dict(self, state: dict) -> None:
        self.means, self.counts = state["means"].clone(), state["counts"].clone()
