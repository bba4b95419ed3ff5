"""Kill each chapter's training twenty times, resume it each time, and compare its end with a run
that nobody disturbed.

    python experiments/kill_and_resume.py [RUN …] [--kills 20] [--json OUT.json]

Runs whose training takes about twenty seconds, on the small set, at each chapter's default size;
what is drawn and scored meanwhile and at the end is little (LITTLE), since nobody is killed there.
A checkpoint is due each half second, not each minute. SIGKILL cannot be caught: the process is gone
in the middle of whatever it did. The moments are random (seed 0), up to 1.6 seconds after training
has begun or gone on; each other one after the process has written a checkpoint of its own, or a
run whose evaluations take longer would never get further than the first of them; and each fourth
comes while a checkpoint is being written. "resumed_at": the steps at which it went on. After
each one the checkpoint has to be whole; after the last one the run goes on to its end, and there
weights, optimizer, random state, curve, pictures and figures have to be those of the other run, bit
for bit. Not a part of pytest, since it takes half an hour. results/kills.json is such a
file. Exit code 1 if anything differs, or if fewer kills took place than were asked for.
"""
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from fit import ROOT, command_line, fit, values
from same_bits import differences, result

import settings
import utils

CHAPTERS = settings.chapters()
LITTLE = {"eval_draws": 80, "test_draws": 100, "noise_draws": 2, "z_steps": 100}
RUNS = {name: (name, []) for name in CHAPTERS} | {
    f"{name}_{flags.split()[-1]}": (name, flags.split()) for name, chapter in CHAPTERS.items()
    for flags in chapter.ABOUT.get("killed", [])}
# As `python made.py …` would, but without asking the network for the full set.
START = "import sys, importlib; sys.path.insert(0, {root!r}); import runner, utils; " \
        "utils.download_mnist = lambda data_dir: 'not asked'; runner.SAVE_EVERY = 0.5; " \
        "utils.start(importlib.import_module({name!r}).main)"


def steps_of(run, data, seconds=20):
    """How many steps of a run take that long here."""
    tried, (name, flags) = 30, RUNS[run]
    s = values(CHAPTERS[name], " ".join([f"--steps {tried}", *flags]))
    _, took, _ = fit(CHAPTERS[name], s, data)
    return max(100, round(tried * seconds / took / 20) * 20)


def start(name, folder, *flags):
    code = START.format(root=str(ROOT), name=name)
    return subprocess.Popen(
        [sys.executable, "-c", code, *flags, "--data-dir", str(folder / "nothing"), "--out",
         str(folder / "run")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    out, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"a run that nobody killed ended with {process.returncode}:\n{out}")


def kill(process, chance, folder, further, while_writing):
    """SIGKILL at a random moment of training; further: not before a new checkpoint is there.
    -> "writing", "training", or "finished" if it came too late."""
    run, deadline = folder / "run", time.monotonic() + 60
    part = run / "checkpoint.pt.part"
    part.unlink(missing_ok=True)  # what an earlier kill has left
    began = "resuming" if (run / "checkpoint.pt").exists() else None
    if began:
        while process.poll() is None and began not in process.stdout.readline():
            pass
    while not (run / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    old = (run / "checkpoint.pt").stat().st_mtime_ns if began else 0
    while further and process.poll() is None and time.monotonic() < deadline \
            and (run / "checkpoint.pt").stat().st_mtime_ns == old:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 1.6))
    while while_writing and process.poll() is None and not part.exists() \
            and time.monotonic() < deadline:
        pass
    if process.poll() is not None:
        finish(process)  # at its end, and not broken
        return "finished"
    process.kill()
    process.communicate()
    return "writing" if part.exists() else "training"


def check(run, steps, kills, chance):
    """-> a dict of counts; "same": did the run that was killed end like the one that was not?"""
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as parts:
        whole, parts, (name, flags) = Path(whole), Path(parts), RUNS[run]
        flags = [*flags, "--steps", str(steps)]
        usual = values(CHAPTERS[name], flags)
        for key in sorted(set(LITTLE) & set(CHAPTERS[name].SETTINGS)):
            only = CHAPTERS[name].SETTINGS[key].only
            if not only or getattr(usual, only[0]) in only[1:]:
                flags += [f"--{key.replace('_', '-')}", str(LITTLE[key])]
        before = time.perf_counter()
        finish(start(name, whole, *flags))
        seconds, moments, broken, at = time.perf_counter() - before, [], 0, []
        for k in range(kills):
            process = start(name, parts, *(["--resume"] if k else flags))
            moments.append(kill(process, chance, parts, k % 2 == 1, k % 4 == 3))
            if moments[-1] == "finished":
                break
            try:
                kept = torch.load(parts / "run" / "checkpoint.pt", weights_only=True)
                at.append(kept["step"])
            except Exception as error:  # whatever it is, it is what must not happen
                broken += 1
                at.append(None)
                print(f"{run}: kill {k + 1}: {type(error).__name__}: {error}")
        if not (parts / "run" / "metrics.json").exists():
            finish(start(name, parts, "--resume"))
        places = differences(result(whole / "run"), result(parts / "run"))
        print(*places[:10], sep="\n", end="\n" * bool(places))
        return {"kills": len(moments) - moments.count("finished"),
                "while_writing": moments.count("writing"), "broken": broken, "same": not places,
                "steps": steps, "resumed_at": at, "seconds_whole": round(seconds, 1)}


def main():
    parser = command_line(__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"default: {', '.join(RUNS)}")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", metavar="OUT.json", help="also write the counts there")
    args = parser.parse_args()
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"no such run: {', '.join(unknown)}; choose from {', '.join(RUNS)}")
    utils.download_mnist = lambda data_dir: "not asked"
    with tempfile.TemporaryDirectory() as nothing:
        data = utils.load_mnist(nothing)
    chance, counts = random.Random(0), {}
    if args.json and Path(args.json).exists():  # what is not asked for stays
        counts = json.loads(Path(args.json).read_text(encoding="utf-8"))
    for name in args.runs or RUNS:
        steps = steps_of(name, data)
        row = check(name, steps, args.kills, chance)
        while row["kills"] < args.kills and row["same"]:  # it was at its end before the last kill
            steps *= 2
            row = check(name, steps, args.kills, chance)
        counts[name] = row
        print(f"{name:16} {row['kills']:3} kills, {row['while_writing']} of them while a "
              f"checkpoint was written; {row['broken']} broken checkpoints; the end is "
              f"{'the same, bit for bit' if row['same'] else 'ANOTHER'}", flush=True)
        if args.json:
            utils.write_atomically(args.json, (json.dumps(counts, indent=1) + "\n").encode())
    sys.exit(any(row["broken"] or not row["same"] or row["kills"] < args.kills
                 or not row["while_writing"] for row in counts.values()))


if __name__ == "__main__":
    main()
