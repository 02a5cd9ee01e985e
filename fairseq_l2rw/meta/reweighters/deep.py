"""Deep interactions: w_i = prod_k sigmoid(f_k(loss of i, s_k(states of the student, lengths))), s_k a probe's score, or
w_i = prod_k sigmoid(f_k(loss of i) + g_k(states of the student, surface)).

Source: learning to reweight with deep interactions, Fan et al. 2021: the teacher sees the student's
internal states I and the surface information S. ``inputs`` switches either off, and says whether the states come
through a probe (``probe``) or directly (``internal``).
"""

from fairseq_l2rw.meta.reweighters import register
from fairseq_l2rw.meta.teacher import Teacher


@register("deep")
def build(layout, heads, inputs, hidden, prior):
    surface = "surface" in inputs
    states = "probe" if "probe" in inputs else "direct"
    internal = "probe" in inputs or "internal" in inputs
    return Teacher(layout, heads, surface, surface, internal, hidden, prior, states)
