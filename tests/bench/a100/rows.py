"""The measured rows as plans: reading them, writing each one's plan, and asking galvatronc what it costs. Standard library only."""
import csv
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.normpath(os.path.join(HERE, "..", "..", ".."))
GDL = os.path.join(HERE, "gpt.gdl")
HW = os.path.join(TOP, "models", "clusters", "a100.hw")
FILES = ("single_node.csv", "multi_node.csv")
COLUMNS = {
    "gpus": "# gpus", "batch": "global batch", "micro": "micro batch", "hidden": "hidden size",
    "heads": "attention heads", "layers": "# layers", "seq": "sequence length",
    "tp": "tensor parallelism", "dp": "data parallelism", "pp": "pipeline parallelism",
}
TIME = "iteration time (ms)"
VOCAB = 50257


class Row:
    """One measured configuration; ms is None where nobody has measured it."""

    def __init__(self, file, number, cells):
        self.file, self.number = file, number
        for name, column in COLUMNS.items():
            setattr(self, name, int(float(cells[column])))
        time = (cells.get(TIME) or "").strip()
        self.ms = float(time) if time else None
        if self.gpus != self.tp * self.dp * self.pp:
            raise ValueError(f"{self.gpus} GPUs are not tp {self.tp} x dp {self.dp} x pp {self.pp}")
        if self.batch % (self.dp * self.micro):
            raise ValueError(f"a batch of {self.batch} is not {self.dp} x microbatches of {self.micro}")

    @property
    def model(self):
        return self.hidden, self.heads, self.layers, self.seq, self.gpus

    @property
    def key(self):
        return tuple(getattr(self, name) for name in COLUMNS)

    @property
    def vocab(self):
        """Padded to a multiple of 128 * tp, as Megatron does; but see README.md about tp 1."""
        step = 128 * self.tp
        return VOCAB if self.tp == 1 else (VOCAB + step - 1) // step * step

    def plan(self):
        """tp innermost, then dp, then stages of equal layers; embedding on the first and output on the last one."""
        mesh = " ".join(f"{k}:{n}" for k, n in (("dp", self.dp), ("tp", self.tp)) if n > 1)
        name, ranks, last = "m1" if mesh else "m0", self.dp * self.tp, self.layers + 1
        text = ["plan 1", "model gpt",
                f"ranks {self.gpus} threads 1 microbatches {self.batch // self.dp // self.micro} schedule 1f1b"]
        if mesh:
            text.append(f"mesh m1 = {mesh}")
        for k in range(self.pp):
            first = 0 if k == 0 else 1 + self.layers * k // self.pp
            end = last if k == self.pp - 1 else self.layers * (k + 1) // self.pp
            text.append(f"stage {k} layers {first}-{end} ranks {k * ranks}-{(k + 1) * ranks - 1}"
                        if ranks > 1 else f"stage {k} layers {first}-{end} ranks {k}")
        text += [f"layers 0 embedding mesh {name} zero 0 recompute none",
                 f"layers 1-{self.layers} block mesh {name} zero 0 recompute full",
                 f"layers {last} output mesh {name} zero 0 recompute none"]
        return "\n".join(text) + "\n"


def read(folder):
    rows = []
    for file in FILES:
        path = os.path.join(folder, file)
        if not os.path.exists(path):
            sys.exit(f"{path} is not there")
        with open(path, newline="") as f:
            table = csv.reader(f)
            head = [c.strip().lower() for c in next(table)]
            for number, cells in enumerate(c for c in table if any(x.strip() for x in c)):
                try:
                    rows.append(Row(file, number, dict(zip(head, cells))))
                except (KeyError, ValueError) as e:
                    sys.exit(f"{path}: row {number}: {e}")
    return rows


def cost(galvatronc, row, hw, folder):
    """Predicted ms of a step: the cost of the program that galvatronc lowers the row's plan to."""
    plan = os.path.join(folder, "-".join(map(str, row.key)) + ".plan")
    with open(plan, "w") as f:
        f.write(row.plan())
    sets = {"batch": row.batch, "seq": row.seq, "vocab": row.vocab, "embed": row.hidden, "heads": row.heads,
            "layers": row.layers}
    run = subprocess.run([galvatronc, GDL, "--plan", plan, "--cluster", hw, "--emit=cost"] +
                         [f"--set={k}={v}" for k, v in sets.items()], capture_output=True, text=True)
    os.unlink(plan)
    if run.returncode:
        sys.exit(f"{row.file} row {row.number}: {run.stderr.strip()}\n{row.plan()}")
    return int(dict(line.split()[:2] for line in run.stdout.splitlines())["step_ns"]) * 1e-6


def predict(galvatronc, rows, hw=HW):
    """ms of every row; rows alike are asked for once."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        asked = {r.key: r for r in rows}
        ms = dict(zip(asked, pool.map(lambda r: cost(galvatronc, r, hw, folder), asked.values())))
    return [ms[r.key] for r in rows]
