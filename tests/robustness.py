"""How robust is each chapter to its hyperparameters? One changed at a time, in runs of a fifth of the default's steps.

    python tests/robustness.py [--only NAME ...] [--threads N] [--data-dir data] [--list]

For each chapter and variant: learning rate a third and three times, batch half and double, width half and double, and three seeds, each
at a fifth of the default's steps, with all else as it is; against the default at as many. Writes runs/robustness/<model>.json, a row a
run: nats on the first 1,000 validation images (vae.py: −ELBO; gan.py: Fréchet distance of 5,000 draws to the validation digits, and the
smallest share of a digit), seconds of training. Rows that are there, of the same command and data, are not run again, so it can be stopped and
gone on with; and two of these, for different models, may share a machine (with --threads 1: networks as small as these gain little by a second).
Promised: within 3 nats of the default (gan.py: within a factor of 2, and no digit below 2 % of what is drawn); rows that are not are marked.
At the end: the table of each chapter that is complete, as its notes have it (--list: that alone). They are committed as samples/robustness/.
A script to run, not a test: it takes three hours, on one thread. Validation only: no test figure is read here.
"""
import argparse
import contextlib
import importlib
import json
import math
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import utils  # noqa: E402

IMAGES, DRAWS = 1000, 5000
# name: (chapter, flags, the constant that is its width)
MODELS = {
    "made": ("made", [], "WIDTH"),
    "made, 8 orders": ("made", ["--order", "agnostic", "--num-masks", "8", "--steps", "12000"], "WIDTH"),
    "made, rnn": ("made", ["--variant", "rnn"], "RNN_WIDTH"),
    "wavenet": ("wavenet", [], "CHANNELS"),
    "pixelcnn": ("pixelcnn", [], "CHANNELS"),
    "pixelcnn, original": ("pixelcnn", ["--variant", "original"], "ORIGINAL_CHANNELS"),
    "pixelcnn, rnn": ("pixelcnn", ["--variant", "rnn"], "RNN_CHANNELS"),
    "transformer_ar": ("transformer_ar", [], "CHANNELS"),
    "vae": ("vae", [], "WIDTH"),
    "gan": ("gan", [], "CHANNELS"),
    "gan, wgan-gp": ("gan", ["--loss", "wgan-gp"], "CHANNELS"),
}
CHANGES = {  # name: (flag or "width", factor), or a seed
    "default": None, "seed 1": 1, "seed 2": 2, "lr / 3": ("lr", 1 / 3), "lr * 3": ("lr", 3), "batch / 2": ("batch_size", 1 / 2),
    "batch * 2": ("batch_size", 2), "width / 2": ("width", 1 / 2), "width * 2": ("width", 2),
}


class Done(Exception):
    """Raised where a run would begin to score the test set."""


def settings_of(chapter, flags):
    """The settings of a run with these flags, and nothing else of it."""
    def stop(script, args, settings, *rest):
        raise Done(vars(args))

    with mock.patch.object(utils, "Run", stop):
        try:
            chapter.main(flags)
        except Done as found:
            return found.args[0]


@torch.no_grad()
def score(name, chapter, model, data):
    """The figures of trained weights on validation, as a dict."""
    x = data.x_val[:IMAGES]
    if name == "gan":
        judge = utils.load_judge()
        draws = model.sample(DRAWS, None, torch.Generator().manual_seed(0))
        features, classes = utils.judged(judge, draws)
        shares = torch.bincount(classes, minlength=10) / len(classes)
        return {"score": utils.frechet_distance(features, utils.judged(judge, data.val)[0]), "least_share": shares.min().item()}
    if name == "vae":
        log_px_z, kl = chapter.evaluate(model, x, None)
        return {"score": kl - log_px_z}
    return {"score": chapter.evaluate(model, x, None)}


def plan(model, change):
    """What is run for one row of the table: the row without figures, and the flags."""
    name, flags, width = MODELS[model]
    chapter, kind = importlib.import_module(name), CHANGES[change]
    given = settings_of(chapter, flags)
    typed = {"steps": given["steps"] // 5, "batch_size": given["batch_size"], "lr": given["lr"], "seed": 0, "width": getattr(chapter, width)}
    if isinstance(kind, int):
        typed["seed"] = kind
    elif kind and kind[0] == "width":
        typed["width"] = int(typed["width"] * kind[1])
    elif kind:
        typed[kind[0]] = type(typed[kind[0]])(typed[kind[0]] * kind[1])
    if "--steps" in flags:
        flags = flags[:flags.index("--steps")]
    flags = flags + [word for key, value in typed.items() for word in (f"--{key.replace('_', '-')}", f"{value:g}" if key == "lr" else str(value))]
    return {"model": model, "change": change, "command": f"python {name}.py " + " ".join(flags), "data": "mnist"}, flags


def trained(name, flags, data_dir):
    """Train a chapter without evaluations and without scoring the test set -> (network, seconds), or None if it diverged."""
    chapter, evaluate, broken = importlib.import_module(name), (0.0, 0.0) if name == "vae" else 0.0, []
    check_finite = utils.Run.check_finite

    def note(run, **values):  # so that a loss that is not finite is told from other mistakes
        broken.extend(key for key, value in values.items() if not math.isfinite(value))
        check_finite(run, **values)

    def load_best(run, network):  # in place of scoring and pictures: the weights as they are at the end
        raise Done(network, run.train_seconds)

    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        patches = [(utils.Run, "check_finite", note), (utils.Run, "load_best", load_best), (utils.Run, "record", lambda run, *args, **more: None)]
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        try:
            with contextlib.ExitStack() as quick:  # no evaluation during training
                if hasattr(chapter, "evaluate"):
                    quick.enter_context(mock.patch.object(chapter, "evaluate", lambda *args: evaluate))
                if name == "gan":
                    quick.enter_context(mock.patch.object(chapter, "EVAL_DRAWS", 80))
                chapter.main(flags + ["--device", "cpu", "--data-dir", data_dir, "--out", f"{folder}/run"])
        except SystemExit as stop:
            if not broken:  # Ctrl-C, or a mistake
                raise
        except Done as done:
            return done.args[0].eval(), round(done.args[1], 1)


def measure(model, change, data_dir):
    """Train one row of the table -> its figures as a dict; "score" is None if it diverged."""
    row, flags = plan(model, change)
    name = MODELS[model][0]
    found = trained(name, flags, data_dir)
    if not found:
        return {**row, "score": None}
    return {**row, **score(name, importlib.import_module(name), found[0], utils.load_mnist(data_dir)), "seconds": found[1]}


def kept(row, default):
    """Is a row as near to the default as the chapter promises?"""
    if row["score"] is None or default["score"] is None:
        return False
    if row["model"].startswith("gan"):
        return row["score"] <= 2 * default["score"] and row["least_share"] > 0.02
    return row["score"] <= default["score"] + 3


def table(chapter, rows):
    """The table of a chapter's notes as lines: a column for each of its variants, rows as written by main()."""
    pairs = {"as it is": ["default"], "seed 1, seed 2": ["seed 1", "seed 2"], "lr / 3, lr · 3": ["lr / 3", "lr * 3"],
             "batch / 2, batch · 2": ["batch / 2", "batch * 2"], "width / 2, width · 2": ["width / 2", "width * 2"]}

    def cell(model, changes):
        found, words = {row["change"]: row for row in rows if row["model"] == model}, []
        for row in (found[change] for change in changes):
            share = f" ({100 * row['least_share']:.1f} %)" if "least_share" in row else ""
            words.append("diverged" if row["score"] is None else f"{row['score']:.2f}{share}" + (not kept(row, found["default"])) * "!")
        return ", ".join(words)

    models = [model for model, (name, *_) in MODELS.items() if name == chapter]
    columns = [["", *pairs]] + [[model, *(cell(model, changes) for changes in pairs.values())] for model in models]
    return [" ".join(f"{column[i]:{max(map(len, column)) + 3}}" for column in columns).rstrip() for i in range(len(pairs) + 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), metavar="NAME", default=list(MODELS))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--list", action="store_true", help="print the table of what has been measured, and stop")
    args = parser.parse_args()
    folder = Path("runs/robustness")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)

    def path_of(model):  # a file each: two processes never write the same one
        return folder / f"{model.replace(', ', '_').replace(' ', '_')}.json"

    def read(model):  # rows of other settings do not count
        rows = {row["change"]: row for row in json.loads(path_of(model).read_text())} if path_of(model).exists() else {}
        return {change: row for change, row in rows.items() if plan(model, change)[0].items() <= row.items()}

    if not args.list and utils.load_mnist(args.data_dir).name != "mnist":
        parser.error("this takes the full MNIST: say with --data-dir where it is")
    for model in args.only:
        rows = read(model)
        for change in CHANGES:
            if change not in rows and not args.list:
                rows[change] = {**measure(model, change, args.data_dir), "threads": args.threads}
                text = json.dumps([rows[c] for c in CHANGES if c in rows], indent=1) + "\n"
                utils.write_atomically(path_of(model), text.encode())
            if change in rows and "default" in rows:
                row = rows[change]
                print(f"{model:20} {change:12} {'diverged' if row['score'] is None else format(row['score'], '8.2f')}"
                      f"{'' if kept(row, rows['default']) else '   OUTSIDE'}", flush=True)
    for chapter in dict.fromkeys(name for name, *_ in MODELS.values()):
        found = [read(model) for model, (name, *_) in MODELS.items() if name == chapter]
        if all(len(rows) == len(CHANGES) for rows in found):
            print("", *table(chapter, [row for rows in found for row in rows.values()]), sep="\n#     ")


if __name__ == "__main__":
    main()
