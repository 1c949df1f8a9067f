#!/usr/bin/env python3
"""Attention, embeddings and the transformer's encoder layer from PyTorch: tests/golden/attention.json, attention_layers.json.

    python scripts/golden_attention.py
"""
import torch
import torch.nn.functional as F
from torch import nn

from golden import ROOT, draw, ints, layer_rows, op_rows, write


def attention():
    cases, add = op_rows()
    for lead, n, m, d, e in [([], 5, 5, 3, 3), ([2], 4, 7, 5, 2), ([2, 3], 6, 3, 4, 4), ([1], 1, 9, 1, 3)]:
        for causal in False, True:
            for scale in None, 0.7:
                key = f"{lead}{n}{m}{d}{e}"
                xs = [draw(key + w, lead + s) for w, s in (("q", [n, d]), ("k", [m, d]), ("v", [m, e]))]
                fn = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
                add("attention", f"{lead} {n} queries, {m} keys", xs, fn, causal=causal, scale=scale or d ** -0.5)
    return cases


def layers():
    cases, add = layer_rows()
    for n, t, e, heads, bias, causal in [(2, 5, 6, 3, True, False), (1, 1, 4, 1, True, True), (2, 7, 8, 2, False, True)]:
        mask = torch.full((t, t), -torch.inf, dtype=torch.float64).triu(1) if causal else None
        add("multi_head_attention", f"[{n}, {t}, {e}]", [draw(f"mha{t}", [n, t, e])],
            nn.MultiheadAttention(e, heads, bias=bias, batch_first=True),
            lambda m, x: m(x, x, x, need_weights=False, attn_mask=mask)[0], heads=heads, bias=bias, causal=causal)
    add("multi_head_attention", "another sequence", [draw("mhax", [2, 4, 6]), draw("mham", [2, 7, 6])],
        nn.MultiheadAttention(6, 2, batch_first=True), lambda m, x, y: m(x, y, y, need_weights=False)[0],
        heads=2, bias=True, causal=False)
    for first in False, True:
        for gelu in False, True:
            module = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu" if gelu else "relu",
                                                batch_first=True, norm_first=first)
            mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1) if gelu else None
            add("transformer_encoder_layer", "[2, 5, 8]", [draw(f"block{first}{gelu}", [2, 5, 8])], module,
                lambda m, x: m(x, src_mask=mask), heads=2, feed_forward=12, norm_first=first, gelu=gelu, causal=gelu)
    for shape in [9], [3, 4]:   # repeated indices: their gradients add up
        i = ints(f"embedding{shape}", shape, 6)
        i.flat[-1] = i.flat[0]
        add("embedding", f"{shape}", [i], nn.Embedding(6, 5), vocabulary=6, dim=5)
    return cases


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(ROOT / "tests/golden", "attention", attention())
    write(ROOT / "tests/golden", "attention_layers", layers())
