"""Do the weights that ship (samples/*/weights.pt, half precision) reach the nats of their runs?

    python experiments/score_weights.py [--data-dir data] [--runs runs] [--only …] [--json OUT]

Scores the full test set with each, as the run itself did, and prints both figures;
results/weights.json is such a file. Of a weights.pt without parts that drawing does not need (today
all have them) these are taken from the run's checkpoint.pt, in a folder of that name in --runs.
What has no nats has a Fréchet distance. --only: these runs; what OUT says of others stays. Exit
code 1 if a figure moves by more than 0.01 nats, or by 2 % of a distance. Not a part of pytest: it
needs the full MNIST and some minutes.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from fit import ROOT, command_line, mnist, nats, the_one_that_draws, told

import judge
import settings
import utils
from runner import Run


def model_of(chapter, folder):
    """The model with the weights.pt of a folder, as --sample-only makes it, and the names of those
    that do not ship."""
    with tempfile.TemporaryDirectory() as alone:
        shutil.copy(folder / "weights.pt", alone)
        run = Run(chapter.__file__, "", chapter.SETTINGS, chapter.VARIANTS,
                  ["--sample-only", "--out", alone, "--device", "cpu"])
        model = run.load_best(the_one_that_draws(run.build(chapter.build)))
        return model, tuple(run.checkpoint["left_out"])


@torch.no_grad()
def score(chapter, model, data, metrics):
    """(what it is, the run's figure, the figure with these weights)."""
    data = told(data, model.classes)
    if metrics["likelihood"] == "none":
        labels = chapter.data_labels(data, metrics["test_draws"])
        n, generator = metrics["test_draws"], torch.Generator().manual_seed(0)
        if hasattr(chapter, "sample_many"):
            draws = chapter.sample_many(model, n, labels)
        else:
            draws = model.sample(n, labels, generator)
        distance = judge.scores(judge.load_judge("cpu"), draws, data.test)["frechet"]
        return "Fréchet distance", metrics["test_frechet"], distance
    if metrics["likelihood"] == "estimate":  # of log Z, as carefully as the run made it
        chapter.estimate_z(model, SimpleNamespace(**metrics["settings"]))
        return "nats", metrics["test_nats"], chapter.evaluate(model, data.x_test, data.y_test)
    what, key = ("−ELBO", "elbo_nats") if "elbo_nats" in metrics else ("nats", "test_nats")
    return what, metrics[key], nats(chapter, model, data.x_test, data.y_test)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    args = parser.parse_args()
    shipped = {path.parent.name for path in (ROOT / "samples").glob("*/weights.pt")}
    if unknown := set(args.only or ()) - shipped:
        parser.error(f"samples/ has no weights of {', '.join(sorted(unknown))}: choose from "
                     f"{', '.join(sorted(shipped))}.")
    data, rows = mnist(parser, args.data_dir), {}
    if args.only and args.json and Path(args.json).exists():
        rows = json.loads(Path(args.json).read_text())
    for path in sorted((ROOT / "samples").glob("*/weights.pt")):
        if args.only and path.parent.name not in args.only:
            continue
        metrics, name = json.loads((path.parent / "metrics.json").read_text()), path.parent.name
        chapter = settings.chapters()[metrics["model"]]
        model, left_out = model_of(chapter, path.parent)
        if left_out:  # not needed to draw, but to score
            whole = Path(args.runs) / name / "checkpoint.pt"
            if not whole.exists():
                print(f"{name:28} not scored: no {whole}")
                continue
            weights = torch.load(whole, weights_only=True)["best"]["weights"]
            model.load_state_dict({k: v for k, v in weights.items() if k.startswith(left_out)},
                                  strict=False)
        row = rows[name] = dict(zip(("what", "run", "shipped"),
                                    score(chapter, model, data, metrics)))
        print(f"{name:28} {row['what']:16} {row['run']:8.4f} in full, "
              f"{row['shipped']:8.4f} shipped; {path.stat().st_size / 1e6:.2f} MB", flush=True)
    if args.json:
        text = json.dumps(dict(sorted(rows.items())), indent=1) + "\n"
        utils.write_atomically(args.json, text.encode())
    sys.exit(any(abs(row["run"] - row["shipped"]) > (
        0.01 if row["what"] != "Fréchet distance" else 0.02 * row["run"]) for row in rows.values()))


if __name__ == "__main__":
    main()
