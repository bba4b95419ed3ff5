"""What ablate_….py share: train the default with one thing changed, again and again; keep rows.

A variant is (chapter, flags, build): what can be said by a flag is a flag; for all else build() is
the chapter's own, and then the model is changed, or becomes one of a subclass that overrides a
method. Nothing of a chapter is patched.
"""
import io
import json
from pathlib import Path

import torch
import torch.nn as nn
from fit import IMAGES, Diverged, command_line, fit, mnist, nats, values

import utils


def changed(chapter, change=None, methods=None):
    """A build(): the chapter's model, whose class is then `methods`, a subclass of its own, and to
    which change(model) is done. So the random numbers of its initialization stay."""
    def build(s):
        model = chapter.build(s)
        if methods:
            model.__class__ = methods
        if change:
            change(model)
        return model

    return build


def frozen(chapter, *names):
    """A build(): these parameters (or those of these lists of modules) are 0 for ever."""
    def freeze(model):
        for name in names:
            part = getattr(model, name)
            for p in part.parameters() if isinstance(part, nn.Module) else [part]:
                p.data.zero_()
                p.requires_grad_(False)
        if "bias" in names:  # which would start from the mean of the data
            model.start_from_mean = lambda images: None

    return changed(chapter, freeze)


def with_adam(chapter):
    """A build(): of no weight's name muon.py thinks that it is a matrix, so Adam moves all."""
    def rename(model):
        class WithAdam(type(model)):
            def named_parameters(self, *args, **options):
                return ((f"{chapter.ADAM[0]}.{name}", p)
                        for name, p in super().named_parameters(*args, **options))

        model.__class__ = WithAdam

    return changed(chapter, rename)


def rates(chapter, flags, prefix=""):
    """Two variants: a third of the learning rate, and three times of it."""
    lr = values(chapter, flags).lr
    return {f"{prefix}{name}": (chapter, f"{flags} --lr {factor * lr:.6f}".strip(), None)
            for name, factor in (("lr / 3", 1 / 3), ("lr * 3", 3))}


def command_of(variant, steps):
    """What one would type for a variant, which may have a length of its own."""
    chapter, flags, _ = variant
    flags = flags if "--steps" in flags else f"--steps {steps} {flags}".strip()
    return f"python {chapter.__name__}.py {flags}"


def likelihood_figures(chapter, model, data, norms, images=IMAGES):
    """The columns of a table of nats, and no pictures."""
    norms = sorted(norms)
    return {"val_nats": nats(chapter, model, data.x_val[:images]),
            "train_nats": nats(chapter, model, data.x_train[:images]),
            "gradient_median": norms[len(norms) // 2], "gradient_max": norms[-1],
            "parameters": sum(p.numel() for p in model.parameters())}, None


def mean_and_span(rows):
    """Of several seeds one row: means, and by how much the score of the worst seed (val_nats, or a
    distance) lies above that of the best. rows: dicts with the same keys."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    scores = columns["val_nats" if "val_nats" in columns else "frechet"]
    means = {key: column[0] if len(set(column)) == 1 else sum(column) / len(column)
             for key, column in columns.items()}  # a number of weights stays whole
    return {**means, "seeds": len(rows), "span": max(scores) - min(scores)}


def main(variants, name, steps, description, figures, failed, paint=None, seeds=lambda name: 1):
    """Train all variants, or those asked for -> runs/ablations/<name>.json, a row a variant.

    seeds(variant's name): how many runs, of seeds 0, 1, …, become one row, by mean_and_span();
    figures(variant's name, model, data, norms) -> a dict, and images or None;
    failed: what stands there if a variant diverged;
    paint(folder, {variant's name: images}): the picture of what they drew.
    A variant's row and images are also kept in a file of their own, so that several processes can
    share the work; rows of another length do not count.
    """
    parser = command_line(description)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="+", choices=list(variants), metavar="NAME",
                        default=list(variants))
    args = parser.parse_args()
    folder, data = Path("runs/ablations"), mnist(parser, args.data_dir)
    (folder / name).mkdir(parents=True, exist_ok=True)
    for variant in args.only:
        (chapter, _, build), images, measured = variants[variant], None, []
        row = {"name": variant, "command": command_of(variants[variant], args.steps)}
        s = values(chapter, row["command"].split()[2:])
        try:
            for seed in range(s.seed, s.seed + seeds(variant)):
                s.seed = seed
                model, seconds, norms = fit(chapter, s, data, build)
                more, images = figures(variant, model, data, norms)
                measured.append({**more, "seconds": round(seconds, 1)})
            row |= measured[0] if len(measured) == 1 else mean_and_span(measured)
        except Diverged as after:
            row |= {**failed, "diverged_after": after.args[0]}
        print(row, flush=True)
        buffer = io.BytesIO()
        torch.save({"row": row, "images": images}, buffer)
        place = folder / name / f"{list(variants).index(variant):02}.pt"
        utils.write_atomically(place, buffer.getvalue())
        kept = [torch.load(path, weights_only=True) for path in sorted(place.parent.glob("*.pt"))]
        commands = {key: command_of(variants[key], args.steps) for key in variants}
        kept = [one for one in kept if commands.get(one["row"]["name"]) == one["row"]["command"]]
        text = json.dumps([one["row"] for one in kept], indent=1) + "\n"
        utils.write_atomically(folder / f"{name}.json", text.encode())
        drawn = {one["row"]["name"]: one["images"] for one in kept if one["images"] is not None}
        if paint and drawn:
            paint(folder, drawn)
