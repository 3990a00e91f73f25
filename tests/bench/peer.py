#!/usr/bin/env python3
"""The peer of bench-host: the same GPT in PyTorch, whole training steps, driven over stdin.

usage: peer.py MODE LAYERS EMBED HEADS VOCAB BATCH SEQ THREADS     MODE: eager | compile
Prints "ready LOSS" after warming up, then for every line read on stdin runs one step and prints its seconds.
The step: forward (SDPA, causal), backward, global-norm clipping, fused AdamW; float32; zero_grad(set_to_none=True).
"""
import sys
import time

mode = sys.argv[1]
L, C, H, V, B, S, threads = map(int, sys.argv[2:9])

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(threads)
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.c_fc, self.mlp_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        b, s, c = x.shape
        q, k, v = (t.view(b, s, H, -1).transpose(1, 2) for t in self.c_attn(self.ln_1(x)).split(c, dim=2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(a.transpose(1, 2).reshape(b, s, c))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(S, C)
        self.h = nn.ModuleList(Block() for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        for p in self.parameters():
            nn.init.normal_(p, std=0.02) if p.dim() > 1 else None

    def forward(self, tokens, labels):
        x = self.wte(tokens) + self.wpe.weight
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, V), labels.view(-1))


model = GPT()
step_model = torch.compile(model) if mode == "compile" else model
decay = [p for p in model.parameters() if p.dim() > 1]
plain = [p for p in model.parameters() if p.dim() <= 1]
opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
                        lr=3e-4, betas=(0.9, 0.95), fused=True)
data = torch.randint(0, V, (64, B, S + 1))
at = 0


def step():
    global at
    x = data[at % 64]
    at += 1
    loss = step_model(x[:, :-1], x[:, 1:].contiguous())
    opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    return loss.item()


for _ in range(3):
    loss = step()
print("ready", loss, flush=True)
for _ in sys.stdin:
    t = time.perf_counter()
    step()
    print(time.perf_counter() - t, flush=True)
