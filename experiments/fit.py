"""Train a chapter, and nothing else: no folder, no checkpoint, no evaluation, no picture.

    from fit import fit, values
    model, seconds, norms = fit(wavenet, values(wavenet, "--steps 400"), data)

All experiments train so. A chapter's train() talks to a Run at a few points (runner.py); here a
Quiet answers in its place, which counts steps and never asks for an evaluation. The random numbers
are those of a run of the same settings, and so are the weights at its end.
"""
import argparse
import contextlib
import math
import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import judge  # noqa: E402
import settings  # noqa: E402
import utils  # noqa: E402

IMAGES = 1000  # validation images of which nats are measured
DRAWS = 5000  # draws that are judged where there are no nats


class Diverged(Exception):
    """A loss or a gradient is not finite. Its argument: after how many steps."""


class Quiet:
    """Stands in for a Run: what a training loop asks of one, and no more.

    norms: the gradient's norm at each step, in nats; empty if the chapter does not clip.
    """

    def __init__(self, settings):
        self.settings, self.device = settings, torch.device("cpu")
        self.step, self.seconds, self.norms = 0, 0.0, []

    @contextlib.contextmanager
    def training(self, **parts):
        start = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - start

    def check_finite(self, **numbers):
        if "gradient" in numbers:
            self.norms.append(numbers["gradient"])
        if not all(map(math.isfinite, numbers.values())):
            raise Diverged(self.step + 1)

    def load_judge(self):
        return judge.load_judge(self.device)

    def tick(self, loss, unit="nats"):
        self.step += 1
        return False


def values(chapter, flags=""):
    """All settings of a chapter, as a namespace, given a string (or a list) of flags."""
    words = shlex.split(flags) if isinstance(flags, str) else flags
    _, chosen, _ = settings.parse(chapter.__name__, "", chapter.SETTINGS, chapter.VARIANTS, words)
    return SimpleNamespace(**settings.resolve(chapter.SETTINGS, chapter.VARIANTS, chosen))


def told(data, conditional):
    """The data as a Run hands it out: with labels y_… if the model is told them, else None."""
    labels = {f"y_{split}": getattr(data, f"{split}_labels") if conditional else None
              for split in ("train", "val", "test")}
    return SimpleNamespace(**{**vars(data), **labels})


def fit(chapter, settings, data, build=None, quiet=Quiet):
    """Train a chapter's model, or that of another build(settings) -> the model (of several players
    the one that draws), seconds of training, and the norms of all gradients. Raises Diverged.

    data: as utils.load_mnist() has it. quiet: Quiet, or a subclass.
    """
    torch.manual_seed(settings.seed)
    model = (build or chapter.build)(settings)
    data, quiet = told(data, settings.conditional), quiet(settings)
    if hasattr(model, "start_from_mean"):
        model.start_from_mean(data.train)
    chapter.train(model, data, quiet)
    return the_one_that_draws(model).eval(), quiet.seconds, quiet.norms


def the_one_that_draws(model):
    """Of the players of gan.py the average of G, of diffusion.py that of the weights; any other
    model is alone."""
    return getattr(model, "average", model)


def has_nats(chapter, model):
    """Has it a likelihood of bits, or a bound on it? A chapter with models of both kinds says so at
    each: model.likelihood."""
    return getattr(model, "likelihood", "") != "none" and hasattr(chapter, "evaluate")


def nats(chapter, model, x, y=None):
    """What evaluate() of a chapter says of bits x, as one number: nats an image. A bound comes as
    two terms, reconstruction and KL: then their difference, −ELBO. An estimate is made anew."""
    if getattr(model, "likelihood", "") == "estimate":
        model.measure()
    terms = chapter.evaluate(model, x, y)
    return terms[1] - terms[0] if isinstance(terms, tuple) else terms


@torch.no_grad()
def score(chapter, model, data, images=IMAGES):
    """The figures of trained weights on validation, as a dict. Without a likelihood: the Fréchet
    distance of draws, and the smallest share of a digit."""
    if has_nats(chapter, model):
        return {"score": nats(chapter, model, data.x_val[:images])}
    network, generator = judge.load_judge("cpu"), torch.Generator().manual_seed(0)
    features, classes = judge.judged(network, model.sample(DRAWS, None, generator))
    shares = torch.bincount(classes, minlength=10) / len(classes)
    distance = judge.frechet_distance(features, judge.judged(network, data.val)[0])
    return {"score": distance, "least_share": shares.min().item()}


def mnist(parser, data_dir):
    """The full set; the parser complains if it is not there."""
    data = utils.load_mnist(data_dir)
    if data.name != "mnist":
        parser.error("this takes the full MNIST: say with --data-dir where it is")
    return data


def command_line(description, **more):
    """A parser whose help is a script's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **more)
