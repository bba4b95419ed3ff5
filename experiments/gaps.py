"""Does a model know its training images by heart? Nats of each set; of a GAN, distances to them.

    python experiments/gaps.py [--data-dir data] [--only NAME …] [--json OUT]

For the weights that ship of each run in samples/ whose likelihood of bits is exact (or those that
--only names): mean nats of the first 10,000 training images (fixed bits), of all validation and of
all test images, each with its standard error; and the same for independent pixels, which cannot
know an image: sets differ without any memory. Of GANs, the distance in pixels to the nearest of all
training digits, of 5,000 draws and of 5,000 test digits: means, with their standard errors.
results/gaps.json is such a file; its rows of gan_wgan-gp and of transformer_ar_long are of weights
that shipped then, and do no more. A script to run, not a test: it needs the full MNIST, and a
minute or two a run.
"""
import json
from pathlib import Path

import torch
from fit import ROOT, command_line, mnist, told
from score_weights import model_of

import settings
import utils


def mean_and_error(nats):
    """Of images' nats (N,): their mean, and its standard error."""
    return [nats.mean().item(), (nats.std() / len(nats) ** 0.5).item()]


@torch.no_grad()
def of_model(model, x, y):
    return mean_and_error(torch.cat([-model.log_prob(xb, yb).double()
                                     for xb, yb in utils.batches(x, y, 250)]))


@torch.no_grad()
def of_draws(gan, model, data):
    labels, generator = gan.data_labels(told(data, model.classes), 5000), torch.Generator()
    chosen = torch.randperm(len(data.test), generator=generator.manual_seed(0))[:5000]
    heaps = {"draws": model.sample(5000, labels, generator.manual_seed(0)),
             "test": data.test[chosen] / 255}
    return {name: mean_and_error(gan.nearest(heap, data.train)[0]) for name, heap in heaps.items()}


def of_independent_pixels(train, x):
    mean = (train.double().mean(dim=0) / 255).clamp(1e-4, 1 - 1e-4)
    x = x.double()
    return mean_and_error(-(x * mean.log() + (1 - x) * (1 - mean).log()).flatten(1).sum(dim=1))


def main():
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    shipped = {path.parent.name for path in (ROOT / "samples").glob("*/weights.pt")}
    if unknown := set(args.only or ()) - shipped:
        parser.error(f"samples/ has no weights of {', '.join(sorted(unknown))}: choose from "
                     f"{', '.join(sorted(shipped))}.")
    data, rows = mnist(parser, args.data_dir), {}
    if args.only and args.json and Path(args.json).exists():
        rows = json.loads(Path(args.json).read_text(encoding="utf-8"))
    rows["independent pixels"] = {s: of_independent_pixels(data.train, getattr(data, f"x_{s}"))
                                  for s in ("train", "val", "test")}
    for path in sorted((ROOT / "samples").glob("*/weights.pt")):
        folder, metrics = path.parent, json.loads((path.parent / "metrics.json").read_text())
        chapter = settings.chapters()[metrics["model"]]
        by_heap = hasattr(chapter, "nearest")
        if folder.name not in (args.only or [folder.name]) or (
                metrics["likelihood"] != "exact" and not by_heap):
            continue
        model, here = model_of(chapter, folder)[0], told(data, metrics["conditional"])
        rows[folder.name] = of_draws(chapter, model, data) if by_heap else {
            s: of_model(model, getattr(here, f"x_{s}"), getattr(here, f"y_{s}"))
            for s in ("train", "val", "test")}
        print(folder.name, *(f"{s} {mean:.2f} ± {error:.2f}" for s, (mean, error) in
                             rows[folder.name].items()), flush=True)
        if args.json:
            utils.write_atomically(args.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
