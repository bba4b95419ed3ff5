"""How far does a heap of 5,000 draws move its own figures? Other heaps of the same weights.

    python experiments/heaps.py [--data-dir data] [--heaps 8] [--only NAME …] [--json OUT]

For real digits, bits tossed anew (random 5,000 of the training set; of the validation set, which
the judge has not seen; other numbers of training digits) and for the weights that ship of each run
in samples/ that is named (all, if none is): Fréchet distance, precision and recall of each heap,
binarized, beside the binarized test digits, as compare.py scores one heap. Heap k is drawn from
seed k; compare.py's own has seed 0. results/heaps.json is such a file; what it does not name
stays. A script to run, not a test: it needs the full MNIST, and drawing takes minutes.
"""
import json
import statistics
from pathlib import Path

import torch
from fit import ROOT, command_line, mnist
from score_weights import model_of

import compare
import judge
import settings
import utils

N = 5000  # draws in a heap, as in compare.py
REAL = {"real training digits": ("train", N), "real validation digits": ("val", N)} | {
    f"{n} real training digits": ("train", n) for n in (500, 1000, 2000)}


def real_heap(digits, n, seed):
    """n of these digits by chance, as bits."""
    generator = torch.Generator().manual_seed(seed)
    images = digits[torch.randperm(len(digits), generator=generator)[:n]]
    return judge.coins(images.float() / 255, seed)


@torch.no_grad()
def drawn_heap(chapter, model, data, seed):
    """N draws, as bits; of a conditional model with labels as frequent as in the training set."""
    labels, y = data.train_labels, None
    if model.classes:
        y = labels[compare.as_often(labels, torch.bincount(labels).double() / len(labels), N)]
    draws = judge.sample_many(model, N, y, seed)
    return judge.coins(draws, seed + 1000) if judge.is_grey(draws) else draws


def main():
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--heaps", type=int, default=8)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    if args.heaps < 2:
        parser.error("--heaps: a spread takes two heaps at least.")
    data, network, rows = mnist(parser, args.data_dir), judge.load_judge("cpu"), {}
    if args.json and Path(args.json).exists():
        rows = json.loads(Path(args.json).read_text(encoding="utf-8"))
    runs = REAL | {
        path.parent.name: path.parent for path in sorted((ROOT / "samples").glob("*/weights.pt"))}
    for name in args.only or runs:
        if name not in runs:
            parser.error(f"samples/ has no weights of {name}: choose from {', '.join(runs)}.")
        if name not in REAL:
            metrics = json.loads((runs[name] / "metrics.json").read_text(encoding="utf-8"))
            chapter = settings.chapters()[metrics["model"]]
            model, _ = model_of(chapter, runs[name])
        scores = []
        for seed in range(1, args.heaps + 1):
            heap = real_heap(getattr(data, runs[name][0]), runs[name][1], seed) \
                if name in REAL else drawn_heap(chapter, model, data, seed)
            score = judge.scores(network, heap, data.x_test)
            scores.append({key: round(score[key], 4) for key in ("frechet", "precision", "recall")})
        rows[name] = scores
        print(f"{name:28}" + "".join(
            f"  {key} {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
            for key in scores[0] for values in [[row[key] for row in scores]]), flush=True)
        if args.json:
            utils.write_atomically(args.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
