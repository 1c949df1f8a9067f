#!/usr/bin/env python3
"""Golden values from PyTorch for the normalisation layers: tests/golden/norm_layers.json. See golden.py for the format.

    python scripts/golden_norm.py [--out tests/golden]
"""
import argparse
from pathlib import Path

import numpy as np
from torch import nn

from golden import ROOT, draw, layer_rows, write


def layers():
    cases, add = layer_rows()

    # batch_norm: what a batch gives, and what the running statistics give
    of_rank = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    default = dict(eps=1e-5, momentum=0.1, affine=True)
    for shape, options in [([5, 3], {}), ([7, 1], {}), ([4, 3, 5], {}), ([3, 2, 3, 4], {}), ([1, 3, 4, 5], {}),
                           ([5, 4], dict(affine=False)), ([3, 2, 3, 4], dict(eps=0.3, momentum=0.4)),
                           ([2, 3, 2, 2], dict(momentum=1.0, affine=False)), ([2, 3, 1, 1], dict(momentum=0.0, eps=0.1))]:
        options = default | options
        for training in True, False:
            text = f"{shape}{'' if training else ', evaluated'}"
            add("batch_norm", text, [draw(f"bn{text}{options}", shape)], of_rank[len(shape)](shape[1], **options).train(training),
                training=training, **options)
    x = draw("bn far", [6, 2, 5]) + np.float32(64)
    add("batch_norm", "[6, 2, 5], mean 64", [x], nn.BatchNorm1d(2), training=True, **default)

    # over the last axes
    for shape, axes, eps in [([5, 7], 1, 1e-5), ([2, 3, 4], 1, 1e-5), ([2, 3, 4], 2, 1e-5), ([2, 3, 2, 3], 3, 1e-5), ([4, 6], 1, 0.3),
                             ([11], 1, 1e-5)]:
        last, x = shape[-axes:], draw(f"ln{shape}{axes}{eps}", shape)
        for affine, bias in (True, True), (True, False), (False, True):
            add("layer_norm", f"{shape} over {axes}", [x], nn.LayerNorm(last, eps, affine, bias), eps=eps, axes=axes, affine=affine, bias=bias)
        for affine in True, False:
            add("rms_norm", f"{shape} over {axes}", [x], nn.RMSNorm(last, eps, affine), eps=eps, axes=axes, affine=affine)
    add("layer_norm", "[3, 33], mean 64", [draw("ln far", [3, 33]) + np.float32(64)], nn.LayerNorm(33),
        eps=1e-5, axes=1, affine=True, bias=True)

    # over groups of channels, and over each
    for shape, groups, eps in [([3, 6], 2, 1e-5), ([3, 6, 5], 3, 1e-5), ([2, 4, 3, 2], 1, 1e-5), ([2, 4, 3, 3], 2, 0.3), ([2, 3, 2, 2], 3, 1e-5)]:
        for affine in True, False:
            add("group_norm", f"{shape} in {groups}", [draw(f"gn{shape}{groups}{eps}", shape)], nn.GroupNorm(groups, shape[1], eps, affine),
                groups=groups, eps=eps, affine=affine)
    for shape, eps in [([2, 3, 5], 1e-5), ([2, 1, 3, 4], 1e-5), ([3, 2, 3, 3], 0.3)]:
        module = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d}[len(shape)]
        for affine in True, False:
            add("instance_norm", f"{shape}", [draw(f"in{shape}{eps}", shape)], module(shape[1], eps, affine=affine), eps=eps, affine=affine)
    return cases


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    write(parser.parse_args().out, "norm_layers", layers())
