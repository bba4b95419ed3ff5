"""How much faster than the obvious loop is the fast sampler, and what takes the rest of its time?

    python tests/bench_sampling.py [--n 64] [--json OUT.json]      (samples/sampling.json is such a file; compare.py reads it)

For each autoregressive model, at its default size and untrained (weights do not change the time):
seconds to draw n digits with sample(), the cost of one forward pass of the same batch, the obvious loop
and its ratio to the fast sampler, and the interpreter's share: what the fast sampler takes for a single
digit, with 1/n of the arithmetic, as a part of what it takes for n. Medians of five. An obvious loop that
would take longer than half a minute is not run to its end: it is as many forward passes as there are
pixels (or words of pixels), and marked "≈". Compare ratios within one run; seconds differ from machine to machine.

A new chapter joins by a line in MODELS; a model needs sample(n), sample_obvious(n) and logits(x).
"""
import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import made  # noqa: E402
import pixelcnn  # noqa: E402
import transformer_ar  # noqa: E402
import utils  # noqa: E402
import wavenet  # noqa: E402

MODELS = {
    "made.py": lambda: made.MADE(28, made.WIDTH, made.DEPTH),
    "made.py --variant rnn": lambda: made.RNN(28, made.RNN_WIDTH, made.RNN_FEATURES, made.RNN_REACH),
    "wavenet.py": lambda: wavenet.WaveNet(28, wavenet.CHANNELS, wavenet.HEAD, wavenet.FIRST_TAPS),
    "pixelcnn.py": lambda: pixelcnn.GatedPixelCNN(28, pixelcnn.CHANNELS, pixelcnn.LAYERS),
    "pixelcnn.py --variant original": lambda: pixelcnn.PixelCNN(28, pixelcnn.ORIGINAL_CHANNELS, pixelcnn.ORIGINAL_LAYERS),
    "pixelcnn.py --variant rnn": lambda: pixelcnn.RowLSTM(28, pixelcnn.RNN_CHANNELS, pixelcnn.RNN_LAYERS),
    "transformer_ar.py": lambda: transformer(2, transformer_ar.REACH),
    "transformer_ar.py --patch 1": lambda: transformer(1, 2 * transformer_ar.REACH),
}


def transformer(patch, reach):
    return transformer_ar.Transformer(28, transformer_ar.CHANNELS, transformer_ar.LAYERS, transformer_ar.HEADS, patch, reach)


@torch.no_grad()
def measure(make, n):
    """(fast, one pass, obvious, was it run to its end, interpreter's share, parameters), the first three in seconds."""
    torch.manual_seed(0)
    model, x = make(), torch.zeros(n, 1, 28, 28)
    fast, one_pass = utils.median_seconds(lambda: model.sample(n)), utils.median_seconds(lambda: model.logits(x))
    single = utils.median_seconds(lambda: model.sample(1))
    passes = 784 // getattr(model, "patch", 1) ** 2
    obvious, whole = passes * one_pass, passes * one_pass < 30
    if whole:
        start = time.perf_counter()
        model.sample_obvious(n)
        obvious = time.perf_counter() - start
    return fast, one_pass, obvious, whole, single / fast, sum(p.numel() for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    print(f"drawing {args.n} digits, {torch.get_num_threads()} threads")
    print(f"{'':32}{'fast':>9}{'one pass':>11}{'obvious':>11}{'ratio':>8}{'interpreter':>13}")
    models = {}
    for name, make in MODELS.items():
        fast, one_pass, obvious, whole, share, parameters = measure(make, args.n)
        print(f"{name:32}{fast:7.3f} s{one_pass:9.4f} s{'' if whole else '≈':>2}{obvious:7.1f} s{obvious / fast:7.0f}x{share:12.0%}")
        models[name] = {"fast": fast, "one_pass": one_pass, "obvious": round(obvious, 2), "whole": whole, "interpreter": round(share, 3),
                        "parameters": parameters}
    if args.json:
        about = {"n": args.n, "threads": torch.get_num_threads(), "torch": torch.__version__,
                 "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"}
        utils.write_atomically(args.json, (json.dumps({**about, "models": models}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
