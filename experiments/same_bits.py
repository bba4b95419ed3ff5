"""Do two checkouts give the same runs, bit for bit?

    python experiments/same_bits.py OTHER_CHECKOUT [--only NAME ...] [--jobs 1]

For whoever tidies up: nothing may change. Each chapter and variant, plain and --conditional, is
trained for a few steps at its full size, in this checkout and in the other one, on the small set
that ships along; then what is left of both runs is compared: weights, optimizer, random state,
curve, pictures, figures, draws, and each PNG and GIF but loss.png, which has a clock in it. What is
called otherwise there (a setting, a run's folder) does not count, nor does the time it took. Exit
code 1 if anything differs. One thread: with more, sums may be added up in another order. It takes
half an hour, most of it for pictures.
"""
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from fit import ROOT, command_line

import settings

LENGTH = ["--steps", "12", "--batch-size", "8"]
NOT_BITS = {"train_seconds", "eval_seconds", "sample_seconds_64",  # clocks
            "command", "settings", "variant", "versions"}  # what was asked for, and of whom


def configurations():
    """{name: the words of a command}."""
    return {name + label: [f"{chapter}.py", *flags.split(), *conditional, *LENGTH]
            for chapter, module in settings.chapters().items()
            for name, flags in module.ABOUT["variants"].items()
            for label, conditional in (("", []), (", conditional", ["--conditional"]))}


def run(checkout, words, folder):
    """Run a script of a checkout, without a network -> what it said if it failed, else None."""
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    process = subprocess.run(
        [sys.executable, str(checkout / words[0]), *words[1:], "--num-samples", "20", "--data-dir",
         str(folder / "nothing"), "--out", str(folder / "run")], capture_output=True, text=True,
        env={**os.environ, **nowhere, "OMP_NUM_THREADS": "1"}, cwd=folder)
    return process.stderr[-300:] or "failed" if process.returncode else None


def result(folder):
    """All that training decides, without clocks and words: a dict."""
    kept = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
    figures = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    curve = [{k: v for k, v in row.items() if k != "seconds"} for row in kept["curve"]]
    if "speed" in figures:  # of diffusion.py: rows of guesses, seconds, distance
        figures["speed"] = {name: [row[::2] for row in rows]
                            for name, rows in figures["speed"].items()}
    return {**{k: kept[k] for k in ("step", "parts", "best", "pictures", "rng")}, "curve": curve,
            "figures": {k: v for k, v in figures.items() if k not in NOT_BITS | {"curve"}}}


def differences(a, b, place=""):
    """Where two nested structures of dicts, lists, tensors and numbers differ: a list of places."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        same = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype \
            and a.shape == b.shape and bool(((a == b) | (a != a) & (b != b)).all())
        return [] if same else [place]
    if isinstance(a, dict) and isinstance(b, dict):
        return [f"{place}/{k}, which one of them has" for k in a.keys() ^ b.keys()] + [
            p for k in a.keys() & b.keys() for p in differences(a[k], b[k], f"{place}/{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return [f"{place}: {len(a)} or {len(b)} of them"] * (len(a) != len(b)) + [
            p for i, (x, y) in enumerate(zip(a, b)) for p in differences(x, y, f"{place}/{i}")]
    return [] if a == b or (a != a and b != b) else [f"{place}: {a} or {b}"]


def files(folder):
    """The pictures and arrays of a run, {name: bytes}."""
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.suffix in (".png", ".gif", ".npy") and path.name != "loss.png"}


def compare(checkouts, words):
    """Run one configuration in both -> where they differ: a list of places."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        folders = Path(one), Path(two)
        failed = [run(checkout, words, folder) for checkout, folder in zip(checkouts, folders)]
        if any(failed):
            return [f"{checkout}: {why}" for checkout, why in zip(checkouts, failed) if why]
        runs = [folder / "run" for folder in folders]
        a, b = map(files, runs)
        other = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
        return differences(*map(result, runs)) + other


def main():
    commands, parser = configurations(), command_line(__doc__)
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--only", nargs="+", choices=list(commands), metavar="NAME",
                        default=list(commands))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    args = parser.parse_args()
    if not (args.other / "utils.py").is_file():
        parser.error(f"{args.other} is not a checkout of this collection")
    checkouts, failed = (ROOT, args.other.resolve()), False
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {name: pool.submit(compare, checkouts, commands[name]) for name in args.only}
        for name, job in jobs.items():
            places = job.result()
            failed |= bool(places)
            print(f"{name:36} {'the same' if not places else places[:12]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
