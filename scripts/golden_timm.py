#!/usr/bin/env python3
"""Golden values from timm for the rules that torch.optim does not have, LAMB, LARS and Lion: see golden.py.

    pip install torch numpy
    pip install --no-deps timm==1.0.31
    python scripts/golden_timm.py [--out tests/golden]

A case has several parameters, one after the other in flat lists: `sizes` has their sizes, and `decays` says whether weight decay
applies. One parameter starts at 0, and one has a gradient of 0 in one step, so that each norm of a ratio is 0 once.
timm.optim is imported without timm itself, which needs torchvision.
"""
import argparse, importlib.metadata, importlib.util, sys, types
from pathlib import Path

import numpy as np
import torch

from golden import ROOT, draw, to_torch, write

SIZES, DECAYS = [7, 4, 5], [True, False, True]
SHORT = dict(betas=(0.8, 0.9))
OPTIMIZERS = {   # every option and the value it has where a case says nothing
    "Lamb": (dict(lr=0.01, bias_correction=True, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, grad_averaging=True, max_grad_norm=1.0,
                  trust_clip=False, always_adapt=False),
             [{}, dict(lr=0.1), dict(bias_correction=False), SHORT, dict(eps=0.05), dict(weight_decay=0.0), dict(weight_decay=0.3),
              dict(grad_averaging=False), dict(max_grad_norm=None), dict(max_grad_norm=0.125), dict(trust_clip=True),
              dict(always_adapt=True), dict(weight_decay=0.0, always_adapt=True),
              dict(lr=0.02, bias_correction=False, eps=1e-3, weight_decay=0.2, grad_averaging=False, max_grad_norm=3.0, trust_clip=True,
                   always_adapt=True, **SHORT)]),
    "Lars": (dict(lr=1.0, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, trust_coeff=0.001, eps=1e-8, trust_clip=False,
                  always_adapt=False),
             [dict(lr=0.05), dict(weight_decay=0.05), dict(always_adapt=True), dict(momentum=0.9, weight_decay=0.05),
              dict(momentum=0.9, dampening=0.3, weight_decay=0.05), dict(momentum=0.9, nesterov=True, weight_decay=0.05),
              dict(trust_coeff=0.02, weight_decay=0.05), dict(eps=0.05, always_adapt=True), dict(trust_clip=True, weight_decay=0.05),
              dict(lr=0.3, trust_coeff=0.05, trust_clip=True, weight_decay=0.05),
              dict(lr=0.3, momentum=0.8, weight_decay=0.2, nesterov=True, trust_coeff=0.05, eps=1e-3, trust_clip=True, always_adapt=True)]),
    "Lion": (dict(lr=0.01, betas=(0.9, 0.99), weight_decay=0.0),
             [{}, dict(lr=0.1), dict(betas=(0.5, 0.8)), dict(weight_decay=0.5), dict(lr=0.03, betas=(0.8, 0.95), weight_decay=0.2)])}


def timm_optim():
    """timm.optim, with an empty package in the place of timm."""
    home = Path(importlib.util.find_spec("timm").submodule_search_locations[0])
    for name, path in ("timm", home), ("timm.optim", home / "optim"):
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = [str(path)]
    module = lambda name: importlib.import_module(f"timm.optim.{name.lower()}")
    return {name: getattr(module(name), name) for name in OPTIMIZERS}


def optimizers_timm(classes):
    scales = [1, 3, 10, 0.3, 0.1, 0.01, 0.5, 2, 0.03, 1]
    cases = []
    for name, (defaults, table) in OPTIMIZERS.items():
        for i, option in enumerate(table):
            start = draw(f"{name}{i}p", [sum(SIZES)])
            start[SIZES[0] + SIZES[1]:] = 0
            grads = [draw(f"{name}{i}g{k}", [sum(SIZES)], 0.2, 1.5) * np.float32(s) for k, s in enumerate(scales)]
            grads[3][:SIZES[0]] = 0
            options, paths = defaults | option, []
            for dtype in torch.float64, torch.float32:
                params, path = [p.clone().requires_grad_() for p in to_torch(start, dtype).split(SIZES)], []
                groups = [dict(params=[p]) if decays else dict(params=[p], weight_decay=0.0) for p, decays in zip(params, DECAYS)]
                optimizer = classes[name](groups, **options, foreach=False)
                for whole in grads:
                    for p, g in zip(params, to_torch(whole, dtype).split(SIZES)):
                        p.grad = g.clone()
                    optimizer.step()
                    path.append(torch.cat(params).tolist())
                paths.append(path)
            cases.append({"optimizer": name, "options": options, "sizes": SIZES, "decays": DECAYS, "params": start.tolist(),
                          "grads": [g.tolist() for g in grads], "trajectory": paths[0], "trajectory_f32": paths[1]})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden")
    args = parser.parse_args()
    torch.set_num_threads(1)
    version = importlib.metadata.version("timm")
    write(args.out, "optimizers_timm", optimizers_timm(timm_optim()), timm=version)


if __name__ == "__main__":
    main()
