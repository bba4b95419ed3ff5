"""What each detail of ebm.py is worth: a variant with one thing changed, in a short run.

    python experiments/ablate_ebm.py [--steps 1800] [--data-dir data] [--only NAME ...]

Writes runs/ablations/ebm.json, a row a variant. --variant residual (--steps is of it alone): nats
of 1,000 validation images, its base's, and the effective sample size of 20,000 draws. --variant
rbm: nats from both sides (AIS with 2,000 temperatures, 100 chains each), and the Fréchet distance
of 1,000 draws to validation bits. --variant conv: distance of 500 draws by 200 steps to grey
validation digits. And ebm.png, sixteen drawings of each. A script to run, not a test. The figures
in the notes of the chapter come from the files that are committed in results/ablations/. Validation
chooses; no test figure is read here.
"""
import copy

import torch
import torch.nn as nn
from ablate import changed, main
from fit import IMAGES

import ebm
import judge
import pictures
import utils
from ebm import RBM, Residual, Smoothed


class CD1(RBM):
    """Contrastive divergence: chains begin at the digits of the batch, and take one step."""

    def loss(self, x, y=None, step=0):
        with torch.no_grad():
            labels = self.label(y, len(x))
            chains = self.sweep(x.flatten(1).to(self.a), labels).view_as(x)
        return self.energy(x, y).mean() - self.energy(chains, y).mean()


class Cold(Smoothed):
    """The classic mistake: noise of a hundredth, so that chains go downhill and draw nothing."""

    def walk(self, x, y=None, generator=None, temperature=1e-4):
        return super().walk(x, y, generator, temperature)


class NoWalls(Smoothed):
    """The network alone, without the energy of independent pixels below it."""

    def energy(self, x, y=None):
        return self.network(x, y)


class OftenFresh(Smoothed):
    """One chain in five, not one in a hundred, begins anew."""

    def loss(self, x, y=None, step=0):
        fresh = torch.rand(len(self.chains)) < 0.2 * len(x) / len(self.chains)
        self.chains[fresh] = self.begin(len(self.chains))[fresh]
        return super().loss(x, y, step)


class ScoreMatching(Smoothed):
    """No chains: (18) is to guess the digit (denoising score matching)."""

    def loss(self, x, y=None, step=0):
        with torch.enable_grad():
            noisy = (x + self.noise * torch.randn_like(x)).requires_grad_()
            slope = torch.autograd.grad(self.energy(noisy, y).sum(), noisy, create_graph=True)[0]
        guess = noisy - self.noise**2 * slope
        return (guess - x).square().sum(dim=(1, 2, 3)).mean() / (2 * self.noise**2)


class Bounded(Smoothed):
    """The loss has a tenth of the mean square of what the network says (Du & Mordatch)."""

    def loss(self, x, y=None, step=0):
        said = []
        hook = self.network.register_forward_hook(lambda network, x, says: said.append(says))
        loss = super().loss(x, y, step)
        hook.remove()
        return loss + 0.1 * torch.cat(said[-2:]).square().mean()  # of noisy digits, and of chains


class Averaged(Smoothed):
    """Draws with a running average of its weights, as gan.py and diffusion.py do."""

    def loss(self, x, y=None, step=0):
        kept = self.__dict__.setdefault("kept", copy.deepcopy(self.network))
        for old, new in zip(kept.parameters(), self.network.parameters()):
            old.data.lerp_(new.data, 1 - min(0.998, (step + 1) / (step + 10)))
        return super().loss(x, y, step)

    def train(self, mode=True):
        if not mode and "kept" in self.__dict__:
            self.network = self.__dict__.pop("kept")
        return super().train(mode)


def rectified(model):
    """ReLU in place of SiLU."""
    body = model.network.body
    for i, layer in enumerate(body):
        if isinstance(layer, nn.SiLU):
            body[i] = nn.ReLU()


def not_centred(model):
    """W meets v − ½ in place of v − μ. (The independent pixels of (9) stay as they are.)"""
    model.inputs = lambda v, y: (v - 0.5) @ model.weight + model.c[y]


BITS, GREY = "--variant rbm --steps 5000", "--variant conv --steps 1000"
VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "residual": (ebm, "", None),
    "residual, seed 1": (ebm, "--seed 1", None),
    "residual, half of the steps for the base": (ebm, "--base-part 0.5", None),
    "residual, nine tenths": (ebm, "--base-part 0.9", None),
    "residual, width 64": (ebm, "--width 64", None),
    "rbm": (ebm, BITS, None),
    "rbm, seed 1": (ebm, f"{BITS} --seed 1", None),
    "rbm, CD-1": (ebm, BITS, changed(ebm, methods=CD1)),
    "rbm, v − ½ in place of v − μ": (ebm, BITS, changed(ebm, not_centred)),
    "rbm, lr / 3": (ebm, f"{BITS} --lr 1e-3", None),
    "rbm, 250 hidden units": (ebm, f"{BITS} --width 250", None),
    "conv": (ebm, GREY, None),
    "conv, seed 1": (ebm, f"{GREY} --seed 1", None),
    "conv, noise of a hundredth": (ebm, GREY, changed(ebm, methods=Cold)),
    "conv, no independent pixels below": (ebm, GREY, changed(ebm, methods=NoWalls)),
    "conv, one chain in five begins anew": (ebm, GREY, changed(ebm, methods=OftenFresh)),
    "conv, not clipped": (ebm, f"{GREY} --clip 1e9", None),
    "conv, ReLU": (ebm, GREY, changed(ebm, rectified)),
    "conv, squares of energies in the loss": (ebm, GREY, changed(ebm, methods=Bounded)),
    "conv, average of weights": (ebm, GREY, changed(ebm, methods=Averaged)),
    "conv, score matching": (ebm, GREY, changed(ebm, methods=ScoreMatching)),
    "conv, σ = 0.15": (ebm, f"{GREY} --noise 0.15", None),
}


@torch.no_grad()
def figures(name, model, data, norms):
    generator, network = torch.Generator().manual_seed(1), judge.load_judge("cpu")
    row = {"gradient_max": max(norms)}
    x = data.x_val[:IMAGES]
    if isinstance(model, Residual):
        _, row["effective_sample_size"] = model.measure(20000)
        row["base_nats"] = -torch.cat(
            [model.base.log_prob(b) for b, _ in utils.batches(x, None, 250)]).mean().item()
        row["val_nats"] = ebm.evaluate(model, x, None)
    elif isinstance(model, RBM):
        low, high = model.measure(2000)
        nats, at = ebm.evaluate(model, x, None), model.log_z
        row["val_nats"] = [nats + (end - at).item() for end in (low, high)]
        row["frechet"] = distance(network, ebm.sample_many(model, 1000), data.x_val)
    else:
        model.sampling_steps = 200
        row["frechet"] = distance(network, ebm.sample_many(model, 500), data.val)
    return row, model.sample(16, None, generator)


def distance(network, draws, real):
    return judge.frechet_distance(judge.judged(network, draws)[0], judge.judged(network, real)[0])


def paint(folder, drawn):
    pictures.labelled_rows(folder / "ebm.png", list(drawn.items()))


if __name__ == "__main__":
    main(VARIANTS, "ebm", 1800, __doc__, figures, {"frechet": None}, paint)
