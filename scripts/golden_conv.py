#!/usr/bin/env python3
"""Golden values from PyTorch of convolutions: tests/golden/conv.json and conv_layers.json. See golden.py.

    python scripts/golden_conv.py [--out tests/golden]
"""
import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from golden import ROOT, draw, layer_rows, op_rows, write


def conv():
    cases, add = op_rows()

    def convolve(op, fn, text, x, w, stride, padding, dilation, groups):
        key = f"{op}/{text}"
        add(op, text, [draw(key + "/x", x), draw(key + "/w", w)],
            lambda x, w: fn(x, w, None, stride, padding, dilation, groups),
            stride=stride, padding=padding, dilation=dilation, groups=groups)

    one = lambda *row: convolve("conv1d", F.conv1d, *row)
    one("plain", [2, 3, 8], [4, 3, 3], [1], [0], [1], 1)
    one("stride", [2, 2, 11], [3, 2, 4], [3], [0], [1], 1)
    one("padding", [1, 2, 5], [3, 2, 4], [1], [5], [1], 1)
    one("dilation", [2, 2, 12], [2, 2, 3], [2], [2], [3], 1)
    one("groups", [2, 4, 7], [6, 2, 3], [1], [1], [1], 2)
    one("depthwise", [2, 3, 7], [3, 1, 2], [1], [1], [2], 3)
    one("same", [2, 2, 7], [3, 2, 4], [1], "same", [1], 1)
    one("same, dilated", [1, 2, 9], [2, 2, 2], [1], "same", [3], 1)

    two = lambda *row: convolve("conv2d", F.conv2d, *row)
    two("plain", [2, 3, 5, 6], [4, 3, 3, 3], [1, 1], [0, 0], [1, 1], 1)
    two("one by one", [2, 3, 3, 4], [5, 3, 1, 1], [1, 1], [0, 0], [1, 1], 1)
    two("stride", [1, 2, 8, 9], [3, 2, 3, 2], [3, 2], [0, 0], [1, 1], 1)
    two("stride above kernel", [2, 2, 7, 8], [2, 2, 1, 2], [3, 4], [0, 0], [1, 1], 1)
    two("padding", [2, 2, 3, 4], [3, 2, 2, 3], [1, 1], [2, 4], [1, 1], 1)
    two("dilation", [1, 2, 9, 8], [2, 2, 3, 2], [1, 1], [1, 2], [2, 3], 1)
    two("dilation, stride", [1, 2, 11, 9], [2, 2, 3, 2], [2, 3], [2, 1], [4, 2], 1)
    two("groups", [2, 6, 5, 4], [4, 3, 3, 2], [2, 1], [1, 1], [1, 1], 2)
    two("depthwise", [2, 3, 5, 5], [6, 1, 3, 3], [1, 1], [1, 1], [1, 1], 3)
    two("same", [2, 2, 5, 4], [3, 2, 4, 3], [1, 1], "same", [1, 1], 1)
    two("same, dilated", [1, 2, 5, 6], [2, 2, 2, 4], [1, 1], "same", [3, 1], 1)
    two("kernel of the padded image", [2, 3, 2, 3], [4, 3, 4, 5], [1, 1], [1, 1], [1, 1], 1)

    def transposed(text, x, w, stride, padding, extra, dilation, groups):
        key = f"conv_transpose2d/{text}"
        add("conv_transpose2d", text, [draw(key + "/x", x), draw(key + "/w", w)],
            lambda x, w: F.conv_transpose2d(x, w, None, stride, padding, extra, groups, dilation),
            stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups)

    transposed("plain", [2, 3, 3, 4], [3, 2, 3, 3], [1, 1], [0, 0], [0, 0], [1, 1], 1)
    transposed("stride", [2, 3, 3, 4], [3, 2, 3, 2], [2, 3], [0, 0], [0, 0], [1, 1], 1)
    transposed("output padding", [1, 3, 3, 4], [3, 2, 3, 3], [2, 3], [1, 0], [1, 2], [1, 1], 1)
    transposed("stride above kernel", [1, 2, 3, 2], [2, 3, 1, 2], [3, 4], [0, 0], [0, 0], [1, 1], 1)
    transposed("padding", [2, 2, 4, 5], [2, 3, 3, 4], [1, 1], [1, 2], [0, 0], [1, 1], 1)
    transposed("dilation", [1, 2, 3, 4], [2, 3, 3, 2], [2, 1], [2, 1], [1, 0], [2, 3], 1)
    transposed("groups", [2, 4, 3, 3], [4, 3, 2, 3], [2, 1], [0, 1], [0, 0], [1, 1], 2)
    transposed("depthwise", [2, 3, 3, 3], [3, 1, 3, 3], [2, 2], [1, 1], [1, 1], [1, 1], 3)
    return cases


def conv_layers():
    cases, add = layer_rows()
    nn = torch.nn

    def layer(name, module, text, x, channels, kernel, **args):
        given = dict(stride=[1] * len(kernel), padding=[0] * len(kernel), dilation=[1] * len(kernel), groups=1, bias=True)
        if name == "ConvTranspose2d":
            given["output_padding"] = [0] * len(kernel)
        given |= args
        add(name, text, [draw(f"{name}/{text}/x", x)], module(*channels, kernel, **given),
            out=channels[1], kernel=kernel, **given)

    one = lambda *row, **args: layer("Conv1d", nn.Conv1d, *row, **args)
    one("default", [2, 3, 7], (3, 4), [3])
    one("all options", [2, 4, 11], (4, 6), [3], stride=[2], padding=[3], dilation=[2], groups=2)
    one("no bias, same", [1, 2, 6], (2, 3), [4], padding="same", bias=False)
    two = lambda *row, **args: layer("Conv2d", nn.Conv2d, *row, **args)
    two("default", [2, 3, 5, 6], (3, 4), [3, 2])
    two("all options", [2, 4, 8, 7], (4, 6), [3, 2], stride=[2, 1], padding=[1, 3], dilation=[1, 2], groups=2)
    two("same", [1, 2, 5, 4], (2, 3), [4, 3], padding="same")
    two("depthwise", [2, 3, 5, 5], (3, 3), [3, 3], padding=[1, 1], groups=3)
    two("no bias", [2, 3, 4, 4], (3, 5), [1, 1], bias=False)
    back = lambda *row, **args: layer("ConvTranspose2d", nn.ConvTranspose2d, *row, **args)
    back("default", [2, 3, 3, 4], (3, 4), [3, 2])
    back("all options", [1, 4, 3, 4], (4, 6), [3, 2], stride=[2, 3], padding=[1, 1], output_padding=[1, 2],
         dilation=[2, 2], groups=2)
    back("no bias", [1, 2, 3, 3], (2, 2), [2, 2], stride=[2, 2], bias=False)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for group in conv, conv_layers:
        write(args.out, group.__name__, group())


if __name__ == "__main__":
    main()
