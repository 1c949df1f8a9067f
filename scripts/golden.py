#!/usr/bin/env python3
"""Golden values from PyTorch for the tests of downhill: ops, losses, optimizers, rules for whole parameters, schedules, init.

    pip install torch numpy
    python scripts/golden.py [--out tests/golden]

Writes one JSON file per group, `{"torch": VERSION, "cases": [...]}`, one case per line. The committed files
came from torch 2.15.0 on a CPU with one thread; another version or CPU may change last digits. A tensor is
{"shape": [..], "data": [..]}, row-major; integer ones also have "dtype": "u32". Inputs are f32 values from a
seeded generator; what is computed from them is float64, unless its key ends in `_f32`. `null` in the place of
a gradient or cotangent: not differentiable.
"""
import argparse, inspect, json, math, warnings, zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
U = np.uint64
GENERATOR = (
    "gen(seed, n, bound): for i in 0..n, in wrapping u64 arithmetic, z = (seed << 32) + i + 0x9E3779B97F4A7C15; "
    "z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; z = z ^ z >> 31; "
    "u = f32(z >> 40) * 2^-24; value = (u * 2 - 1) * f32(bound), in f32")


# ---- inputs ----------------------------------------------------------------------------------------------

def mix(seed, n):
    """n u64 by splitmix64's finaliser."""
    with np.errstate(over="ignore"):
        z = (U(seed) << U(32)) + np.arange(n, dtype=U) + U(0x9E3779B97F4A7C15)
        z = (z ^ (z >> U(30))) * U(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> U(27))) * U(0x94D049BB133111EB)
        return z ^ (z >> U(31))


def gen(seed, n, bound):
    """n f32 in [-bound, bound)."""
    u = (mix(seed, n) >> U(40)).astype(np.float32) * np.float32(2.0 ** -24)
    return (u * np.float32(2) - np.float32(1)) * np.float32(bound)


def draw(key, shape, lo=0.1, hi=2.0, positive=False):
    """f32 of magnitude lo..hi, all distinct, of both signs unless `positive`; the key's hash is the seed."""
    n = math.prod(shape)
    for salt in range(100):
        u = gen(zlib.crc32(f"{key}/{salt}".encode()), n, 1.0)
        x = np.float32(lo) + np.abs(u) * np.float32(hi - lo)
        x = (x if positive else np.copysign(x, u)).astype(np.float32)
        if len(np.unique(np.abs(x))) == n and (positive or n < 3 or x.min() < 0 < x.max()):
            return x.reshape(shape)
    raise ValueError(f"no good values for {key}")


def ints(key, shape, below):
    """u32 in 0..below."""
    return (mix(zlib.crc32(key.encode()), math.prod(shape)) % U(below)).astype(np.uint32).reshape(shape)


def bits(key, shape):
    """f32, each 0 or 1, both present."""
    tries = (ints(f"{key}/{salt}", shape, 2).astype(np.float32) for salt in range(100))
    return next(x for x in tries if 0 < x.mean() < 1)


def shares(key, rows, classes):
    """Rows of positive f32 that sum to 1, to rounding."""
    p = draw(key, [rows, classes], 0.1, 1.0, positive=True)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def f32(*values):
    return np.array(values, np.float32)


def to_torch(x, dtype=torch.float64):
    return torch.from_numpy(x.astype(np.int64)) if x.dtype == np.uint32 else torch.from_numpy(x).to(dtype)


# ---- output ----------------------------------------------------------------------------------------------

def tensor(x):
    """The JSON form of a numpy or torch tensor; None stays None."""
    if x is None:
        return None
    x = x.detach().numpy() if isinstance(x, torch.Tensor) else x
    if x.dtype == np.bool_:
        x = x.astype(np.float64)
    out = {"shape": list(x.shape), "data": x.ravel().tolist()}
    return out if x.dtype.kind == "f" else out | {"dtype": "u32"}


def write(folder, name, cases, **head):
    dump = lambda v: json.dumps(v, separators=(",", ":"), allow_nan=False)
    top = dump({"torch": torch.__version__.split("+")[0], **head})[:-1]
    path = folder / f"{name}.json"
    path.write_text(top + ',"cases":[\n' + ",\n".join(map(dump, cases)) + "\n]}\n")
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


# ---- ops -------------------------------------------------------------------------------------------------

def op_rows():
    """A list of rows, and the function that adds one: op, what is special, inputs, the function, its arguments."""
    cases = []

    def add(op, text, inputs, fn, **args):
        xs = [to_torch(x).requires_grad_(x.dtype == np.float32) for x in inputs]
        y = fn(*xs)
        floats = [x for x in xs if x.requires_grad]
        c, grads = None, iter([None] * len(floats))
        if y.requires_grad:
            c = draw(f"{op}/{text}/{args}/cotangent", list(y.shape), 0.3, 1.7)
            grads = iter(torch.autograd.grad(y, floats, to_torch(c), allow_unused=True))
        cases.append({"op": op, "case": text, "args": args, "inputs": [tensor(x) for x in inputs],
                      "cotangent": tensor(c), "output": tensor(y),
                      "grads": [tensor(next(grads)) if x.requires_grad else None for x in xs]})
    return cases, add


def layer_rows():
    """The same for layers: layer, what is special, inputs, the torch.nn module (whose state dict has our names below
    `name.`), what maps module and inputs to the output, and the arguments. Parameters and buffers are drawn anew; `after`
    are the buffers after the call."""
    cases = []

    def add(layer, text, inputs, module, call=lambda m, *x: m(*x), **args):
        key = f"{layer}/{text}/{args}"
        module = module.double()
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(to_torch(draw(f"{key}/{name}", list(p.shape), 0.1, 0.9)))
            for name, b in module.named_buffers():
                if b.is_floating_point():
                    b.copy_(to_torch(draw(f"{key}/{name}", list(b.shape), 0.3, 1.2, positive="var" in name)))
        floating = lambda: {n: b for n, b in module.named_buffers() if b.is_floating_point()}
        state = {n: tensor(b.clone()) for n, b in floating().items()}
        xs = [to_torch(x).requires_grad_(x.dtype == np.float32) for x in inputs]
        y = call(module, *xs)
        params = dict(module.named_parameters())
        floats = [x for x in xs if x.requires_grad] + list(params.values())
        c = draw(f"{key}/cotangent", list(y.shape), 0.3, 1.7)
        grads = iter(torch.autograd.grad(y, floats, to_torch(c), allow_unused=True))
        cases.append({"layer": layer, "case": text, "args": args, "inputs": [tensor(x) for x in inputs],
                      "params": {n: tensor(p) for n, p in params.items()}, "state": state,
                      "cotangent": tensor(c), "output": tensor(y),
                      "grads": [tensor(next(grads)) if x.requires_grad else None for x in xs],
                      "param_grads": {n: tensor(next(grads)) for n in params},
                      "after": {n: tensor(b) for n, b in floating().items()}})
    return cases, add


def ops():
    cases, add = op_rows()

    # two tensors, broadcast
    pairs = [([3, 4], [3, 4]), ([2, 1, 3], [4, 1]), ([], [2, 3]), ([2, 3], []), ([4], [3, 4]), ([3, 1], [1, 4]),
             ([2, 3, 4], [3, 1]), ([2, 1, 3, 1], [4, 1, 2]), ([1], [3, 2])]
    for op, fn in {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow,
                   "minimum": torch.minimum, "maximum": torch.maximum}.items():
        for a, b in pairs[:5] if op in ("pow", "minimum", "maximum") else pairs:
            lo = 0.5 if op in ("div", "pow") else 0.1
            add(op, f"{a} x {b}", [draw(f"{op}{a}{b}a", a, lo, positive=op == "pow"), draw(f"{op}{a}{b}b", b, lo)], fn)
    for op in "eq ne lt le gt ge".split():
        for a, b in pairs[:3]:
            x, y = draw(f"{op}{a}{b}a", a), draw(f"{op}{a}{b}b", b)
            if a == b:
                x.flat[1::3] = y.flat[1::3]
            elif a:
                x.flat[1::3] = y.flat[1:3]
            else:
                x = np.array(y[1, 1])
            add(op, f"{a} x {b}, some equal", [x, y], getattr(torch, op))
    for c, a, b in [([3, 4], [3, 4], [3, 4]), ([4, 1], [2, 1, 3], [3]), ([2, 3], [], [2, 3])]:
        text = f"{c} ? {a} : {b}"
        cond = bits(text, c)
        add("where", text, [cond, draw(text + "a", a), draw(text + "b", b)], lambda c, a, b: torch.where(c != 0, a, b))

    # one tensor, element by element: op -> (function, args, how to draw)
    positive, wide = dict(lo=0.2, hi=3.0, positive=True), dict(lo=0.1, hi=4.0)
    unary = {
        "neg": (torch.neg, {}, wide), "exp": (torch.exp, {}, wide), "ln": (torch.log, {}, positive),
        "sqrt": (torch.sqrt, {}, positive), "abs": (torch.abs, {}, wide), "sign": (torch.sign, {}, wide),
        "sin": (torch.sin, {}, dict(hi=8.0)), "cos": (torch.cos, {}, dict(hi=8.0)),
        "identity": (torch.clone, {}, wide), "sigmoid": (torch.sigmoid, {}, wide), "tanh": (torch.tanh, {}, wide),
        "relu": (F.relu, {}, wide), "gelu": (F.gelu, {}, wide), "silu": (F.silu, {}, wide),
        "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), {}, wide), "softplus": (F.softplus, {}, wide),
        "log_sigmoid": (F.logsigmoid, {}, wide), "reciprocal": (torch.reciprocal, {}, dict(lo=0.3)),
        "rsqrt": (torch.rsqrt, {}, positive), "square": (torch.square, {}, wide),
        "log1p": (torch.log1p, {}, dict(hi=0.9)), "expm1": (torch.expm1, {}, wide)}
    for op, (fn, args, how) in unary.items():
        add(op, "[3, 5]", [draw(op, [3, 5], **how)], fn, **args)
    for slope in 0.01, 0.3:
        add("leaky_relu", f"slope {slope}", [draw(f"leaky{slope}", [3, 5], **wide)],
            lambda x: F.leaky_relu(x, slope), negative_slope=slope)
    for alpha in 1.0, 0.7:
        add("elu", f"alpha {alpha}", [draw(f"elu{alpha}", [3, 5], **wide)], lambda x: F.elu(x, alpha), alpha=alpha)
    extreme = f32(-100, -30, -5.5, -0.7, 0.4, 3.25, 30, 100)
    for op in "sigmoid tanh gelu gelu_tanh silu softplus log_sigmoid".split():
        add(op, "up to +-100", [extreme], unary[op][0])
    add("elu", "up to +-100", [extreme], lambda x: F.elu(x, 0.7), alpha=0.7)
    for op in "log1p", "expm1":
        add(op, "tiny", [f32(-1e-3, 3e-5, -2e-6, 7e-8, -4e-10, 1e-12)], unary[op][0])
    for p in 2.0, 3.0, -1.0, -2.0:
        add("powf", f"p {p}, both signs", [draw(f"powf{p}", [3, 5], 0.3)], lambda x: x ** p, p=p)
    for p in 0.5, 1.5, 2.7, -0.5:
        add("powf", f"p {p}", [draw(f"powf{p}", [3, 5], **positive)], lambda x: x ** p, p=p)
    for lo, hi in (-0.5, 0.75), (-1.3, 0.4):
        add("clamp", f"{lo}..{hi}", [draw(f"clamp{lo}", [4, 5])], lambda x: x.clamp(lo, hi), min=lo, max=hi)

    # matmul, shapes as multiplied: a transposed operand is stored with its last two axes swapped
    for a, b in [([5, 7], [7, 3]), ([2, 3, 4], [2, 4, 5]), ([2, 3, 4], [4, 5]), ([3, 2], [2, 2, 4]),
                 ([3, 2, 2, 4], [2, 4, 3]), ([2, 1, 3, 4], [3, 4, 2]), ([1, 6], [6, 1]), ([5, 1], [1, 4])]:
        for ta in False, True:
            for tb in (False, True) if len(a) < 4 else (ta,):
                stored = [s[:-2] + s[:-3:-1] if t else s for s, t in ((a, ta), (b, tb))]
                text = f"{stored[0]}{'T' * ta} x {stored[1]}{'T' * tb}"
                add("matmul", text, [draw(text + "a", stored[0]), draw(text + "b", stored[1])],
                    lambda x, y: (x.mT if ta else x) @ (y.mT if tb else y), transpose_a=ta, transpose_b=tb)

    # reductions
    shape = [3, 2, 4, 2]
    reduce = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin, "logsumexp": torch.logsumexp}
    variance = lambda x, axes, keep, k: torch.var(x, axes, correction=k, keepdim=keep)
    for i, axes in enumerate([[0], [1], [3], [0, 1, 2, 3], [0, 2], [1, 3], [2, 3]]):
        keep, text = i % 2 == 1, f"{shape} over {axes}"
        for op, fn in reduce.items():
            add(op, text, [draw(op + text, shape)], lambda x: fn(x, axes, keepdim=keep), axes=axes, keepdim=keep)
        k = i // 2 % 2
        add("variance", text, [draw("variance" + text, shape)], lambda x: variance(x, axes, keep, k),
            axes=axes, keepdim=keep, correction=k)
    for op, fn in reduce.items():
        for axes, keep in ([1], False), ([0], True):
            add(op, f"[3, 5] over {axes}", [draw(f"{op}{axes}", [3, 5])], lambda x: fn(x, axes, keepdim=keep),
                axes=axes, keepdim=keep)
    for k in 0, 1:
        for text, x in ("plain", draw(f"var{k}", [3, 5])), ("mean far from 0", 300 + draw(f"var{k}far", [3, 5])):
            for axes in [0], [1]:
                add("variance", f"[3, 5] over {axes}, {text}", [x], lambda x: variance(x, axes, False, k),
                    axes=axes, keepdim=False, correction=k)
    rows = f32(-1e4, 1e4, 9999.5, 0.3, 9998.25, 1.7, -0.6, 0.9, -2.2, 0.25, -1e4, -9999, -9998.5, -1e4 - 2, -9997.75)
    rows = rows.reshape(3, 5)
    add("logsumexp", "+-1e4", [rows], lambda x: torch.logsumexp(x, [1]), axes=[1], keepdim=False)
    for axis in 0, 1, 2:
        add("argmax", f"[3, 5, 4] over {axis}", [draw(f"argmax{axis}", [3, 5, 4])], lambda x: x.argmax(axis), axis=axis)
    for axis in 0, 1, 2:
        add("cumsum", f"[3, 5, 4] over {axis}", [draw(f"cumsum{axis}", [3, 5, 4])], lambda x: x.cumsum(axis), axis=axis)
    for op, fn in ("softmax", F.softmax), ("log_softmax", F.log_softmax):
        for s in [3, 7], [2, 3, 4]:
            for axis in range(len(s)):
                add(op, f"{s} over {axis}", [draw(f"{op}{s}{axis}", s, hi=4)], lambda x: fn(x, axis), axis=axis)
        add(op, "+-1e4", [rows], lambda x: fn(x, 1), axis=1)

    # shapes and indices
    for a, b in ([3, 4], [2, 6]), ([2, 3, 4], [4, 6]), ([6], [1, 2, 3]):
        add("reshape", f"{a} to {b}", [draw(f"reshape{a}", a)], lambda x: x.reshape(b), shape=b)
    for s, dims in [([3, 4], [1, 0]), ([2, 3, 4], [2, 0, 1]), ([2, 3, 4], [1, 2, 0]), ([2, 3, 4], [0, 2, 1]),
                    ([2, 3, 4], [2, 1, 0]), ([2, 3, 2, 4], [0, 2, 3, 1]), ([2, 3, 2, 4], [3, 1, 0, 2])]:
        add("permute", f"{s} by {dims}", [draw(f"permute{s}{dims}", s)], lambda x: x.permute(dims), dims=dims)
    for axis in 0, 1, 2:
        xs = [draw(f"concat{axis}{n}", [n if d == axis else k for d, k in enumerate([2, 3, 4])]) for n in (2, 1, 3)]
        add("concat", f"along {axis}", xs, lambda *x: torch.cat(x, axis), axis=axis)
    for axis, start, end in (0, 1, 3), (1, 0, 1), (1, 1, 2), (2, 1, 4), (2, 0, 4):
        add("slice", f"[3, 2, 4] axis {axis}, {start}..{end}", [draw(f"slice{axis}{start}{end}", [3, 2, 4])],
            lambda x: x.narrow(axis, start, end - start), axis=axis, start=start, end=end)
    for s in [6], [2, 3]:
        add("one_hot", f"{s}", [ints(f"one_hot{s}", s, 5)], lambda i: F.one_hot(i, 5).double(), classes=5)
    for s in [5, 7], [2, 3, 4]:
        add("pick", f"{s}", [draw(f"pick{s}", s), ints(f"pick{s}", s[:-1], s[-1])],
            lambda x, i: x.gather(-1, i[..., None])[..., 0])
    for s in [8], [2, 3]:   # repeated indices: their gradients add up
        i = ints(f"gather{s}", s, 5)
        i.flat[-1] = i.flat[0]
        add("gather_rows", f"[5, 3] at {s}", [draw(f"gather{s}", [5, 3]), i], lambda t, i: F.embedding(i, t))
    return cases


# ---- losses ----------------------------------------------------------------------------------------------

def losses():
    cases = []

    def add(loss, text, x, target, fn, reductions=("mean", "sum", "none"), weights=None, classes=None, **args):
        """fn(input, target, reduction, class weights); sample weights are applied here, and are not PyTorch's."""
        for reduction in reductions:
            xt, t = to_torch(x).requires_grad_(), to_torch(target)
            cw = None if classes is None else to_torch(classes)
            if weights is None:
                y = fn(xt, t, reduction, cw)
            else:   # mean: divided by the weights of the elements, times their class's weight where there is one
                y, w = fn(xt, t, "none", cw), to_torch(weights)
                w = w.reshape(list(w.shape) + [1] * (y.dim() - w.dim())).expand(y.shape)
                kept = torch.ones_like(w) if "ignore_index" not in args else (t != args["ignore_index"]).to(w.dtype)
                over = (w * kept * (1 if cw is None else cw[t * kept.to(t.dtype)])).sum()
                y = {"mean": (w * y).sum() / over, "sum": (w * y).sum(), "none": w * y}[reduction]
            case = {"loss": loss, "case": text, "reduction": reduction, "args": args,
                    "inputs": [tensor(x)], "target": tensor(target)}
            if weights is not None:
                case["sample_weights"] = tensor(weights)
            if classes is not None:
                case["class_weights"] = tensor(classes)
            case["value"] = tensor(y)
            c = None
            if reduction == "none":
                c = draw(f"{loss}/{text}/cotangent", list(y.shape), 0.3, 1.7)
                case["cotangent"] = tensor(c)
            case["grad"] = tensor(torch.autograd.grad(y, xt, None if c is None else to_torch(c))[0])
            cases.append(case)

    mse = lambda x, t, r, _: F.mse_loss(x, t, reduction=r)
    mae = lambda x, t, r, _: F.l1_loss(x, t, reduction=r)
    bce = lambda x, t, r, _: F.binary_cross_entropy(x, t, reduction=r)
    logits = lambda x, t, r, _: F.binary_cross_entropy_with_logits(x, t, reduction=r)
    ce = lambda s: lambda x, t, r, w: F.cross_entropy(x, t, w, reduction=r, label_smoothing=s)
    nll = lambda x, t, r, w: F.nll_loss(x, t, w, reduction=r)
    kl = lambda x, t, r, _: F.kl_div(x, t, reduction=r)
    huber = lambda d: lambda x, t, r, _: F.huber_loss(x, t, reduction=r, delta=d)

    for loss, fn in ("mse", mse), ("mae", mae):
        for s in [7], [4, 3], [2, 3, 2]:
            add(loss, f"{s}", draw(f"{loss}{s}x", s), draw(f"{loss}{s}t", s), fn)
    for d in 1.0, 0.5, 2.0:
        add("huber", f"delta {d}", draw(f"huber{d}x", [4, 3]), draw(f"huber{d}t", [4, 3]), huber(d), delta=d)
    p = draw("bce", [4, 3], 0.02, 0.98, positive=True)
    add("bce", "targets 0 and 1", p, bits("bce", [4, 3]), bce)
    add("bce", "targets between", p, draw("bcet", [4, 3], 0.05, 0.95, positive=True), bce)
    add("bce", "probabilities 0 and 1: log clamped at -100", f32(0, 1, 0, 1, 0.3), f32(1, 0, 0.25, 0.6, 0.7), bce)
    x = draw("bce_with_logits", [4, 3], hi=4)
    add("bce_with_logits", "targets 0 and 1", x, bits("bcel", [4, 3]), logits)
    add("bce_with_logits", "targets between", x, draw("bcelt", [4, 3], 0.05, 0.95, positive=True), logits)
    add("bce_with_logits", "up to +-100", f32(-100, 100, 100, -100, 30, -30, 0.7, -0.2),
        f32(0, 1, 0, 1, 0.3, 1, 0, 0.6), logits)

    n, k = 6, 5
    x, labels, soft = draw("ce", [n, k], hi=4), ints("ce", [n], k), shares("ce", n, k)
    cw = f32(0.5, 1.75, 0.3, 2.25, 1.2)
    big = f32(1e4, -1e4, 9999.5, 0.3, 2.5, -1e4, 1e4, 0.7, -0.4, 9998.75, 1.2, -0.8, 0.6, -1.9, 0.35).reshape(3, 5)
    for s in 0.0, 0.1:
        for weights in None, cw:
            text = f"smoothing {s}" + (", class weights" if weights is not None else "")
            add("cross_entropy", text, x, labels, ce(s), classes=weights, label_smoothing=s)
            add("cross_entropy_soft", text, x, soft, ce(s), classes=weights, label_smoothing=s)
        add("cross_entropy", f"smoothing {s}, logits +-1e4", big, np.array([0, 4, 2], np.uint32), ce(s),
            label_smoothing=s)
    one_hot = np.eye(k, dtype=np.float32)[labels]
    add("cross_entropy_soft", "one-hot target", x, one_hot, ce(0.0), label_smoothing=0.0)
    logp = F.log_softmax(to_torch(draw("logp", [n, k], hi=3)), 1).float().numpy()
    add("nll", "plain", logp, labels, nll)
    add("nll", "class weights", logp, labels, nll, classes=cw)
    for text, target in ("plain", soft), ("one-hot target: 0 log 0 = 0", one_hot):
        add("kl_div", text, logp, target, kl, reductions=("mean", "sum", "none", "batchmean"))

    for loss, fn in ("mse", mse), ("mae", mae), ("bce_with_logits", logits):
        for s in [4], [4, 3]:
            t = bits("wt", [4, 3]) if loss == "bce_with_logits" else draw(f"{loss}{s}wt", [4, 3])
            add(loss, f"[4, 3], sample weights {s}", draw(f"{loss}{s}wx", [4, 3]), t, fn,
                weights=draw(f"{loss}{s}w", s, 0.2, positive=True))
    for s in 0.0, 0.1:
        for weights in None, cw:
            text = f"smoothing {s}" + (", class weights" if weights is not None else "") + ", sample weights"
            add("cross_entropy", text, x, labels, ce(s), classes=weights, label_smoothing=s,
                weights=draw("cew", [n], 0.2, positive=True))

    # Labels that do not count: no class (PyTorch's -100 is no u32), or one of the classes. Classes are the last axis here,
    # the second one there.
    front = lambda x: x.movedim(-1, 1).contiguous()
    ce = lambda s, i: lambda x, t, r, w: F.cross_entropy(front(x), t, w, reduction=r, label_smoothing=s, ignore_index=i)
    nll = lambda i: lambda x, t, r, w: F.nll_loss(front(x), t, w, reduction=r, ignore_index=i)
    for rows in [6], [2, 3], [2, 2, 3], [2, 1, 2, 3]:
        x = draw(f"ignore{rows}", [*rows, k], hi=4)
        logp = F.log_softmax(to_torch(x), -1).float().numpy()
        labels = ints("ignore", rows, k)
        none = labels.copy()
        none.flat[[0, 4]] = 2 ** 32 - 1
        for label, t in (2 ** 32 - 1, none), (int(labels.flat[2]), labels):
            for weights, samples in (None, None), (cw, None), (cw, draw("ignorew", rows[:1], 0.2, positive=True)):
                text = f"labels {rows}, {label} ignored" + (", class weights" if weights is not None else "")
                text += ", sample weights" if samples is not None else ""
                all = dict(classes=weights, weights=samples, ignore_index=label)
                all["reductions"] = ("mean", "sum", "none") if len(rows) == 1 else ("mean",) if samples is None else ("none",)
                for s in 0.0, 0.1:
                    add("cross_entropy", f"{text}, smoothing {s}", x, t, ce(s, label), label_smoothing=s, **all)
                add("nll", text, logp, t, nll(label), **all)
    return cases


# ---- optimizers ------------------------------------------------------------------------------------------

OPTIMIZERS = {   # every option and the value it has where a case says nothing
    "SGD": dict(lr=0.05, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False),
    "RMSprop": dict(lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False),
    "Adagrad": dict(lr=0.1, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10),
    "Adam": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False),
    "AdamW": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=False),
    "Adamax": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    "NAdam": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3, decoupled_weight_decay=False),
    "RAdam": dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False),
    "Adadelta": dict(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0)}


def optimizer(name, params, **options):
    return getattr(torch.optim, name)(params, **(OPTIMIZERS[name] | options), foreach=False)


def optimizers():
    short = dict(betas=(0.8, 0.9))   # forgets fast, so that amsgrad's maximum matters within ten steps
    tables = {
        "SGD": [{}, dict(lr=0.2), dict(momentum=0.9), dict(momentum=0.9, dampening=0.3),
                dict(momentum=0.9, nesterov=True), dict(weight_decay=0.05), dict(momentum=0.9, weight_decay=0.05),
                dict(momentum=0.8, dampening=0.3, weight_decay=0.05),
                dict(momentum=0.8, nesterov=True, weight_decay=0.05)],   # nesterov demands dampening 0
        "RMSprop": [{}, dict(alpha=0.9), dict(eps=0.05), dict(centered=True), dict(momentum=0.9),
                    dict(weight_decay=0.05), dict(centered=True, momentum=0.9),
                    dict(lr=0.02, alpha=0.9, eps=1e-3, weight_decay=0.05, momentum=0.8, centered=True)],
        "Adagrad": [{}, dict(lr_decay=0.1), dict(weight_decay=0.05), dict(initial_accumulator_value=0.5),
                    dict(eps=0.05),
                    dict(lr=0.2, lr_decay=0.1, weight_decay=0.05, initial_accumulator_value=0.5, eps=1e-3)],
        "Adam": [{}, dict(lr=0.1), dict(betas=(0.8, 0.95)), dict(eps=0.05), dict(weight_decay=0.05), dict(amsgrad=True),
                 short, dict(amsgrad=True, **short), dict(lr=0.02, eps=1e-3, weight_decay=0.05, amsgrad=True, **short)],
        "AdamW": [{}, dict(weight_decay=0.0), dict(weight_decay=0.2), dict(amsgrad=True),
                  dict(amsgrad=True, **short), dict(lr=0.02, eps=1e-3, weight_decay=0.2, amsgrad=True, **short)],
        "Adamax": [{}, dict(lr=0.1), short, dict(betas=(0.3, 0.6)), dict(eps=0.05), dict(weight_decay=0.05),
                   dict(lr=0.02, betas=(0.5, 0.6), eps=1e-3, weight_decay=0.2)],
        "NAdam": [{}, dict(lr=0.1), short, dict(eps=0.05), dict(weight_decay=0.05), dict(momentum_decay=0.0), dict(momentum_decay=2.0),
                  dict(weight_decay=0.05, decoupled_weight_decay=True),
                  dict(lr=0.02, eps=1e-3, weight_decay=0.2, momentum_decay=0.3, decoupled_weight_decay=True, **short)],
        "RAdam": [{}, dict(lr=0.1), short, dict(betas=(0.9, 0.5)), dict(eps=0.05), dict(weight_decay=0.05),   # never rectified with 0.5
                  dict(weight_decay=0.05, decoupled_weight_decay=True),
                  dict(lr=0.02, eps=1e-3, weight_decay=0.2, decoupled_weight_decay=True, **short)],
        "Adadelta": [{}, dict(lr=0.3), dict(rho=0.5), dict(eps=0.05), dict(weight_decay=0.05),
                     dict(lr=2.0, rho=0.7, eps=1e-3, weight_decay=0.2)]}
    scales = [1, 3, 10, 0.3, 0.1, 0.01, 0.5, 2, 0.03, 1]
    cases = []
    for name, options in tables.items():
        for i, option in enumerate(options):
            start = draw(f"{name}{i}p", [7])
            grads = [(draw(f"{name}{i}g{k}", [7], 0.2, 1.5) * np.float32(s)) for k, s in enumerate(scales)]
            paths = []
            for dtype in torch.float64, torch.float32:
                torch.set_default_dtype(dtype)   # of NAdam's product of momenta
                p, path = to_torch(start, dtype).clone().requires_grad_(), []
                opt = optimizer(name, [p], **option)
                for g in grads:
                    p.grad = to_torch(g, dtype).clone()
                    opt.step()
                    path.append(p.tolist())
                paths.append(path)
            cases.append({"optimizer": name, "options": OPTIMIZERS[name] | option, "params": start.tolist(),
                          "grads": [g.tolist() for g in grads], "trajectory": paths[0], "trajectory_f32": paths[1]})
    return cases


# ---- rules for whole parameters --------------------------------------------------------------------------

def muon_in_full():
    """torch.optim.Muon, but its products have the type of the gradient instead of bfloat16."""
    module = torch.optim._muon
    source = inspect.getsource(module._zeropower_via_newtonschulz)
    assert source.count("dtype=torch.bfloat16") == 1
    exec(source.replace("dtype=torch.bfloat16", "dtype=grad.dtype"), module.__dict__)


MUON = dict(lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, ns_coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7,
            ns_steps=5, adjust_lr_fn="original")
# PyTorch's eps1 would be that of the type, so that of f32 is given.
ADAFACTOR = dict(lr=0.05, beta2_decay=-0.8, eps=(2.0 ** -23, 1e-3), d=1.0, weight_decay=0.0)


def whole():
    """Twenty steps on parameters of several shapes, the same for all cases. Muon's have AdamW for the rest; a kernel is a matrix for it, if it is flattened.

    `scaled`: the first parameter has a tenth of the rate. `schedule`: all rates are halved after each five steps.
    """
    muon_in_full()
    shapes = {"wide": [4, 7], "tall": [9, 3], "kernel": [3, 2, 2, 2], "bias": [5], "scalar": []}
    short = dict(ns_steps=2, ns_coefficients=(2.0, -1.5, 0.5))
    tables = {
        "Muon": [{}, dict(lr=0.1), dict(weight_decay=0.0), dict(momentum=0.8), dict(nesterov=False), dict(momentum=0.3, nesterov=False),
                 short, dict(eps=10.0), dict(adjust_lr_fn="match_rms_adamw"), dict(adjust_lr_fn="spectral_unclamped"),
                 dict(flatten=True), dict(clip_norm=0.5), dict(clip_value=0.4), dict(scaled=True, schedule=True, flatten=True),
                 dict(rest=dict(lr=0.01, weight_decay=0.2, amsgrad=True))],
        "Adafactor": [{}, dict(lr=0.3), dict(beta2_decay=-0.5), dict(eps=(0.05, 1e-3)), dict(eps=(2.0 ** -23, 5.0)), dict(d=1.5),
                      dict(weight_decay=0.1), dict(clip_norm=0.5), dict(clip_value=0.4), dict(scaled=True, schedule=True),
                      dict(lr=0.2, beta2_decay=-1.0, eps=(1e-4, 0.01), d=2.0, weight_decay=0.2)]}
    scales = [1, 3, 10, 0.3, 0.1, 0.01, 0.5, 2, 0.03, 1] * 2
    start = {key: draw(f"whole {key}", shape) for key, shape in shapes.items()}
    grads = [{key: draw(f"whole {key}{k}", shape, 0.2, 1.5) * np.float32(s) for key, shape in shapes.items()}
             for k, s in enumerate(scales)]
    flat = lambda of: {key: np.asarray(x).ravel().tolist() for key, x in of.items()}
    cases = [{"shapes": shapes, "params": flat(start), "grads": [flat(g) for g in grads]}]
    for name, options in tables.items():
        for option in options:
            option = dict(option)
            rest = OPTIMIZERS["AdamW"] | option.pop("rest", {})
            more = {key: option.pop(key, None) for key in ("flatten", "clip_norm", "clip_value", "scaled", "schedule")}
            full = (MUON if name == "Muon" else ADAFACTOR) | option
            seen = lambda key, x: x.reshape(3, 8) if key == "kernel" and more["flatten"] else x
            dtype = torch.float64
            params = {key: to_torch(seen(key, x), dtype).clone().requires_grad_() for key, x in start.items()}
            own = [key for key, p in params.items() if name == "Adafactor" or p.ndim == 2]
            groups = [dict(params=[params[key]], lr=full["lr"] * (0.1 if more["scaled"] and key == "wide" else 1)) for key in own]
            used = [getattr(torch.optim, name)(groups, **full)]
            left = [p for key, p in params.items() if key not in own]
            used += [torch.optim.AdamW(left, **rest)] if left else []
            halve = [torch.optim.lr_scheduler.StepLR(opt, 5, 0.5) for opt in used] if more["schedule"] else []
            path = []
            for g in grads:
                for key, p in params.items():
                    p.grad = to_torch(seen(key, np.asarray(g[key], np.float32)), dtype).clone()
                if more["clip_norm"]:
                    torch.nn.utils.clip_grad_norm_(params.values(), more["clip_norm"])
                if more["clip_value"]:
                    torch.nn.utils.clip_grad_value_(params.values(), more["clip_value"])
                for step in used + halve:
                    step.step()
                path.append({key: [float(f"{x:.10g}") for x in p.detach().flatten().tolist()] for key, p in params.items()})
            cases.append({"optimizer": name, "options": full, **more, "rest": rest, "trajectory": {k: path[k - 1] for k in (1, 2, 5, 10, 12, 20)}})
    return cases


# ---- schedules -------------------------------------------------------------------------------------------

def schedules():
    """lr[k] is the rate that step k (from 0) uses, with scheduler.step() after every optimizer.step()."""
    S = torch.optim.lr_scheduler
    cycle = dict(max_lr=0.1, total_steps=30, pct_start=0.3, div_factor=25.0, final_div_factor=1e4, three_phase=False)
    table = [
        ("StepLR", dict(step_size=7, gamma=0.5)), ("StepLR", dict(step_size=1, gamma=0.8)),
        ("ExponentialLR", dict(gamma=0.9)),
        ("PolynomialLR", dict(total_iters=30, power=1.0)), ("PolynomialLR", dict(total_iters=20, power=2.0)),
        ("CosineAnnealingLR", dict(T_max=30, eta_min=0.0)), ("CosineAnnealingLR", dict(T_max=25, eta_min=1e-3)),
        ("CosineAnnealingLR", dict(T_max=10, eta_min=1e-3)),
        ("LinearLR", dict(start_factor=0.1, end_factor=1.0, total_iters=8)),
        ("SequentialLR", dict(warmup=dict(start_factor=0.1, end_factor=1.0, total_iters=5),
                              cosine=dict(T_max=25, eta_min=1e-3), milestones=[5])),
        ("OneCycleLR", cycle | dict(anneal_strategy="cos")), ("OneCycleLR", cycle | dict(anneal_strategy="linear")),
        ("OneCycleLR", cycle | dict(anneal_strategy="cos", pct_start=0.25, div_factor=10.0, final_div_factor=100.0)),
        *(("CosineAnnealingWarmRestarts", dict(T_0=t_0, T_mult=t_mult, eta_min=eta_min))
          for t_0, t_mult, eta_min in [(1, 1, 0.0), (7, 1, 1e-3), (1, 2, 0.0), (3, 2, 1e-3), (2, 3, 0.0), (40, 2, 0.0)]),
        # the formula of Vaswani et al. 2017, section 5.3, as a factor whose top is 1
        *(("Noam", dict(warm=warm)) for warm in [1, 2, 10, 100]),
        # pct_start · total_steps = 1 divides by 0 in PyTorch
        *(("OneCycleLR", cycle | dict(anneal_strategy=strategy, pct_start=share, total_steps=total))
          for strategy in ("cos", "linear") for total in (1, 2, 3, 4, 5, 7, 10, 30) for share in (0.0, 0.3, 0.5, 1.0)
          if share * total != 1)]
    cases = []
    for name, args in table:
        for base in (0.05,) if name == "OneCycleLR" else (0.05, 0.3):
            p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
            opt = torch.optim.SGD([p], lr=base)
            if name == "SequentialLR":
                parts = [S.LinearLR(opt, **args["warmup"]), S.CosineAnnealingLR(opt, **args["cosine"])]
                s = S.SequentialLR(opt, parts, milestones=args["milestones"])
            elif name == "OneCycleLR":
                s = S.OneCycleLR(opt, **args, cycle_momentum=False)
            elif name == "Noam":
                warm = args["warm"]
                s = S.LambdaLR(opt, lambda k: warm ** 0.5 * min((k + 1) ** -0.5, (k + 1) * warm ** -1.5))
            else:
                s = getattr(S, name)(opt, **args)
            lr, last = [], args.get("total_steps", 30) - 1
            for step in range(last + 1):
                lr.append(float(opt.param_groups[0]["lr"]))
                opt.step()
                if step < last:
                    s.step()
            # OneCycleLR replaces the optimizer's own rate
            cases.append({"schedule": name, "args": args if name == "OneCycleLR" else {"lr": base} | args, "lr": lr})
    return cases


def plateaus():
    """lr[k] is the rate after epoch k, whose metric is metrics[k]."""
    rng, cases = np.random.default_rng(14), []
    for mode in "min", "max":
        for threshold_mode in "rel", "abs":
            for k in range(30):
                args = dict(mode=mode, factor=float(rng.choice([0.1, 0.5, 0.9])), patience=int(rng.integers(0, 4)),
                            threshold=float(rng.choice([0.0, 1e-4, 0.05])), threshold_mode=threshold_mode,
                            cooldown=int(rng.integers(0, 4)), min_lr=float(rng.choice([0.0, 1e-3, 0.02])),
                            eps=float(rng.choice([1e-8, 5e-3])))
                p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
                opt = torch.optim.SGD([p], lr=0.1)
                s = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, **args)
                slope = 0.03 if mode == "max" else -0.03
                metrics = [float(np.float32(1 + slope * min(e, 12) + 0.03 * rng.standard_normal())) for e in range(40)]
                if k % 5 == 0:
                    metrics[9] = math.nan
                lr = []
                for metric in metrics:
                    opt.step()
                    s.step(metric)
                    lr.append(float(opt.param_groups[0]["lr"]))
                cases.append({"args": {"lr": 0.1} | args, "metrics": [None if math.isnan(m) else m for m in metrics], "lr": lr})
    return cases


# ---- initialisers ----------------------------------------------------------------------------------------

def init():
    I, cases = torch.nn.init, []
    gains = [("linear", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("leaky_relu", 0.01),
             ("leaky_relu", 0.2), ("selu", None)]
    for nonlinearity, a in gains:
        cases.append({"init": "gain", "args": {"nonlinearity": nonlinearity, "a": a},
                      "gain": float(I.calculate_gain(nonlinearity, a))})
    for shape in [30, 50], [16, 8, 3, 5]:
        fan_in, fan_out = I._calculate_fan_in_and_fan_out(torch.empty(shape))
        for nonlinearity, a in gains:
            gain = float(I.calculate_gain(nonlinearity, a))
            std = gain * math.sqrt(2 / (fan_in + fan_out))
            args = {"nonlinearity": nonlinearity, "a": a, "gain": gain}
            cases.append({"init": "xavier_uniform", "shape": shape, "args": args, "bound": math.sqrt(3) * std})
            cases.append({"init": "xavier_normal", "shape": shape, "args": args, "std": std})
            for mode, fan in ("fan_in", fan_in), ("fan_out", fan_out):
                args, std = {"mode": mode, "nonlinearity": nonlinearity, "a": a}, gain / math.sqrt(fan)
                cases.append({"init": "kaiming_uniform", "shape": shape, "args": args, "bound": math.sqrt(3) * std})
                cases.append({"init": "kaiming_normal", "shape": shape, "args": args, "std": std})
        # what torch.nn.Linear and Conv2d do: kaiming_uniform_(weight, a=sqrt(5)), and the bias as wide
        cases.append({"init": "torch_default_weight", "shape": shape, "args": {},
                      "bound": math.sqrt(3) * I.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in)})
        cases.append({"init": "torch_default_bias", "shape": shape, "args": {}, "bound": 1 / math.sqrt(fan_in)})
    return cases


# ---- an op without a public method ---------------------------------------------------------------------------

def warp():
    """The maps count from the centre of an image, in pixels; affine_grid counts in halves of the image."""
    cases, add = op_rows()
    for n, c, h, w in [1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 8, 8], [2, 1, 9, 4], [2, 1, 1, 6]:
        def fn(x, m):
            units = torch.tensor([[1, h / w, 2 / w], [w / h, 1, 2 / h]], dtype=m.dtype)
            grid = F.affine_grid(m.detach().reshape(n, 2, 3) * units, x.shape, align_corners=False)
            return F.grid_sample(x.detach(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for hi in 0.9, 2.5:
            text = f"{[n, c, h, w]}, maps up to {hi}"
            add("warp", text, [draw(text + "x", [n, c, h, w]), draw(text + "m", [n, 6], hi=hi)], fn)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "reduction: 'mean' divides", UserWarning)   # kl_div; both are recorded
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for group in ops, losses, optimizers, whole, schedules, plateaus, init, warp:
        write(args.out, group.__name__, group())


if __name__ == "__main__":
    main()
