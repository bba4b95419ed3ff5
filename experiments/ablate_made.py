"""What each detail of made.py is worth: the default with one thing changed, in a short run.

    python experiments/ablate_made.py [--steps 700] [--data-dir data] [--only NAME ...]

Writes runs/ablations/made.json, a row a variant: nats on all validation images (the RNN, in 120
steps: on the first 2,000), gradient norms, seconds; with several mask sets also both kinds of
averages; and broken_masks.png, what models draw whose masks are broken. A script to run, not a
test. The figures in made.py's notes come from the files that are committed in results/ablations/.
Validation chooses; no test figure is read here.
"""
import torch
import torch.nn.functional as F
from ablate import changed, likelihood_figures, main, rates

import made
import pictures
from made import MADE, masked


class NoMasks(MADE):
    def masks(self, place, degree):
        return tuple(torch.ones_like(mask) for mask in super().masks(place, degree))


class OutputEqual(MADE):
    def masks(self, place, degree):
        to_hidden, between, _, direct = super().masks(place, degree)
        return to_hidden, between, place[:, None] >= degree[None], direct


class FirstStrict(MADE):
    def masks(self, place, degree):
        _, *others = super().masks(place, degree)
        return degree[:, None] > place[None], *others


class NoDirect(MADE):
    def masks(self, place, degree):
        *others, direct = super().masks(place, degree)
        return *others, torch.zeros_like(direct)


class FirstStrictNoDirect(FirstStrict, NoDirect):
    pass


class SecondStrict(MADE):
    def masks(self, place, degree):
        to_hidden, _, *others = super().masks(place, degree)
        return to_hidden, degree[:, None] > degree[None], *others


class EvenDegrees(MADE):
    def new_degree(self, place, m=0):
        width = self.first.out_features
        return torch.arange(width, device=place.device) * (len(place) - 1) // width + 1


class RandomDegrees(MADE):
    def new_degree(self, place, m=0):
        return torch.randint(1, len(place), (self.first.out_features,))


class NotCentred(MADE):
    def start_from_mean(self, images):
        super().start_from_mean(images)
        self.mean.zero_()


class Relu(MADE):
    activation = staticmethod(F.relu)


class NoResidual(MADE):
    """Hidden layers that replace their input; without labels."""

    def logits(self, x, y=None, place=None, degree=None):
        place, degree = (self.place[0], self.degree[0]) if place is None else (place, degree)
        to_hidden, between, to_logit, direct = self.masks(place, degree)
        v = x.flatten(1) - self.mean
        h = F.silu(F.linear(v, masked(self.first.weight, to_hidden), self.first.bias))
        for layer in self.hidden:
            h = F.silu(F.linear(h, masked(layer.weight, between), layer.bias))
        return (F.linear(h, masked(self.last.weight, to_logit), self.last.bias)
                + F.linear(v, masked(self.direct, direct))).view(x.shape)


class NormOverUnits(MADE):
    """LayerNorm in front of each activation; without labels."""

    def logits(self, x, y=None, place=None, degree=None):
        place, degree = (self.place[0], self.degree[0]) if place is None else (place, degree)
        to_hidden, between, to_logit, direct = self.masks(place, degree)
        v, size = x.flatten(1) - self.mean, (self.first.out_features,)
        h = F.linear(v, masked(self.first.weight, to_hidden), self.first.bias)
        h = F.silu(F.layer_norm(h, size))
        for layer in self.hidden:
            update = F.linear(h, masked(layer.weight, between), layer.bias)
            h = h + F.silu(F.layer_norm(update, size))
        return (F.linear(h, masked(self.last.weight, to_logit), self.last.bias)
                + F.linear(v, masked(self.direct, direct))).view(x.shape)


class NoPosition(made.RNN):
    def features(self, window, position, y):
        return F.silu(self.window_to_features(window))


class NoState(made.RNN):
    def head(self, state, features):
        return self.last(F.silu(self.features_to_head(features)))[..., 0]


class LastPixelAlone(made.RNN):
    def windows(self, x):
        window = super().windows(x)
        return torch.cat([window[..., :1], torch.zeros_like(window[..., 1:])], dim=-1)


def a(methods, change=None):
    return changed(made, change, methods)


RNN = "--steps 120 --variant rnn"
VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (made, "", None),
    "seed 1": (made, "--seed 1", None),
    "no masks": (made, "", a(NoMasks)),
    "output mask >=": (made, "", a(OutputEqual)),
    "first hidden mask >": (made, "", a(FirstStrict)),
    "first hidden mask >, no direct weights": (made, "", a(FirstStrictNoDirect)),
    "second hidden mask >": (made, "", a(SecondStrict)),
    "no direct weights": (made, "", a(NoDirect)),
    "no residual": (made, "", a(NoResidual)),
    "LayerNorm": (made, "", a(NormOverUnits)),
    "even degrees": (made, "", a(EvenDegrees)),
    "random degrees": (made, "", a(RandomDegrees, lambda model: model.new_degree(model.place[0]))),
    "inputs not centred": (made, "", a(NotCentred)),
    "ReLU": (made, "", a(Relu)),
    "one hidden layer": (made, "--depth 1", None),
    "half the width": (made, "--width 512", None),
    **rates(made, ""),
    "random order": (made, "--order random", None),
    "4 masks": (made, "--num-masks 4", None),
    "4 orders": (made, "--order random --num-masks 4", None),
    "rnn": (made, RNN, None),
    "rnn, gru": (made, f"{RNN} --cell gru", None),
    "rnn, no position": (made, RNN, a(NoPosition)),
    "rnn, window without state": (made, RNN, a(NoState)),
    "rnn, fed with the last pixel alone": (made, RNN, a(LastPixelAlone)),
    "rnn, reach 0": (made, f"{RNN} --reach 0", None),
    "rnn, no clipping": (made, f"{RNN} --clip 1e9", None),
    **rates(made, RNN, "rnn, "),
}

DRAWN = {"default": "default", "no masks": "no masks", "output mask >=": "logit ≥ unit",
         "first hidden mask >, no direct weights": "unit > pixel"}  # rows of broken_masks.png


def figures(name, model, data, norms):
    images = 2000 if isinstance(model, made.RNN) else len(data.x_val)
    row, draws = likelihood_figures(made, model, data, norms, images)
    if getattr(model, "num_masks", 1) > 1:
        row |= made.compare_averages(model, data.x_val, None)
    if name in DRAWN:
        draws = model.sample_obvious(10, None, torch.Generator().manual_seed(0))
    return row, draws


def paint(folder, draws):
    if len(draws) == len(DRAWN):
        pictures.labelled_rows(folder / "broken_masks.png", [
            (label, draws[name]) for name, label in DRAWN.items()])


if __name__ == "__main__":
    main(VARIANTS, "made", 700, __doc__, figures, {"val_nats": None}, paint)
