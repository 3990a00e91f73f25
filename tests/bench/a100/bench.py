#!/usr/bin/env python3
"""Predicts the step of every measured row and scores it: bench.py GALVATRONC DATA OUT [SVG]

OUT gets one predicted time (ms) a line, rows of single_node.csv first, then those of multi_node.csv."""
import sys

from rows import predict, read
from score import line, parts, svg


def main():
    galvatronc, data, out = sys.argv[1:4]
    rows = read(data)
    ms = predict(galvatronc, rows)
    with open(out, "w") as f:
        f.writelines(f"{t:.3f}\n" for t in ms)
    known = [i for i, r in enumerate(rows) if r.ms is not None]
    if not known:
        print(f"rows {len(rows)}, none of them measured")
        return
    rows, ms = [rows[i] for i in known], [ms[i] for i in known]
    for name, some in parts(rows):
        if some:
            print(f"{name + ':':26}", line([rows[i] for i in some], [ms[i] for i in some]))
    if len(sys.argv) > 4:
        with open(sys.argv[4], "w") as f:
            f.write(svg(rows, ms))
    print(line(rows, ms))


main()
