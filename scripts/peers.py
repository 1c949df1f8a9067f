#!/usr/bin/env python3
"""Times PyTorch beside downhill, in turns, and writes a row for each workload. Both run on the CPU, or both run on the GPU.

    python3 -m venv venv && venv/bin/pip install torch numpy
    venv/bin/python scripts/peers.py --json benches/results/peers.jsonl
    venv/bin/python scripts/peers.py --device "RTX 4090" --torch-device cuda

The workloads are those of `cargo bench -- --filter peers`: the same first weights and batches to the bit, from numbers of
SplitMix64, so that the losses must agree. Fashion-MNIST comes from Debian's package dataset-fashion-mnist.
On the CPU, PyTorch runs each workload with the backend that is fastest at it: `eager`, `eager-fused` (the fused optimizer), or `compile`.
On a GPU, it runs each workload with `eager-fused` and, with CUDA, with `captured`: one CUDA graph for the whole step. Both compute in
32-bit floats, without TF32.
"""
import argparse, gzip, json, os, subprocess, sys, tempfile, time

DATA = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Row of the bench, workload, its size, backend.
WORK = [
    ("MLP, batch 1024", "mlp", 1024, "eager-fused"),
    ("MLP, batch 128", "mlp", 128, "compile"),
    ("CNN, batch 256", "cnn", 256, "eager"),
    ("Adam, 16 Mi", "adam", 1 << 24, "eager-fused"),
    ("Adam, 50 M", "adam", 50_000_000, "eager-fused"),
    ("relu(a·x + b), 16 Mi", "ew", 1 << 24, "compile"),
    ("relu(a·x + b), 64 Mi", "ew", 1 << 26, "compile"),
]
# The backends on a GPU. Other GPUs than CUDA's have no graph capture here.
ON_GPU = {"cuda": ("eager-fused", "captured"), "xpu": ("eager-fused",), "mps": ("eager",)}
LOSS_STEP = {"mlp": 20, "cnn": 10}


def median(values):
    v = sorted(values)
    return (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2


def torch_side(work, size, backend, seconds, threads, device):
    """One measurement, in this process; prints its row."""
    import numpy as np
    import torch, torch.nn as nn, torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    compiled, fused = backend == "compile", True if backend != "eager" else None
    captured = backend == "captured"
    wait = (lambda: None) if device == "cpu" else getattr(torch, device).synchronize

    def capture(work):
        """Records the work as a CUDA graph, after three runs on a side stream, as PyTorch's manual asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def mix(seed, n):
        u = np.uint64
        with np.errstate(over="ignore"):
            z = (u(seed) << u(32)) + np.arange(n, dtype=u) + u(0x9E3779B97F4A7C15)
            z = (z ^ (z >> u(30))) * u(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> u(27))) * u(0x94D049BB133111EB)
            return z ^ (z >> u(31))

    def uniform(seed, n, bound):
        u = (mix(seed, n) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return (u * np.float32(2) - np.float32(1)) * np.float32(bound)

    def tiled(seed, n, bound):
        return torch.from_numpy(np.resize(uniform(seed, min(n, 1 << 20), bound), n))

    def fill(layer, number):
        with torch.no_grad():
            w = layer.weight
            fan_in = w[0].numel()
            v = torch.from_numpy(uniform(1000 * number + 1, w.numel(), fan_in**-0.5))
            # Those of linear layers are numbered as [inputs, outputs].
            w.copy_(v.reshape(fan_in, len(w)).T if w.dim() == 2 else v.reshape(w.shape))
            layer.bias.copy_(torch.from_numpy(uniform(1000 * number + 2, len(w), fan_in**-0.5)))

    loss = None
    if work in ("mlp", "cnn"):
        if work == "mlp":
            model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
            layers, shape = ((0, 1), (2, 2), (4, 3)), (-1, 784)
        else:
            conv = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            model = nn.Sequential(*conv(1, 32), *conv(32, 64), nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))
            layers, shape = ((0, 11), (3, 12), (7, 13), (9, 14)), (-1, 1, 28, 28)
        for at, number in layers:
            fill(model[at], number)
        model.to(device)
        if work == "mlp":
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused, capturable=captured)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)

        def read(name, head):
            with gzip.open(os.path.join(DATA, name)) as f:
                return np.frombuffer(f.read(), np.uint8, offset=head)

        x = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 784).astype(np.float32)
        x = (x / np.float32(255) - np.float32(0.2860)) / np.float32(0.3530)
        y = read("train-labels-idx1-ubyte.gz", 8).astype(np.int64)
        of_epoch, state = len(x) // size, {"epoch": -1, "k": 0}
        loss_of = lambda x, y: F.cross_entropy(model(x), y)
        loss_of = torch.compile(loss_of) if compiled else loss_of

        def batch():
            epoch, k = divmod(state["k"], of_epoch)
            if epoch != state["epoch"]:
                state["epoch"], state["order"] = epoch, np.argsort(mix(5000 + epoch, len(x)), kind="stable")
            rows = state["order"][k * size:(k + 1) * size]
            state["k"] += 1
            return torch.from_numpy(x[rows]).reshape(shape), torch.from_numpy(y[rows])

        def train(x, y):
            l = loss_of(x, y)
            optimizer.zero_grad(set_to_none=True)
            l.backward()
            optimizer.step()
            return l.detach()

        if captured:
            x_now, y_now = (t.to(device) for t in batch())
            # The runs before the capture are steps. The parameters and the optimizer begin anew after them.
            first = [p.detach().clone() for p in model.parameters()]
            now = {}

            def work_of_step():
                now["loss"] = train(x_now, y_now)
            replay = capture(work_of_step)
            with torch.no_grad():
                for p, old in zip(model.parameters(), first):
                    p.copy_(old)
                for values in optimizer.state.values():
                    for value in values.values():
                        value.zero_()
            state.update(epoch=-1, k=0)

            def step():
                x, y = batch()
                x_now.copy_(x)
                y_now.copy_(y)
                replay()
                return now["loss"]
        else:

            def step():
                return train(*(t.to(device) for t in batch()))

        for _ in range(LOSS_STEP[work]):
            loss = step().item()
    elif work == "adam":
        p = nn.Parameter(tiled(31, size, 0.05).to(device))
        p.grad = tiled(32, size, 0.01).to(device)
        step = torch.optim.Adam([p], lr=1e-3, fused=fused, capturable=captured).step
        step()
        step = capture(step) if captured else step
    else:
        x, last = tiled(21, size, 1.0).to(device), {}
        f = lambda t: torch.relu(1.7 * t - 0.3)
        f = torch.compile(f) if compiled else f

        def step():
            last["y"] = None
            last["y"] = f(x)
        step()
        step = capture(step) if captured else step

    wait()
    started = time.perf_counter()
    step()
    wait()
    block = max(1, min(50, int(0.1 / (time.perf_counter() - started))))
    times, until = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        started = time.perf_counter()
        for _ in range(block):
            step()
        wait()
        times.append((time.perf_counter() - started) / block)
    name = f"PyTorch {torch.__version__.split('+')[0]}, {backend}"
    print(json.dumps({"peer": name, "median_ms": median(times) * 1e3, "min_ms": min(times) * 1e3, "loss": loss}))


def own_side(bench, row, device):
    """One measurement of ours: the row that the bench writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.jsonl")
        subprocess.run([bench, "--device", device, "--filter", "peers", "--row", row, "--json", path], check=True, stdout=subprocess.DEVNULL)
        with open(path) as f:
            return next(r for r in map(json.loads, f) if not r["shape"].startswith("control"))


def build():
    out = subprocess.run(["cargo", "bench", "--bench", "bench", "--no-run", "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    messages = (json.loads(line) for line in out.stdout.splitlines())
    return [m["executable"] for m in messages if m.get("target", {}).get("name") == "bench" and m.get("executable")][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement of PyTorch")
    parser.add_argument("--row", default="", help="only workloads with this in their name")
    parser.add_argument("--json", help="the file that rows are appended to")
    parser.add_argument("--device", default="cpu", help="a part of the name of downhill's device")
    parser.add_argument("--torch-device", default="cpu", choices=("cpu", *ON_GPU), help="PyTorch's name of the same device")
    parser.add_argument("--torch", nargs=3, metavar=("WORK", "SIZE", "BACKEND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if args.torch:
        return torch_side(args.torch[0], int(args.torch[1]), args.torch[2], args.seconds, threads, args.torch_device)
    bench, failed = build(), False
    data = os.path.exists(os.path.join(DATA, "train-images-idx3-ubyte.gz"))
    all_work = [(*w[:3], b) for w in WORK for b in ON_GPU.get(args.torch_device, w[3:])]
    for row, work, size, backend in [w for w in all_work if args.row in w[0]]:
        if work in LOSS_STEP and not data:
            print(f"{row}: not run, because {DATA} has no Fashion-MNIST (Debian's package dataset-fashion-mnist, or $FASHION_MNIST)")
            failed = True
            continue
        own, peer = [], []
        for _ in range(args.rounds):
            own.append(own_side(bench, row, args.device))
            command = [sys.executable, __file__, "--seconds", str(args.seconds), "--torch-device", args.torch_device]
            command += ["--torch", work, str(size), backend]
            peer.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.splitlines()[-1]))
        out = own[0] | {
            "median_ms": median([r["median_ms"] for r in own]), "min_ms": min(r["min_ms"] for r in own), "peer": peer[0]["peer"],
            "peer_median_ms": median([r["median_ms"] for r in peer]), "peer_min_ms": min(r["min_ms"] for r in peer),
            "peer_loss": peer[0]["loss"],
        }
        for rate in ("samples_per_s", "gbps"):
            if rate in out:
                out[rate] *= own[0]["median_ms"] / out["median_ms"]
        print(f"{row:<22} {out['median_ms']:9.3f} ms   {out['peer']:<28} {out['peer_median_ms']:9.3f} ms   {out['peer_median_ms'] / out['median_ms']:5.2f} times as fast")
        loss, theirs = out.get("loss"), out["peer_loss"]
        if loss is not None and abs(loss - theirs) > 1e-4 * max(1.0, abs(theirs)):
            print(f"  the losses differ: {loss} here, {theirs} there")
            failed = True
        if args.json:
            with open(args.json, "a") as f:
                f.write(json.dumps(out, ensure_ascii=False) + "\n")
    sys.exit(failed)


main()
