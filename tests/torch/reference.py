#!/usr/bin/env python3
"""The reference for numerics: tests/models/gpt.gdl and llama.gdl written in PyTorch, float64.

usage: reference.py gpt|llama --init WEIGHTS.safetensors --data TEXT --batch B --seq S [--steps 20]
                    [--grads GRADS.safetensors] [--losses FILE --tolerance X]

Reads the initial weights an emitted program wrote, computes loss and gradients of the first step and the losses of 20
AdamW steps, and prints them as reference lines ("loss V", "grad NAME NORM PROBE", "step K LOSS"; PROBE = sum g_i cos(i)).
With --grads it also compares every gradient by the project's rule ||g - g'|| <= 1e-9 max(||g'||, 1e-3 ||all g'||),
with --losses the losses ("step K LOSS" lines), and exits 1 where one is out of bounds.
"""
import argparse
import json
import struct
import sys

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True)


def load(path):
    """A safetensors file as {name: float64 tensor}; '#'-free entries of moments ("m:", "v:") are left out."""
    raw = open(path, "rb").read()
    (n,) = struct.unpack("<Q", raw[:8])
    out = {}
    for name, e in json.loads(raw[8 : 8 + n]).items():
        if name == "__metadata__" or ":" in name:
            continue
        dtype = {"F64": torch.float64, "F32": torch.float32}.get(e["dtype"])
        if dtype is None:
            continue
        lo, hi = e["data_offsets"]
        t = torch.frombuffer(bytearray(raw[8 + n + lo : 8 + n + hi]), dtype=dtype)
        out[name] = t.reshape(e["shape"]).to(torch.float64)
    return out


def layers_of(p, pattern):
    n = 0
    while pattern.format(n) in p:
        n += 1
    return n


def gpt(p, tokens, labels):
    b, s = tokens.shape
    heads = 5
    x = p["wte.weight"][tokens] + p["wpe.weight"]
    c = x.shape[-1]
    for i in range(layers_of(p, "h.{}.ln_1.weight")):
        w = lambda name: p[f"h.{i}.{name}"]
        h = F.layer_norm(x, (c,), w("ln_1.weight"), w("ln_1.bias"))
        qkv = h @ w("attn.c_attn.weight").reshape(c, -1) + w("attn.c_attn.bias").reshape(-1)
        q, k, v = (t.reshape(b, s, heads, -1).transpose(1, 2) for t in qkv.split(c, dim=-1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, c)
        x = x + a @ w("attn.c_proj.weight").reshape(c, c) + w("attn.c_proj.bias")
        h = F.layer_norm(x, (c,), w("ln_2.weight"), w("ln_2.bias"))
        h = F.gelu(h @ w("mlp.c_fc.weight") + w("mlp.c_fc.bias"), approximate="tanh")
        x = x + h @ w("mlp.c_proj.weight") + w("mlp.c_proj.bias")
    x = F.layer_norm(x, (c,), p["ln_f.weight"], p["ln_f.bias"])
    logits = x @ p["wte.weight"].T
    return F.cross_entropy(logits.reshape(b * s, -1), labels.reshape(-1))


def rms(x, w, eps=1e-5):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rope(x, base=500000.0):
    """x [b heads s d]; pairs are (i, i + d / 2)."""
    s, d = x.shape[-2:]
    angle = torch.arange(s)[:, None] * base ** (-2 * torch.arange(d // 2) / d)
    cos, sin = angle.cos(), angle.sin()
    u, v = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([u * cos - v * sin, v * cos + u * sin], -1)


def llama(p, tokens, labels):
    b, s = tokens.shape
    kv, group = 3, 2
    x = p["model.embed_tokens.weight"][tokens]
    for i in range(layers_of(p, "model.layers.{}.input_layernorm.weight")):
        w = lambda name: p[f"model.layers.{i}.{name}.weight"]
        h = rms(x, w("input_layernorm"))
        q = rope((h @ w("self_attn.q_proj").T).reshape(b, s, kv * group, -1).transpose(1, 2))
        k = rope((h @ w("self_attn.k_proj").T).reshape(b, s, kv, -1).transpose(1, 2))
        v = (h @ w("self_attn.v_proj").T).reshape(b, s, kv, -1).transpose(1, 2)
        k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, -1)
        x = x + a @ w("self_attn.o_proj").T
        h = rms(x, w("post_attention_layernorm"))
        x = x + (F.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    x = rms(x, p["model.norm.weight"])
    logits = x @ p["lm_head.weight"].T
    return F.cross_entropy(logits.reshape(b * s, -1), labels.reshape(-1))


def decays(name):
    return not (name.endswith(".bias") or "ln_" in name or "norm" in name)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model", choices=["gpt", "llama"])
    a.add_argument("--init", required=True)
    a.add_argument("--data", required=True)
    a.add_argument("--batch", type=int, required=True)
    a.add_argument("--seq", type=int, required=True)
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--grads")
    a.add_argument("--losses")
    a.add_argument("--tolerance", type=float, default=1e-9)
    o = a.parse_args()
    model = globals()[o.model]
    p = {k: v.clone().requires_grad_() for k, v in load(o.init).items()}
    text = torch.tensor(list(open(o.data, "rb").read()), dtype=torch.long)
    windows = (len(text) - 1) // o.seq

    def batch(step):
        rows = [(step * o.batch + i) % windows * o.seq for i in range(o.batch)]
        return (torch.stack([text[r + d : r + d + o.seq] for r in rows]) for d in (0, 1))

    groups = [
        {"params": [v for k, v in p.items() if decays(k)], "weight_decay": 0.1},
        {"params": [v for k, v in p.items() if not decays(k)], "weight_decay": 0.0},
    ]
    opt = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    bad = 0
    losses = []
    for step in range(o.steps):
        opt.zero_grad()
        loss = model(p, *batch(step))
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            print(f"loss {loss.item():.17g}")
            everything = torch.sqrt(sum(v.grad.pow(2).sum() for v in p.values()))
            ours = load(o.grads) if o.grads else {}
            for k, v in p.items():
                g = v.grad.reshape(-1)
                probe = (g * torch.arange(len(g), dtype=torch.float64).cos()).sum()
                print(f"grad {k} {g.norm().item():.17g} {probe.item():.17g}")
                if o.grads:
                    bound = 1e-9 * max(g.norm().item(), 1e-3 * everything.item())
                    off = (ours[k].reshape(-1) - g).norm().item() if k in ours else float("inf")
                    if not off <= bound:
                        print(f"gradient of {k} differs by {off:.3g}, allowed {bound:.3g}", file=sys.stderr)
                        bad += 1
        torch.nn.utils.clip_grad_norm_(list(p.values()), 0.5)
        opt.step()
    for k, x in enumerate(losses):
        print(f"step {k} {x:.17g}")
    if o.losses:
        got = [float(line.split()[2]) for line in open(o.losses) if line.startswith("step")]
        for k, (x, y) in enumerate(zip(got, losses, strict=True)):
            tol = min(o.tolerance, 1e-12) if k == 0 and o.tolerance < 1e-6 else o.tolerance
            if not abs(x - y) <= tol * abs(y):
                print(f"step {k}: loss {x:.17g}, PyTorch {y:.17g}", file=sys.stderr)
                bad += 1
    sys.exit(bad != 0)


main()
