"""A run's folder: outputs, checkpoints, resume, locks, broken files. With the toy chapter (toy.py):
all of it is in runner.py, so what holds for one chapter holds for each (test_chapters.py)."""
import contextlib
import json
import math
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
import toy
from conftest import ROOT, StopsAt, checkpoint, result, same

import judge
import runner
import streams
import utils

pytestmark = pytest.mark.usefixtures("sketches")
COMMON_METRICS = (
    "model variant conditional test_nats bits_per_dim likelihood binarization data judge best_step "
    "began_from labels "
    "parameters steps batch_size lr seed train_seconds eval_seconds sample_seconds_64 device "
    "threads machine versions command settings curve").split()


def content(folder):
    """All files of a folder but the lock, by name."""
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name != ".lock"}


def stop_at(step, *flags):
    """The toy chapter, stopped in that step as if by Ctrl-C."""
    with pytest.raises(SystemExit) as stop:
        toy.main([*flags], type("Stops", (StopsAt,), {"at": step}))
    assert stop.value.code == 130


# ----------------------------------------------------------------------------------------- outputs


@pytest.mark.painted
@pytest.mark.parametrize("conditional", [False, True])
def test_a_run_writes_what_it_promises(conditional):
    toy.main(["--num-samples", "23", "--beta", "0.5"] + ["--conditional"] * conditional)
    folder = Path("runs/toy_beta0.5" + "_conditional" * conditional)
    for picture in ("samples", "progress", "loss"):
        assert (folder / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert set(COMMON_METRICS) | {"entropy"} == set(metrics)
    assert metrics["model"] == "toy" and metrics["conditional"] is conditional
    assert metrics["data"] == "mnist_5k" and metrics["settings"]["beta"] == 0.5
    assert metrics["bits_per_dim"] == pytest.approx(metrics["test_nats"] / (784 * math.log(2)))
    assert metrics["command"].startswith("python toy.py --num-samples 23")
    curve = metrics["curve"]
    assert len(curve) == 4 and curve[-1]["step"] == 30
    assert all({"step", "images", "seconds", "train_nats", "val_nats"} <= set(row) for row in curve)
    assert [row["seconds"] for row in curve] == sorted(row["seconds"] for row in curve)
    assert metrics["best_step"] == min(curve, key=lambda row: row["val_nats"])["step"]
    samples, means = np.load(folder / "samples.npy"), np.load(folder / "means.npy")
    assert samples.shape == means.shape == (23, 28, 28) and samples.dtype == np.float32
    assert set(np.unique(samples)) <= {0.0, 1.0} and 0 < means.min() and means.max() < 1
    assert abs(samples.mean() - means.mean()) < 0.02  # of the same coins
    assert (folder / "labels.npy").exists() == conditional
    if conditional:
        assert np.load(folder / "labels.npy").tolist() == [i % 10 for i in range(23)]
    assert json.loads((folder / "samples.json").read_text()) == {"step": metrics["best_step"]}
    assert not list(folder.glob("*.part"))


@pytest.mark.slow
def test_the_small_set_takes_a_quarter_of_the_usual_steps(capsys):
    for flags, steps in (([], 30), (["--steps", "50", "--out", "a"], 50),
                         (["--start-from", "runs/toy", "--out", "b"], 30)):
        toy.main(flags)
        folder = Path(flags[-1] if flags else "runs/toy")
        assert json.loads((folder / "metrics.json").read_text())["steps"] == steps
        assert ("a quarter of the usual steps" in capsys.readouterr().out) == (flags == [])


def test_the_best_weights_are_the_ones_kept():
    """Validation is made to be lowest in the middle: those weights are kept, and not the last."""
    seen = {}

    class Bent(runner.Run):
        def record(self, train_nats, val_nats, model, picture, **more):
            seen[self.step] = {k: v.clone() for k, v in model.state_dict().items()}
            super().record(train_nats, val_nats, model, picture, score=abs(self.step - 10.0))

    toy.main([], Bent)
    best = checkpoint("runs/toy")["best"]
    middle = min(seen, key=lambda step: abs(step - 10))
    assert best["step"] == middle and same(best["weights"], seen[middle])
    assert not same(best["weights"], seen[30])
    metrics = json.loads(Path("runs/toy/metrics.json").read_text())
    assert metrics["best_step"] == middle  # and the test figure is theirs
    model = toy.build(runner.SimpleNamespace(width=3, classes=0))
    model.load_state_dict(seen[middle])
    assert metrics["test_nats"] == toy.evaluate(model, utils.load_mnist().x_test, None)


def test_figures_that_are_not_finite_are_not_published(fails):
    class Run(runner.Run):
        def finish(self, *args, **figures):
            super().finish(*args, **{**figures, "entropy": math.nan})

    fails(lambda: toy.main([], Run), "entropy", "nan")
    assert not Path("runs/toy/metrics.json").exists()


def test_same_seed_same_run_another_seed_another():
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        toy.main(["--seed", seed, "--out", out])
    assert same(result("a"), result("b")) and not same(result("a")[1], result("c")[1])
    assert (Path("a") / "samples.png").read_bytes() == (Path("b") / "samples.png").read_bytes()


# ---------------------------------------------------------------------------------------- sampling


def test_sample_only():
    toy.main(["--conditional", "--out", "a"])
    before = content("a")
    toy.main(["--sample-only", "--num-samples", "7", "--label", "3", "--seed", "1", "--out", "a"])
    assert np.load("a/labels.npy").tolist() == [3] * 7
    first = np.load("a/samples.npy")
    assert Path("a/samples_seed1_label3.png").exists()
    assert json.loads(Path("a/samples.json").read_text())["label"] == 3
    toy.main(["--sample-only", "--num-samples", "7", "--label", "3", "--seed", "1", "--out", "a"])
    assert np.array_equal(first, np.load("a/samples.npy"))
    toy.main(["--sample-only", "--num-samples", "7", "--label", "3", "--seed", "2", "--out", "a"])
    assert not np.array_equal(first, np.load("a/samples.npy"))
    toy.main(["--sample-only", "--out", "a"])  # without a seed: the run's own picture again
    toy.main(["--sample-only", "--temperature", "0.5", "--num-samples", "7", "--out", "a"])
    assert Path("a/samples_temperature0.5.png").exists()
    assert json.loads(Path("a/samples.json").read_text())["temperature"] == 0.5
    Path("a/png").touch()  # where a folder is wanted: as if somebody had stopped it half way
    with pytest.raises(FileExistsError):
        toy.main(["--sample-only", "--temperature", "0.7", "--num-samples", "7", "--png", "--out",
                  "a"])
    assert json.loads(Path("a/samples.json").read_text()) == {}  # compare.py takes none of these
    Path("a/png").unlink()
    assert all(content("a")[name] == old for name, old in before.items())


@pytest.mark.slow
def test_the_picture_of_a_run_is_drawn_again_whatever_its_seed_was():
    toy.main(["--seed", "3", "--out", "a"])
    before = content("a")["samples.png"]
    toy.main(["--sample-only", "--out", "a"])
    assert content("a")["samples.png"] == before
    toy.main(["--sample-only", "--seed", "3", "--out", "a"])  # control
    assert content("a")["samples_seed3.png"] != before


def test_a_label_needs_a_conditional_model(fails):
    toy.main(["--out", "a"])
    fails(lambda: toy.main(["--sample-only", "--out", "a", "--label", "3"]), "--conditional")


def test_many_draws_come_in_parts_and_go_on():
    toy.main(["--num-samples", "1100", "--out", "a"])
    samples = np.load("a/samples.npy")
    assert samples.shape == (1100, 28, 28)
    assert not np.array_equal(samples[:500], samples[500:1000])


class Told:
    """Draws its label, of three, and nothing else."""

    classes = 3

    def sample(self, n, y, generator):
        return (y / 2).view(n, 1, 1, 1).expand(n, 1, 2, 2)


class Sure:
    """Coins that fall on one side, by the noise: a draw is its means."""

    classes = 0

    def sample_means(self, n, y=None, generator=None):
        return torch.rand(n, 1, 2, 2, generator=generator).round()

    def sample(self, n, y=None, generator=None):
        p = self.sample_means(n, y, generator)
        return (torch.rand(p.shape, generator=generator) < p).float()


@pytest.mark.parametrize("model", [Told(), Sure()], ids=["labels", "means"])
def test_each_of_many_draws_has_its_own_label_and_its_own_means(model):
    """Also where 500, as many as are drawn at a time, is no multiple of the classes."""
    run = runner.Run(toy.__file__, "", toy.SETTINGS, toy.VARIANTS,
                     ["--num-samples", "1100", "--out", "a"])
    run.build(toy.build)
    run.best = {"step": 1}
    run.write_samples(model)
    samples = np.load("a/samples.npy")
    if model.classes:
        labels = np.load("a/labels.npy")
        assert labels.tolist() == [i % 3 for i in range(1100)]
        assert np.array_equal(2 * samples[:, 0, 0], labels)
    else:
        assert np.array_equal(samples, np.load("a/means.npy")) and 0.4 < samples.mean() < 0.6


@pytest.mark.slow
def test_the_weights_alone_draw(monkeypatch, tmp_path, fails, capsys):
    """weights.pt is half precision and has no optimizer: enough to draw, and not to train. What
    ships is found by the run's name."""
    toy.main(["--out", "a"])
    folder, size = Path("a"), Path("a/checkpoint.pt").stat().st_size
    (folder / "checkpoint.pt").unlink()
    assert (folder / "weights.pt").stat().st_size < size / 2
    weights = torch.load("a/weights.pt", weights_only=True)
    assert "extra" not in weights["best"]["weights"] and weights["left_out"] == ["extra"]
    toy.main(["--sample-only", "--out", "a", "--num-samples", "5"])
    assert np.load(folder / "samples.npy").shape == (5, 28, 28)
    fails(lambda: toy.main(["--resume", "--out", "a"]), "checkpoint.pt")
    # As if it had been cloned: runner.py and samples/ side by side.
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "runner.py"))
    shipped = tmp_path / "samples" / "toy" / "weights.pt"
    shipped.parent.mkdir(parents=True)
    (folder / "weights.pt").rename(shipped)
    before = shipped.read_bytes()
    capsys.readouterr()
    foreign = tmp_path / "runs" / "toy" / "thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("precious")
    fails(lambda: toy.main(["--sample-only"]), "not from a run")
    assert list(content(foreign.parent)) == ["thesis.txt"]
    foreign.unlink()
    toy.main(["--sample-only"])
    assert "weights that ship along" in capsys.readouterr().out
    assert list(shipped.parent.iterdir()) == [shipped] and shipped.read_bytes() == before
    assert Path("runs/toy/samples.png").stat().st_size > 100
    toy.main(["--sample-only"])  # now they are in runs/, which a later run moves aside
    toy.main([])
    assert Path("runs/toy.1/weights.pt").exists() and Path("runs/toy/metrics.json").exists()
    capsys.readouterr()
    toy.main(["--sample-only"])  # the run of one's own goes first
    assert "ship along" not in capsys.readouterr().out
    for broken in (before[:len(before) // 2], b"", b"not weights"):
        shipped.write_bytes(broken)
        fails(lambda: toy.main(["--sample-only", "--out", str(shipped.parent)]), "truncated")
    fails(lambda: toy.main(["--sample-only", "--out", "elsewhere"]), "checkpoint.pt", "train first")


@pytest.mark.slow
def test_weights_that_do_not_fit_are_told(fails):
    toy.main(["--out", "a"])
    w = torch.load("a/weights.pt", weights_only=True)
    Path("a/checkpoint.pt").unlink()
    w["best"]["weights"]["logits"] = w["best"]["weights"]["logits"][:, :5]
    torch.save(w, "a/weights.pt")
    fails(lambda: toy.main(["--sample-only", "--out", "a"]), "does not fit")
    del w["best"]["weights"]["logits"]
    torch.save(w, "a/weights.pt")
    fails(lambda: toy.main(["--sample-only", "--out", "a"]), "does not fit")


def test_weights_too_large_for_half_precision_stay_whole():
    class Run(runner.Run):
        def record(self, train_nats, val_nats, model, picture, **more):
            with torch.no_grad():
                model.logits[0, 0] = 1e6
            super().record(train_nats, val_nats, model, picture)

    toy.main(["--out", "a"], Run)
    weights = torch.load("a/weights.pt", weights_only=True)["best"]["weights"]
    assert weights["logits"][0, 0] == 1e6 and torch.isfinite(weights["logits"]).all()


def test_what_the_bar_says_is_a_mean_of_the_last_losses():
    """The first as it is; of each later one a fiftieth, and 49 of what there was."""
    losses = []

    class Noting(runner.Run):
        def tick(self, loss, *unit):
            losses.append(loss)
            return super().tick(loss, *unit)

    toy.main(["--steps", "5", "--out", "a"], Noting)
    mean = losses[0]
    for loss in losses[1:]:
        mean = 0.98 * mean + 0.02 * loss
    assert len(losses) == 5 and checkpoint("a")["running"] == pytest.approx(mean)
    assert mean != pytest.approx(losses[-1], rel=1e-3)  # control: it is not the last of them


# ---------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("step", [1, 12, 17, 29])  # 17 is a step with an evaluation
def test_resume_equals_not_stopping(step):
    toy.main(["--conditional", "--out", "whole"])
    assert step != 17 or 17 in [row["step"] for row in checkpoint("whole")["curve"]]
    stop_at(step, "--conditional", "--out", "parts")
    assert checkpoint("parts")["step"] == step and not Path("parts/metrics.json").exists()
    toy.main(["--resume", "--out", "parts"])  # the settings come from the checkpoint
    assert same(result("whole"), result("parts"))
    metrics = [json.loads(Path(f"{out}/metrics.json").read_text()) for out in ("whole", "parts")]
    assert metrics[0]["test_nats"] == metrics[1]["test_nats"]
    assert metrics[1]["command"] == "python toy.py --conditional --out parts"  # not --resume


def test_resume_without_the_random_state_would_differ():
    """Control for the test above."""
    toy.main(["--out", "whole"])
    stop_at(11, "--out", "parts")
    c = checkpoint("parts")
    c["rng"]["cpu"] = torch.Generator().manual_seed(5).get_state()
    torch.save(c, "parts/checkpoint.pt")
    toy.main(["--resume", "--out", "parts"])
    assert not same(result("whole")[1], result("parts")[1])


def test_settings_come_back_by_themselves_and_must_not_be_contradicted(fails):
    stop_at(7, "--variant", "fancy", "--width", "16", "--out", "a")
    for flag in ("--resume", "--sample-only"):
        fails(lambda: toy.main([flag, "--out", "a", "--width", "32"]), "--width 16", "32")
        fails(lambda: toy.main([flag, "--out", "a", "--conditional"]), "--conditional")
        fails(lambda: toy.main([flag, "--out", "a", "--variant", "plain"]), "--variant fancy")
    fails(lambda: toy.main(["--resume", "--out", "a", "--seed", "3"]), "--seed 0")
    toy.main(["--resume", "--out", "a", "--width", "16"])
    settings = json.loads(Path("a/metrics.json").read_text())["settings"]
    assert (settings["variant"], settings["width"], settings["steps"]) == ("fancy", 16, 20)


@pytest.mark.slow
def test_a_default_that_changed_since_does_not_matter(monkeypatch):
    """What the checkpoint says holds; a default that the script has by now is for new runs."""
    toy.main(["--out", "whole"])
    stop_at(11, "--out", "parts")
    monkeypatch.setitem(toy.SETTINGS, "lr", runner_setting(9.0))
    toy.main(["--sample-only", "--out", "parts"])
    toy.main(["--resume", "--out", "parts"])
    assert same(result("whole"), result("parts"))


def runner_setting(default):
    return toy.Setting(default, "learning rate")


def test_resume_of_a_run_that_was_killed_while_it_was_scored():
    class Killed(runner.Run):
        def finish(self, *args, **figures):
            raise ZeroDivisionError

    toy.main(["--out", "whole"])
    with pytest.raises(ZeroDivisionError):
        toy.main(["--out", "parts"], Killed)
    toy.main(["--resume", "--out", "parts"])
    assert same(result("whole"), result("parts")) and Path("parts/metrics.json").exists()


def test_resume_of_a_finished_run_changes_nothing(capsys):
    toy.main(["--out", "a"])
    before = content("a")
    toy.main(["--resume", "--out", "a"])
    assert "finished" in capsys.readouterr().out and before == content("a")


def test_the_line_that_a_stopped_run_prints_goes_on(capsys, tmp_path):
    (tmp_path / "my data").mkdir()
    stop_at(11, "--out", "my run", "--data-dir", "my data", "--num-samples", "9")
    out, err = capsys.readouterr()
    line = next(line for line in (out + err).splitlines() if "go on with" in line)
    words = runner.shlex.split(line.split("go on with: ")[1])
    assert words[:2] == ["python", "toy.py"]
    toy.main(words[2:])
    toy.main(["--out", "whole", "--num-samples", "9"])
    assert same(result("my run"), result("whole"))
    assert np.array_equal(np.load("my run/samples.npy"), np.load("whole/samples.npy"))


@pytest.mark.slow
def test_the_line_that_goes_on_says_all_that_no_checkpoint_knows(capsys):
    stop_at(11, "--out", "a", "--threads", "1", "--num-samples", "3", "--png")
    line = next(line for line in "".join(capsys.readouterr()).splitlines() if "go on with" in line)
    assert line.endswith("--resume --out a --threads 1 --num-samples 3 --png")


def test_the_lines_that_train_on_say_where_the_data_are(fails):
    where = ["--data-dir", "my data", "--num-samples", "9"]
    toy.main(["--out", "a", *where])
    words = "--start-from a --steps 40 --data-dir 'my data' --num-samples 9"
    fails(lambda: toy.main(["--resume", "--out", "a", "--steps", "40", *where]), words)

    class Poisoned(runner.Run):
        def check_finite(self, **values):
            super().check_finite(**({"loss": math.nan} if self.step == 12 else values))

    fails(lambda: toy.main(["--out", "b", *where], Poisoned), "--start-from b --lr",
          "--data-dir 'my data'")
    toy.main(runner.shlex.split(words) + ["--out", "c"])  # as it was told
    assert Path("c/samples.npy").exists()


# -------------------------------------------------------------------------------- folders and locks


def test_a_new_run_does_not_destroy_an_old_one():
    stop_at(11, "--out", "a")
    unfinished = content("a")
    toy.main(["--out", "a"])
    finished = content("a")
    toy.main(["--out", "a", "--seed", "1"])
    assert content("a.1") == unfinished and content("a.2") == finished
    assert checkpoint("a")["settings"]["seed"] == 1


def test_a_bad_flag_moves_nothing_aside(fails):
    toy.main(["--out", "a"])
    before = content("a")
    fails(lambda: toy.main(["--out", "a", "--width", "13"]), "bad luck")
    fails(lambda: toy.main(["--out", "a", "--batch-size", "5000"]), "--batch-size")
    assert content("a") == before and not Path("a.1").exists()


@pytest.mark.parametrize("when", ["training", "scoring"])
def test_a_run_whose_folder_was_moved_away_does_not_write_into_the_new_one(fails, when):
    def another_starts():
        Path("a").rename("a.1")
        Path("a").mkdir()
        Path("a/checkpoint.pt").write_text("the other run's")
        Path("a/.lock").write_text("1")

    class Run(runner.Run):
        def tick(self, *loss):
            if when == "training" and self.step == 3:
                another_starts()
            return super().tick(*loss)

        def load_best(self, model):
            if when == "scoring":
                another_starts()
            return super().load_best(model)

    fails(lambda: toy.main(["--out", "a"], Run), "moved away")
    assert set(content("a")) == {"checkpoint.pt"}
    assert Path("a/checkpoint.pt").read_text() == "the other run's"


@pytest.fixture
def process(tmp_path):
    """Start the toy chapter as a process of its own; it is gone with the test."""
    started = []

    def start(*flags):
        p = subprocess.Popen([sys.executable, str(ROOT / "tests" / "toy.py"), *flags],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             encoding="utf-8", cwd=tmp_path)
        started.append(p)
        return p

    yield start
    for p in started:
        p.kill()
        p.communicate()


def wait_for(path, process):
    while not Path(path).exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(runner.fcntl is None, reason="Windows has other locks")
def test_two_processes_do_not_share_a_folder(process, fails):
    first = process("--steps", "1000000", "--out", "a")
    wait_for("a/checkpoint.pt", first)
    step = checkpoint("a")["step"]
    for flags in ([], ["--resume"], ["--sample-only"]):
        fails(lambda: toy.main([*flags, "--out", "a"]), "another run is at work", first.pid)
    assert first.poll() is None and checkpoint("a")["step"] >= step and not Path("a.1").exists()
    first.kill()
    first.communicate()
    toy.main(["--steps", "5", "--out", "a"])  # the lock is gone with the process
    assert Path("a/metrics.json").exists() and Path("a.1/checkpoint.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_process_that_is_stopped_can_be_resumed(process, signal_name):
    p = process("--steps", "100000", "--out", "a")
    wait_for("a/checkpoint.pt", p)
    time.sleep(0.4)
    p.send_signal(getattr(signal, signal_name))
    out, err = p.communicate(timeout=60)
    assert "Traceback" not in err
    c = checkpoint("a")  # whole, whatever the moment was
    if signal_name != "SIGKILL":
        assert p.returncode == 130 and "--resume --out a" in out + err and c["step"] > 0
    stop_at(c["step"] + 1, "--resume", "--out", "a")
    assert checkpoint("a")["step"] == c["step"] + 1


def test_start_asks_streams_and_does_not_assume_them(monkeypatch):
    """A notebook's stdout has no reconfigure()."""
    class Stream:
        def write(self, text):
            return len(text)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Stream())
    monkeypatch.setattr(sys, "stderr", Stream())
    assert not streams.seen_by_somebody()  # nor isatty()
    handler = signal.getsignal(signal.SIGTERM)
    done = []
    try:
        utils.start(lambda: done.append(1))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert done == [1]


def test_a_backend_that_somebody_chose_stays(monkeypatch):
    """In a notebook, or by MPLBACKEND; else a script draws into files. Importing changes nothing:
    start() alone asks for a backend."""
    def begun(*chose):
        matplotlib.use("svg")
        monkeypatch.delenv("MPLBACKEND", raising=False)
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
        if "MPLBACKEND" in chose:
            monkeypatch.setenv("MPLBACKEND", "svg")
        if "IPython" in chose:
            monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
        utils.start(lambda: None)
        return matplotlib.get_backend().lower()

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back at the end
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    try:
        assert (begun("MPLBACKEND"), begun("IPython"), begun()) == ("svg", "svg", "agg")
    finally:
        signal.signal(signal.SIGTERM, handler)
        matplotlib.use("Agg")
    for path in ROOT.glob("*.py"):
        asks = re.findall(r"matplotlib\.use|switch_backend", path.read_text(encoding="utf-8"))
        assert len(asks) == (path.name == "utils.py"), path.name


# ------------------------------------------------------------------------------------ broken things


@pytest.fixture
def unfinished():
    """A run that --resume has something to do for; its checkpoint's path."""
    toy.main(["--out", "a"])
    Path("a/metrics.json").unlink()
    return Path("a/checkpoint.pt")


def test_bad_checkpoints(unfinished, fails):
    path, good = unfinished, unfinished.read_bytes()

    def both(*words):
        for flag in ("--resume", "--sample-only"):
            before = path.read_bytes()
            fails(lambda: toy.main([flag, "--out", "a"]), "checkpoint.pt", *words)
            assert path.read_bytes() == before

    for bad in (good[:len(good) // 2], good[:-1], b"", b"not a checkpoint", b"\x80\x04\x95"):
        path.write_bytes(bad)
        both("truncated or is not a checkpoint")
    for bad in ({"weights": torch.zeros(3)}, [1, 2, 3]):
        torch.save(bad, path)
        both("not a checkpoint")
    path.write_bytes(good)
    c = checkpoint("a")
    torch.save({**c, "script": "another"}, path)
    both("another.py", "toy.py")
    torch.save({k: v for k, v in c.items() if k != "best"}, path)
    both("not a checkpoint")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4  # one bit, in the middle of some weight: a checksum tells
    path.write_bytes(flipped)
    both("not a checkpoint")
    weights = {k: v[:1] for k, v in c["best"]["weights"].items()}
    torch.save({**c, "best": {**c["best"], "weights": {**weights, "logits": torch.zeros(2)}},
                "parts": {**c["parts"], "model": weights}}, path)
    both("does not fit")
    torch.save({**c, "data": "mnist"}, path)
    fails(lambda: toy.main(["--resume", "--out", "a"]), "mnist_5k", "trained on")
    path.write_bytes(good)
    toy.main(["--resume", "--out", "a"])  # control: the good one is taken


def test_a_run_is_judged_by_one_judge(unfinished, fails):
    """Halfway through another data/judge.pt: figures before and after have different scales."""
    run = runner.Run(toy.__file__, "", toy.SETTINGS, toy.VARIANTS, ["--resume", "--out", "a"])
    assert run.judge is None and run.load_judge().last.weight.isfinite().all()
    assert run.judge == judge.judge_digest()
    kept = checkpoint("a")
    for name, words in ((None, ""), (run.judge, ""), ("0123456789abcdef", "another data/judge.pt")):
        torch.save({**kept, "judge": name}, unfinished)
        run = runner.Run(toy.__file__, "", toy.SETTINGS, toy.VARIANTS, ["--resume", "--out", "a"])
        if words:
            fails(run.load_judge, words, "train anew")
        else:
            run.load_judge()


def test_a_checkpoint_cannot_run_code(unfinished, fails, tmp_path):
    """A pickle may call any function when it is loaded; weights_only=True does not."""
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    unfinished.write_bytes(pickle.dumps(Evil()))
    fails(lambda: toy.main(["--sample-only", "--out", "a"]), "not a checkpoint")
    assert not (tmp_path / "owned").exists()
    with contextlib.suppress(Exception):  # control: the plain way does run it
        pickle.loads(unfinished.read_bytes())
    assert (tmp_path / "owned").exists()


def test_a_write_that_breaks_off_leaves_the_old_checkpoint(monkeypatch, fails):
    saves = []

    def full_disk(fd):
        saves.append(fd)
        if len(saves) > 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(utils.os, "fsync", full_disk)
        fails(lambda: toy.main(["--out", "a"]), "No space left on device", "unchanged")
    assert 1 <= checkpoint("a")["step"] < 30
    assert not list(Path("a").glob("*.part"))


@pytest.mark.slow
def test_a_file_that_is_held_for_a_moment_is_written(monkeypatch, fails):
    """On Windows a virus scanner opens what was just written, and the rename fails once."""
    replace, calls = utils.os.replace, []

    def busy(times):
        def held(a, b):
            calls.append(a)
            if len(calls) <= times:
                raise PermissionError(13, "held by another process")
            replace(a, b)

        calls.clear()
        return held

    with monkeypatch.context() as m:
        m.setattr(utils.os, "replace", busy(2))
        utils.write_atomically("a.txt", b"content")
        assert Path("a.txt").read_bytes() == b"content"
        m.setattr(utils.os, "replace", busy(99))
        fails(lambda: utils.write_atomically("a.txt", b"new"), "held by another process")
    assert Path("a.txt").read_bytes() == b"content"


def test_a_loss_that_is_not_finite_stops_the_run(fails):
    """From step 13 on it is nan; the checkpoint before it stays and is finite."""
    class Poisoned(runner.Run):
        def check_finite(self, **values):
            super().check_finite(**({"loss": math.nan} if self.step == 12 else values))

    fails(lambda: toy.main(["--out", "a"], Poisoned), "after step 12", "nan", "--lr")
    c = checkpoint("a")
    assert 1 <= c["step"] <= 12
    assert all(torch.isfinite(v).all() for v in c["parts"]["model"].values())


def test_a_rate_far_too_high_leaves_no_poisoned_checkpoint():
    with contextlib.suppress(SystemExit):
        toy.main(["--out", "a", "--lr", "1e8", "--beta", "1e9"])
    assert all(torch.isfinite(v).all() for v in checkpoint("a")["parts"]["model"].values())


# ------------------------------------------------------- streams, memory, disks that know no locks


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("streams", [">/dev/full 2>&-", ">&- 2>/dev/full", ">&- 2>&-"])
def test_what_cannot_be_said_ends_no_run(streams, tmp_path):
    """A full disk, a stream that was closed: lines are lost, the run is not."""
    line = f"{sys.executable} {ROOT / 'tests' / 'toy.py'} --out a {streams}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "metrics.json").exists() and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_log_file_gets_its_lines_and_none_is_glued_to_another(tmp_path):
    with open("log.txt", "w", encoding="utf-8") as log:
        subprocess.run([sys.executable, str(ROOT / "tests" / "toy.py"), "--steps", "300"],
                       stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, check=True)
    text = Path("log.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "images |" in line]
    assert len(lines) == 7 and all(line.startswith("step ") for line in lines)
    assert "\r" not in text and "it/s" not in text
    lines = text.splitlines()
    assert sum("bits/dim" in line for line in lines) == 8  # seven evaluations, and the test set
    assert any("ONLY 5,000 DIGITS" in line for line in lines)


def test_too_little_memory_is_said_in_a_sentence(fails):
    def hungry():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't "
                           "allocate memory: you tried to allocate 4000000000000 bytes.")

    kept = sys.stdout, sys.stderr
    handler = signal.getsignal(signal.SIGTERM)
    try:
        fails(lambda: utils.start(hungry), "not enough memory", "--batch-size")

        def other():
            raise RuntimeError("shapes do not fit")

        with pytest.raises(RuntimeError, match="shapes"):  # control
            utils.start(other)
    finally:
        sys.stdout, sys.stderr = kept
        signal.signal(signal.SIGTERM, handler)


def test_a_disk_that_knows_no_locks_is_no_other_run(monkeypatch, fails):
    class Fcntl:
        LOCK_EX = LOCK_NB = 0

        def lockf(*what):
            raise OSError(37, "No locks available")

    monkeypatch.setattr(runner, "fcntl", Fcntl)
    toy.main(["--out", "a"])
    assert Path("a/metrics.json").exists()

    def taken(*what):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    Fcntl.lockf = taken  # control
    fails(lambda: toy.main(["--out", "b"]), "another run is at work")


def test_home_is_found_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    toy.main(["--out=~/a"])
    assert (tmp_path / "a" / "metrics.json").exists() and not Path("~").exists()
    toy.main(["--start-from=~/a", "--out=~/b"])
    assert (tmp_path / "b" / "metrics.json").exists()


def test_the_line_names_the_script_as_it_was_called_and_the_device(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["../tests/toy.py"])
    monkeypatch.setattr(runner, "pick_device", lambda name: torch.device("cuda"))  # this has one
    stop_at(11, "--out", "a", "--device", "cpu")
    line = next(line for line in "".join(capsys.readouterr()).splitlines() if "go on with" in line)
    assert "python ../tests/toy.py --resume --out a" in line and "--device cpu" in line


def test_a_judge_that_is_missing_is_said_in_a_sentence(monkeypatch, fails, tmp_path):
    monkeypatch.setattr(judge.load_judge, "__defaults__", ("cpu", tmp_path / "none.pt"))
    run = runner.Run(toy.__file__, "", toy.SETTINGS, toy.VARIANTS, [])
    fails(run.load_judge, "none.pt is missing or broken")


@pytest.mark.slow
def test_a_mixture_that_is_less_than_a_tenth_of_its_part_is_noticed():
    class Run(runner.Run):
        more = 2.2

        def finish(self, *args, **figures):
            self.settings.classes = 10
            super().finish(*args, **figures, bayes_accuracy=0.5,
                           marginal_nats=args[1] + self.more if len(args) > 1
                           else figures["test_nats"] + self.more)

    toy.main(["--out", "a"], Run)
    Run.more = math.log(10) + 1e-4  # of digits that nobody takes for others: rounding decides
    toy.main(["--out", "c"], Run)
    Run.more = 2.4  # more than log 10
    with pytest.raises(AssertionError, match="came out below"):
        toy.main(["--out", "b"], Run)


def test_a_start_that_fails_leaves_ctrl_c_as_it_was():
    class Run(runner.Run):
        def save(self):
            raise OSError(28, "No space left on device")

    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(OSError):
        toy.main(["--out", "a"], Run)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_nobody_handles_ends_the_process_as_ever():
    """Under pytest SIGTERM has its usual effect in training, too, or a job that was cancelled would
    run on; a script handles it, and then it is heard after the step."""
    class Noting(runner.Run):
        def tick(self, *loss):
            handlers.append([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)])
            return super().tick(*loss)

    before, handlers = signal.getsignal(signal.SIGTERM), []
    try:
        for handler, kept in ((signal.SIG_DFL, True), (lambda *_: None, False)):
            signal.signal(signal.SIGTERM, handler)
            toy.main(["--out", "a"], Noting)
            assert (handlers[-1][1] is handler) is kept
            assert handlers[-1][0].__name__ == "on_signal"  # of Ctrl-C, which Python handles
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_message_closes_the_bar_first(monkeypatch, fails):
    """Else it is glued to it: `fails` wants a line that begins with the script's name."""
    class Poisoned(runner.Run):
        def check_finite(self, **values):
            super().check_finite(**({"loss": math.nan} if self.step == 12 else values))

    class Glued(runner.Run):
        """Control: says it while the bar is there."""

        def check_finite(self, **values):
            print("toy.py: error: after step 12", file=sys.stderr)
            raise SystemExit(2)

    monkeypatch.setattr(runner, "seen_by_somebody", lambda: True)
    monkeypatch.setattr(sys, "argv", ["toy.py"])
    fails(lambda: toy.main(["--out", "a"], Poisoned), "after step 12")
    with pytest.raises(AssertionError):
        fails(lambda: toy.main(["--out", "b"], Glued), "after step 12")


def test_validation_chooses_the_weights_and_training_does_not():
    """Training nats fall to the end, validation has its best in the middle: those weights count."""
    class Crossed(runner.Run):
        def record(self, train_nats, val_nats, model, picture, **more):
            super().record(100.0 - self.step, 100.0 + abs(self.step - 10), model, picture, **more)

    toy.main(["--out", "a"], Crossed)
    metrics = json.loads(Path("a/metrics.json").read_text())
    best = min(metrics["curve"], key=lambda row: row["val_nats"])
    assert metrics["best_step"] == best["step"] == checkpoint("a")["best"]["step"] < 30
    assert checkpoint("a")["best"]["score"] == best["val_nats"]
    assert min(metrics["curve"], key=lambda row: row["train_nats"])["step"] == 30  # control


def test_training_seconds_are_of_training_alone_and_go_on_after_a_stop(monkeypatch):
    """By a clock on which a step takes a second, and an evaluation a hundred."""
    clock = [0.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Clocked(StopsAt):
        def tick(self, *loss):
            clock[0] += 1
            return super().tick(*loss)

        def record(self, *args, **options):
            clock[0] += 100
            self.plot_seconds = 1e9  # no picture after the first: painting sets the clock, too
            super().record(*args, **options)

    toy.main(["--out", "whole"], Clocked)
    with pytest.raises(SystemExit):
        toy.main(["--out", "parts"], type("Stops", (Clocked,), {"at": 11}))
    clock[0] += 1000  # nobody trains
    toy.main(["--resume", "--out", "parts"], Clocked)
    for out in ("whole", "parts"):
        metrics = json.loads(Path(out, "metrics.json").read_text())
        assert (metrics["train_seconds"], metrics["eval_seconds"]) == (30, 400), out
        assert [row["seconds"] for row in metrics["curve"]] == [2, 8, 17, 30], out


@pytest.mark.slow
def test_no_more_than_fifty_seconds_are_lost_by_a_kill(monkeypatch):
    """By a clock on which a step takes twenty: saved at evaluations (2, 8, 17, 30), and between."""
    clock, saved = [0.0], []
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Clocked(runner.Run):
        def tick(self, *loss):
            clock[0] += 20
            return super().tick(*loss)

        def save(self):
            saved.append(self.step)
            super().save()

    toy.main(["--out", "a"], Clocked)
    assert saved == [0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 30]


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once():
    """In the middle of a step; the last checkpoint, of the evaluation at 8, stands."""
    heard = []

    class Impatient(runner.Run):
        def tick(self, *loss):
            for _ in range(2 * (self.step == 10)):
                signal.raise_signal(signal.SIGINT)
                heard.append(self.step)
            return super().tick(*loss)

    with pytest.raises(SystemExit) as stop:
        toy.main(["--out", "a"], Impatient)
    assert stop.value.code == 130 and heard == [10] and checkpoint("a")["step"] == 8


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_script_that_is_ended_from_outside_says_so_by_its_exit_code(name, code):
    """Also where nothing is trained; 0 would mean that all went well."""
    kept = sys.stdout, sys.stderr
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with pytest.raises(SystemExit) as stop:
            utils.start(lambda: signal.raise_signal(getattr(signal, name)))
    finally:
        sys.stdout, sys.stderr = kept
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stop.value.code == code
