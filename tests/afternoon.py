"""Which width, which depth, how many mask sets for a run of an afternoon? Each candidate at two lengths, and what the slope says.

    python tests/afternoon.py [--only CHAPTER ...] [--threads N] [--data-dir data] [--draw]

A run whose learning rate falls to 0 cannot be read in its middle: it looks worse there than a run that ends there. So a curve of validation
nats per minute takes whole runs, here a short one and one of three times its length, for each size. The smaller network wins the short
ones; what counts for a long run is which line is lower further to the right, and falls faster. Writes runs/afternoon/<chapter>.json, a row a run
(nats on the first 1,000 validation images and on as many training images; vae.py: −ELBO; gan.py: Fréchet distance of 5,000 draws to the
validation digits), and <chapter>.png. Rows that are there are not run again: after a change of a default, delete the file. --draw: the pictures
only. They are committed as samples/afternoon/, from --threads 1, two such processes at a time. Validation only: no test figure is read here.
"""
import argparse
import importlib
import json
from pathlib import Path

import matplotlib.pyplot as plt
import robustness
import torch
import utils

CANDIDATES = {  # chapter: {name: (flags, steps of the short run)}; the long one has three times as many
    "made": {
        "1024, one mask set": ([], 2400), "1024, 4 mask sets": (["--num-masks", "4"], 2400),
        "2048, one mask set": (["--width", "2048"], 800),
        "1024, dropout 0.2": (["--dropout", "0.2"], 2400),
        "1024, batch 256": (["--batch-size", "256"], 1200),
        "1024, batch 256, lr 0.005": (["--batch-size", "256", "--lr", "5e-3"], 1200),
        "1024, batch 256, lr 0.005, 2 mask sets": (["--batch-size", "256", "--lr", "5e-3", "--num-masks", "2"], 1200)},
    "wavenet": {"24 channels": ([], 900), "40 channels": (["--width", "40"], 500)},
    "pixelcnn": {"16 channels": ([], 1200), "24 channels": (["--width", "24"], 800), "24 channels, 12 layers": (["--width", "24", "--depth", "12"], 550)},
    "transformer_ar": {
        "64 channels, 3 layers": ([], 1200), "96 channels, 4 layers": (["--width", "96", "--depth", "4"], 550),
        "128 channels, 4 layers": (["--width", "128", "--depth", "4"], 360)},
    "vae": {"400 units": ([], 1800), "800 units": (["--width", "800"], 650), "800 units, dropout 0.1": (["--width", "800", "--dropout", "0.1"], 650)},
    "gan": {"16 channels": ([], 2600), "16 channels, batch 64": (["--batch-size", "64"], 1400), "32 channels": (["--width", "32"], 1100),
            "32 channels, batch 64": (["--width", "32", "--batch-size", "64"], 600)},
}


def draw(path, chapter, rows):
    """A picture: what whole runs of each candidate reached, against their minutes."""
    figure, axes = plt.subplots(1, 2 if chapter != "gan" else 1, figsize=(9 if chapter != "gan" else 5, 3.4), squeeze=False)
    for ax, key in zip(axes[0], ("score", "gap")):
        for name in CANDIDATES[chapter]:
            some = sorted((row for row in rows if row["candidate"] == name and row["score"] is not None), key=lambda row: row["seconds"])
            ax.plot([row["seconds"] / 60 for row in some], [row["score"] - row["train_score"] if key == "gap" else row[key] for row in some], ".-", label=name)
        ax.set(xscale="log", xlabel="minutes of training of a whole run", ylabel="validation − training (nats)" if key == "gap" else
               "Fréchet distance to validation digits" if chapter == "gan" else "validation nats" + " (−ELBO)" * (chapter == "vae"))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
        ax.grid(alpha=0.3, which="both")
    axes[0][0].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.01), ncol=4)  # above: it must not hide a line
    utils.save_figure(path, figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), metavar="CHAPTER", default=list(CANDIDATES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--draw", action="store_true", help="draw what has been measured, and stop")
    args = parser.parse_args()
    folder = Path("runs/afternoon")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    if not args.draw and utils.load_mnist(args.data_dir).name != "mnist":
        parser.error("this takes the full MNIST: say with --data-dir where it is")
    for name in args.only:
        path = folder / f"{name}.json"  # a file each: two processes never write the same one
        rows = json.loads(path.read_text()) if path.exists() else []
        for candidate, (flags, short) in CANDIDATES[name].items():
            for steps in (short, 3 * short):
                typed = [*flags, "--steps", str(steps)]
                command = " ".join(["python", f"{name}.py", *typed])
                if args.draw or any(row["command"] == command for row in rows):
                    continue
                found = robustness.trained(name, typed, args.data_dir)
                row = {"chapter": name, "candidate": candidate, "command": command, "threads": args.threads, "score": None}
                if found:  # it did not diverge
                    data = utils.load_mnist(args.data_dir)
                    row |= {"seconds": found[1], "parameters": sum(p.numel() for p in found[0].parameters())}
                    row |= robustness.score(name, importlib.import_module(name), found[0], data)
                    if name != "gan":  # the same on training images: what is better there has been learned by heart
                        data.x_val = data.x_train
                        row["train_score"] = robustness.score(name, importlib.import_module(name), found[0], data)["score"]
                rows.append(row)
                utils.write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
                print(command, {key: value for key, value in row.items() if "score" in key or key == "seconds"}, flush=True)
        if rows:
            draw(folder / f"{name}.png", name, rows)


if __name__ == "__main__":
    main()
