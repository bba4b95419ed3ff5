"""
draws.py: what a trained model draws, as files
==============================================
No generative model: model.sample(n, labels, generator) is asked, and its images are written.
"""
import io
import time

import numpy as np
import torch

import pictures
import utils
from utils import fail


def median_seconds(f):
    """Median wall-clock seconds of five f(), after one call that warms up."""
    f()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return round(sorted(times)[2], 4)


def write(run, model):
    """samples.png, the first draws of a fixed seed; with --num-samples N also samples.npy, float32
    (N, H, W), labels.npy for a conditional model (0 … 9 over and over, or --label everywhere), and
    means.npy if pixels were coins tossed apart (vae.py): the coins' probabilities; with --png each
    draw as a file. samples.json says of which step's weights they are, and how they came."""
    label, seed = run.args.label, run.settings.seed if run.sample_only else 0
    if label is not None and not model.classes:
        fail(f"--label {label} is for models trained with --conditional; {run.path} was not.")
    if label is not None and label >= model.classes:
        fail(f"--label {label}: the labels of {run.path} are 0 … {model.classes - 1}.")

    def labels(n, each):
        return utils.row_labels(model, n, each) if label is None else torch.full((n,), label)

    generator = torch.Generator().manual_seed(seed)
    drawing = {} if label is None else {"label": label}
    drawing |= {key: run.chosen[key] for key in run.drawing if key in run.chosen}
    chosen = {"seed": seed, **drawing} if run.sample_only and "seed" in run.chosen else drawing
    name = "_".join(["samples"] + [f"{key}{value}" for key, value in chosen.items()]) + ".png"
    n = 8 * model.classes if model.classes and label is None else 64
    run.check_still_ours()
    pictures.save_grid(run.folder / name, model.sample(n, labels(n, 8), generator))
    print(f"wrote {run.folder / name}")
    if not run.args.num_samples:
        return
    n, x, means, y = run.args.num_samples, [], [], labels(run.args.num_samples, 1)
    for i in range(0, n, 500):
        part = min(500, n - i), None if y is None else y[i:i + 500]
        twin = torch.Generator().set_state(generator.get_state())  # the same noise once more
        x.append(model.sample(*part, generator).cpu())
        if hasattr(model, "sample_means"):  # the probabilities of the coins that x tossed
            means.append(model.sample_means(*part, twin).cpu())
    arrays = {"samples": torch.cat(x)[:, 0].float(), "labels": y}
    arrays |= {"means": torch.cat(means)[:, 0].float()} if means else {}
    run.write("samples.json", {})  # until all is written: such draws compare.py does not take
    for name, array in arrays.items():
        if array is not None:
            buffer = io.BytesIO()
            np.save(buffer, array.numpy())
            run.write(f"{name}.npy", buffer.getbuffer())
            print(f"wrote {run.folder / name}.npy")
    if run.args.png:
        (run.folder / "png").mkdir(exist_ok=True)
        for old in (run.folder / "png").glob("[0-9]*.png"):  # of an earlier, longer list
            old.unlink()
        for i, image in enumerate(arrays["samples"]):  # with its label, if it has one: 00012_7.png
            word = "" if y is None else f"_{y[i]}"
            pictures.save_image(run.folder / "png" / f"{i:05}{word}.png", image)
        print(f"wrote {n:,} files into {run.folder / 'png'}")
    # How they were drawn: compare.py wants plain draws of the run that it scores.
    run.write("samples.json", {"step": run.best["step"], **drawing})
