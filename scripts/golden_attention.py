#!/usr/bin/env python3
"""Attention, embeddings and the transformer's layers from PyTorch: tests/golden/attention.json, attention_layers.json.

    python scripts/golden_attention.py
"""
import numpy as np
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
    for lead, n, m, causal, masks in [
        ([2, 3], 4, 6, False, dict(lengths=[2])), ([2, 3], 4, 6, True, dict(lengths=[2, 3])), ([3], 5, 5, False, dict(mask=[5, 5])),
        ([2, 2], 3, 5, False, dict(mask=[2, 1, 1, 5])), ([2, 2], 3, 5, True, dict(bias=[2, 3, 5])),
        ([2, 2], 4, 5, False, dict(lengths=[2], mask=[4, 5], bias=[2, 1, 4, 5])), ([2], 4, 1, False, dict(bias=[2, 4, 1]))]:
        key = f"masked{lead}{n}{m}{masks}"
        xs = [draw(key + w, lead + s) for w, s in (("q", [n, 3]), ("k", [m, 3]), ("v", [m, 2]))]
        for name, shape in masks.items():
            if name == "lengths":
                xs.append(ints(key + name, shape, m) + np.uint32(1))
            elif name == "mask":
                mask = ints(key + name, shape, 2)
                mask[..., 0] = 1   # every query sees a key
                xs.append(mask)
            else:
                xs.append(draw(key + name, shape))

        def fn(q, k, v, *more):
            given = dict(zip(masks, more))
            bias = torch.zeros(lead + [n, m], dtype=torch.float64) + given.get("bias", 0)
            seen = torch.ones(n, m, dtype=torch.bool).tril() if causal else torch.ones(n, m, dtype=torch.bool)
            if "lengths" in given:
                length = given["lengths"]
                seen = seen & (torch.arange(m) < length.reshape(list(length.shape) + [1] * (len(lead) + 2 - length.dim())))
            if "mask" in given:
                seen = seen & (given["mask"] != 0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(~seen, -torch.inf))

        flags = {name: name in masks for name in ("lengths", "mask", "bias")}
        add("attention_masked", f"{lead} {n} queries, {m} keys", xs, fn, causal=causal, **flags)
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
    padding = lambda lengths, t: torch.arange(t) >= lengths[:, None]
    for memory, masks in [(False, ["lengths"]), (True, ["lengths"]), (False, ["mask"]), (True, ["lengths", "bias"]), (True, ["lengths", "mask", "bias"])]:
        key, s = f"masked{memory}{masks}", 7 if memory else 4
        xs = [draw(key + "x", [3, 4, 6])] + [draw(key + "m", [3, s, 6])] * memory
        xs += [np.array([s, 2, 3], np.uint32)] * ("lengths" in masks)
        mask = ints(key + "mask", [4, s], 2)
        mask[:, 0] = 1   # every query sees a key
        xs += [mask] * ("mask" in masks) + [draw(key + "bias", [4, s])] * ("bias" in masks)

        def call(m, x, *more):
            y = more[0] if memory else x
            given = dict(zip(masks, more[1:] if memory else more))
            bias = torch.zeros(4, s, dtype=torch.float64) + given.get("bias", 0)
            if "mask" in given:
                bias = bias.masked_fill(given["mask"] == 0, -torch.inf)
            pad = padding(given["lengths"], s) if "lengths" in given else None
            pad = None if pad is None else torch.zeros(pad.shape, dtype=torch.float64).masked_fill(pad, -torch.inf)
            return m(x, y, y, need_weights=False, attn_mask=bias, key_padding_mask=pad)[0]

        add("multi_head_attention_masked", "with memory" if memory else "alone", xs, nn.MultiheadAttention(6, 2, batch_first=True),
            call, heads=2, memory=memory, **{name: name in masks for name in ("lengths", "mask", "bias")})
    for first in False, True:
        activation = "gelu" if first else "relu"
        lengths = [np.array(n, np.uint32) for n in ([5, 2], [1, 4])]
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        module = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation=activation, batch_first=True, norm_first=first)
        add("transformer_encoder_layer", "padded", [draw(f"padded{first}", [2, 5, 8]), lengths[0]], module,
            lambda m, x, n: m(x, src_mask=causal if first else None, src_key_padding_mask=padding(n, 5)),
            heads=2, feed_forward=12, norm_first=first, gelu=first, causal=first)
        module = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, activation=activation, batch_first=True, norm_first=first)
        add("transformer_decoder_layer", "[2, 5, 8] with [2, 4, 8]",
            [draw(f"layer with memory{first}x", [2, 5, 8]), draw(f"layer with memory{first}m", [2, 4, 8]), *lengths], module,
            lambda m, x, y, n, k: m(x, y, tgt_mask=causal, tgt_key_padding_mask=padding(n, 5), memory_key_padding_mask=padding(k, 4)),
            heads=2, feed_forward=12, norm_first=first, gelu=first)
    for shape in [9], [3, 4]:   # repeated indices: their gradients add up
        i = ints(f"embedding{shape}", shape, 6)
        i.flat[-1] = i.flat[0]
        add("embedding", f"{shape}", [i], nn.Embedding(6, 5), vocabulary=6, dim=5)
    return cases


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(ROOT / "tests/golden", "attention", attention())
    write(ROOT / "tests/golden", "attention_layers", layers())
