"""How far predictions are from measurements: median error and Kendall's tau, and their scatter plot as SVG."""
import math
from statistics import median


def error_percent(rows, ms):
    """Median of |predicted / measured - 1|."""
    return 100 * median(abs(p / r.ms - 1) for r, p in zip(rows, ms))


def tau(rows, ms):
    """Kendall's: pairs of one model and number of GPUs, pooled; pairs measured within 5 % of each other are left out."""
    groups, agree, pairs = {}, 0, 0
    for r, p in zip(rows, ms):
        groups.setdefault(r.model, []).append((r.ms, p))
    for group in groups.values():
        for i, (m, p) in enumerate(group):
            for n, q in group[:i]:
                if abs(m - n) <= 0.05 * min(m, n):
                    continue
                pairs += 1
                agree += (p - q) * (m - n) > 0
                agree -= (p - q) * (m - n) < 0
    return agree / pairs if pairs else 1.0


def line(rows, ms):
    return f"rows {len(rows)} median_error_percent {error_percent(rows, ms):.2f} tau {tau(rows, ms):.4f}"


def parts(rows):
    """Names and the numbers of their rows: even rows, which the constants were fitted on, and odd ones; rows count from 0."""
    for name, file in (("single node", "single_node.csv"), ("several nodes", "multi_node.csv"), ("both", None)):
        for parity, word in ((0, "even"), (1, "odd")):
            yield (f"{name}, {word} rows",
                   [i for i, r in enumerate(rows) if r.file == (file or r.file) and r.number % 2 == parity])


def svg(rows, ms):
    """Predicted over measured, both logarithmic; lines at equal and at 10 % more and less."""
    width, left, low = 460, 56, min(min(r.ms for r in rows), min(ms))
    high = max(max(r.ms for r in rows), max(ms))
    lo, hi = math.floor(math.log10(low) * 4) / 4, math.ceil(math.log10(high) * 4) / 4
    size = width - left - 14

    def x(v):
        return left + size * (math.log10(v) - lo) / (hi - lo)

    def y(v):
        return 14 + size - size * (math.log10(v) - lo) / (hi - lo)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{width}" '
           f'viewBox="0 0 {width} {width}" font-family="sans-serif" font-size="11">',
           f'<rect width="{width}" height="{width}" fill="#fff"/>']
    for d in range(math.floor(lo), math.ceil(hi) + 1):
        for k in (1, 2, 5):
            v = k * 10 ** d
            if not 10 ** lo <= v <= 10 ** hi:
                continue
            text = f"{v:g}" if v < 1000 else f"{v / 1000:g} s"
            out.append(f'<path d="M{x(v):.1f} 14v{size}M{left} {y(v):.1f}h{size}" stroke="#ddd"/>'
                       f'<text x="{x(v):.1f}" y="{width - 28}" text-anchor="middle">{text}</text>'
                       f'<text x="{left - 5}" y="{y(v) + 4:.1f}" text-anchor="end">{text}</text>')
    for f, dash in ((1, ""), (1.1, ' stroke-dasharray="4 3"'), (1 / 1.1, ' stroke-dasharray="4 3"')):
        a, b = 10 ** lo * max(1, 1 / f), 10 ** hi / max(1, f)
        out.append(f'<path d="M{x(a):.1f} {y(a * f):.1f}L{x(b):.1f} {y(b * f):.1f}" stroke="#888"{dash}/>')
    for k, (file, colour, name) in enumerate((("single_node.csv", "#1f6fb4", "2, 4, 8 GPUs"),
                                              ("multi_node.csv", "#d1571c", "256, 512 GPUs"))):
        dots = "".join(f"M{x(r.ms):.1f} {y(p):.1f}h0" for r, p in zip(rows, ms) if r.file == file)
        out.append(f'<path d="{dots}" stroke="{colour}" stroke-width="3" stroke-opacity=".55" stroke-linecap="round"/>'
                   f'<circle cx="{left + 14}" cy="{28 + 16 * k}" r="3" fill="{colour}"/>'
                   f'<text x="{left + 22}" y="{32 + 16 * k}">{name}</text>')
    out.append(f'<text x="{left + size / 2}" y="{width - 8}" text-anchor="middle">measured step, ms</text>'
               f'<text transform="translate(12 {14 + size / 2}) rotate(-90)" text-anchor="middle">'
               f'predicted step, ms (dashed: 10 % off)</text></svg>')
    return "\n".join(out) + "\n"
