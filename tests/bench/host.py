#!/usr/bin/env python3
"""bench-host: tokens per second of emitted host programs against PyTorch on the same cores, in the same run.

usage: host.py GALVATRONC WORKDIR CEILING [--rounds 10] [--threads 1,2] [--models 124m,small]

For every model and thread count: our program, eager PyTorch and torch.compile take turns (A B C A B C ...), one timed
step each per turn. A turn in which other processes took more than 5 % of the cores is thrown away and repeated. Prints
medians, the ratio against the faster peer, the GEMM ceiling and the copy bandwidth of the same run, and the floor.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time

MODELS = {  # name: layers, embed, heads, vocab, batch, seq
    "124m": (12, 768, 12, 50257, 4, 256),
    "small": (4, 256, 4, 256, 8, 256),
}


def busy():
    """(busy, total) clock ticks of all cores since boot, hypervisor steal counted as busy."""
    f = list(map(int, open("/proc/stat").readline().split()[1:9]))
    return sum(f) - f[3] - f[4], sum(f)


def avx512():
    return "avx512vl" in open("/proc/cpuinfo").read()


def cpu_ticks(pid):
    """Clock ticks a process and its threads have run."""
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(f[11]) + int(f[12])


class Ours:
    """An emitted program with --json; SIGSTOP between turns keeps it off the cores."""

    def __init__(self, gv, work, dims, threads, steps):
        L, C, H, V, B, S = dims
        out = f"{work}/gpt-{L}-{C}-{threads}"
        here = os.path.dirname(os.path.abspath(__file__))
        sets = dict(layers=L, embed=C, heads=H, vocab=V, batch=B, seq=S)
        args = [f"--set={k}={v}" for k, v in sets.items()]
        subprocess.run([gv, f"{here}/gpt.gdl", "-o", out, f"--threads={threads}", "--quiet", *args], check=True)
        subprocess.run(["make", "-s", "-C", out], check=True)
        data = f"{work}/tokens-{V}.bin"
        if not os.path.exists(data):
            import array, random
            r = random.Random(1)
            array.array("H", (r.randrange(V) for _ in range(64 * B * (S + 1)))).tofile(open(data, "wb"))
        self.p = subprocess.Popen([f"{out}/stage_0", "--data", data, "--data-format", "u16", "--steps", str(steps),
                                   "--json"], stdout=subprocess.PIPE, text=True)
        for _ in range(3):
            self.step()

    def report(self):
        while True:
            line = self.p.stdout.readline()
            if not line:
                sys.exit("bench-host: our program stopped")
            e = json.loads(line)
            if "step" in e and "seconds" in e:
                return e["seconds"]

    def step(self):
        """Seconds of one whole step. It stood still somewhere in the step before, so that one does not count."""
        self.p.send_signal(signal.SIGCONT)
        self.report()
        self.before = busy(), cpu_ticks(self.p.pid)
        seconds = self.report()
        self.p.send_signal(signal.SIGSTOP)
        return seconds

    def close(self):
        self.p.kill()


class Peer:
    def __init__(self, mode, dims, threads):
        here = os.path.dirname(os.path.abspath(__file__))
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self.p = subprocess.Popen([sys.executable, f"{here}/peer.py", mode, *map(str, dims), str(threads)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if not self.p.stdout.readline().startswith("ready"):
            sys.exit(f"bench-host: PyTorch {mode} did not start")

    def step(self):
        self.p.stdin.write("go\n")
        self.p.stdin.flush()
        return float(self.p.stdout.readline())

    def close(self):
        self.p.kill()


def ceiling(program, env):
    """GFLOP/s of a large product, GB/s of a copy, and the BLAS's kernels; taken before and after, the better counts."""
    gemm, copy, core, _ = subprocess.run([program], env=env, capture_output=True, text=True, check=True).stdout.split()
    return float(gemm), float(copy), core


def flops(dims):
    """Model FLOPs of a step: 6 per matmul parameter and token, causal attention counted half: 6 L C S per token."""
    L, C, H, V, B, S = dims
    return B * S * (6 * (12 * L * C * C + V * C) + 6 * L * C * S)


START = ("rt_normal", "sincos", "memset", "ieee754_log", "log@@", "fill_", "clear_page", "asm_exc", "rt_", "pool_", "page", "folio")


def breakdown(program, data, work):
    """Where a step's time goes, by perf's samples of one thread; drawing the initial weights is left out."""
    out = f"{work}/perf.data"
    try:
        subprocess.run(["perf", "record", "-q", "-o", out, program, "--data", data, "--data-format", "u16", "--steps", "6",
                        "--threads", "1", "--quiet"], check=True, capture_output=True)
        text = subprocess.run(["perf", "report", "-i", out, "--stdio", "-F", "overhead,dso,symbol"], capture_output=True,
                              text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "  (perf is not installed or not allowed: no breakdown)"
    parts = {}
    for line in text.splitlines():
        f = line.split()
        if len(f) < 4 or not f[0].endswith("%"):
            continue
        symbol = f[3].split(".")[0]
        if symbol.lstrip("_").startswith(START):
            continue
        if "openblas" in f[1]:
            symbol = "BLAS kernels" if "_kernel" in symbol else "BLAS packing"
        elif symbol in ("forward_block", "backward_block"):
            symbol = "attention (without its products)"
        parts[symbol] = parts.get(symbol, 0) + float(f[0][:-1])
    total = sum(parts.values())
    rows = sorted(parts.items(), key=lambda x: -x[1])[:10]
    return "  of one thread's time: " + ", ".join(f"{k} {v / total * 100:.1f} %" for k, v in rows if v / total > 0.004)


def measure(runners, rounds):
    times = {k: [] for k in runners}
    thrown = 0
    while any(len(v) < rounds for v in times.values()):
        for k, r in runners.items():
            r.before = busy(), cpu_ticks(r.p.pid)
            s = r.step()
            (b1, t1), own = busy(), cpu_ticks(r.p.pid)
            (b0, t0), own0 = r.before
            foreign = b1 - b0 - (own - own0)  # ticks are coarse, so short steps get a margin
            if foreign > 0.05 * (t1 - t0) + 2 and thrown < 20 * rounds:
                thrown += 1
                continue
            times[k].append(s)
    return {k: v[:rounds] for k, v in times.items()}, thrown


def main():
    a = argparse.ArgumentParser()
    a.add_argument("gv")
    a.add_argument("work")
    a.add_argument("ceiling")
    a.add_argument("--rounds", type=int, default=10)
    a.add_argument("--threads", default="1,2")
    a.add_argument("--models", default="124m,small")
    o = a.parse_args()
    os.makedirs(o.work, exist_ok=True)
    for k in [k for k in os.environ if k.startswith(("OPENBLAS_", "OMP_", "MKL_"))]:
        del os.environ[k]  # every runner chooses its own best
    import torch

    print(f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), {o.rounds} interleaved steps each, medians")
    worst = 9e9
    for name in o.models.split(","):
        dims = MODELS[name]
        L, C, H, V, B, S = dims
        for threads in map(int, o.threads.split(",")):
            env = dict(os.environ, OMP_NUM_THREADS=str(threads), **({"OPENBLAS_CORETYPE": "SKYLAKEX"} if avx512() else {}))
            ceilings = [ceiling(o.ceiling, env)]
            runners = {"galvatronc": Ours(o.gv, o.work, dims, threads, 1000000),
                       "eager": Peer("eager", dims, threads), "compile": Peer("compile", dims, threads)}
            times, thrown = measure(runners, o.rounds)
            for r in runners.values():
                r.close()
            ceilings.append(ceiling(o.ceiling, env))
            gemm, copy, core = max(c[0] for c in ceilings), max(c[1] for c in ceilings), ceilings[0][2]
            med = {k: statistics.median(v) for k, v in times.items()}
            best = min(med["eager"], med["compile"])
            floor = flops(dims) / (gemm * 1e9)
            worst = min(worst, best / med["galvatronc"])
            print(f"\n{name}: layers {L} width {C} batch {B} seq {S}, {threads} thread(s); {flops(dims) / 1e9:.1f} GFLOP a step")
            print(f"  ceiling: GEMM {gemm} GFLOP/s ({core}), copy {copy} GB/s; floor at the GEMM ceiling {floor * 1e3:.1f} ms")
            for k in times:
                v = sorted(times[k])
                print(f"  {k:11} {med[k] * 1e3:9.1f} ms  ({v[0] * 1e3:.1f} .. {v[-1] * 1e3:.1f})  {B * S / med[k]:9.0f} tok/s"
                      f"  {flops(dims) / med[k] / 1e9:6.1f} GFLOP/s  {floor / med[k] * 100:5.1f} % of the ceiling")
            if threads == 1:
                print(breakdown(f"{o.work}/gpt-{L}-{C}-1/stage_0", f"{o.work}/tokens-{V}.bin", o.work))
            print(f"  ratio against the faster peer: {best / med['galvatronc']:.2f}x   ({thrown} disturbed steps thrown away)", flush=True)
    print(f"\nworst ratio {worst:.2f}x")


main()
