"""Deep interactions: w_i = prod_k sigmoid(f_k(loss of i) + g_k(states of the student, surface)).

Source: learning to reweight with deep interactions, Fan et al. 2021: the teacher sees the student's
internal states I and the surface information S. ``inputs`` switches either off.
"""

from fairseq_l2rw.meta.reweighters import register
from fairseq_l2rw.meta.teacher import Teacher


@register("deep")
def build(layout, heads, inputs, hidden, prior):
    surface = "surface" in inputs
    return Teacher(layout, heads, surface, surface, "internal" in inputs, hidden, prior)
