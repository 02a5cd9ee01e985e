"""The method itself: knows torch, knows neither fairseq nor text nor images.

Symbols, the same everywhere in this package (shapes in brackets):

==================  ==========================================================
``losses``          l_i, token-summed loss of example i, in nats ``[N]``
``n_tokens``        n_i, target tokens of example i ``[N]``
``weights``         w_i, what the teacher says ``[N]``
``influence``       c_i = grad l_i . v, in nats ``[N]``
``adjoint``         lambda = grad J at the new parameters, one tensor a parameter
``step_vector``     v = Clip^T (d theta' / d g)^T lambda, one tensor a parameter
==================  ==========================================================
"""

from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.meta.features import FeatureLayout
from fairseq_l2rw.meta.functional import RandomState
from fairseq_l2rw.meta.rule_trainer import RuleTrainer
from fairseq_l2rw.meta.student import Student
from fairseq_l2rw.meta.trainer import MetaTrainer

__all__ = ["FeatureLayout", "MetaConfig", "MetaTrainer", "RandomState", "RuleTrainer", "Student"]
