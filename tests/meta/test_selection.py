"""Which parameters the hypergradient goes through."""

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import influence
from fairseq_l2rw.meta.functional import trainable
from fairseq_l2rw.meta.selection import expression, in_front
from tests.oracles import ToyStudent

NAMES = ("encoder.embed.weight", "encoder.layers.0.fc1.weight", "encoder.layers.0.fc1.bias", "encoder.layers.11.fc1.bias", "0.weight")
PARAMETERS = {name: torch.nn.Parameter(torch.zeros(1)) for name in NAMES}


@pytest.mark.parametrize(
    "pattern, first",
    [
        ("", list(NAMES)),
        ("fc1", list(NAMES[1:4])),
        ("bias$", ["encoder.layers.0.fc1.bias", "encoder.layers.11.fc1.bias"]),
        (r"layers\.1\d|^0", ["encoder.layers.11.fc1.bias", "0.weight"]),
    ],
)
def test_in_front(pattern, first):
    ordered, count = in_front(PARAMETERS, pattern)
    assert list(ordered)[:count] == first and len(first) == count
    assert ordered.keys() == PARAMETERS.keys() and all(ordered[n] is p for n, p in PARAMETERS.items())


def test_a_pattern_that_is_found_nowhere():
    with pytest.raises(L2RWError) as caught:
        in_front(PARAMETERS, "attn")
    assert str(caught.value) == (
        "--meta-params attn: found in no name of the student's parameters; "
        "there are encoder.embed, encoder.layers.N.fc1, N (N: a number)"
    )


def test_not_a_regular_expression():
    with pytest.raises(L2RWError, match=r"--meta-params \*: not a regular expression"):
        expression("*")


def test_forward_mode_makes_no_tangent_of_the_others(monkeypatch):
    """So it does not pay for them."""
    student = ToyStudent()
    parameters = list(trainable(student.module).values())
    made = []
    make_dual = influence.forward_ad.make_dual
    monkeypatch.setattr(influence.forward_ad, "make_dual", lambda p, t: made.append(p) or make_dual(p, t))
    from fairseq_l2rw.meta.functional import RandomState
    from fairseq_l2rw.meta.records import BatchRecord
    from tests.oracles import toy_batch

    record = BatchRecord(toy_batch(3, 1), None, None, None, None, None, None, RandomState.capture())
    theta = [p.detach() for p in parameters]
    influence.forward_mode(student, parameters, theta, [torch.ones_like(theta[0])], record)
    assert len(made) == 1 and len(parameters) > 1
