"""The loss alone: w_i = prod_k sigmoid(f_k(loss of i)).

Source: Meta-Weight-Net, Shu et al. 2019 (an MLP on the loss, trained by the gradient of the dev loss),
with this project's heads, replay and prior.
"""

from fairseq_l2rw.meta.reweighters import register
from fairseq_l2rw.meta.teacher import Teacher


@register("loss")
def build(layout, heads, inputs, hidden, prior):
    return Teacher(layout, heads, True, False, False, hidden, prior)
