"""Surface information alone: w_i = prod_k sigmoid(f_k(loss of i) + g_k(lengths, progress, dev loss)).

Source: the surface features S of learning to reweight with deep interactions, Fan et al. 2021, without
the internal states: the teacher of earlier learning-to-teach work.
"""

from fairseq_l2rw.meta.reweighters import register
from fairseq_l2rw.meta.teacher import Teacher


@register("surface")
def build(layout, heads, inputs, hidden, prior):
    return Teacher(layout, heads, True, True, False, hidden, prior)
