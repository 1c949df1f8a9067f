#!/usr/bin/env python3
"""Golden values from PyTorch for pooling, padding and resizing: see golden.py.

    python scripts/golden_pool.py [--out tests/golden]
"""
import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from golden import ROOT, draw, f32, op_rows, write


def pool():
    cases, add = op_rows()
    key = lambda *parts: "/".join(map(str, parts))

    def image(op, shape, text, fn, **args):
        add(op, f"{shape}, {text}" if text else f"{shape}", [draw(key(op, shape, text), shape)], fn, **args)

    # shape, kernel, stride (None: the kernel), padding, dilation, ceil_mode
    maxima = [([2, 3, 6, 4], [2, 2], None, [0, 0], [1, 1], False), ([1, 2, 7, 5], [2, 2], None, [0, 0], [1, 1], True),
              ([1, 2, 7, 8], [3, 3], [2, 2], [1, 1], [1, 1], False), ([1, 1, 5, 6], [3, 3], [1, 1], [1, 1], [1, 1], False),
              ([2, 1, 9, 7], [3, 2], [1, 2], [1, 1], [2, 3], False), ([1, 2, 8, 9], [2, 1], [3, 4], [1, 0], [1, 1], False),
              ([1, 2, 4, 5], [4, 5], None, [0, 0], [1, 1], False), ([1, 1, 8, 7], [3, 3], [2, 3], [1, 1], [2, 1], True)]
    for shape, k, s, p, d, ceil in maxima:
        image("max_pool2d", shape, f"kernel {k}", lambda x: F.max_pool2d(x, k, s, p, d, ceil),
              kernel=k, stride=s or k, padding=p, dilation=d, ceil_mode=ceil)
    x = f32(1, 3, 3, 2, 3, 1, 0, 3, 2, 3, 3, 3, 0, 0, 0, 0).reshape(1, 1, 4, 4)
    for k, s in ([2, 2], [2, 2]), ([3, 3], [1, 1]):
        add("max_pool2d", f"equal ones, kernel {k}", [x], lambda x: F.max_pool2d(x, k, s), kernel=k, stride=s,
            padding=[0, 0], dilation=[1, 1], ceil_mode=False)
    for n, k, s, p, d, ceil in (6, 2, 2, 0, 1, False), (7, 3, 2, 1, 1, True), (9, 3, 1, 1, 3, False), (8, 2, 5, 0, 1, False):
        image("max_pool1d", [2, 3, n], f"kernel {k}", lambda x: F.max_pool1d(x, k, s, p, d, ceil),
              kernel=k, stride=s, padding=p, dilation=d, ceil_mode=ceil)

    # shape, kernel, stride, padding, ceil_mode, count_include_pad
    means = [([2, 3, 6, 4], [2, 2], None, [0, 0], False, True), ([1, 2, 7, 5], [2, 2], None, [0, 0], True, True),
             ([1, 2, 7, 8], [3, 3], [2, 2], [1, 1], False, True), ([1, 2, 7, 8], [3, 3], [2, 2], [1, 1], False, False),
             ([1, 1, 5, 6], [3, 3], [1, 1], [1, 1], False, True), ([1, 2, 8, 9], [2, 1], [3, 4], [1, 0], False, False),
             ([1, 2, 4, 5], [4, 5], None, [0, 0], False, True), ([1, 1, 8, 7], [3, 2], [2, 3], [1, 1], True, True),
             ([1, 1, 8, 7], [3, 2], [2, 3], [1, 1], True, False)]
    for shape, k, s, p, ceil, counted in means:
        image("avg_pool2d", shape, f"kernel {k}", lambda x: F.avg_pool2d(x, k, s, p, ceil, counted),
              kernel=k, stride=s or k, padding=p, ceil_mode=ceil, count_include_pad=counted)
    for n, k, s, p, ceil, counted in (6, 2, 2, 0, False, True), (7, 3, 2, 1, True, True), (7, 3, 2, 1, False, False), (8, 2, 5, 0, False, True):
        image("avg_pool1d", [2, 3, n], f"kernel {k}", lambda x: F.avg_pool1d(x, k, s, p, ceil, counted),
              kernel=k, stride=s, padding=p, ceil_mode=ceil, count_include_pad=counted)
    for shape, size in [([2, 3, 6, 4], [3, 2]), ([1, 2, 7, 5], [3, 4]), ([1, 2, 3, 4], [7, 4]), ([2, 2, 5, 7], [1, 1]),
                        ([1, 1, 13, 11], [5, 6])]:
        image("adaptive_avg_pool2d", shape, f"to {size}", lambda x: F.adaptive_avg_pool2d(x, size), size=size)
    for shape in [2, 3, 6, 4], [1, 1, 1, 1], [3, 2, 1, 5], [1, 2, 7, 3]:
        image("global_avg_pool2d", shape, "", lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1))

    # Sizes for which PyTorch's rounded scale gives the same element as whole numbers do.
    sizes = [([2, 2, 3, 4], [6, 8]), ([1, 2, 5, 7], [7, 5]), ([1, 1, 7, 3], [3, 11]), ([1, 2, 1, 4], [3, 1]),
             ([1, 1, 4, 11], [4, 3])]
    for shape, size in sizes:
        for mode, corners in ("nearest", None), ("bilinear", False), ("bilinear", True):
            image("upsample", shape, f"{mode} {corners} to {size}",
                  lambda x: F.interpolate(x, size, mode=mode, align_corners=corners),
                  mode=mode, align_corners=bool(corners), size=size)
        for mode, corners in ("nearest-exact", None), ("bicubic", False), ("bicubic", True):
            image("upsample", shape, f"{mode} {corners} to {size}",
                  lambda x: F.interpolate(x, size, mode=mode, align_corners=corners),
                  mode=mode, align_corners=bool(corners), size=size)
    for mode, corners, factor in ("nearest", None, 2), ("nearest", None, 3), ("bilinear", False, 2), ("bilinear", True, 3):
        image("upsample_by", [1, 2, 3, 5], f"{mode} {corners} by {factor}",
              lambda x: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=corners),
              mode=mode, align_corners=bool(corners), factor=factor)

    for mode in "constant reflect replicate circular".split():
        for shape, (left, right), (top, bottom) in [([1, 2, 4, 5], (1, 1), (1, 1)), ([2, 1, 3, 4], (3, 0), (0, 2)),
                                                    ([1, 1, 4, 3], (2, 1), (3, 3)), ([1, 2, 2, 6], (0, 4), (1, 0))]:
            value = dict(value=0.75) if mode == "constant" else {}
            image("pad_with", shape, f"{mode} {left} {right} {top} {bottom}",
                  lambda x: F.pad(x, (left, right, top, bottom), mode=mode, **value),
                  mode=mode, value=0.75, columns=[left, right], rows=[top, bottom])
    for shape, axis in ([5], 0), ([2, 3, 4], 1), ([2, 3, 4], -1), ([3, 1, 2], 0):
        image("flip", shape, f"axis {axis}", lambda x: x.flip(axis), axis=axis)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    torch.set_num_threads(1)
    write(parser.parse_args().out, "pool", pool())


if __name__ == "__main__":
    main()
