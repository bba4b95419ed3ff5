"""What muon.py does to a gradient: its singular values before and after.

    python experiments/singular_values.py [--steps 200] [--data-dir data]

Trains flow.py for some steps, takes the gradient of one more batch, and draws the singular values
of four of its matrices, largest first, divided by the largest: of the gradient, and of the step
that Muon makes of it. Writes runs/singular_values.png and .json; committed in results/.
A script to run, not a test.
"""
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fit import command_line, fit, mnist, values

import flow
import pictures
import utils
from muon import orthogonal

MATRICES = {"a convolution": "couplings.0.network.down.conv_1.weight",
            "dense, 3136 inputs": "couplings.0.network.hub.first.weight",
            "dense, 64 inputs": "couplings.0.network.hub.hidden.weight",
            "a coarse pixel's network": "couplings.2.network.hidden"}


def singular_values(gradient):
    """(…, rows, cols) -> those of the gradient and of the step, in units of the largest."""
    matrix = gradient[100] if gradient.dim() == 3 else gradient.flatten(1)
    return [(s / s[0]).tolist() for s in map(torch.linalg.svdvals, (matrix, orthogonal(matrix)))]


def main():
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    data = mnist(parser, args.data_dir)
    Path("runs").mkdir(exist_ok=True)
    model, _, _ = fit(flow, values(flow, f"--steps {args.steps}"), data)
    model.loss(*utils.random_batch(data, 64, grey=True)).backward()
    named, spectra = dict(model.named_parameters()), {}
    figure, axes = plt.subplots(1, len(MATRICES), figsize=(12, 2.8), sharey=True)
    for ax, (what, name) in zip(axes, MATRICES.items()):
        before, after = spectra[what] = singular_values(named[name].grad)
        ax.semilogy(before, label="gradient")
        ax.semilogy(after, label="step")
        ax.set(title=what, xlabel="singular value, by size")
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="size, largest = 1", ylim=(1e-4, 2))
    axes[0].legend()
    pictures.save_figure("runs/singular_values.png", figure)
    text = json.dumps({"steps": args.steps, "matrices": spectra}, indent=1) + "\n"
    utils.write_atomically("runs/singular_values.json", text.encode())


if __name__ == "__main__":
    main()
