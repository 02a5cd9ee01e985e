"""The models are those of the papers, to the parameter."""

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import models


# the figures that the papers give, in millions, and the digits of their authors' or torchvision's models
@pytest.mark.parametrize(
    ("name", "size", "classes", "millions", "exactly"),
    [
        ("resnet32", 32, 10, 0.46, 464_154),
        ("wrn-28-10", 32, 10, 36.5, 36_479_194),
        ("wrn-28-10", 32, 100, 36.5, 36_536_884),
        ("resnet18", 224, 1000, 11.7, 11_689_512),
    ],
)
def test_number_of_parameters(name, size, classes, millions, exactly):
    with torch.device("meta"):
        count = models.count_parameters(models.build(name, 3, size, classes))
    assert count == exactly
    assert abs(count / 1e6 - millions) < 0.05


@pytest.mark.parametrize(("name", "size", "width"), [("cnn", 8, 64), ("resnet32", 8, 64), ("resnet18", 33, 512)])
def test_logits_and_pooled_features(name, size, width):
    model = models.build(name, 3, size, 5)
    logits, features = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5) and features.shape == (2, width) and model.width == width
    assert torch.equal(logits, model.head(features))


def test_depth_of_the_wide_network():
    with torch.device("meta"):
        model = models.build("wrn-28-10", 3, 32, 10)
    # 28 counts the first convolution, 24 in the blocks and the three 1x1 shortcuts' groups as in the paper: 6 n + 4, n = 4
    assert sum(m.kernel_size == (3, 3) for m in model.modules() if isinstance(m, torch.nn.Conv2d)) == 25


def test_shortcut_without_parameters_keeps_its_input():
    block = models.BasicBlock(2, 4, stride=2, projection=False)
    torch.nn.init.zeros_(block.norm2.weight)  # the residual is zero
    x = torch.rand(1, 2, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_unknown_model():
    with pytest.raises(L2RWError, match="--model vgg: unknown model; choose one of cnn, resnet32, wrn-28-10, resnet18"):
        models.build("vgg", 3, 32, 10)
