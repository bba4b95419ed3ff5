"""How much faster than the obvious loop is the fast sampler, and what takes the rest of its time?

    python experiments/bench_sampling.py [--n 64] [--json OUT.json]

results/sampling.json is such a file; compare.py reads it. For each autoregressive model, at its
default size and untrained (weights do not change the time): seconds to draw n digits with sample(),
the cost of one forward pass of the same batch, the obvious loop and its ratio to the fast sampler,
and the interpreter's share: what the fast sampler takes for a single digit, with 1/n of the
arithmetic, as a part of what it takes for n. Medians of five. An obvious loop that would take
longer than half a minute is not run to its end: it is as many forward passes as there are pixels
(or words of pixels), and marked "≈". Compare ratios within one run; seconds differ from machine to
machine.

All variants that a chapter declares are timed if they have sample(n), sample_obvious(n) and
logits(x).
"""
import json
import time

import torch
from fit import command_line, values

import draws
import settings
import utils


def models():
    """{command: build()} of all autoregressive models; of a run's length nothing depends."""
    built = {}
    for name, chapter in settings.chapters().items():
        for flags in chapter.ABOUT["variants"].values():
            s = values(chapter, flags)
            if hasattr(chapter.build(s), "sample_obvious"):
                command = f"{name}.py {flags.split('--steps')[0]}".strip()
                built[command] = lambda chapter=chapter, s=s: chapter.build(s)
    return built


@torch.no_grad()
def measure(make, n):
    """(fast, one pass, obvious, was it run to its end, interpreter's share, parameters), the first
    three in seconds."""
    torch.manual_seed(0)
    model, x = make(), torch.zeros(n, 1, 28, 28)
    fast = draws.median_seconds(lambda: model.sample(n))
    one_pass = draws.median_seconds(lambda: model.logits(x))
    single = draws.median_seconds(lambda: model.sample(1))
    passes = 784 // getattr(model, "patch", 1) ** 2
    obvious, whole = passes * one_pass, passes * one_pass < 30
    if whole:
        start = time.perf_counter()
        model.sample_obvious(n)
        obvious = time.perf_counter() - start
    parameters = sum(p.numel() for p in model.parameters())
    return fast, one_pass, obvious, whole, single / fast, parameters


def main():
    parser = command_line(__doc__)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    print(f"drawing {args.n} digits, {torch.get_num_threads()} threads")
    print(f"{'':40}{'fast':>9}{'one pass':>11}{'obvious':>11}{'ratio':>8}{'interpreter':>13}")
    rows = {}
    for name, make in models().items():
        fast, one_pass, obvious, whole, share, parameters = measure(make, args.n)
        print(f"{name:40}{fast:7.3f} s{one_pass:9.4f} s{'' if whole else '≈':>2}{obvious:7.1f} s"
              f"{obvious / fast:7.0f}x{share:12.0%}", flush=True)
        rows[name] = {"fast": fast, "one_pass": one_pass, "obvious": round(obvious, 2),
                      "whole": whole, "interpreter": round(share, 3), "parameters": parameters}
    if args.json:
        text = json.dumps({"n": args.n, **utils.machine(), "models": rows}, indent=1) + "\n"
        utils.write_atomically(args.json, text.encode())


if __name__ == "__main__":
    main()
