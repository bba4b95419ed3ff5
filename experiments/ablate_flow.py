"""What each detail of flow.py is worth: the default with one thing changed, in a short run.

    python experiments/ablate_flow.py [--steps 400] [--data-dir data] [--only NAME ...]

Writes runs/ablations/flow.json, a row a variant: exact nats and bits/dim of 1,000 validation images
(grey levels; of --levels 2, bits), the bound from one draw of noise, Fréchet distance of 1,000
draws to validation digits, seconds of training. And flow.png, sixteen drawings of each. A script to
run, not a test. The figures in the notes of the chapter come from the files that are committed in
results/ablations/. Validation chooses; no test figure is read here.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from ablate import changed, main, with_adam
from fit import IMAGES

import flow
import judge
import pictures
import utils
from flow import Flow


class NoNoise(Flow):
    """Levels stand in the middle of their cells."""

    def dequantize(self, x, generator=None):
        start, end = self.cdf[x.long()], self.cdf[x.long() + 1]
        u = ((start + end) / 2).clamp(min=1e-7)
        return u, (end - start).log().flatten(1).sum(dim=1)


class EqualBins(Flow):
    """Bins that are equally wide, and end within cells."""

    @property
    def edges(self):
        return torch.linspace(0, 1, len(self.begins)).to(self.cdf)


class TransformerNets(nn.Module):
    """In place of PixelNets, (B, m, E) -> (B, m, numbers): a causal transformer over the coarse
    pixels in the order in which they are drawn; what is told to pixel i is i − 1, by attention all
    before it. One block of TarFlow, but for its splines."""

    def __init__(self, pixels, numbers, channels=64, layers=2, heads=4):
        super().__init__()
        c, self.heads = channels, heads
        self.level = nn.Linear(flow.SEEN, c)
        self.position, self.next_position = (nn.Parameter(0.5 * torch.randn(pixels, c))
                                             for _ in range(2))
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "qkv": nn.Linear(c, 3 * c, bias=False), "out": nn.Linear(c, c),
            "up": nn.Linear(c, 4 * c), "down": nn.Linear(4 * c, c)}) for _ in range(layers))
        self.last, self.bias = nn.Linear(c, numbers), nn.Parameter(torch.zeros(pixels, numbers))
        nn.init.zeros_(self.last.weight)

    def forward(self, seen, y=None, pixels=slice(None)):
        n = seen.shape[1]  # while one draws, not yet all
        h = F.pad(self.level(seen) + self.position[:n], (0, 0, 1, 0))[:, :-1]
        h = h + self.next_position[:n]
        b, t, c = h.shape
        for block in self.blocks:
            q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2)
                       for part in block["qkv"](F.layer_norm(h, (c,))).chunk(3, dim=2))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + block["out"](a.transpose(1, 2).reshape(b, t, c))
            h = h + block["down"](F.silu(block["up"](F.layer_norm(h, (c,)))))
        return (self.last(F.silu(h)) + self.bias[:n])[:, pixels]


def no_means(model):
    mean = model.couplings[-1].network.mean
    mean.data.zero_()
    mean.requires_grad_(False)


def transformer(model):
    coarse = model.couplings[-1]
    coarse.network = TransformerNets(len(coarse.moved), coarse.numbers)


class Brightness(Flow):
    """Networks look at levels as they are, in −1 … 1; coarse pixels at the mean of these, too."""

    @torch.no_grad()
    def start_looking(self):
        self.look.weight.zero_()
        self.look.weight[:, 0] = torch.linspace(-1, 1, self.levels)
        self.look.requires_grad_(False)


class Ranks(Flow):
    """Networks look at ranks alone, which stay as they are; coarse pixels at their mean, too."""

    @torch.no_grad()
    def start_looking(self):
        super().start_looking()
        self.look.weight[:, 1:] = 0
        self.look.requires_grad_(False)


def two_couplings(model):
    """Two of a word's three fine pixels, which make a checkerboard, are moved by one coupling."""
    (_, two), (known, one) = flow.plan(*model.image_size)[0][:2]
    channels = model.couplings[0].network.position.shape[0]
    checkerboard = flow.Coupling(known, torch.cat([one, two]), "spline",
                                 model.couplings[0].numbers, channels, 0)
    model.couplings = nn.ModuleList([checkerboard, *model.couplings[2:]])


VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (flow, "", None),
    "seed 1": (flow, "--seed 1", None),
    "seed 2": (flow, "--seed 2", None),
    "affine": (flow, "--coupling affine", None),
    "additive": (flow, "--coupling additive", None),
    "affine, no noise": (flow, "--coupling affine", changed(flow, methods=NoNoise)),
    "bins of equal widths": (flow, "", changed(flow, methods=EqualBins)),
    "levels as brightness": (flow, "", changed(flow, methods=Brightness)),
    "levels as ranks": (flow, "", changed(flow, methods=Ranks)),
    "coarse pixels are told no means": (flow, "", changed(flow, no_means)),
    "a transformer for the coarse pixels": (flow, "", changed(flow, transformer)),
    "Adam": (flow, "", with_adam(flow)),
    "Adam, rate 4e-3": (flow, "--lr 4e-3", with_adam(flow)),
    "Adam, rate 1.6e-2": (flow, "--lr 1.6e-2", with_adam(flow)),
    "two couplings a word": (flow, "", changed(flow, two_couplings)),
    "bits": (flow, "--levels 2", None),
    "bits, affine": (flow, "--levels 2 --coupling affine", None),
}


@torch.no_grad()
def figures(name, model, data, norms):
    network, grey = judge.load_judge("cpu"), model.levels > 2
    x = (data.val if grey else data.x_val)[:IMAGES]
    real = judge.judged(network, data.val if grey else data.x_val)[0]
    draws = flow.sample_many(model, 1000)
    exact = flow.evaluate(model, x, None)
    bound = -torch.cat([model.bound(part, None, torch.Generator().manual_seed(0))
                        for part, _ in utils.batches(x, None, 250)]).mean().item()
    distance = judge.frechet_distance(judge.judged(network, draws)[0], real)
    return {"gradient_max": max(norms), "val_nats": exact, "val_bound": bound, "frechet": distance,
            "bits_per_dim": utils.bits_per_dim(exact)}, draws[:16]


def paint(folder, drawn):
    pictures.labelled_rows(folder / "flow.png", list(drawn.items()))


if __name__ == "__main__":
    main(VARIANTS, "flow", 400, __doc__, figures, {"frechet": None}, paint)
