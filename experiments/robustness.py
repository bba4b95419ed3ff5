"""How robust is each chapter to its hyperparameters? One changed at a time, in runs of a fifth of
the default's steps.

    python experiments/robustness.py [--only NAME ...] [--threads N] [--data-dir data] [--list]

For each chapter and variant (ABOUT["variants"], or those of them that ABOUT["robust"] names):
learning rate a third and three times, batch half and double, width half and double, and three
seeds, each at a fifth of the default's steps, with all else as it is; against the default at as
many. Writes runs/robustness/<model>.json, a row a run: nats on the first 1,000 validation images
(a bound: −ELBO; without a likelihood: Fréchet distance of 5,000 draws to the validation digits, and
the smallest share of a digit), seconds of training. Rows that are there, of the same command and
data, are not run again, so it can be stopped and gone on with; and two of these, for different
models, may share a machine (with --threads 1: networks as small as these gain little by a second).
Promised: within 3 nats of the default (Fréchet distance: within a factor of 2, and no digit below
2 % of what is drawn); rows that are not are marked. At the end: the table of each chapter that is
complete, as it stands under "What was measured" (--list: that alone). They are committed as
results/robustness/. A script to run, not a test: it takes three hours, on one thread. Validation
only: no test figure is read here.
"""
import json
from pathlib import Path

import torch
from fit import Diverged, command_line, fit, mnist, score, values

import settings
import utils

CHAPTERS = settings.chapters()
MODELS = {  # name: (chapter, flags)
    model: (name, flags) for name, chapter in CHAPTERS.items()
    for model, flags in chapter.ABOUT["variants"].items()
    if model in chapter.ABOUT.get("robust", chapter.ABOUT["variants"])}
CHANGES = {  # name: (setting, factor), or a seed
    "default": None, "seed 1": 1, "seed 2": 2, "lr / 3": ("lr", 1 / 3), "lr * 3": ("lr", 3),
    "batch / 2": ("batch_size", 1 / 2), "batch * 2": ("batch_size", 2),
    "width / 2": ("width", 1 / 2), "width * 2": ("width", 2),
}


def plan(model, change):
    """What is run for one row of the table: the row without figures, and the flags."""
    name, flags = MODELS[model]
    given, what = values(CHAPTERS[name], flags), CHANGES[change]
    typed = {"steps": given.steps // 5, "batch_size": given.batch_size, "lr": given.lr, "seed": 0,
             "width": given.width}
    if isinstance(what, int):
        typed["seed"] = what
    elif what:
        typed[what[0]] = type(typed[what[0]])(typed[what[0]] * what[1])
    words = flags.split("--steps")[0].split()  # which is the last of the flags, if it is there
    for key, value in typed.items():
        words += [settings.flag(key), f"{value:g}" if key == "lr" else str(value)]
    command = f"python {name}.py " + " ".join(words)
    return {"model": model, "change": change, "command": command, "data": "mnist"}, words


def measure(model, change, data):
    """Train one row of the table -> its figures as a dict; "score" is None if it diverged."""
    row, words = plan(model, change)
    chapter = CHAPTERS[MODELS[model][0]]
    try:
        network, seconds, _ = fit(chapter, values(chapter, words), data)
    except Diverged:
        return {**row, "score": None}
    return {**row, **score(chapter, network, data), "seconds": round(seconds, 1)}


def kept(row, default):
    """Is a row as near to the default as the chapter promises?"""
    if row["score"] is None or default["score"] is None:
        return False
    if "least_share" in row:
        return row["score"] <= 2 * default["score"] and row["least_share"] > 0.02
    return row["score"] <= default["score"] + 3


def table(chapter, rows):
    """The table of a chapter as lines: a column for each of its variants, rows as by main()."""
    pairs = {"as it is": ["default"], "seed 1, seed 2": ["seed 1", "seed 2"],
             "lr / 3, lr · 3": ["lr / 3", "lr * 3"],
             "batch / 2, batch · 2": ["batch / 2", "batch * 2"],
             "width / 2, width · 2": ["width / 2", "width * 2"]}

    def cell(model, changes):
        measured, words = {row["change"]: row for row in rows if row["model"] == model}, []
        for row in (measured[change] for change in changes):
            share = f" ({100 * row['least_share']:.1f} %)" if "least_share" in row else ""
            outside = "!" * (not kept(row, measured["default"]))
            words.append("diverged" if row["score"] is None else
                         f"{row['score']:.2f}{share}{outside}")
        return ", ".join(words)

    models = [model for model, (name, _) in MODELS.items() if name == chapter]
    columns = [["", *pairs]]
    columns += [[model, *(cell(model, changes) for changes in pairs.values())] for model in models]
    return [" ".join(f"{column[i]:{max(map(len, column)) + 3}}" for column in columns).rstrip()
            for i in range(len(pairs) + 1)]


def main():
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), metavar="NAME",
                        default=list(MODELS))
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--list", action="store_true",
                        help="print the table of what has been measured, and stop")
    args = parser.parse_args()
    folder = Path("runs/robustness")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    data = None if args.list else mnist(parser, args.data_dir)

    def path_of(model):  # a file each: two processes never write the same one
        return folder / f"{model.replace(', ', '_').replace(' ', '_')}.json"

    def read(model):  # rows of other settings do not count
        path = path_of(model)
        rows = json.loads(path.read_text()) if path.exists() else []
        return {row["change"]: row for row in rows
                if plan(model, row["change"])[0].items() <= row.items()}

    for model in args.only:
        rows = read(model)
        for change in CHANGES:
            if change not in rows and not args.list:
                rows[change] = {**measure(model, change, data), "threads": args.threads}
                text = json.dumps([rows[c] for c in CHANGES if c in rows], indent=1) + "\n"
                utils.write_atomically(path_of(model), text.encode())
            if change in rows and "default" in rows:
                row = rows[change]
                figure = "diverged" if row["score"] is None else format(row["score"], "8.2f")
                outside = "" if kept(row, rows["default"]) else "   OUTSIDE"
                print(f"{model:20} {change:12} {figure}{outside}", flush=True)
    for chapter in CHAPTERS:
        measured = [read(model) for model, (name, _) in MODELS.items() if name == chapter]
        if all(len(rows) == len(CHANGES) for rows in measured):
            print("", *table(chapter, [row for rows in measured for row in rows.values()]),
                  sep="\n#     ")


if __name__ == "__main__":
    main()
