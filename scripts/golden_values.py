#!/usr/bin/env python3
"""Right values at the ends of f32's range and where functions are small, and after steps with frozen parameters and clipped
gradients, for the tests in tests/values.

    pip install torch numpy mpmath
    python scripts/golden_values.py [MODULE ...] [--out tests/golden]

One function a module of tests/values, which returns what its JSON file holds. The numbers are those of mpmath with 60
digits where PyTorch's own f64 would cancel or has NaN for a limit, else PyTorch's in f64; "nan", "inf" and "-inf" are
strings, and null is a value that is not tested.
"""
import argparse, itertools, json, math, struct, warnings
from pathlib import Path

import mpmath as mp
import torch
import torch.nn.functional as F

mp.mp.dps = 60
INF, NAN = math.inf, math.nan
MAX, NORMAL, LEAST = 3.4028234663852886e38, 2.0 ** -126, 2.0 ** -149
warnings.filterwarnings("ignore")


def f32(x):
    """The nearest f32."""
    return struct.unpack("f", struct.pack("f", x))[0]


def both_signs(*sizes):
    return [s * f32(x) for x in sizes for s in (1.0, -1.0)]


def number(x):
    """JSON of a number, to twelve digits."""
    if x is None:
        return None
    x = float(x)
    return float(f"{x:.12g}") if math.isfinite(x) else "nan" if x != x else "inf" if x > 0 else "-inf"


def autograd(f, *args):
    """PyTorch's value and gradients in f64."""
    xs = [torch.tensor(float(a), dtype=torch.float64, requires_grad=True) for a in args]
    y = f(*xs)
    grads = torch.autograd.grad(y, xs, allow_unused=True)
    return [y.item()] + [0.0 if d is None else d.item() for d in grads]


# ---- elementwise -----------------------------------------------------------------------------------------

def sigmoid(x):
    return 1 / (1 + mp.exp(-x)) if x >= 0 else mp.exp(x) / (1 + mp.exp(x))


def sigmoid_grad(x):
    return sigmoid(x) * sigmoid(-x)


def pdf(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def cdf(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2 if abs(x) < 1e6 else mp.mpf(1 if x > 0 else 0)


def inner(x):
    """Of gelu_tanh: 2u and its derivative."""
    c = 2 * mp.sqrt(2 / mp.pi)
    k = mp.mpf("0.044715")
    return c * (x + k * x ** 3), c * (1 + 3 * k * x * x)


def gelu_tanh_grad(x):
    u, du = inner(x)
    return sigmoid(u) + x * sigmoid_grad(u) * du


def silu_grad(x):
    return sigmoid(x) * (1 + x * sigmoid(-x))


def gelu_grad(x):
    return cdf(x) + x * pdf(x)


def step(x):
    return mp.mpf(1 if x > 0 else -1)


# name: value, gradient, the PyTorch function or None.
UNARY = {
    "identity": (lambda x: x, lambda x: 1, lambda x: x * 1),
    "neg": (lambda x: -x, lambda x: -1, torch.neg),
    "abs": (abs, step, torch.abs),
    "sign": (step, lambda x: 0, torch.sign),
    "exp": (mp.exp, mp.exp, torch.exp),
    "expm1": (mp.expm1, mp.exp, torch.expm1),
    "ln": (mp.log, lambda x: 1 / x, torch.log),
    "log1p": (mp.log1p, lambda x: 1 / (1 + x), torch.log1p),
    "sqrt": (mp.sqrt, lambda x: 1 / (2 * mp.sqrt(x)), torch.sqrt),
    "rsqrt": (lambda x: 1 / mp.sqrt(x), lambda x: -1 / (2 * x * mp.sqrt(x)), torch.rsqrt),
    "square": (lambda x: x * x, lambda x: 2 * x, torch.square),
    "reciprocal": (lambda x: 1 / x, lambda x: -1 / (x * x), torch.reciprocal),
    "sin": (mp.sin, mp.cos, torch.sin),
    "cos": (mp.cos, lambda x: -mp.sin(x), torch.cos),
    "tanh": (mp.tanh, lambda x: 4 * sigmoid_grad(2 * x), torch.tanh),
    "sigmoid": (sigmoid, sigmoid_grad, torch.sigmoid),
    "sigmoid_grad": (sigmoid_grad, lambda x: sigmoid_grad(x) * (sigmoid(-x) - sigmoid(x)), None),
    "relu": (lambda x: max(x, mp.mpf(0)), lambda x: 1 if x > 0 else 0, torch.relu),
    "silu": (lambda x: x * sigmoid(x), silu_grad, F.silu),
    "silu_grad": (silu_grad, lambda x: sigmoid_grad(x) * (2 + x * (sigmoid(-x) - sigmoid(x))), None),
    "softplus": (lambda x: max(x, mp.mpf(0)) + mp.log1p(mp.exp(-abs(x))), sigmoid, F.softplus),
    "log_sigmoid": (lambda x: min(x, mp.mpf(0)) - mp.log1p(mp.exp(-abs(x))), lambda x: sigmoid(-x), F.logsigmoid),
    "gelu": (lambda x: x * cdf(x), gelu_grad, F.gelu),
    "gelu_grad": (gelu_grad, lambda x: (2 - x * x) * pdf(x), None),
    "gelu_tanh": (lambda x: x * sigmoid(inner(x)[0]), gelu_tanh_grad, lambda x: F.gelu(x, approximate="tanh")),
    "gelu_tanh_grad": (gelu_tanh_grad, lambda x: mp.diff(gelu_tanh_grad, x) if abs(x) < 100 else 0, None),
}
# Functions whose value has no limit at infinity, or a limit that a large number does not show.
AT_INFINITY = {"ln": (INF, NAN), "log1p": (INF, NAN), "sin": (NAN, NAN), "cos": (NAN, NAN)}
GRAD_OF = {"sigmoid_grad": "sigmoid", "silu_grad": "silu", "gelu_grad": "gelu", "gelu_tanh_grad": "gelu_tanh"}
NOT_BELOW = {"ln": 0, "log1p": -1, "sqrt": 0, "rsqrt": 0}
# sign(NaN) is NaN here, so that what goes wrong is seen; PyTorch has 0.
AT_NAN = {"sign": (NAN, 0.0)}


def unary(name, x):
    value, grad, of_torch = UNARY[name]
    if x != x:
        if of_torch is None:
            return NAN, NAN
        return AT_NAN.get(name) or autograd(of_torch, x)
    if x == 0:
        if of_torch is None:
            return value(mp.mpf(0)), grad(mp.mpf(0))
        return autograd(of_torch, x)
    below = NOT_BELOW.get(name)
    if below is not None and x < below:
        # The gradient is that of the formula, as in PyTorch: 1/x for a logarithm.
        return NAN, NAN if name in ("sqrt", "rsqrt") else grad(mp.mpf(x)) if math.isfinite(x) else -0.0
    if name == "log1p" and x == -1:
        return -INF, INF
    if math.isinf(x):
        far = mp.mpf(10) ** 2000 * (1 if x > 0 else -1)
        end = lambda y: INF if y > 1e300 else -INF if y < -1e300 else 0.0 if abs(y) < 1e-300 else float(y)
        given = AT_INFINITY.get(name, (None, None))
        if name in ("sin", "cos"):
            return given
        return given[0] if given[0] is not None and x > 0 else end(value(far)), end(grad(far))
    got = mp.mpf(value(mp.mpf(x))), mp.mpf(grad(mp.mpf(x)))
    if of_torch is not None:
        for mine, theirs in zip(got, autograd(of_torch, x)):
            assert abs(mine - theirs) <= 1e-9 * abs(mine) + 1e-13 or abs(mine) > 1e300, (name, x, mine, theirs)
    return got


def pair(f, a, b):
    try:
        return autograd(f, a, b)
    except RuntimeError:
        return autograd(lambda x, y: f(x, y) + 0 * x, a, b)


def power(a, b):
    value, da, db = pair(torch.pow, a, b)
    # y ln a where y is 0: 0 in the limit.
    return value, da, 0.0 if a == INF and b < 0 else db


def bce_with_logits(x, y):
    if x != x:
        return NAN, NAN, NAN
    if math.isinf(x):
        wrong = 1 - y if x > 0 else y
        return INF if wrong > 0 else 0.0, (1.0 if x > 0 else 0.0) - y, -x
    x, y = mp.mpf(x), mp.mpf(y)
    value = mp.log1p(mp.exp(-abs(x))) + abs(x) * (1 - y if x > 0 else y)
    return value, (1 - y) * sigmoid(x) - y * sigmoid(-x), -x


def bce(p, y):
    p, y = mp.mpf(p), mp.mpf(y)
    ln = lambda x: max(mp.log(x), mp.mpf(-100)) if x > 0 else mp.mpf(-100)
    return -(y * ln(p) + (1 - y) * ln(1 - p)), (p - y) / max(p * (1 - p), mp.mpf(f32(1e-12))), ln(1 - p) - ln(p)


def kl_div(log_p, q):
    if q == 0:
        return 0.0, -0.0, None
    if math.isinf(log_p):
        return INF, -q, INF
    lp, q = mp.mpf(log_p), mp.mpf(q)
    return q * (mp.log(q) - lp), -q, mp.log(q) + 1 - lp


def huber(x, y):
    d = x - y
    return (d * d / 2 if abs(d) <= 2 else 2 * (abs(d) - 1)), max(-2.0, min(2.0, d)), max(-2.0, min(2.0, -d))


def elementwise():
    small = (0, LEAST, 1e-40, NORMAL, 1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 0.1, 0.3, 0.35, 0.5, 0.9, 1, 1 + 2 ** -23, 1.5, 2, 3, 5)
    large = (8.478, 10, 12, 13, 15, 20, 30, 40, 50, 80, 87, 88.7, 89, 100, 103, 355, 1000, 5999, 6001, 1e4, 1e5, 1e6, 1e7, 1e9)
    x = both_signs(*small, *large, 1e10, 1e20, 1e30, MAX, INF) + [NAN]
    rows = {name: [unary(name, v) for v in x] for name in UNARY}
    out = {"x": x, "unary": {name: [[number(v) for v in column] for column in zip(*row)] for name, row in rows.items()}}
    q = both_signs(0, LEAST, NORMAL, 1e-30, 0.5, 1, 2, 3, 1e30, MAX, INF) + [NAN]
    pairs = list(itertools.product(q, q))
    binary = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
        "maximum": torch.maximum, "minimum": torch.minimum,
    }
    table = lambda f, pairs: [[number(v) for v in column] for column in zip(*(f(a, b) for a, b in pairs))]
    out["pairs"] = [list(p) for p in zip(*pairs)]
    out["binary"] = {name: table(lambda a, b: pair(f, a, b), pairs) for name, f in binary.items()}
    out["binary"]["pow"] = table(power, pairs)
    # Two functions of a value and a number.
    out["with"] = {"leaky_relu": table(lambda a, _: autograd(lambda x: F.leaky_relu(x, 0.25), a), [(a, 0) for a in x]),
                   "elu": table(lambda a, _: autograd(lambda x: F.elu(x, 1.5), a), [(a, 0) for a in x])}
    shares = [f32(y) for y in (0, 1e-10, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1 - 2 ** -24, 1)]
    logits = both_signs(0, 1e-30, 1e-3, 0.5, 1, 5, 10, 15, 16.6, 17, 20, 30, 50, 87, 100, 1e4, 1e30, MAX, INF) + [NAN]
    probabilities = [f32(p) for p in (0, 1e-20, 1e-10, 1e-6, 0.01, 0.3, 0.4999, 0.5, 0.5001, 0.7, 0.99, 1 - 2 ** -24, 1)]
    logs = [0.0, -1e-10, -1e-3, -0.1, -1.0, -10.0, -50.0, -1e4, -1e30, -INF]
    differences = [(a, b) for a in both_signs(0, 1e-30, 1e-10, 0.5, 1.5, 2, 3, 1e10, 1e30, INF) for b in (0.0, 0.25)]
    out["losses"] = {}
    for name, f, args in (
        ("bce_with_logits", bce_with_logits, itertools.product(logits, shares)),
        ("bce", bce, itertools.product(probabilities, shares)),
        ("kl_div", kl_div, itertools.product(logs, shares)),
        ("huber", huber, differences),
    ):
        args = [(f32(a), f32(b)) for a, b in args]
        out["losses"][name] = {"x": [list(c) for c in zip(*args)], "want": table(f, args)}
    strings = lambda v: [strings(w) for w in v] if isinstance(v, list) else {k: strings(w) for k, w in v.items()} if isinstance(v, dict) else v if v is None or isinstance(v, str) else v if math.isfinite(v) else number(v)
    return strings(out)


# ---- norms -----------------------------------------------------------------------------------------------

def norms():
    """Lines of four, normalised with an eps of 1e-5 (the f32), and the gradient for them of that for the result."""
    eps = torch.tensor(1e-5, dtype=torch.float32).double().item()
    dy = 0.5 - torch.arange(4, dtype=torch.float64)
    cases = []
    for row in [[1e20, -1e20, 3e20, -3e20], [98765.4296875, 98765.4375, 98765.4296875, 98765.4296875], [3e38, 2e38, -3e38, 1e38], [1e-3, 2e-3, -4e-3, 1e-30]]:
        x = torch.tensor(row, dtype=torch.float32).double()
        case = {"x": x.tolist(), "dy": dy.tolist()}
        for name, norm in ("layer_norm", F.layer_norm), ("rms_norm", F.rms_norm):
            v = x.clone().requires_grad_()
            y = norm(v, [4], eps=eps)
            y.backward(dy)
            case[name] = {"y": y.tolist(), "dx": v.grad.tolist()}
        for name, f in ("std", lambda v: v.std(correction=1)), ("var", lambda v: v.var(correction=0)):
            v = x.clone().requires_grad_()
            y = f(v)
            y.backward()
            case[name] = {"y": [y.item()], "dx": v.grad.tolist()}
        cases.append(case)
    return {"cases": cases}


# ---- schedules -------------------------------------------------------------------------------------------

def updates():
    """Learning rates at the edges of schedules. Where PyTorch divides by zero there is no case."""
    schedulers = torch.optim.lr_scheduler
    wanted = [("CosineAnnealingLR", {"T_max": n}, 5) for n in (1, 2)]
    wanted += [("PolynomialLR", {"total_iters": n, "power": power}, 4) for n in (1, 2) for power in (0.0, 1.0, 2.5)]
    wanted += [("LinearLR", {"start_factor": start, "end_factor": 0.5, "total_iters": n}, 4) for n in (1, 2) for start in (1.0, 0.25)]
    wanted += [("StepLR", {"step_size": n, "gamma": gamma}, 4) for n in (1, 3) for gamma in (0.0, 0.5, 1.0, 2.0)]
    wanted += [("ExponentialLR", {"gamma": gamma}, 4) for gamma in (0.0, 0.5, 1.0, 2.0)]
    for n in (1, 2, 3, 4, 7, 10):
        for share in (0.0, 0.05, 0.25, 0.3, 0.5, 0.9, 0.99, 1.0):
            for anneal in ("cos", "linear"):
                args = {"max_lr": 1.0, "total_steps": n, "pct_start": share, "anneal_strategy": anneal}
                args |= {"div_factor": 25.0, "final_div_factor": 4.0, "cycle_momentum": False}
                wanted.append(("OneCycleLR", args, n))
    cases = []
    for name, args, steps in wanted:
        optimizer = torch.optim.SGD([torch.zeros(1, dtype=torch.float64, requires_grad=True)], lr=1.0)
        try:
            scheduler, lr = getattr(schedulers, name)(optimizer, **args), []
            for step in range(steps):
                lr.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                if step < steps - 1:
                    scheduler.step()
        except ZeroDivisionError:
            continue
        cases.append({"schedule": name, "args": args, "lr": lr})
    return {"torch": torch.__version__, "cases": cases}


# ---- frozen parameters and clipped gradients -------------------------------------------------------------

def grid(n, a, b, m):
    """Numbers that f32 has exactly: ((a·k + b) mod m − ⌊m/2⌋) / 64."""
    return [((a * k + b) % m - m // 2) / 64.0 for k in range(n)]


def tensor(shape, a, b, m):
    return torch.tensor(grid(math.prod(shape), a, b, m), dtype=torch.float64).reshape(shape)


OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
}


def steps():
    """An MLP of which parts have requires_grad=False; gradients that are clipped by clip_grad_norm_, then clip_grad_value_."""
    frozen = []
    names = ["fc1", "fc2", "fc3"]
    sizes = [(8, 5), (8, 8), (3, 8)]
    for name, make in OPTIMIZERS.items():
        for still, clip in [(["fc1"], None), (["fc2"], None), (["fc1", "fc3.bias"], 0.25), (["fc2.weight"], 0.125)]:
            params = {}
            for i, (layer, (n, m)) in enumerate(zip(names, sizes)):
                params[layer + ".weight"] = tensor((n, m), 37, 11 * i, 61)
                params[layer + ".bias"] = tensor((n,), 29, 7 * i, 23)
            for key, p in params.items():
                p.requires_grad_(key not in still and key.rsplit(".", 1)[0] not in still)
            free = [p for p in params.values() if p.requires_grad]
            optimizer, losses = make(free), []
            for step in range(20):
                y = tensor((6, 5), 53, 19 * step, 97)
                for layer in names:
                    y = F.linear(y, params[layer + ".weight"], params[layer + ".bias"])
                    y = torch.tanh(y) if layer != "fc3" else y
                loss = F.mse_loss(y, tensor((6, 3), 31, 5 * step, 41))
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(free, clip)
                optimizer.step()
            after = {key: p.detach().flatten().tolist() for key, p in params.items()}
            frozen.append({"optimizer": name, "frozen": still, "clip_norm": clip, "losses": losses, "after": after})
    clipped = []
    for name, make in OPTIMIZERS.items():
        for norm, value in [(None, 0.25), (None, 1e-3), (None, 1e10), (2.0, 0.125), (1e10, 0.25), (0.5, 1e10)]:
            params = [tensor((70,), 37, 3, 61).requires_grad_(), tensor((9,), 29, 5, 23).requires_grad_()]
            optimizer = make(params)
            for step in range(5):
                params[0].grad, params[1].grad = tensor((70,), 41, 13 * step, 101), tensor((9,), 17, 7 * step, 59)
                if norm is not None:
                    torch.nn.utils.clip_grad_norm_(params, norm)
                torch.nn.utils.clip_grad_value_(params, value)
                optimizer.step()
            after = [p.detach().tolist() for p in params]
            clipped.append({"optimizer": name, "clip_norm": norm, "clip_value": value, "after": after})
    return {"torch": torch.__version__, "frozen": frozen, "clipped": clipped}


MODULES = {"elementwise": elementwise, "norms": norms, "updates": updates, "steps": steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(MODULES))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/golden")
    args = parser.parse_args()
    for name in args.modules:
        path = args.out / f"values_{name}.json"
        path.write_text(json.dumps(MODULES[name](), separators=(",", ":"), allow_nan=False).replace("],", "],\n") + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
