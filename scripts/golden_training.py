#!/usr/bin/env python3
"""Twenty steps of whole networks on real digits, from PyTorch: tests/golden/training.json.

    python scripts/golden_training.py

A model is a function below that returns a module (named after the row's `model`), the shape of a sample and the optimizers to
train it with; its twin of the same name, with the same names of parameters, is `model` in tests/common/nets.rs. Nothing else
knows it. Parameters are drawn by the generator of scripts/golden.py; the row says how (`params`: name, shape, seed, bound, and
what is added: 1 for the scale of a norm, 0 otherwise). Buffers start as the module has them.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golden import GENERATOR, OPTIMIZERS, ROOT, gen, optimizer, to_torch, write

BATCH, STEPS = 64, 20


# ---- models ----------------------------------------------------------------------------------------------

def mlp():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(64, 48), nn.Linear(48, 32), nn.Linear(32, 10)

        def forward(self, x):
            return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))

    return Model(), [64], [("SGD", dict(lr=0.1)), ("SGD", dict(lr=0.05, momentum=0.9)), ("Adam", dict(lr=1e-3)),
                           ("AdamW", dict(lr=1e-3, weight_decay=0.01)), ("RMSprop", dict(lr=1e-3))]


def lstm():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

        def forward(self, x):   # the rows of an image, one after the other
            return self.out(self.lstm(x)[0][:, -1])

    return Model(), [8, 8], [("Adam", dict(lr=1e-3))]


def cnn():   # a bias before a batch norm has no gradient but rounding, which Adam would make steps of
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
            self.fc = nn.Linear(48, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
            x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
            return self.fc(x.flatten(1))

    return Model(), [1, 8, 8], [("SGD", dict(lr=0.05, momentum=0.9)), ("Adam", dict(lr=1e-3))]


def transformer():   # the bias of the keys has no gradient but rounding: SGD, not Adam, for the reason above
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.pos = nn.Linear(8, 16), nn.Embedding(8, 16)
            self.block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
            self.out = nn.Linear(16, 10)

        def forward(self, x):   # the rows of an image are a sequence
            return self.out(self.block(self.embed(x) + self.pos.weight).mean(1))

    return Model(), [8, 8], [("SGD", dict(lr=0.05, momentum=0.9))]


MODELS = [mlp, lstm, cnn, transformer]


# ---- training --------------------------------------------------------------------------------------------

def draws(module):
    """How each parameter is drawn: matrices within 1/sqrt(fan_in), vectors as wide as the matrix before them."""
    rows, bound = [], 1.0
    norms = {f"{n}.weight" for n, m in module.named_modules() if "Norm" in type(m).__name__}
    for k, (name, p) in enumerate(module.named_parameters()):
        if p.dim() > 1:
            bound = 1 / math.sqrt(math.prod(p.shape[1:]))
        rows.append({"name": name, "shape": list(p.shape), "seed": 1001 + k, "bound": bound, "plus": int(name in norms)})
    return rows


def train(model, name, options, dtype, features, labels):
    """Losses before each update, and the parameters and buffers after the last one."""
    module, sample, _ = model()
    module = module.to(dtype)
    with torch.no_grad():
        for row, p in zip(draws(module), module.parameters()):
            values = gen(row["seed"], p.numel(), row["bound"]) + np.float32(row["plus"])
            p.copy_(to_torch(values.reshape(p.shape), dtype))
    opt, losses = optimizer(name, list(module.parameters()), **options), []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        loss = F.cross_entropy(module(torch.from_numpy(features[rows]).to(dtype).reshape(-1, *sample)),
                               torch.from_numpy(labels[rows]))
        losses.append(loss.item())
        opt.zero_grad()
        loss.backward()
        opt.step()
    after = {n: v.detach().double() for n, v in module.state_dict().items() if v.is_floating_point()}
    return losses, after


def training():
    table = np.loadtxt(ROOT / "data/digits.csv.gz", delimiter=",", dtype=np.float32)
    features, labels = table[:, :64] / np.float32(16), table[:, 64].astype(np.int64)
    cases = []
    for model in MODELS:
        module, sample, optimizers = model()
        for name, options in optimizers:
            case = {"model": model.__name__, "sample": sample, "params": draws(module),
                    "optimizer": name, "options": OPTIMIZERS[name] | options}
            for suffix, dtype in ("", torch.float64), ("_f32", torch.float32):
                case["losses" + suffix], after = train(model, name, options, dtype, features, labels)
                case["sums" + suffix] = {n: v.sum().item() for n, v in after.items()}
                case["squares" + suffix] = {n: v.square().sum().item() for n, v in after.items()}
                case["heads" + suffix] = {n: v.flatten()[:8].tolist() for n, v in after.items()}
            cases.append(case)
    head = dict(
        about="Mean cross-entropy. Step k's batch: the digits file's rows from k*batch on, features / 16. losses[k]: of step k, "
              "before its update. After the last step: sums and squares of each tensor's values, added in f64, and the first "
              "8 of them",
        weights="row-major: gen(seed, n, bound) + plus",
        generator=GENERATOR,
        check={"seed": 1001, "bound": 0.125, "values": gen(1001, 4, 0.125).tolist()},
        batch=BATCH, steps=STEPS)
    return cases, head


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases, head = training()
    write(ROOT / "tests/golden", "training", cases, **head)
