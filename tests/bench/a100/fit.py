#!/usr/bin/env python3
"""Fits the constants of a .hw on the even rows, driving galvatronc itself: fit.py GALVATRONC DATA HW [ROUNDS]

Gauss-Newton on the logarithms of the constants and of predicted / measured, each row weighed so that the sum of |error| is made small
rather than of its square. HW's launch and efficiency lines are rewritten after every round that is better. Standard library only."""
import math
import os
import re
import sys
import tempfile

from rows import predict, read
from score import line, parts

# name, greatest value. `launch` is a line of its own, in us; all others are words of the efficiency line.
CONSTANTS = (("launch", None), ("dot", 1.0), ("dot_half", None), ("ragged", 1.0), ("bytes", 1.0), ("collective", 1.0), ("far", 1.0),
             ("turn", None))
SOFT = 0.02  # errors above this count by their size, below by their square
STEP = 0.03  # of a constant, for the derivatives


def get(text):
    found = dict(launch=float(re.search(r"^  launch (\S+)us$", text, re.M).group(1)))
    words = re.search(r"^  efficiency (dot .*)$", text, re.M).group(1).split()
    found.update((k, float(v)) for k, v in zip(words[::2], words[1::2]))
    return [found[name] for name, _ in CONSTANTS]


def put(text, values):
    x = {name: f"{v:.4g}" for (name, _), v in zip(CONSTANTS, values)}
    text = re.sub(r"^  launch .*$", f"  launch {x.pop('launch')}us", text, flags=re.M)
    return re.sub(r"^  efficiency dot .*$", "  efficiency " + " ".join(f"{k} {v}" for k, v in x.items()), text, flags=re.M)


def solve(a, b):
    """a x = b, by elimination with pivots."""
    n = len(b)
    a = [row[:] + [b[i]] for i, row in enumerate(a)]
    for i in range(n):
        k = max(range(i, n), key=lambda r: abs(a[r][i]))
        a[i], a[k] = a[k], a[i]
        for r in range(i + 1, n):
            f = a[r][i] / a[i][i]
            for c in range(i, n + 1):
                a[r][c] -= f * a[i][c]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (a[i][n] - sum(a[i][c] * x[c] for c in range(i + 1, n))) / a[i][i]
    return x


class Fit:
    def __init__(self, galvatronc, rows, text, folder):
        self.galvatronc, self.rows, self.text = galvatronc, rows, text
        self.hw = os.path.join(folder, "fit.hw")

    def errors(self, values):
        with open(self.hw, "w") as f:
            f.write(put(self.text, values))
        return [math.log(p / r.ms) for r, p in zip(self.rows, predict(self.galvatronc, self.rows, self.hw))]

    @staticmethod
    def loss(errors):
        return sum(2 * SOFT * SOFT * (math.sqrt(1 + (e / SOFT) ** 2) - 1) for e in errors)

    def slopes(self, values, errors):
        """d error / d log constant, of every row."""
        out = []
        for k, (_, most) in enumerate(CONSTANTS):
            step = STEP if not most or values[k] * math.exp(STEP) <= most else -STEP
            moved = values[:]
            moved[k] *= math.exp(step)
            out.append([(a - b) / step for a, b in zip(self.errors(moved), errors)])
        return out

    def round(self, values, errors, damp):
        """Values that are better, their errors, the next damping; or the same values."""
        j = self.slopes(values, errors)
        w = [1 / math.sqrt(1 + (e / SOFT) ** 2) for e in errors]
        n, loss = len(values), self.loss(errors)
        a = [[sum(x * y * z for x, y, z in zip(j[p], j[q], w)) for q in range(n)] for p in range(n)]
        b = [-sum(x * e * z for x, e, z in zip(j[p], errors, w)) for p in range(n)]
        free = [k for k in range(n) if not (CONSTANTS[k][1] and values[k] > 0.9999 * CONSTANTS[k][1] and b[k] > 0)]
        while damp < 1e4:
            some = solve([[a[p][q] + (p == q) * (damp * a[p][p] + 1e-9) for q in free] for p in free], [b[p] for p in free])
            x = [0.0] * n
            for k, d in zip(free, some):
                x[k] = d
            moved = [v * math.exp(max(-0.5, min(0.5, d))) for v, d in zip(values, x)]
            moved = [min(v, most) if most else v for v, (_, most) in zip(moved, CONSTANTS)]
            after = self.errors(moved)
            if self.loss(after) < loss:
                return moved, after, damp / 4
            damp = max(4 * damp, 1e-3)
        return values, errors, damp


def main():
    galvatronc, data, hw = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 8
    rows = read(data)
    even = [i for i in dict(list(parts(rows)))["both, even rows"]]
    with open(hw) as f:
        text = f.read()
    with tempfile.TemporaryDirectory() as folder:
        fit = Fit(galvatronc, [rows[i] for i in even], text, folder)
        values, damp = get(text), 1e-2
        errors = fit.errors(values)
        for k in range(rounds + 1):
            ms = [r.ms * math.exp(e) for r, e in zip(fit.rows, errors)]
            print(f"round {k} loss {fit.loss(errors):.5f}", line(fit.rows, ms),
                  " ".join(f"{n} {v:.4g}" for (n, _), v in zip(CONSTANTS, values)), flush=True)
            if k == rounds:
                break
            before = fit.loss(errors)
            values, errors, damp = fit.round(values, errors, damp)
            if fit.loss(errors) >= before * 0.9995:
                break
            with open(hw, "w") as f:
                f.write(put(text, values))


main()
