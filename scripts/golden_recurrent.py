#!/usr/bin/env python3
"""Golden values of the recurrent layers from PyTorch: tests/golden/recurrent_layers.json.

    python scripts/golden_recurrent.py

As scripts/golden.py. Inputs are the sequences [n, t, features] and, with `state`, h0 (and c0). The output is all that the
layer gives in one row: the hidden states, then the last hidden state, then (LSTM) the last cell state. `reverse`: the
sequence is turned round before the layer, and its output after it.
"""
import numpy as np
import torch

from golden import ROOT, draw, layer_rows, write


def recurrent_layers():
    cases, add = layer_rows()
    table = [  # n, t, features, hidden, options
        (1, 1, 1, 1, {}),
        (2, 1, 3, 4, {}),
        (3, 5, 2, 4, {}),
        (2, 7, 4, 3, dict(state=True)),
        (2, 3, 3, 5, dict(bias=False)),
        (3, 4, 2, 3, dict(reverse=True)),
        (2, 4, 3, 4, dict(reverse=True, state=True, bias=False)),
        (2, 3, 2, 3, dict(bidirectional=True)),
        (2, 3, 3, 2, dict(layers=2, state=True)),
        (2, 3, 2, 2, dict(layers=2, bidirectional=True, state=True)),
        (5, 2, 7, 11, {}),
    ]
    for layer, new in ("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU):
        for n, t, features, hidden, options in table:
            args = dict(bias=True, state=False, reverse=False, bidirectional=False, layers=1) | options
            text = f"{n}x{t}x{features} to {hidden}"
            ways = args["layers"] * (2 if args["bidirectional"] else 1)
            states = ["h0", "c0"][: 2 if layer == "lstm" else 1] if args["state"] else []
            inputs = [draw(f"{layer}{text}{options}x", [n, t, features])]
            inputs += [draw(f"{layer}{text}{options}{s}", [ways, n, hidden], 0.1, 0.9) for s in states]

            def call(m, x, *state):
                x = x.flip(1) if args["reverse"] else x
                state = state if len(state) == 2 else state[0] if state else None
                y, last = m(x, state)
                y = y.flip(1) if args["reverse"] else y
                return torch.cat([s.reshape(-1) for s in (y, *(last if layer == "lstm" else [last]))])

            module = new(features, hidden, args["layers"], bias=args["bias"], batch_first=True, bidirectional=args["bidirectional"])
            add(layer, text, inputs, module, call, hidden=hidden, **args)
    # What PyTorch's GRU has not: the reset before the product, in its own arithmetic. Parameters have the names of its GRU.
    class GruBefore(torch.nn.GRU):
        def forward(self, x, h=None):
            h, outputs = x.new_zeros(x.shape[0], self.hidden_size) if h is None else h[0], []
            w_ih, w_hh, b_ih, b_hh = (getattr(self, f"{kind}_l0").chunk(3) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            part = lambda x, w, b: x @ w.T + b
            for x in x.unbind(1):
                r, z = (torch.sigmoid(part(x, w_ih[k], b_ih[k]) + part(h, w_hh[k], b_hh[k])) for k in (0, 1))
                new = torch.tanh(part(x, w_ih[2], b_ih[2]) + part(r * h, w_hh[2], b_hh[2]))
                h = (1 - z) * new + z * h
                outputs.append(h)
            return torch.stack(outputs, 1), h[None]

    for n, t, features, hidden, options in (1, 1, 1, 1, {}), (3, 5, 2, 4, {}), (2, 4, 3, 3, dict(state=True)), (2, 3, 3, 5, dict(reverse=True)):
        args = dict(bias=True, state=False, reverse=False, bidirectional=False, layers=1, reset_after=False) | options
        text = f"{n}x{t}x{features} to {hidden}, reset before"
        inputs = [draw(f"{text}{options}x", [n, t, features])]
        inputs += [draw(f"{text}{options}h", [1, n, hidden], 0.1, 0.9)] if args["state"] else []

        def call(m, x, h=None):
            y, last = m(x.flip(1) if args["reverse"] else x, h)
            return torch.cat([s.reshape(-1) for s in (y.flip(1) if args["reverse"] else y, last)])

        add("gru", text, inputs, GruBefore(features, hidden, batch_first=True), call, hidden=hidden, **args)
    for n, t, features, hidden, size, options in [(1, 1, 1, 2, 1, {}), (3, 5, 2, 4, 3, {}), (2, 4, 3, 5, 2, dict(state=True, bias=False)),
                                                  (2, 3, 2, 4, 2, dict(layers=2, bidirectional=True, state=True))]:
        args = dict(bias=True, state=False, reverse=False, bidirectional=False, layers=1, proj_size=size) | options
        text = f"{n}x{t}x{features} to {hidden}, projected to {size}"
        ways = args["layers"] * (2 if args["bidirectional"] else 1)
        inputs = [draw(f"{text}{options}x", [n, t, features])]
        inputs += [draw(f"{text}{options}{k}", [ways, n, k], 0.1, 0.9) for k in (size, hidden)] if args["state"] else []
        module = torch.nn.LSTM(features, hidden, args["layers"], bias=args["bias"], batch_first=True, bidirectional=args["bidirectional"], proj_size=size)

        def call(m, x, *state):
            y, last = m(x, state or None)
            return torch.cat([s.reshape(-1) for s in (y, *last)])

        add("lstm", text, inputs, module, call, hidden=hidden, **args)
    packed = [  # n, t, features, hidden, options; the sequences are packed, so that padding is skipped
        (3, 5, 2, 3, {}),
        (4, 6, 3, 2, dict(state=True)),
        (3, 4, 2, 3, dict(bidirectional=True)),
        (3, 5, 3, 2, dict(bidirectional=True, state=True, bias=False)),
        (3, 4, 2, 2, dict(layers=2, bidirectional=True, state=True)),
        (4, 5, 2, 3, dict(reverse=True)),
        (3, 4, 3, 2, dict(reverse=True, state=True)),
    ]
    def turned(x, lengths):
        """Each sequence turned round within its length."""
        return torch.stack([torch.cat([x[:n].flip(0), x[n:]]) for x, n in zip(x, lengths)])

    for layer, new in ("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU):
        for n, t, features, hidden, options in packed:
            args = dict(bias=True, state=False, reverse=False, bidirectional=False, layers=1) | options
            text = f"{n}x{t}x{features} to {hidden}"
            key = f"{layer}{text}{options}packed"
            ways = args["layers"] * (2 if args["bidirectional"] else 1)
            states = ["h0", "c0"][: 2 if layer == "lstm" else 1] if args["state"] else []
            inputs = [draw(key + "x", [n, t, features])]
            inputs += [draw(key + s, [ways, n, hidden], 0.1, 0.9) for s in states]
            inputs.append(np.array([2, t, 1, 3][:n], np.uint32))

            def call(m, x, *more):
                *state, lengths = more
                x = turned(x, lengths) if args["reverse"] else x
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
                y, last = m(x, tuple(state) if len(state) == 2 else state[0] if state else None)
                y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=t)
                y = turned(y, lengths) if args["reverse"] else y
                return torch.cat([s.reshape(-1) for s in (y, *(last if layer == "lstm" else [last]))])

            module = new(features, hidden, args["layers"], bias=args["bias"], batch_first=True, bidirectional=args["bidirectional"])
            add(f"{layer}_lengths", text, inputs, module, call, hidden=hidden, **args)
    # Lengths with a projection: PyTorch's own.
    for n, t, features, hidden, size, options in [(3, 4, 2, 4, 2, {}), (4, 5, 2, 3, 2, dict(bidirectional=True, state=True))]:
        args = dict(bias=True, state=False, reverse=False, bidirectional=False, layers=1, proj_size=size) | options
        text = f"{n}x{t}x{features} to {hidden}, projected to {size}"
        key, ways = f"{text}{options}packed", 2 if args["bidirectional"] else 1
        inputs = [draw(key + "x", [n, t, features])]
        inputs += [draw(key + f"{k}", [ways, n, k], 0.1, 0.9) for k in (size, hidden)] if args["state"] else []
        inputs.append(np.array([2, t, 1, 3][:n], np.uint32))
        module = torch.nn.LSTM(features, hidden, bias=args["bias"], batch_first=True, bidirectional=args["bidirectional"], proj_size=size)

        def call(m, x, *more):
            *state, lengths = more
            x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, last = m(x, tuple(state) or None)
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=t)
            return torch.cat([s.reshape(-1) for s in (y, *last)])

        add("lstm_lengths", text, inputs, module, call, hidden=hidden, **args)
    # Lengths with the reset before the product: each sequence alone.
    for n, t, features, hidden, options in (3, 4, 2, 3, {}), (4, 5, 2, 2, dict(reverse=True, state=True)):
        args = dict(bias=True, state=False, reverse=False, bidirectional=False, layers=1, reset_after=False) | options
        text = f"{n}x{t}x{features} to {hidden}, reset before"
        key = f"{text}{options}packed"
        inputs = [draw(key + "x", [n, t, features])]
        inputs += [draw(key + "h", [1, n, hidden], 0.1, 0.9)] if args["state"] else []
        inputs.append(np.array([2, t, 1, 3][:n], np.uint32))

        def call(m, x, *more):
            *state, lengths = more
            outputs, last = [], []
            for k, n in enumerate(lengths.tolist()):
                row = x[k : k + 1, :n]
                y, h = m(row.flip(1) if args["reverse"] else row, state[0][:, k : k + 1] if state else None)
                y = y.flip(1) if args["reverse"] else y
                outputs.append(torch.cat([y[0], y.new_zeros(t - n, hidden)]))
                last.append(h[0, 0])
            return torch.cat([torch.stack(outputs).reshape(-1), torch.stack(last).reshape(-1)])

        add("gru_lengths", text, inputs, GruBefore(features, hidden, batch_first=True), call, hidden=hidden, **args)
    return cases


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(ROOT / "tests/golden", "recurrent_layers", recurrent_layers())
