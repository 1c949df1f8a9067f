#!/usr/bin/env python3
"""Golden values of averages of the weights, from torch.optim.swa_utils and timm.optim.Lookahead: see golden.py.

    python scripts/golden_averages.py [--out tests/golden]

Ten steps, then ten more whose gradient is the mean of those of two micro-batches.
"""
import argparse, importlib.util
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from golden import OPTIMIZERS, ROOT, draw, optimizer, to_torch, write

STEPS = 20


def lookahead():
    """timm.optim.lookahead alone: the package itself needs torchvision."""
    folder = Path(importlib.util.find_spec("timm").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("lookahead", folder / "optim/lookahead.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Lookahead


class Model(torch.nn.Module):
    def __init__(self, start):
        super().__init__()
        self.w = torch.nn.Parameter(start.clone())


def averages():
    rules = [("SGD", dict(momentum=0.9)), ("Adam", dict(lr=0.05, betas=(0.8, 0.9), amsgrad=True)), ("RMSprop", dict(centered=True, momentum=0.9))]
    kinds = [("ema", dict(decay=d)) for d in (0.0, 0.3, 0.9, 0.999)]
    kinds += [("swa", {"from": f, "every": e}) for f, e in ((1, 1), (4, 3), (11, 2))]
    kinds += [("lookahead", dict(k=k, alpha=a)) for k, a in ((1, 0.5), (5, 0.8), (3, 0.25))]
    Lookahead, cases = lookahead(), []
    for name, options in rules:
        for kind, args in kinds:
            key = f"{name}{kind}{args}"
            start = draw(key, [7])
            grads = [[draw(f"{key}{t}{k}", [7], 0.2, 1.5) for k in range(1 if t < 10 else 2)] for t in range(STEPS)]
            model = Model(to_torch(start))
            plain = optimizer(name, model.parameters(), **options)
            opt = Lookahead(plain, alpha=args["alpha"], k=args["k"]) if kind == "lookahead" else plain
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args["decay"])) if kind == "ema" else AveragedModel(model)
            paths = {"weights": [], "averages": []}
            for t, parts in enumerate(grads, 1):
                model.w.grad = sum(to_torch(g) for g in parts) / len(parts)
                opt.step()
                if kind == "ema" or kind == "swa" and t >= args["from"] and (t - args["from"]) % args["every"] == 0:
                    averaged.update_parameters(model)
                paths["weights"].append(model.w.tolist())
                # Before the first average, the library gives the weights.
                if kind == "lookahead":
                    slow = plain.state[model.w].get("lookahead_slow_buff", model.w)
                else:
                    slow = averaged.module.w if averaged.n_averaged > 0 else model.w
                paths["averages"].append(slow.tolist())
            cases.append({"average": kind, "args": args, "optimizer": name, "options": OPTIMIZERS[name] | options, "params": start.tolist(),
                          "grads": [[g.tolist() for g in parts] for parts in grads], **paths})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    torch.set_num_threads(1)
    write(parser.parse_args().out, "averages", averages())


if __name__ == "__main__":
    main()
