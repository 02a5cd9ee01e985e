"""Crop and flip, against loops."""

import torch

from fairseq_l2rw.vision.augment import crop_and_flip


def test_each_image_is_a_crop_of_its_padded_self():
    images = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    out = crop_and_flip(images, torch.Generator().manual_seed(1))
    found = set()
    for i, image in enumerate(out):
        places = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(_turned(padded[i, :, top : top + 6, left : left + 6], flip), image)
        ]
        assert places  # a crop of the border may be a flipped crop of the inside
        found.update(places)
    assert len(found) > 30 and {flip for *_, flip in found} == {False, True}
    assert {0, 8} <= {top for top, *_ in found} | {left for _, left, _ in found}


def _turned(image, flip):
    return image.flip(2) if flip else image


def test_the_generator_decides():
    images = torch.randn(5, 1, 6, 6)
    a, b, c = (crop_and_flip(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
