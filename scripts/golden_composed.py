#!/usr/bin/env python3
"""Golden values from PyTorch for methods and losses that are compositions of ops, and for indices: see golden.py.

    python scripts/golden_composed.py [--out tests/golden]
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from golden import ROOT, bits, draw, f32, ints, op_rows, write


def composed():
    cases, add = op_rows()
    for s, axis in ([3, 5], 1), ([3, 5], 0), ([2, 3, 4], -2):
        add("normalize", f"{s} along {axis}", [draw(f"normalize{s}{axis}", s)], lambda x: F.normalize(x, dim=axis), axis=axis)
    x = draw("normalize zeros", [3, 2])
    x[1] = 0
    add("normalize", "a row of zeros", [x], lambda x: F.normalize(x, dim=-1), axis=-1)
    add("norm", "a row of zeros", [x], lambda x: torch.linalg.vector_norm(x, dim=-1), axes=[-1], keepdim=False)
    for axes, keepdim in ([1], True), ([0, 2], False):
        add("norm", f"over {axes}", [draw(f"norm{axes}", [2, 3, 4])],
            lambda x: torch.linalg.vector_norm(x, dim=axes, keepdim=keepdim), axes=axes, keepdim=keepdim)
    for a, b, axis in ([3, 5], [3, 5], 1), ([2, 3, 4], [3, 1], 1), ([4, 1, 3], [5, 3], -1):
        add("cosine_similarity", f"{a} x {b} along {axis}", [draw(f"cos{a}{b}a", a), draw(f"cos{a}{b}b", b)],
            lambda x, y: F.cosine_similarity(x, y, dim=axis), axis=axis)
    for m, s in ([3, 4], [3, 4]), ([4], [2, 3, 4]), ([3, 1], [3, 4]):
        add("masked_fill", f"{m} in {s}", [draw(f"fill{m}{s}", s), bits(f"fill{m}{s}", m)],
            lambda x, m: x.masked_fill(m != 0, -2.5), value=-2.5)
    for axis, start, end, step in (0, 0, 7, 2), (0, 1, 7, 3), (1, 0, 5, 5), (1, 1, 5, 2), (2, 0, 6, 3), (2, 2, 3, 4), (2, 1, 6, 1):
        at = [slice(None)] * axis + [slice(start, end, step)]
        add("slice_step", f"[7, 5, 6] axis {axis}, {start}..{end} by {step}", [draw(f"step{axis}{start}{end}{step}", [7, 5, 6])],
            lambda x: x[tuple(at)], axis=axis, start=start, end=end, step=step)
    for equation, *shapes in [("ij,jk->ik", [2, 3], [3, 4]), ("ij,kj->ki", [2, 3], [4, 3]), ("bij,bjk->bik", [2, 3, 4], [2, 4, 5]),
                              ("bhid,bhjd->bhij", [2, 2, 3, 4], [2, 2, 5, 4]), ("i,j->ij", [3], [4]), ("ij,ij->", [3, 4], [3, 4]),
                              ("ij,jk", [2, 3], [3, 4]), ("ba,ca", [2, 3], [4, 3]), ("ij->ji", [3, 4]), ("ijk->j", [2, 3, 4]), ("ij->", [3, 4]),
                              ("bi,kij,bj->bk", [4, 2], [3, 2, 5], [4, 5]), ("abc,cd,bd->ad", [2, 3, 4], [4, 5], [3, 5]),
                              ("ij,i,j->ij", [3, 4], [3], [4]), ("bct,bqt->tqb", [2, 3, 4], [2, 5, 4]), (",i->i", [], [3])]:
        add("einsum", equation, [draw(f"einsum{equation}{k}", s) for k, s in enumerate(shapes)],
            lambda *x: torch.einsum(equation, *x), equation=equation)
    for shape, size in [([2, 3, 6, 4], [3, 2]), ([1, 2, 7, 5], [3, 4]), ([1, 2, 3, 4], [7, 4]), ([2, 2, 5, 7], [1, 1]),
                        ([1, 1, 13, 11], [5, 6]), ([2, 1, 4, 9], [4, 2])]:
        add("adaptive_max_pool2d", f"{shape} to {size}", [draw(f"adaptive{shape}{size}", shape)],
            lambda x: F.adaptive_max_pool2d(x, size), size=size)

    # indices
    for s, axis, m in ([3, 5], 1, 4), ([3, 5], 0, 7), ([2, 5, 3], 1, 2), ([2, 4, 3], -1, 6):
        at = [m if d == axis % len(s) else n for d, n in enumerate(s)]
        add("gather", f"{s} at {at} along {axis}", [draw(f"take{s}{axis}", s), ints(f"take{s}{axis}", at, s[axis])],
            lambda x, i: x.gather(axis, i), axis=axis)
    ties = f32(3, 1, 2, 1, 3, -0.0, 0.0, -1, 2, 0.0, 1, -1).reshape(2, 6)
    for s, axis in ([7], 0), ([3, 5], 0), ([2, 5, 3], 1), ([2, 3, 6], -1):
        for down in False, True:
            x = draw(f"sort{s}{axis}{down}", s)
            add("sort", f"{s} along {axis}", [x], lambda x: x.sort(dim=axis, descending=down, stable=True)[0], axis=axis, descending=down)
            add("argsort", f"{s} along {axis}", [x], lambda x: x.argsort(dim=axis, descending=down, stable=True).double(), axis=axis, descending=down)
            for k in 1, 2:
                add("topk", f"{s} along {axis}", [x], lambda x: x.topk(k, axis, down)[0], axis=axis, largest=down, k=k)
                add("topk_indices", f"{s} along {axis}", [x], lambda x: x.topk(k, axis, down)[1].double(), axis=axis, largest=down, k=k)
    for down in False, True:
        add("argsort", "equal elements", [ties], lambda x: x.argsort(dim=1, descending=down, stable=True).double(), axis=1, descending=down)
        add("sort", "equal elements", [ties], lambda x: x.sort(dim=1, descending=down, stable=True)[0], axis=1, descending=down)
    add("to_index", "[7]", [f32(0, 0.5, 1, 2.999, 3, 1e6, -0.5)], lambda x: x.long().double())

    # n, t, s, classes, blank, and the lengths
    for n, t, s, c, blank, steps, targets in [(2, 7, 3, 4, 0, [7, 5], [3, 2]), (3, 12, 5, 3, 2, [12, 9, 11], [5, 1, 4]),
                                              (1, 9, 4, 6, 3, [9], [4]), (2, 30, 8, 5, 0, [30, 21], [8, 7])]:
        labels = ints(f"ctc{n}{t}{s}", [n, s], c - 1)
        labels[labels >= blank] += 1   # no target is the blank
        labels[0, 1] = labels[0, 0]    # a repeated target
        add("ctc_loss", f"[{n}, {t}, {c}], blank {blank}",
            [draw(f"ctc{n}{t}{s}", [n, t, c], hi=4), labels] + [np.array(x, np.uint32) for x in (steps, targets)],
            lambda x, y, i, j: F.ctc_loss(x.log_softmax(-1).transpose(0, 1), y, i, j, blank, "none"), blank=blank)
    for kernel, stride, padding in ([2, 2], [2, 2], [0, 0]), ([3, 2], [1, 2], [1, 1]), ([3, 3], [2, 1], [0, 1]):
        add("max_pool2d_indices", f"kernel {kernel}", [draw(f"indices{kernel}", [2, 3, 7, 6])],
            lambda x: F.max_pool2d(x, kernel, stride, padding, return_indices=True)[1].double(),
            kernel=kernel, stride=stride, padding=padding)

    # volumes: shape, weight, stride, padding, dilation, groups
    for s, w, stride, padding, dilation, groups in [([2, 2, 4, 5, 3], [3, 2, 2, 3, 2], [1, 1, 1], [0, 0, 0], [1, 1, 1], 1),
                                                    ([1, 4, 5, 4, 6], [4, 2, 3, 2, 3], [2, 1, 2], [1, 0, 2], [1, 1, 1], 2),
                                                    ([1, 2, 6, 5, 5], [3, 2, 3, 2, 2], [1, 2, 1], [1, 1, 0], [2, 1, 2], 1),
                                                    ([2, 3, 3, 2, 2], [2, 3, 1, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1], 1)]:
        add("conv3d", f"{s} by {w}", [draw(f"conv3d{s}{w}x", s), draw(f"conv3d{s}{w}w", w)],
            lambda x, w: F.conv3d(x, w, None, stride, padding, dilation, groups), stride=stride, padding=padding, dilation=dilation, groups=groups)
    for s, k, stride, padding, ceil in [([2, 2, 4, 6, 5], [2, 3, 2], [2, 3, 2], [0, 0, 0], False), ([1, 2, 5, 4, 6], [3, 2, 3], [2, 1, 2], [1, 1, 0], True),
                                        ([1, 1, 7, 5, 4], [3, 3, 1], [1, 2, 3], [1, 0, 0], False)]:
        x = draw(f"pool3d{s}{k}", s)
        add("max_pool3d", f"{s} by {k}", [x], lambda x: F.max_pool3d(x, k, stride, padding, 1, ceil), kernel=k, stride=stride, padding=padding, ceil_mode=ceil)
        for counted in True, False:
            add("avg_pool3d", f"{s} by {k}", [x], lambda x: F.avg_pool3d(x, k, stride, padding, ceil, counted), kernel=k, stride=stride,
                padding=padding, ceil_mode=ceil, count_include_pad=counted)
    for s, size in ([2, 2, 3, 4, 2], [6, 8, 4]), ([1, 2, 5, 3, 7], [3, 4, 5]):
        for mode, corners in ("nearest", None), ("nearest-exact", None), ("trilinear", False), ("trilinear", True):
            add("upsample3d", f"{s} to {size}", [draw(f"up3d{s}{size}", s)], lambda x: F.interpolate(x, size, mode=mode, align_corners=corners),
                mode=mode, align_corners=bool(corners), size=size)

    # losses
    x, y = draw("gaussian x", [4, 3]), draw("gaussian y", [4, 3])
    for s in [4, 3], [4, 1]:
        add("gaussian_nll", f"variance {s}", [x, y, draw(f"gaussian{s}", s, positive=True)],
            lambda x, y, v: F.gaussian_nll_loss(x, y, v, reduction="none"))
    add("gaussian_nll", "small variance", [f32(0.5, 0.3, -0.2), f32(0.501, 0.3, -0.7), f32(1e-7, 0, 2)],
        lambda x, y, v: F.gaussian_nll_loss(x, y, v, reduction="none"))
    add("poisson_nll", "[4, 3]", [draw("poisson", [4, 3]), ints("poisson", [4, 3], 5).astype("float32")],
        lambda x, y: F.poisson_nll_loss(x, y, reduction="none"))
    sign = lambda key, s: 2 * bits(key, s) - 1
    add("hinge", "[4, 3]", [draw("hinge", [4, 3]), sign("hinge", [4, 3])], lambda x, y: (1 - x * y).clamp_min(0))
    for margin in 1.0, 0.3:
        add("hinge_embedding", f"margin {margin}", [draw(f"he{margin}", [4, 3]), sign(f"he{margin}", [4, 3])],
            lambda x, y: F.hinge_embedding_loss(x, y, margin, reduction="none"), margin=margin)
        add("margin_ranking", f"margin {margin}", [draw(f"mr{margin}a", [9]), draw(f"mr{margin}b", [9]), sign(f"mr{margin}", [9])],
            lambda a, b, y: F.margin_ranking_loss(a, b, y, margin, reduction="none"), margin=margin)
        for s in [6, 3], [2, 4, 5]:
            add("triplet_margin", f"{s}, margin {margin}", [draw(f"triplet{margin}{s}{k}", s) for k in range(3)],
                lambda a, p, n: F.triplet_margin_loss(a, p, n, margin, reduction="none"), margin=margin)
        add("cosine_embedding", f"margin {margin}", [draw(f"ce{margin}a", [7, 3]), draw(f"ce{margin}b", [7, 3]), sign(f"ce{margin}", [7])],
            lambda a, b, y: F.cosine_embedding_loss(a, b, y, margin, reduction="none"), margin=margin)
    for s in [3], [4, 3], []:
        add("pos_weight", f"{s}", [draw(f"pos{s}", [4, 3], hi=4), bits(f"pos{s}", [4, 3]), draw(f"pos{s}w", s, positive=True)],
            lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w.detach(), reduction="none"))
    add("pos_weight", "targets between", [draw("posb", [4, 3], hi=4), draw("posby", [4, 3], 0.05, 0.95, positive=True), draw("posbw", [3], positive=True)],
        lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w.detach(), reduction="none"))
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    torch.set_num_threads(1)
    write(parser.parse_args().out, "composed", composed())


if __name__ == "__main__":
    main()
