"""Which width, which depth, how many mask sets for a run of an afternoon? Each candidate at two
lengths, and what the slope says.

    python experiments/afternoon.py [--only CHAPTER ...] [--threads N] [--data-dir data] [--plot]

A run whose learning rate falls to 0 cannot be read in its middle: it looks worse there than a run
that ends there. So a curve of validation nats per minute takes whole runs, here a short one and one
of three times its length, for each size. The smaller network wins the short ones; what counts for a
long run is which line is lower further to the right, and falls faster. Writes
runs/afternoon/<chapter>.json, a row a run (nats on the first 1,000 validation images and on as many
training images; vae.py: −ELBO; gan.py: Fréchet distance of 5,000 draws to the validation digits),
and <chapter>.png. Rows that are there are not run again: after a change of a default, delete the
file. --plot: the pictures only. They are committed as results/afternoon/, from --threads 1, two
such processes at a time; there are also rows of dropout, which lost and is gone from the chapters.
Validation only: no test figure is read here.

The candidates below are a laboratory's notebook, and need no line for a new chapter.
"""
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fit import IMAGES, Diverged, command_line, fit, has_nats, mnist, nats, score, values

import pictures
import settings
import utils

# chapter: {name: (flags, steps of the short run)}; the long one has three times as many
CANDIDATES = {
    "made": {
        "1024, one mask set": ("", 2400),
        "1024, 4 mask sets": ("--num-masks 4", 2400),
        "2048, one mask set": ("--width 2048", 800),
        "1024, batch 256": ("--batch-size 256", 1200),
        "1024, batch 256, lr 0.005": ("--batch-size 256 --lr 5e-3", 1200),
        "1024, batch 256, lr 0.005, 2 mask sets": (
            "--batch-size 256 --lr 5e-3 --num-masks 2", 1200)},
    "transformer_ar": {
        "64 channels, 3 layers": ("", 1200),
        "96 channels, 4 layers": ("--width 96 --depth 4", 550),
        "128 channels, 4 layers": ("--width 128 --depth 4", 360)},
    "vae": {
        "400 units": ("", 1800),
        "800 units": ("--width 800", 650)},
    "gan": {
        "16 channels": ("", 2600),
        "16 channels, batch 64": ("--batch-size 64", 1400),
        "32 channels": ("--width 32", 1100),
        "32 channels, batch 64": ("--width 32 --batch-size 64", 600)},
}


def plot(path, rows):
    """A picture: what whole runs of each candidate reached, against their minutes; and, if there
    are nats, how much of it was learned by heart."""
    rows = [row for row in rows if row["score"] is not None]
    has_nats = any("train_score" in row for row in rows)
    what = "validation nats" if has_nats else "Fréchet distance to validation digits"
    figure, axes = plt.subplots(1, 1 + has_nats, figsize=(9 if has_nats else 5, 3.4), squeeze=False)
    for ax, gap in zip(axes[0], (False, True)):
        for name in dict.fromkeys(row["candidate"] for row in rows):
            runs = sorted((row for row in rows if row["candidate"] == name),
                          key=lambda row: row["seconds"])
            ax.plot([row["seconds"] / 60 for row in runs],
                    [row["score"] - row["train_score"] if gap else row["score"] for row in runs],
                    ".-", label=name)
        ax.set(xscale="log", xlabel="minutes of training of a whole run",
               ylabel="validation − training (nats)" if gap else what)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
        ax.grid(alpha=0.3, which="both")
    # Above: it must not hide a line.
    axes[0][0].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.01), ncol=4)
    pictures.save_figure(path, figure)


def measure(chapter, flags, data):
    """One run -> its figures as a dict; "score" is None if it diverged."""
    try:
        model, seconds, _ = fit(chapter, values(chapter, flags), data)
    except Diverged:
        return {"score": None}
    row = {"seconds": round(seconds, 1), "parameters": sum(p.numel() for p in model.parameters()),
           **score(chapter, model, data)}
    if has_nats(chapter, model):  # what is better on training images has been learned by heart
        row["train_score"] = nats(chapter, model, data.x_train[:IMAGES])
    return row


def main():
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), metavar="CHAPTER",
                        default=list(CANDIDATES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--plot", action="store_true",
                        help="plot what has been measured, and stop")
    args = parser.parse_args()
    folder, chapters = Path("runs/afternoon"), settings.chapters()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    data = None if args.plot else mnist(parser, args.data_dir)
    for name in args.only:
        path = folder / f"{name}.json"  # a file each: two processes never write the same one
        rows = json.loads(path.read_text()) if path.exists() else []
        for candidate, (flags, short) in CANDIDATES[name].items():
            for steps in (short, 3 * short):
                typed = f"{flags} --steps {steps}".strip()
                command = f"python {name}.py {typed}"
                if args.plot or any(row["command"] == command for row in rows):
                    continue
                rows.append({"chapter": name, "candidate": candidate, "command": command,
                             "threads": args.threads, **measure(chapters[name], typed, data)})
                utils.write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
                print(command, {key: value for key, value in rows[-1].items()
                                if "score" in key or key == "seconds"}, flush=True)
        if rows:
            plot(folder / f"{name}.png", rows)


if __name__ == "__main__":
    main()
