"""Would another optimizer take a chapter further in the same time?

    python experiments/optimizers.py [--only CHAPTER …] [--by NAME …] [--rates X …] [--data-dir DIR]

Each chapter's default run in a quarter of its steps (the rate rises and falls in these), seed 0,
moved by Adam, AdamW, Muon or Lion, each at several rates -> runs/optimizers/<chapter>.json, a row a
run: nats of validation images, or of a GAN the Fréchet distance of its draws, and seconds. Rows
that are there are not run again. Nothing of a chapter is changed: where train() hands its optimizer
over, another takes the place of its step(), and follows its learning rate.

Muon, for the matrices of a network; positions, tables, biases and the last layer are left to Adam
(muon.py). Lion (Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, arXiv 2302.06675)
goes by signs: all weights move by the rate, in a direction that two means of gradients agree on; so
it wants a rate of a tenth. A script to run, not a test: minutes a row, on one thread.
"""
import contextlib
import json
from pathlib import Path

import torch
from fit import Diverged, Quiet, command_line, fit, mnist, score, values

import settings
import utils
from muon import Muon

IMAGES = 2000  # validation images of which nats are measured
ADAM = ("position", "bias", "label", "look", "word", "row", "column", "last")
RATES = {  # in parts of the chapter's own
    "Adam": (0.5, 1, 2), "AdamW": (1, 2), "Muon": (0.5, 1, 2), "Lion": (0.05, 0.1, 0.2)}


class Lion:
    """w <- w - lr * sign(0.9 m + 0.1 g), m <- 0.99 m + 0.01 g."""

    def __init__(self, network, lr):
        self.weights, self.param_groups = list(network.parameters()), [{"lr": lr}]
        self.means = [torch.zeros_like(p) for p in self.weights]

    @torch.no_grad()
    def step(self):
        for p, mean in zip(self.weights, self.means):
            if p.grad is not None:
                p.sub_(mean.lerp(p.grad, 0.1).sign(), alpha=self.param_groups[0]["lr"])
                mean.lerp_(p.grad, 0.01)


def another(name, network, optimizer):
    """An optimizer of that name for a network, with what `optimizer` has of Adam's settings."""
    lr, betas = optimizer.param_groups[0]["lr"], optimizer.param_groups[0].get("betas", (0.9, 0.99))
    if name == "Muon":
        return Muon(network, lr, ADAM)
    if name == "Lion":
        return Lion(network, lr)
    optimizer_class = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
    decay = {"weight_decay": 0.1} if name == "AdamW" else {}
    return optimizer_class(network.parameters(), lr=lr, betas=betas, fused=True, **decay)


def moved_by(name):
    """A Quiet in which each network that a chapter trains is moved by an optimizer of that name."""
    class Moved(Quiet):
        @contextlib.contextmanager
        def training(self, **parts):
            for key, optimizer in parts.items():
                if key.startswith("opt"):  # optimizer moves model, opt_G moves G
                    network = parts[key[4:] if key.startswith("opt_") else "model"]
                    replace_step(optimizer, another(name, network, optimizer))
            with super().training():
                yield

    return Moved


def replace_step(optimizer, other):
    """From now on optimizer.step() is a step of the other, at the rate that optimizer was given."""
    def step():
        other.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        other.step()

    optimizer.step = step


def main():
    parser, chapters = command_line(__doc__), settings.chapters()
    parser.add_argument("--only", nargs="+", choices=list(chapters), metavar="CHAPTER",
                        default=list(chapters))
    parser.add_argument("--by", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--rates", nargs="+", type=float, help="in parts of the chapter's own")
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    data, folder = mnist(parser, args.data_dir), Path("runs/optimizers")
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        chapter, path = chapters[name], folder / f"{name}.json"
        default = values(chapter)
        for optimizer in args.by:
            for rate in args.rates or RATES[optimizer]:
                flags = f"--steps {default.steps // 4} --lr {rate * default.lr:.6g}"
                row = {"optimizer": optimizer, "command": f"python {name}.py {flags}"}
                rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
                if any(row.items() <= old.items() for old in rows):
                    continue
                try:
                    model, seconds, _ = fit(chapter, values(chapter, flags), data,
                                            quiet=moved_by(optimizer))
                    row |= {**score(chapter, model, data, IMAGES), "seconds": round(seconds, 1)}
                except Diverged as after:
                    row |= {"score": None, "diverged_after": after.args[0]}
                print(row, flush=True)
                rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
                utils.write_atomically(path, (json.dumps(rows + [row], indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
