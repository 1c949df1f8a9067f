#!/usr/bin/env python3
"""The losses of ten programs in PyTorch and Keras: tests/golden/programs.json.

    KERAS_BACKEND=torch python scripts/golden_programs.py     # needs torch, numpy and keras

Each file of scripts/programs is a program as its users write it. Its twin of the same name in tests/programs is the program in Rust,
with the same data and the same initial weights. All numbers are float64; a program's own numbers in `f32` are beside them. A program
`..._keras.py` is there because Keras needs fewer lines than PyTorch: it runs, but its numbers are not kept.
"""
import importlib
import inspect
import sys
import tempfile

import torch

from golden import ROOT, write

sys.path.insert(0, str(ROOT / "scripts/programs"))
PROGRAMS = ["quick_start", "transfer", "wide_deep", "accumulation_ema", "gan", "text", "resnet18", "similarity", "gradients", "uncertainty"]


def losses(name, dtype):
    torch.set_default_dtype(dtype)
    program = importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        given = {"folder": folder, "pretrained": f"{folder}/pretrained.pt"}
        if name == "quick_start":
            import keras
            keras.config.set_floatx("float64" if dtype == torch.float64 else "float32")
        if name == "transfer":   # a network that has learnt to tell four rotations
            from common import start
            net = program.Net(4)
            start(net, "pretrained.")
            torch.save(net.state_dict(), given["pretrained"])
        result = program.run(*[given[k] for k in inspect.signature(program.run).parameters])
    if name == "quick_start":
        history, evaluation = result
        return history["loss"] + history["val_loss"] + history["learning_rate"] + evaluation
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    names = sys.argv[1:] or PROGRAMS
    cases = [{"program": name, "losses": losses(name, torch.float64), "losses_f32": losses(name, torch.float32)} for name in names]
    for case in cases:
        far = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(case["losses"], case["losses_f32"]))
        print(case["program"], len(case["losses"]), "losses; f32 differs by", f"{far:.1e}")
    if names == PROGRAMS:
        for path in sorted((ROOT / "scripts/programs").glob("*_keras.py")):
            print(path.stem, *losses(path.stem, torch.float32))
        write(ROOT / "tests/golden", "programs", cases)
    else:
        print(*(case["losses"] for case in cases), sep="\n")
