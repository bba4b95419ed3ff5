"""What each detail of tarflow.py is worth: the default with one thing changed, in a short run.

    python experiments/ablate_tarflow.py [--steps 400] [--data-dir data] [--only NAME ...]

Writes runs/ablations/tarflow.json, a row a variant, as means of three seeds with their span: the
Fréchet distance of 2,000 draws to grey validation digits, with the noise taken away and as they are
drawn; the bound (6) on 1,000 validation images, in bits/dim; seconds of training. And tarflow.png,
sixteen drawings of each (seed 2) from the same noise. A script to run, not a test. The figures in
the notes of the chapter come from the files that are committed in results/ablations/. Validation
chooses; no test figure is read here.
"""
import torch
from ablate import changed, main, with_adam
from fit import IMAGES

import judge
import pictures
import tarflow
import utils


def one_order(model):
    """No block reads backwards."""
    for block in model.blocks:
        block.order = []


VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (tarflow, "", None),
    "one order": (tarflow, "", changed(tarflow, one_order)),
    "one block of 8 layers": (tarflow, "--depth 1 --layers 8", None),
    "noise 0.03": (tarflow, "--noise 0.03", None),
    "noise 0.2": (tarflow, "--noise 0.2", None),
    "Adam": (tarflow, "", with_adam(tarflow)),
}


def figures(name, model, data, norms):
    """Scores of draws, the bound, and sixteen draws."""
    network, real = judge.load_judge("cpu"), judge.judged(judge.load_judge("cpu"), data.val)[0]
    distances = [judge.frechet_distance(judge.judged(network, judge.sample_many(
        model, 2000, clean=clean))[0], real) for clean in (True, False)]
    table = tarflow.level_table(model, data.train[:2000], None)
    bound = tarflow.level_bound(model, data.val[:IMAGES], None, table)
    images = model.sample(16, None, torch.Generator().manual_seed(1))
    norms = sorted(norms)
    return {"frechet": distances[0], "frechet_as_drawn": distances[1],
            "bits_per_dim": utils.bits_per_dim(bound), "gradient_median": norms[len(norms) // 2],
            "gradient_max": norms[-1]}, images


def paint(folder, images):
    pictures.labelled_rows(folder / "tarflow.png", list(images.items()))


if __name__ == "__main__":
    main(VARIANTS, "tarflow", 400, __doc__, figures, {"frechet": None}, paint, lambda name: 3)
