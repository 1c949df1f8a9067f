"""Data and initial weights of the programs in this folder. tests/programs/shared.rs draws the same numbers."""
import gzip
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from golden import ROOT, gen, mix  # noqa: E402


def uniform(seed, *shape):
    """Numbers in [-1, 1)."""
    return torch.from_numpy(gen(seed, math.prod(shape), 1.0).reshape(shape)).to(torch.get_default_dtype())


def indices(seed, below, *shape):
    """Numbers in 0..below."""
    return torch.from_numpy((mix(seed, math.prod(shape)) % np.uint64(below)).astype(np.int64).reshape(shape))


def digits():
    """Images in 0..1 and labels."""
    table = np.loadtxt(ROOT / "data/digits.csv.gz", delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :64] / np.float32(16)).to(torch.get_default_dtype())
    return images, torch.from_numpy(table[:, 64].astype(np.int64))


def genesis():
    """A text, one verse in each line."""
    return gzip.open(ROOT / "data/genesis.txt.gz", "rt").read()


def drawn(name, shape):
    """The initial values of a parameter or of a running average: matrices within 1/sqrt(fan_in), vectors within 0.1 of 0, or of 1
    where they are scales or variances."""
    bound = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
    scale = len(shape) == 1 and name.endswith((".weight", "running_var"))
    values = gen(zlib.crc32(name.encode()), math.prod(shape), bound) + np.float32(scale)
    return values.reshape(shape)


def start(model, prefix=""):
    """Sets all parameters and running averages to their initial values."""
    if hasattr(model, "set_weights"):   # dense layers of Keras, whose kernels are [in, out]
        names = [f"fc{i // 2 + 1}.{('weight', 'bias')[i % 2]}" for i in range(len(model.weights))]
        return model.set_weights([drawn(n, w.shape[::-1]).T for n, w in zip(names, model.weights)])
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(drawn(prefix + name, list(value.shape))))
