"""
All models side by side, and how good any heap of digits is
===========================================================
A likelihood says how well a model predicts real digits; it says nothing of a model that has none, and little
of how samples look. So models are compared by both here. For the samples there is a judge: a small classifier of
digits, trained once on real ones (grey and binarized alike) and shipped as data/judge.pt, so that everybody's scores
are in the same units. It turns each image into 64 features, and two heaps of images are compared there:

    Fréchet distance   ‖μ − μ'‖² + tr( Σ + Σ' − 2 (Σ Σ')^½ ), of the Gaussians that fit both heaps; lower is better
    precision          part of the images that lie among real digits (k = 3 nearest neighbours): are they digits?
    recall             part of the real digits that lie among the images: are all kinds drawn?
    shares             which digits, and how often

gan.py has the explanations. A number alone says little, so beside each stands what as many real training digits get: the floor of the
distance, and about as much precision and recall as there is to get. (The judge was trained on them, so it may flatter them a little.)
These distances are not those of papers: their features come from an Inception network, which has never seen a digit.

Grey images are scored against grey test digits and, after one coin a pixel, against binarized ones: so that a GAN, which draws grey,
can be ranked with models that draw bits. Of a VAE both its draws (bits) and its means (grey, and no draws of the model) are scored.

Run       python compare.py                    all runs in runs/: tables, curves, digits; writes runs/comparison.md
          python compare.py FOLDER …           these runs (a folder that holds runs stands for all of them); writes
                                               comparison.md beside the first, or --out FILE.md
          python compare.py samples            the published runs: writes samples/comparison.md, and the tables of README.md
          python compare.py --score FILE.npy   any array (N, 28, 28) in [0, 1], or grey levels up to 255
          python compare.py --score FILE.npy --json OUT.json
          python compare.py --train-judge      how the judge was made; writes runs/judge.pt (to use it, copy it
                                               to data/judge.pt; scores made with another cannot be compared)
Reads     of each run metrics.json, samples.png, and 5,000 plain draws in samples.npy. Where draws are missing, or too few, it has the
          chapter's own command draw from a copy of the run (--sample-only); the scores are kept in the run's scores.json.
Judge     99.46 % of the grey test digits and 99.23 % of the binarized ones right (3,000 steps of 128, 78 s on 2 cores, seed 0).
"""
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.transforms import Bbox
from PIL import Image

import utils

ROOT = Path(__file__).resolve().parent
PUBLISHED_PAGE = ROOT / "samples" / "comparison.md"
LEAST = 100  # images: fewer have no covariance in 64 dimensions that is worth the name
DRAWS = 5000  # of each model: scores of heaps of different sizes are not alike, so all are as large
BINARIZATION = "dynamic for training; validation and test one fixed draw"  # what runs have to say to be ranked by nats

# --------------------------------------------------------------------------------------------------
# What is known beforehand of each model: its name, what it can do, what others have published
# --------------------------------------------------------------------------------------------------

CHAPTERS = ("made", "wavenet", "pixelcnn", "transformer_ar", "vae", "gan")  # the order of all tables
BASES = {  # (model, variant in metrics.json): name
    ("made", "masks"): "MADE", ("made", "rnn"): "LSTM over pixels", ("wavenet", ""): "WaveNet",
    ("pixelcnn", "gated"): "Gated PixelCNN", ("pixelcnn", "original"): "PixelCNN, the original",
    ("pixelcnn", "rnn"): "PixelRNN (Row LSTM)", ("transformer_ar", ""): "transformer",
    ("vae", ""): "VAE", ("gan", ""): "GAN",
}
HOTAJ = "README of EugenHotaj/pytorch-generative, dynamic binarization, 457 epochs on a GPU"
PUBLISHED = {  # what stands beside whom, and where it is from
    ("made", "masks"): ("84.87", "one layer of 8000, README of EugenHotaj/pytorch-generative, dynamic binarization"),
    ("made", "rnn"): ("none found", ""), ("wavenet", ""): ("none found", ""),
    ("pixelcnn", "gated"): ("81.50", HOTAJ), ("pixelcnn", "original"): ("81.45", f"{HOTAJ}; 81.30 in the paper, static binarization"),
    ("pixelcnn", "rnn"): ("none checked (Diagonal BiLSTM: 80.75 to 79.20)", "one to seven layers, PixelRNN paper, static binarization"),
    ("transformer_ar", ""): ("79.17", f"ImageGPT, {HOTAJ}"),
    ("vae", ""): ("≤ 86.76 (K = 5000)", "one stochastic layer, IWAE paper, as quoted by a reproduction, dynamic binarization"),
    ("gan", ""): ("none: papers' distances are of another judge", ""),
}
ABILITIES = {  # likelihood, latent space, interpolation, completion, how many steps a draw takes
    "made": ("exact", "no", "no", "what comes later in its order; --order agnostic: any part", "784, one a pixel"),
    "wavenet": ("exact", "no", "no", "what comes later (below)", "784"),
    "pixelcnn": ("exact", "no", "no", "what comes later (below)", "784"),
    "transformer_ar": ("exact", "no", "no", "what comes later (below)", "196, one a word; --patch 1: 784"),
    "vae": ("bound", "yes, with an encoder", "yes, between real digits", "only by a search for z", "1, all pixels at once"),
    "gan": ("none", "yes, without an encoder", "yes, between drawn digits", "only by a search for z", "1, all pixels at once"),
}


def read_images(path):
    """Images of a .npy file as float (N, 1, 28, 28) in [0, 1]; SystemExit, with the reason, if it has none."""
    if not os.path.isfile(path):
        utils.fail(f"--score {path}: there is no such file; give a .npy file, such as --num-samples writes.")
    try:
        images = np.load(path, allow_pickle=False)
    except Exception as error:  # np.load raises half a dozen kinds for a file that is cut or foreign
        utils.fail(f"--score {path} is not a readable .npy file ({type(error).__name__}); write it with numpy.save.")
    if not isinstance(images, np.ndarray) or images.ndim not in (3, 4) or images.shape[-2:] != (28, 28) or images.size != len(images) * 784:
        shape = getattr(images, "shape", "several arrays")
        utils.fail(f"--score {path} holds {shape}, not images (N, 28, 28); save one array of that shape.")
    if images.dtype.kind not in "buif":
        utils.fail(f"--score {path} holds {images.dtype}, not numbers; save grey levels in [0, 1] or 0 … 255.")
    if len(images) < LEAST:
        utils.fail(f"--score {path} has {len(images)} images, and a distance takes at least {LEAST}; draw more, with --num-samples.")
    images = torch.from_numpy(images.astype(np.float32)).reshape(-1, 1, 28, 28)
    # A maximum of 1.001 is a float that ought to be clipped, and no grey level of 255.
    if not torch.isfinite(images).all() or images.min() < 0 or images.max() > 255 or 1 < images.max() < 2:
        utils.fail(f"--score {path} has values outside of [0, 1] (or 0 … 255), or that are not finite; clip or rescale them.")
    return images / 255 if images.max() > 1 else images


def score(judge, images, data):
    """All scores of images (N, 1, 28, 28) in [0, 1] beside those of as many real training digits, as a list of rows.

    Binary images are compared with binarized test digits. Grey ones with grey test digits, and once more after a coin for each pixel, with
    the binarized ones: so that models of both sorts can stand in one ranking.
    """
    n, heaps = min(len(images), len(data.train)), []
    if ((images > 0) & (images < 1)).any():
        heaps.append(("grey", images, data.test))
        images = (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) < images).float()
    heaps.append(("binarized", images, data.x_test))
    rows = []
    for kind, heap, real in heaps:
        train = data.train[:n] if kind == "grey" else torch.from_numpy(utils.fixed_bits(data.train[:n], 3))
        for name, x in (("images", heap.to(real.device)), ("real training digits", train.to(real.device))):
            rows.append({"kind": kind, "what": name, "n": len(x), **utils.scores(judge, x, real)})
    return rows


# --------------------------------------------------------------------------------------------------
# Reading runs
# --------------------------------------------------------------------------------------------------


class LeftOut(Exception):
    """A run that cannot be compared, or not scored, and why: one clear sentence."""


def moved_aside(folder):
    """Is this runs/vae.1, where a newer run moved the older one of runs/vae?"""
    name = re.fullmatch(r"(.+)\.\d+", folder.name)
    return bool(name) and folder.with_name(name[1]).is_dir()


def find_runs(folders):
    """Folders of runs -> (runs, left out): a list of runs in the order of the tables, and a list of sentences.

    folders: each a run, or a folder that holds some. Of the latter older runs that were moved aside are not taken, but they may be named.
    """
    places, runs, left_out = [], [], []
    for folder in map(Path, folders):
        inside = [] if (folder / "metrics.json").exists() or not folder.is_dir() else sorted(
            {p.parent for name in ("metrics.json", "checkpoint.pt") for p in folder.glob(f"*/{name}")})
        places += [p for p in inside if not moved_aside(p)] or [folder]
        if any(map(moved_aside, inside)):
            print(f"older runs that were moved aside are not compared: {', '.join(p.as_posix() for p in inside if moved_aside(p))}")
    for folder in dict.fromkeys(places):
        try:
            runs.append(read_run(folder))
        except LeftOut as reason:
            left_out.append(str(reason))
    names = [run.metrics["data"] for run in runs]
    data = max(("mnist", "mnist_5k"), key=names.count)  # the full set, if there are as many of both
    left_out += [f"{run.folder.as_posix()} was trained on {run.metrics['data']}, and what it is compared with on {data}: nats of two data sets "
                 "cannot be compared." for run in runs if run.metrics["data"] != data]
    runs = [run for run in runs if run.metrics["data"] == data]
    # Two runs of one name: first by how long they trained, if it was typed, and if that tells nothing, by their folders.
    for more in (lambda run: trained_for(run.metrics), lambda run: f" ({run.folder.as_posix()})"):
        names, told = [run.name for run in runs], [more(run) for run in runs]
        for run, name, word in zip(runs, names, told):
            run.name += word * (len({other for other, its in zip(told, names) if its == name}) > 1)
    return sorted(runs, key=lambda run: (CHAPTERS.index(run.model), not run.first, not run.default, run.folder.name)), left_out


def trained_for(metrics):
    """What a command says of how its run trained, and for how long: ", 50,000 steps", or nothing."""
    words = {"batch_size": "batches of {:,}", "lr": "rate {:g}", "steps": "{:,} steps"}
    typed = [key for key in words if re.search(f"--{key.replace('_', '-')}[ =]", metrics["command"])]
    return "".join(f", {words[key].format(metrics[key])}" for key in typed if isinstance(metrics.get(key), (int, float)))


def check(true, why):
    if not true:
        raise ValueError(why)


def read_run(folder):
    """metrics.json of a run's folder as a namespace; LeftOut, with the reason, if it is not one that can be compared."""
    folder, path = Path(folder), Path(folder) / "metrics.json"
    if not folder.is_dir():
        raise LeftOut(f"{folder.as_posix()} is no folder: name one that a chapter has written, such as runs/vae.")
    if not path.is_file():
        raise LeftOut(f"{folder.as_posix()} has no metrics.json: it is no run, or one that is not finished (--resume goes on).")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        model, settings, variant, likelihood = metrics["model"], metrics["settings"], metrics["variant"], metrics["likelihood"]
        if model not in CHAPTERS:
            raise LeftOut(f"{path.as_posix()} is of {model}.py, which is no chapter: known are {', '.join(CHAPTERS)}.")
        if likelihood != "none" and metrics["binarization"] != BINARIZATION:
            raise LeftOut(f"{path.as_posix()} has another binarization ({metrics['binarization']}): its nats are of another data set.")
        check(likelihood in ("exact", "bound", "none") and isinstance(metrics["conditional"], bool), "likelihood or conditional")
        check((likelihood == "none") == (metrics["test_nats"] is None), "likelihood and test_nats")
        figures = ["parameters", "train_seconds", "sample_seconds_64"]
        figures += ["test_frechet", "test_precision", "test_recall"] if likelihood == "none" else ["test_nats", "bits_per_dim"]
        check(all(abs(float(metrics[key])) < 1e12 for key in figures), "figures that are not finite")  # nan is not below anything
        check(likelihood != "bound" or metrics["iw_samples"] >= 1, "iw_samples")
        key = "val_frechet" if likelihood == "none" else "val_nats"
        check(metrics["curve"] and all(abs(row["seconds"]) + abs(row[key]) < 1e12 for row in metrics["curve"]), "curve")
        check(isinstance(metrics["command"], str) and metrics["data"] in ("mnist", "mnist_5k"), "command or data")
        known, name, plain = describe(model, variant, settings, metrics["command"])
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LeftOut(f"{path.as_posix()} is not what a chapter writes ({type(error).__name__}: {error}): train anew.") from None
    return SimpleNamespace(folder=folder, metrics=metrics, digest=digest_of(metrics), model=model, known=known, plain=plain,
                           name=f"class-conditional {name}" if metrics["conditional"] else name, conditional=metrics["conditional"],
                           first=known == next(base for base in BASES if base[0] == model) and plain,
                           default=metrics["command"] == f"python {model}.py")


def describe(model, variant, settings, command):
    """-> its key in BASES, a name for tables, and whether it is that model, of whatever size, with no further option (so that published
    figures are about it)."""
    variant = re.sub("_?(width|depth|dropout)[0-9.e-]+", "", variant).strip("_")
    known = (model, variant) if (model, variant) in BASES else (model, "")
    name, options = BASES[known], []
    if model == "made":
        name = "order-agnostic " * (settings["order"] == "agnostic") + name
        options += ["a random order"] * (settings["order"] == "random")
        options += [f"mixture of {settings['num_masks']} " + ("mask sets" if settings["order"] == "natural" else "orders")] * (settings["num_masks"] > 1)
        name = name.replace("LSTM", "GRU") if settings["cell"] == "gru" else name
        plain = settings["order"] == "natural" and settings["num_masks"] == 1 and settings["cell"] == "lstm"
    elif model == "wavenet":
        options += ["dilations as for sound"] * (settings["dilations"] == "line")
        plain = not options
    elif model == "transformer_ar":
        options.append("single pixels" if settings["patch"] == 1 else "words of 2×2 pixels")
        usual = settings["reach"] == (6 if settings["patch"] == 1 else 3)
        options += [f"reach {settings['reach']}"] * (not usual)
        plain = usual and settings["patch"] == 2
    elif model == "vae":
        options += ["two latents" if settings["z_size"] == 2 else f"{settings['z_size']} latents"] * (variant.startswith("z"))
        options += [f"β = {settings['beta']:g}"] * (settings["beta"] != 1)
        plain = variant == ""
    elif model == "gan":
        options += ["Wasserstein with gradient penalty"] * (settings["loss"] == "wgan-gp")
        options += [f"z of {settings['z_size']}"] * bool(re.search(r"z\d", variant))
        plain = variant == ""
    else:
        plain = True
    typed = [size for size in ("width", "depth", "dropout") if re.search(f"--{size}[ =]", command)]
    options += [f"{size} {settings[size]:g}" for size in typed if settings.get(size)]
    return known, ", ".join([name, *options]), plain


def renamed(settings):
    """Settings of a run, by the names that they have now; what was not there yet is left out if it does nothing."""
    return {utils.RENAMED.get(key, key): value for key, value in settings.items() if (key, value) != ("dropout", 0.0)}


def digest_of(parsed):
    """Of what a JSON file says, whatever its line ends are."""
    return hashlib.sha256(json.dumps(parsed, sort_keys=True).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------
# Draws and their scores
# --------------------------------------------------------------------------------------------------


def read_draws(folder, run):
    """The draws in a folder, as (images (N, 1, 28, 28), labels asked for (N,) or None, means or None). None if there are not enough, or if
    they are no plain draws of this run: of one digit only, at a temperature, or of the weights of another step. LeftOut if they are no draws at all."""
    arrays = {}
    for name in ("samples", "means", "labels"):
        path = folder / f"{name}.npy"
        if path.exists():
            try:
                arrays[name] = x = np.load(path, allow_pickle=False)
            except Exception as error:  # np.load raises half a dozen kinds for a file that is cut or foreign
                raise LeftOut(f"{path.as_posix()} is not a readable .npy file ({type(error).__name__}): delete it, and it is drawn anew.") from None
            if not isinstance(x, np.ndarray) or x.dtype.kind not in ("iu" if name == "labels" else "f"):
                good = False
            elif name == "labels":
                good = x.ndim == 1 and x.min(initial=0) >= 0 and x.max(initial=0) <= 9
            else:
                good = x.ndim == 3 and x.shape[1:] == (28, 28) and x.min(initial=0) >= 0 and x.max(initial=0) <= 1  # nan is neither
            if not good:
                what = f"{getattr(x, 'dtype', type(x).__name__)} {getattr(x, 'shape', '')}"
                raise LeftOut(f"{path.as_posix()} holds {what}, not {'labels (N,)' if name == 'labels' else 'draws (N, 28, 28) in [0, 1]'}: "
                              "delete it, and it is drawn anew.")
    with contextlib.suppress(OSError, ValueError, TypeError):
        how = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        if set(how) != {"step"} or how["step"] != run.metrics["best_step"]:
            return None
    if "samples" not in arrays or (run.model == "vae" and "means" not in arrays) or (run.conditional and "labels" not in arrays):
        return None
    n = len(arrays["samples"])
    if any(len(x) != n for x in arrays.values()) or n < DRAWS:
        return None
    if run.conditional and (n < DRAWS * 6 // 5 or np.bincount(arrays["labels"], minlength=10).min() < n // 10):
        return None
    images, means = (None if name not in arrays else torch.from_numpy(arrays[name].astype(np.float32))[:, None] for name in ("samples", "means"))
    return images, torch.from_numpy(arrays["labels"].astype(np.int64)) if run.conditional else None, means


def draw(run):
    """Have the chapter's own command line draw what is missing, in a folder of its own: nothing of the run's is touched. -> as read_draws()."""
    found = next((run.folder / name for name in ("checkpoint.pt", "weights.pt") if (run.folder / name).is_file()), None)
    if found is None:
        raise LeftOut(f"{run.folder.as_posix()}: nothing to score, since it has neither draws nor weights to draw with.")
    n = DRAWS * 6 // 5 if run.conditional else DRAWS  # more, to choose from: see as_often()
    command = [f"{run.model}.py", "--sample-only", "--num-samples", str(n), "--out"]
    print(f"python {' '.join(command)} (a copy of {run.folder.as_posix()})", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(found, folder)
        done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:], folder], capture_output=True, text=True,
                              encoding="utf-8", errors="replace", env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise LeftOut(f"{run.folder.as_posix()}: nothing to score, since its digits could not be drawn ({reason})")
        drawn = read_draws(Path(folder), run)
    if drawn is None:
        raise LeftOut(f"{run.folder.as_posix()}: nothing to score, since its weights are not those of its metrics.json.")
    return drawn


def as_often(labels, shares, n):
    """Which n of images with these labels (N,) have each digit as often as shares (10,) says. -> indices (n,).

    A conditional model draws the digits it is asked for. Ten alike would be another mixture than MNIST's, and cost it distance.
    """
    count = (shares * n).floor().long()
    count[:n - count.sum()] += 1
    return torch.cat([(labels == k).nonzero()[:count[k], 0] for k in range(10)])


def coins(means, seed=0):
    """One coin a pixel: means (N, 1, 28, 28) in [0, 1] -> bits, float."""
    return (torch.rand(means.shape, generator=torch.Generator().manual_seed(seed)) < means).float()


def is_grey(images):
    return bool(((images > 0) & (images < 1)).any())


def judge_digest():
    return hashlib.sha256(utils.JUDGE.read_bytes()).hexdigest()[:16]


def read_scores(run):
    """The scores that are kept in the run's folder, if they are of this run, by this judge; else None."""
    try:
        kept = json.loads((run.folder / "scores.json").read_text(encoding="utf-8"))
        if kept["metrics"] == run.digest and kept["draws"] == DRAWS and kept["judge"] == judge_digest():
            return {key: kept[key] for key in ("binarized", "grey", "label_agreement", "label_agreement_grey")}
    except (OSError, ValueError, KeyError, TypeError):
        pass


def score_run(run, judge_and_data):
    """The scores of a run's draws: binarized and grey (None if it draws none), each a dict of utils.scores, and how often the
    judge reads the digit that was asked for (None if none was). Kept in scores.json. judge_and_data(): called once there are draws."""
    drawn = read_draws(run.folder, run) or draw(run)
    images, labels, means = drawn
    judge, data = judge_and_data()
    grey = images if is_grey(images) else means
    bits = coins(images) if is_grey(images) else images
    found = {"binarized": None, "grey": None, "label_agreement": None, "label_agreement_grey": None}
    if labels is not None:
        some = as_often(labels, torch.bincount(data.train_labels, minlength=10).double() / len(data.train_labels), DRAWS)
        bits, labels, grey = bits[some], labels[some], None if grey is None else grey[some]
        for key, x in (("label_agreement", bits), ("label_agreement_grey", grey)):
            found[key] = None if x is None else (utils.judged(judge, x)[1] == labels).double().mean().item()
    found["binarized"] = utils.scores(judge, bits[:DRAWS], data.x_test)
    if grey is not None:
        found["grey"] = utils.scores(judge, grey[:DRAWS], data.test)
    keep = {"metrics": run.digest, "judge": judge_digest(), "draws": DRAWS, **found}
    utils.write_atomically(run.folder / "scores.json", (json.dumps(keep, indent=1) + "\n").encode())
    return found


def score_floors(judge, data):
    """Two references: real training digits scored as if they were draws, about the best to hope for; and pixels that are independent
    coins, which every model should beat."""
    n, rows = min(DRAWS, len(data.train)), {}
    grey, bits = data.train[:n], torch.from_numpy(utils.fixed_bits(data.train[:n], 3))
    right = [(utils.judged(judge, x)[1] == data.test_labels).double().mean().item() for x in (data.x_test, data.test)]
    rows["real training digits"] = {"nats": None, "binarized": utils.scores(judge, bits, data.x_test), "grey": utils.scores(judge, grey, data.test),
                                    "label_agreement": right[0], "label_agreement_grey": right[1]}
    mean = (data.train.double().mean(dim=(0, 1)) / 255).clamp(0.001, 0.999)  # off in 50,000 images is not off for ever
    x = data.x_test.double()
    nats = -(x * mean.log() + (1 - x) * (1 - mean).log()).sum(dim=(1, 2, 3)).mean().item()
    draws = coins(mean.float().expand(n, 1, 28, 28), seed=1)
    rows["independent pixels"] = {"nats": nats, "binarized": utils.scores(judge, draws, data.x_test), "grey": None,
                                  "label_agreement": None, "label_agreement_grey": None}
    return rows


# --------------------------------------------------------------------------------------------------
# Tables: each a list of lines, made from metrics.json and scores.json alone
# --------------------------------------------------------------------------------------------------


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def nats_of(metrics):
    """"85.56 (exact)", "≤ 87.32 (bound, K = 200)" or "no likelihood"."""
    if metrics["likelihood"] == "none":
        return "no likelihood"
    if metrics["likelihood"] == "bound":
        return f"≤ {metrics['test_nats']:.2f} (bound, K = {metrics['iw_samples']})"
    return f"{metrics['test_nats']:.2f} (exact)"


def two(found, *names):
    """Figures of scores with two digits, or dashes."""
    return [f"{found[name]:.2f}" if found else "—" for name in names]


def minutes(metrics):
    return f"{metrics['train_seconds'] / 60:.1f} min"


def told(run):
    """The name of a run; of a conditional one with what its nats are."""
    return run.name + (", `−log p(x\\|y)`" if run.conditional and run.metrics["likelihood"] != "none" else "")


def chapters_table(runs):
    """The table of README: nats and cost, a row a run, its command at the end."""
    rows = []
    for run in runs:
        m, nats = run.metrics, nats_of(run.metrics)
        if m["likelihood"] == "none":
            nats += f"; Fréchet {m['test_frechet']:.2f}, precision {m['test_precision']:.2f}, recall {m['test_recall']:.2f}"
        bits = "—" if m["bits_per_dim"] is None else f"{m['bits_per_dim']:.4f}"
        name = told(run).replace(run.name, f"[{run.name}](samples/{run.folder.name}/metrics.json)", 1)
        rows.append([f"[`{run.model}.py`]({run.model}.py)", name, nats, bits, f"{m['parameters']:,}", minutes(m), f"`{m['command']}`"])
    return table(("chapter", "model", "test nats", "bits/dim", "parameters", "training", "command"), rows)


def all_table(runs, scores, floors, sampling):
    """Everything on one row: likelihood, cost, speed, how good draws are (binarized), and what others have published."""
    rows = []
    for run in runs:
        m, found, ratio = run.metrics, scores.get(run.folder), ratio_of(run, sampling)
        bits = "—" if m["bits_per_dim"] is None else f"{m['bits_per_dim']:.4f}"
        rows.append([told(run), nats_of(m), bits, f"{m['parameters']:,}", minutes(m), f"{m['sample_seconds_64']:.3f} s", ratio,
                     *two(found and found["binarized"], "frechet", "precision", "recall"), published(run)[0]])
    for name, floor in floors.items():
        nats = "—" if floor["nats"] is None else f"{floor['nats']:.2f} (exact)"
        bits = "—" if floor["nats"] is None else f"{utils.bits_per_dim(floor['nats']):.4f}"
        rows.append([f"*{name}*", nats, bits, "—", "—", "—", "—", *two(floor["binarized"], "frechet", "precision", "recall"), "—"])
    return table(("model", "test nats", "bits/dim", "parameters", "training", "drawing 64", "faster than the obvious loop", "Fréchet", "precision", "recall",
                  "published nats"), rows)


def ratio_of(run, sampling):
    """How many times faster than the obvious loop the run's model draws, if tests/bench_sampling.py has timed just that; else a dash."""
    variant = {"rnn": " --variant rnn", "original": " --variant original"}.get(run.metrics["variant"], "")
    key = f"{run.model}.py{variant}" + " --patch 1" * (run.metrics["settings"].get("patch") == 1)
    timed = sampling.get(key)
    same = timed and (run.plain or "patch 1" in key) and not run.conditional and timed["parameters"] == run.metrics["parameters"]
    return f"{timed['obvious'] / timed['fast']:.0f}×" if same else "—"


def published(run):
    """(figure, source) that others have published for this model; dashes for one with options of its own."""
    return PUBLISHED[run.known] if run.plain and not run.conditional and run.known in PUBLISHED else ("—", "")


def published_table(runs):
    """Beside each model the figure that others have published, and where."""
    rows = [[run.name, nats_of(run.metrics), *published(run), f"`{run.metrics['command']}`"] for run in runs if published(run)[0] != "—"]
    return table(("model", "test nats", "published", "source", "command"), rows)


def quality_table(runs, scores, floors):
    """Scores of 5,000 draws, binarized and grey, and the balance of classes."""
    rows = []
    scored = [(run.name + " (grey: its means, no draws)" * (run.model == "vae"), scores[run.folder]) for run in runs if run.folder in scores]
    for name, found in scored + [(f"*{name}*", floor) for name, floor in floors.items()]:
        shares = found["binarized"]["shares"]
        rows.append([name, *two(found["binarized"], "frechet", "precision", "recall"), f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %",
                     *two(found["grey"], "frechet", "precision", "recall")])
    return table((f"{DRAWS:,} draws of", "Fréchet (binarized)", "precision", "recall", "share of each digit", "Fréchet (grey)", "precision", "recall"), rows)


def percent(value, grey=None):
    """"99.2 %", with that of grey images behind it if there is one."""
    return "—" if value is None else f"{100 * value:.1f} %" + (f" (grey: {100 * grey:.1f} %)" if grey is not None else "")


def conditional_table(runs, scores, floors):
    """What the label is worth, and whether it is obeyed."""
    rows = []
    for run in runs:
        if not run.conditional:
            continue
        m, found = run.metrics, scores.get(run.folder, {"label_agreement": None, "label_agreement_grey": None})
        least, settings = "≤ " * (m["likelihood"] == "bound"), {**m["settings"], "conditional": False}
        other = next((r for r in runs if renamed(r.metrics["settings"]) == renamed(settings)), None)
        figures = (m["test_nats"], m.get("marginal_nats"), other and other.metrics["test_nats"])
        rows.append([run.name.replace("class-conditional ", ""), *("—" if nats is None else f"{least}{nats:.2f}" for nats in figures),
                     percent(found["label_agreement"], found["label_agreement_grey"]), percent(m.get("bayes_accuracy"))])
    if rows and "real training digits" in floors:
        real = floors["real training digits"]
        rows.append(["*real test digits*", "—", "—", "—", percent(real["label_agreement"], real["label_agreement_grey"]), "—"])
    return table(("told the digit", "−log p(x\\|y)", "−log ⅒ Σ_y p(x\\|y)", "the same model, never told: −log p(x)", "judge reads the digit asked for",
                  "most probable y is the right one"), rows)


def at_minute(curve, key, minute):
    """The best figure of a curve up to a minute; None if the first evaluation came later, or the run had ended before."""
    if curve[-1]["seconds"] < 60 * minute:
        return None
    before = [row[key] for row in curve if row["seconds"] <= 60 * minute]
    return min(before) if before else None


def curve_of(run):
    """(key, what it is) of a run's validation curve."""
    return {"none": ("val_frechet", "Fréchet, grey"), "bound": ("val_nats", "−ELBO"), "exact": ("val_nats", "exact")}[run.metrics["likelihood"]]


def minutes_table(runs):
    """What one has after some minutes of training, on validation."""
    rows, at = [], (0.5, 1, 2, 5, 15)
    for run in runs:
        curve, (key, what), settings = run.metrics["curve"], curve_of(run), run.metrics["settings"]
        found = [at_minute(curve, key, t) for t in at]
        images = 10000 if run.metrics["data"] == "mnist" else 500
        scored = settings.get("EVAL_IMAGES", settings.get("RNN_EVAL_IMAGES", images)) // settings.get("num_masks", 1)
        best = min(curve, key=lambda row: row[key])
        rows.append([told(run), what, "—" if key == "val_frechet" else f"{min(images, scored):,}",
                     f"{run.metrics['steps'] * run.metrics['batch_size'] / max(0.1, run.metrics['train_seconds']):,.0f}", *("—" if v is None else f"{v:.2f}" for v in found),
                     f"{best[key]:.2f} (of {curve[-1]['seconds'] / 60:.1f} min)", "—" if best.get("train_nats") is None else f"{best['train_nats']:.2f}"])
    return table(("validation", "figure", "scored images", "training images a second", *(f"{t:g} min" for t in at), "best of the run", "then on training images"), rows)


def abilities_table():
    """What each family can do."""
    rows = [[f"`{model}.py`", *ABILITIES[model]] for model in CHAPTERS]
    return table(("chapter", "likelihood", "latent space", "interpolation", "completion", "steps a draw takes"), rows)


def sampling_table(sampling):
    """tests/bench_sampling.py, as a table."""
    rows = [[f"`python {name}`", f"{m['fast']:.3f} s", f"{m['one_pass']:.4f} s", f"{'' if m['whole'] else '≈ '}{m['obvious']:.1f} s",
             f"{m['obvious'] / m['fast']:.0f}×", f"{100 * m['interpreter']:.0f} %"] for name, m in sampling.items()]
    return table(("64 digits", "fast", "one pass", "obvious", "ratio", "interpreter"), rows)


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------


def digits_of(run, n):
    """n digits of a run's samples.png, the first ones -> (n, 1, 28, 28) in [0, 1]; of a conditional run 0, 1, … 9, and over again.
    None if there is no such picture."""
    try:
        with Image.open(run.folder / "samples.png") as picture:
            grid = torch.from_numpy(np.array(picture.convert("L"))) / 255
    except (OSError, ValueError, SyntaxError):  # Pillow raises these for files that are cut or foreign
        return None
    rows, columns = (grid.shape[0] - 4) // 60, (grid.shape[1] - 4) // 60  # as utils.save_grid() writes them: 2 × 28 and a frame of 4
    if rows * columns < n:
        return None
    digits = [grid[4 + 60 * r:60 + 60 * r:2, 4 + 60 * c:60 + 60 * c:2] for r in range(rows) for c in range(columns)]
    order = [r * columns + c for c in range(columns) for r in range(rows)] if run.conditional else range(len(digits))
    return torch.stack([digits[i] for i in order])[:n, None]


def draw_mosaic(path, runs, n=16):
    """A row of digits for each run, the first ones of its samples.png: none is chosen."""
    rows = [(run.name, digits_of(run, n)) for run in runs]
    rows = [(name, digits) for name, digits in rows if digits is not None]
    if rows:
        utils.labelled_rows(path, rows)


def draw_curves(path, runs):
    """Validation nats against minutes of training, and for models without a likelihood the Fréchet distance."""
    panels = []
    for key, label in (("val_nats", "validation nats per image"), ("val_frechet", "Fréchet distance to validation digits (grey)")):
        chosen = [run for run in runs if run.metrics["curve"][0].get(key) is not None]
        panels += [(key, label, chosen)] if chosen else []
    figure, axes = plt.subplots(1, len(panels), figsize=(7.5 * len(panels), 6.5), squeeze=False)
    for ax, (key, label, chosen) in zip(axes[0], panels):
        for run in chosen:
            curve = run.metrics["curve"]
            style = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2)))[[r for r in chosen if r.model == run.model].index(run) % 6]
            curve = [row for row in curve if row["seconds"] > 0]  # the axis is logarithmic
            ax.plot([row["seconds"] / 60 for row in curve], [row[key] for row in curve], linestyle=style, color=f"C{CHAPTERS.index(run.model)}",
                    label=run.name + " (−ELBO)" * (run.metrics["likelihood"] == "bound"), linewidth=1.3)
        low = min(row[key] for run in chosen for row in run.metrics["curve"])
        ax.set_ylim(*((low - 1, low + 24) if key == "val_nats" else (0, low + 10)))  # the first evaluations would flatten the rest
        ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncol=2)
        longest = max(run.metrics["curve"][-1]["seconds"] for run in chosen) / 60
        ax.set(xlabel="minutes of training (log)", xscale="log", xlim=(min(0.1, longest / 10) or None, None), ylabel=label)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.grid(alpha=0.3)
    utils.save_figure(path, figure)


def draw_plane(path, runs, scores, floors):
    """Likelihood against quality of draws: a dot a run that has both and is within 8 nats of the best; the others are lines or words."""
    plain = [run for run in runs if run.folder in scores and not run.conditional]
    known = [run for run in plain if run.metrics["test_nats"] is not None]
    figure, ax = plt.subplots(figsize=(9, 5.5))
    best, far = min((run.metrics["test_nats"] for run in known), default=0), []
    dots = []
    for run in known:
        x, y = run.metrics["test_nats"], scores[run.folder]["binarized"]["frechet"]
        if x > best + 8:
            far.append(f"{run.name}: {x:.1f} nats, {y:.1f}")
            continue
        ax.plot(x, y, "o", color=f"C{CHAPTERS.index(run.model)}")
        dots.append((run.name, x, y))
    lines = [(run.name, scores[run.folder]["binarized"]["frechet"]) for run in plain if run.metrics["test_nats"] is None]
    lines += [(name, floor["binarized"]["frechet"]) for name, floor in floors.items() if floor["nats"] is None]
    for name, y in lines:
        ax.axhline(y, color="grey", linewidth=0.7)
        ax.annotate(f"{name} (no nats)", (0.99, y), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom")
    ax.set(yscale="log", xlim=(best - 0.5, best + 8), xlabel="test nats (exact, or a bound): lower is better",
           ylabel="Fréchet distance, binarized (log): lower is better", title="further right: " + "; ".join(far) if far else None)
    ax.title.set_fontsize(8)
    ax.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    boxes = [Bbox([dot, dot]).padded(6) for dot in ax.transData.transform([dot[1:] for dot in dots])] if dots else []
    boxes += [word.get_window_extent() for word in ax.texts]
    for name, x, y in dots:  # its name where it covers no dot and no other name, and stays inside; the last place if there is none
        for dx, dy in ((5, 3), (5, -11), (-5, 3), (-5, -11)):
            word = ax.annotate(name, (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=8, ha="left" if dx > 0 else "right")
            box = word.get_window_extent()
            if box.x0 > ax.bbox.x0 and box.x1 < ax.bbox.x1 and not box.padded(-1).count_overlaps(boxes):
                break
            if dx > 0 or dy > 0:
                word.remove()
        boxes.append(box)
    utils.save_figure(path, figure)


# --------------------------------------------------------------------------------------------------
# Writing: tables go between marks, and what stands around the marks stays
# --------------------------------------------------------------------------------------------------

MARK = "<!-- made by compare.py: {} -->"
END = "<!-- end -->"


def put(text, blocks):
    """Text with each of its marked blocks (name: list of lines) made anew. A block without marks in the text is not written."""
    for name, lines in blocks.items():
        mark = MARK.format(name)
        if mark in text:
            before, rest = text.split(mark, 1)
            inside, end, after = rest.partition(END)
            if not end or MARK.split("{")[0] in inside:
                utils.fail(f"the block {name!r} has no {END}: put it back, or delete the mark.")
            text = before + mark + "\n" + "\n".join(lines) + "\n" + END + after
    return text


def blank(blocks):
    """A page with marks for all blocks, for a folder that has none yet."""
    lines = ["# All runs, side by side", "", "Made by `python compare.py`; what the figures mean stands in `compare.py`, `gan.py` and the published comparison.", ""]
    for name in blocks:
        lines += [f"## {name[0].upper()}{name[1:]}", "", MARK.format(name), END, ""]
    return "\n".join(lines)


def page_blocks(runs, scores, floors, sampling, left_out, stem="comparison"):
    """All tables and pictures of a page, by name."""
    return {
        "all models": all_table(runs, scores, floors, sampling),
        "digits": [f"![The first digits of each run]({stem}_digits.png)"],
        "beside published figures": published_table(runs),
        "minutes": [*minutes_table(runs), "", f"![Validation nats against minutes]({stem}_curves.png)"],
        "likelihood and quality": [f"![Likelihood against quality of draws]({stem}_plane.png)"],
        "quality of draws": quality_table(runs, scores, floors),
        "told the digit": conditional_table(runs, scores, floors),
        "drawing": sampling_table(sampling),
        "abilities": abilities_table(),
        "left out": [f"- {reason}" for reason in left_out] or ["Nothing."],
    }


def readme_blocks(runs, blocks):
    """The blocks of README.md, which is one folder above the page: its own table, and links that start there."""
    moved = {name: [line.replace("](comparison", "](samples/comparison") for line in lines] for name, lines in blocks.items()}
    return {"chapters": chapters_table(runs), **moved}


def page_of(folders):
    """Where a comparison of these folders goes: beside the first run, or into the first folder of runs. The published page is written by
    `compare.py samples` alone; another choice of runs that would end there goes to runs/comparison.md."""
    first = Path(folders[0]).resolve()
    page = (first.parent if (first / "metrics.json").exists() else first) / "comparison.md"
    if page == PUBLISHED_PAGE and not is_published(folders):
        return Path("runs/comparison.md")
    return Path(os.path.relpath(page)) if page.is_relative_to(Path.cwd()) else page


def is_published(folders):
    return [Path(folder).resolve() for folder in folders] == [PUBLISHED_PAGE.parent]


def compare(folders, out, data_dir):
    """Read, draw, score and write: all of it."""
    folders = folders or ["runs"]
    runs, left_out = find_runs(folders)
    for reason in left_out:
        print(f"compare.py: left out: {reason}", file=sys.stderr)
    if not runs:
        utils.fail(f"no finished run in {', '.join(map(str, folders))}: train one first, with python vae.py, or name folders "
                   "that have a metrics.json (the published ones: python compare.py samples).")
    out = Path(out) if out else page_of(folders)
    kept_floors = out.with_name(f"{out.stem}_floors.json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = out.read_text(encoding="utf-8") if out.exists() else None
    except (OSError, ValueError) as error:
        utils.fail(f"the page {out} cannot be read or written ({getattr(error, 'strerror', None) or error}); choose another with --out.")
    if text is not None and MARK.split("{")[0] not in text:
        utils.fail(f"{out} exists and was not made by compare.py; choose another page with --out.")

    scores, floors, loaded = {}, read_floors(kept_floors, runs[0].metrics["data"]), []

    def judge_and_data():  # only if something has to be scored
        if not loaded:
            data = utils.load_mnist(data_dir)
            loaded.extend((utils.load_judge(), data))
        if loaded[1].name != runs[0].metrics["data"]:
            raise LeftOut(f"draws are not scored without {runs[0].metrics['data']}, on which the runs were trained: --data-dir {data_dir} has it not.")
        return loaded

    for run in runs:
        try:
            scores[run.folder] = read_scores(run) or score_run(run, judge_and_data)
        except LeftOut as reason:
            left_out.append(str(reason))
            print(f"compare.py: not scored: {reason}", file=sys.stderr)
    if floors is None:
        floors = {}
        with contextlib.suppress(LeftOut):
            floors = score_floors(*judge_and_data())
            keep = {"data": runs[0].metrics["data"], "judge": judge_digest(), "draws": DRAWS, "floors": floors}
            utils.write_atomically(kept_floors, (json.dumps(keep, indent=1) + "\n").encode())
    draw_mosaic(out.with_name(f"{out.stem}_digits.png"), runs)
    draw_curves(out.with_name(f"{out.stem}_curves.png"), runs)
    draw_plane(out.with_name(f"{out.stem}_plane.png"), runs, scores, floors)
    blocks = page_blocks(runs, scores, floors, read_sampling(), left_out, out.stem)
    utils.write_atomically(out, put(text if text is not None else blank(blocks), blocks).encode())
    print("\n".join(blocks["all models"]))
    print(f"wrote {out}")
    if out.resolve() == PUBLISHED_PAGE and is_published(folders) and not left_out:
        readme = ROOT / "README.md"
        utils.write_atomically(readme, put(readme.read_text(encoding="utf-8"), readme_blocks(runs, blocks)).encode())
        print("wrote the tables of README.md")


def read_floors(path, data):
    """The floors that are kept beside a page, or that ship along, if they are of this data and by this judge; else None."""
    for place in (path, PUBLISHED_PAGE.with_name("comparison_floors.json")):
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
            if kept["draws"] == DRAWS and kept["data"] == data and kept["judge"] == judge_digest():
                return kept["floors"]
        except (OSError, ValueError, KeyError, TypeError):
            continue


def read_sampling():
    """What tests/bench_sampling.py measured, by command; empty if the file is gone."""
    path = ROOT / "samples" / "sampling.json"
    return json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}


def main(argv=None):
    parser = utils.Parser(prog="compare.py", description="Compare runs of all chapters, or score a heap of images of digits.", allow_abbrev=False)
    parser.add_argument("runs", nargs="*", metavar="FOLDER", help="runs to compare, or folders that hold runs (default: runs)")
    parser.add_argument("--out", metavar="FILE.md", help="where the comparison goes (default: comparison.md beside the first run; runs/comparison.md)")
    parser.add_argument("--score", metavar="FILE.npy", help="images to score: (N, 28, 28), in [0, 1] or 0 … 255")
    parser.add_argument("--json", metavar="OUT.json", help="with --score: also write the scores there")
    parser.add_argument("--train-judge", action="store_true", help="train the judge anew, into runs/judge.pt, and say how good it is")
    parser.add_argument("--data-dir", default="data", help="folder that has, or gets, MNIST/raw (default: %(default)s)")
    args = parser.parse_args(argv)
    if bool(args.score) + args.train_judge + bool(args.runs or args.out) > 1:
        utils.fail("give folders of runs to compare, or --score FILE.npy, or --train-judge: one of the three.")
    if args.json is not None and not args.score:
        utils.fail("--json says where scores go: use it with --score.")
    if args.train_judge:
        data, start = utils.load_mnist(args.data_dir), time.perf_counter()
        judge = utils.train_judge(data)
        right = [(utils.judged(judge, x)[1] == data.test_labels).double().mean().item() for x in (data.test, data.x_test)]
        Path("runs").mkdir(exist_ok=True)
        torch.save(judge.state_dict(), "runs/judge.pt")
        print(f"runs/judge.pt: {100 * right[0]:.2f} % of the grey test digits right, {100 * right[1]:.2f} % of the binarized ones; "
              f"{time.perf_counter() - start:.0f} s")
        return
    if not args.score:
        compare(args.runs, args.out, args.data_dir)
        return
    if args.json is not None:
        try:  # find out now, and not after the work, that it cannot be written; and leave nothing behind
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            if Path(args.json).is_dir():  # "" is one, too
                raise IsADirectoryError(21, "it is a folder")
            with tempfile.TemporaryFile(dir=Path(args.json).parent):
                pass
        except OSError as error:
            utils.fail(f"--json {args.json!r} cannot be written ({error.strerror}); choose another file.")
    images = read_images(args.score)
    judge, data = utils.load_judge(), utils.load_mnist(args.data_dir)
    rows = score(judge, images, data)
    print(f"{'':32}{'N':>7}{'Fréchet':>9}{'precision':>11}{'recall':>8}   share of each digit, 0 to 9 (%)")
    for row in rows:
        shares = " ".join(f"{100 * share:4.1f}" for share in row["shares"])
        print(f"{row['kind'] + ', ' + row['what']:32}{row['n']:7,}{row['frechet']:9.2f}{row['precision']:11.3f}"
              f"{row['recall']:8.3f}   {shares}")
    if args.json is not None:
        utils.write_atomically(args.json, (json.dumps({"file": args.score, "data": data.name, "rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    utils.start(main)
