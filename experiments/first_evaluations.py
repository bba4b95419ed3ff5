"""Does today's code begin each published run as that run began?

    python experiments/first_evaluations.py [--only NAME ...] [--data-dir data] [--json OUT.json]

Each run in samples/ is started once more, by the command in its metrics.json, and stopped (as by
Ctrl-C) when it has printed two evaluations; these are compared with the first two rows of the
published curve. On another machine, or with other threads, sums are added up in another order, and
training makes more of that with each step: so the largest relative difference is told, and 1 in a
thousand is a sign that the code has changed what it computes. Exit code 1 if one is larger.
results/first_evaluations.json is such a file. A script to run, not a test: it needs the full MNIST
and a quarter of an hour.
"""
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from fit import ROOT, command_line, mnist

import utils

ROWS = 2
KINDS = ("train_nats", "val_nats", "val_grey_nats", "val_frechet")


def begun(command, data_dir, folder):
    """The first rows of the curve of a run that is started by this command, as a list of dicts."""
    words = shlex.split(command)[1:]
    if "--out" in words:
        del words[words.index("--out"):words.index("--out") + 2]
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / words[0]), *words[1:], "--data-dir", data_dir, "--out",
         str(folder / "run")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen, said = 0, []
    for line in process.stdout:
        said.append(line)
        seen += line.startswith("step ")
        if seen == ROWS:
            process.send_signal(signal.SIGINT)
            break
    process.communicate()
    if seen < ROWS:
        raise SystemExit(f"{command} ended before its evaluations:\n{''.join(said[-9:])}")
    return torch.load(folder / "run" / "checkpoint.pt", weights_only=True)["curve"][:ROWS]


def differences(rows, published):
    """The largest relative difference of two lists of rows, and where it is."""
    return max((abs(a[key] - b[key]) / abs(b[key]), f"{key} at step {b['step']}")
               for a, b in zip(rows, published, strict=True)
               for key in KINDS if b.get(key) is not None)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    mnist(parser, args.data_dir)
    runs = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((ROOT / "samples").glob("*/metrics.json"))}
    rows = json.loads(Path(args.json).read_text(encoding="utf-8")) \
        if args.json and Path(args.json).exists() else {}
    for name in args.only or runs:
        if name not in runs:
            parser.error(f"samples/ has no run {name}: choose from {', '.join(runs)}.")
        with tempfile.TemporaryDirectory() as folder:
            curve = begun(runs[name]["command"], str(Path(args.data_dir).resolve()), Path(folder))
        largest, where = differences(curve, runs[name]["curve"][:ROWS])
        rows[name] = {"steps": [row["step"] for row in curve], "largest": largest, "where": where}
        print(f"{name:28} {largest:.1e} ({where})", flush=True)
        if args.json:
            utils.write_atomically(args.json, (json.dumps(rows, indent=1) + "\n").encode())
    sys.exit(any(row["largest"] > 1e-3 for row in rows.values()))


if __name__ == "__main__":
    main()
