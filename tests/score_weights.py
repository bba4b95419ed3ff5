"""Do the weights that ship (samples/*/weights.pt, half precision) reach the nats of their runs?

    python tests/score_weights.py [--data-dir data] [--runs runs] [--json OUT.json]

Scores the full test set with each, as the run itself did, and prints both figures. A VAE ships its decoder alone: with --runs, a folder that has
the run's checkpoint.pt, its encoder is taken from there, and the ELBO is compared. A GAN has no nats: its Fréchet distance is.
Exit code 1 if a figure moves by more than 0.01. Not a part of pytest: it needs the full MNIST and some minutes.
"""
import argparse
import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import utils  # noqa: E402


def model_of(module, folder):
    """The model with the weights.pt of a folder, and nothing else of it, as --sample-only makes it."""
    seen = []
    draw, utils.Run.draw = utils.Run.draw, lambda self, model, own=(): seen.append(model)
    try:
        with tempfile.TemporaryDirectory() as alone:
            shutil.copy(folder / "weights.pt", alone)
            module.main(["--sample-only", "--out", alone, "--device", "cpu"])
    finally:
        utils.Run.draw = draw
    return seen[0]


@torch.no_grad()
def score(module, model, data, metrics, encoder):
    """(what it is, the run's figure, the figure with these weights); None if it cannot be had."""
    labels = data.test_labels if model.conditional else None
    if metrics["model"] == "gan":
        y = module.data_labels(data, module.TEST_DRAWS) if model.conditional else None
        draws = model.sample(module.TEST_DRAWS, y, torch.Generator().manual_seed(0))
        return "Fréchet distance", metrics["test_frechet"], module.measure(utils.load_judge(), draws, (data.test, data.x_test))["frechet"]
    if metrics["model"] == "vae":
        if encoder is None:
            return None
        model.load_state_dict(encoder, strict=False)
        log_px_z, kl = module.evaluate(model, data.x_test, labels)
        return "−ELBO", metrics["elbo_nats"], kl - log_px_z
    return "nats", metrics["test_nats"], module.evaluate(model, data.x_test, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    data, found = utils.load_mnist(args.data_dir), {}
    if data.name != "mnist":
        parser.error("this takes the full MNIST: say with --data-dir where it is")
    for path in sorted((ROOT / "samples").glob("*/weights.pt")):
        metrics, name = json.loads((path.parent / "metrics.json").read_text()), path.parent.name
        whole, encoder = Path(args.runs) / name / "checkpoint.pt", None
        if whole.exists():
            encoder = {k: v for k, v in torch.load(whole, weights_only=True)["best"]["weights"].items() if k.startswith("encoder.")}
        module = importlib.import_module(metrics["model"])
        got = score(module, model_of(module, path.parent), data, metrics, encoder)
        if not got:
            print(f"{name:28} not scored: no {whole}")
        else:
            found[name] = dict(zip(("what", "run", "shipped"), got))
            print(f"{name:28} {got[0]:16} {got[1]:8.4f} in full, {got[2]:8.4f} shipped; {path.stat().st_size / 1e6:.2f} MB", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(abs(f["run"] - f["shipped"]) > 0.01 for f in found.values()))


if __name__ == "__main__":
    main()
