"""What each detail of diffusion.py is worth: the default with one thing changed, in a short run.

    python experiments/ablate_diffusion.py [--steps 1000] [--data-dir data] [--only NAME ...]

Writes runs/ablations/diffusion.json, a row a variant, as means of three seeds with their span:
Fréchet distance, precision and recall of 2,000 draws (25 steps of ddpm) against grey validation
digits; of masked models the bound on 1,000 validation images; seconds of training. And
diffusion.png, sixteen drawings of each (seed 2) from the same noise. A script to run, not a test.
The figures in the notes of the chapter come from the files that are committed in
results/ablations/. Validation chooses; no test figure is read here.
"""
import math

import torch
import torch.nn as nn
from ablate import changed, main, rates
from fit import IMAGES, has_nats, nats

import diffusion
import judge
import pictures
from diffusion import Diffusion, MaskedDiffusion, T, UNet


def learner(methods=None, network=None):
    """A build() of a Learner whose model has other methods, or another network."""
    def build(s):
        learner = diffusion.build(s)
        for model in (learner.model, learner.average):
            model.__class__ = methods or model.__class__
            model.network.__class__ = network or UNet
        return learner

    return build


def levels(power):
    """t with σ_t ** power uniform; 0: t itself."""
    def noise_level(u):
        t = (1 - u) if power == 0 else (1 - u).pow(1 / power).asin() * 2 / math.pi
        return (t * T).ceil().long().clamp(1, T)

    return noise_level


class Uniform(Diffusion):
    noise_level = staticmethod(levels(0))


class Variance(Diffusion):
    noise_level = staticmethod(levels(2))


class Late(Diffusion):
    noise_level = staticmethod(levels(8))


class Unfinished(Diffusion):
    """The chain ends before the digit is gone (α_T = 0.31), and drawing begins with noise alone."""

    def path(self, t):
        u = t.to(self.network.position.dtype) / T * 0.8
        return torch.cos(u * math.pi / 2), torch.sin(u * math.pi / 2)


class Weighted(Diffusion):
    """Trained on the squared error of x̂, whatever the network is asked for."""

    def loss(self, x, y=None, step=0):
        x, t = 2 * x - 1, self.noise_level(torch.rand(len(x), device=x.device))
        error = self.guess(self.noised(x, t, torch.randn_like(x)), t) - x
        return error.square().sum(dim=(1, 2, 3)).mean()


class Deaf(UNet):
    """It is not told how much noise there is."""

    def forward(self, z, level, y=None):
        return super().forward(z, torch.zeros_like(level), y)


class NoMaskShown(MaskedDiffusion):
    """A hidden pixel is 0 where others are ±1, and that is all that says that it is hidden."""

    def logits(self, x, known, y=None):
        seen = known.to(x)
        hidden = 1 - seen.mean(dim=(1, 2, 3))
        shown = torch.cat([(2 * x - 1) * seen, torch.zeros_like(x)], dim=1)
        return self.bias + self.network(shown, hidden, y)


class Independent(MaskedDiffusion):
    """Numbers of known pixels drawn independently, and not evenly spread."""

    def loss(self, x, y=None, step=0):
        counts = torch.randint(self.pixels, (len(x),))
        known = diffusion.some_known(counts, self.image_size).to(x.device)
        return self.pixels * self.cost(x, known, y).mean()


class Nothing(nn.Module):
    def forward(self, h, e):
        return h


def without_hub(learner):
    for model in (learner.model, learner.average):
        model.network.hub = Nothing()


def without_position(learner):
    for model in (learner.model, learner.average):
        model.network.position.requires_grad_(False)


MASKED = "--variant masked"
VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (diffusion, "", None),
    "t uniform": (diffusion, "", learner(Uniform)),
    "σ² uniform": (diffusion, "", learner(Variance)),
    "σ⁸ uniform": (diffusion, "", learner(Late)),
    "the chain ends too early": (diffusion, "", learner(Unfinished)),
    "asked for eps": (diffusion, "--predict eps", None),
    "asked for v": (diffusion, "--predict v", None),
    "asked for v, loss in x": (diffusion, "--predict v", learner(Weighted)),
    "flow matching": (diffusion, "--variant flow-matching", None),
    "no average": (diffusion, "--average 0", None),
    "no hub": (diffusion, "", changed(diffusion, without_hub)),
    "no position": (diffusion, "", changed(diffusion, without_position)),
    "not told t": (diffusion, "", learner(None, Deaf)),
    "clip 10": (diffusion, "--clip 10", None),
    **rates(diffusion, ""),
    "masked": (diffusion, MASKED, None),
    "masked, no hub": (diffusion, MASKED, changed(diffusion, without_hub)),
    "masked, mask not shown": (diffusion, MASKED, learner(NoMaskShown)),
    "masked, not told how many": (diffusion, MASKED, learner(None, Deaf)),
    "masked, numbers independent": (diffusion, MASKED, learner(Independent)),
}


def figures(name, model, data, norms):
    norms = sorted(norms)
    row = {"gradient_median": norms[len(norms) // 2]}
    generator = torch.Generator().manual_seed(1)
    if has_nats(diffusion, model):
        return {**row, "val_nats": nats(diffusion, model, data.x_val[:IMAGES])}, None
    draws = diffusion.sample_many(model, 2000, steps=25)
    scores = judge.scores(judge.load_judge("cpu"), draws, data.val)
    shares = scores.pop("shares")
    return {**row, **scores, "least_share": min(shares), "most_share": max(shares)}, \
        model.sample(16, None, generator)


def seeds(name):
    return 3


def paint(folder, drawn):
    pictures.labelled_rows(folder / "diffusion.png", list(drawn.items()))


if __name__ == "__main__":
    main(VARIANTS, "diffusion", 1000, __doc__, figures, {"frechet": None}, paint, seeds)
