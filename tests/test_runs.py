"""What every chapter promises around its model: outputs, checkpoints, resume, flags, errors. One
parametrised fixture (`chapter`, in conftest.py) runs all of this for each chapter in the list."""
import ast
import contextlib
import importlib
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHAPTERS, ROOT

import utils

SHORT = ["--steps", "30", "--batch-size", "16"]
COMMON_FLAGS = ("--steps --batch-size --lr --seed --device --data-dir --out --resume --sample-only "
                "--num-samples --conditional --label").split()
COMMON_METRICS = ("model variant conditional test_nats bits_per_dim likelihood binarization data curve parameters steps "
                  "batch_size lr seed train_seconds eval_seconds sample_seconds_64 device threads versions command").split()


def checkpoint(folder):
    return torch.load(Path(folder) / "checkpoint.pt", weights_only=True)


def same(a, b):
    """Are two nested structures of dicts, lists, tensors and numbers equal bit for bit?"""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def result(folder):
    """All that training decides, without the clock."""
    c = checkpoint(folder)
    curve = [{k: v for k, v in row.items() if k != "seconds"} for row in c["curve"]]
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    return [c["step"], c["parts"], c["best"], c["pictures"], c["rng"], curve, metrics["test_nats"], metrics.get("test_frechet")]


def finite(a):
    """Are all tensors of a nested structure finite?"""
    if isinstance(a, torch.Tensor):
        return bool(torch.isfinite(a).all())
    return all(map(finite, a.values() if isinstance(a, dict) else a)) if isinstance(a, (dict, list, tuple)) else True


@contextlib.contextmanager
def stopped_at(step, monkeypatch):
    """As if Ctrl-C came during that step."""
    tick = utils.Run.tick

    def stopping(self, *loss):
        if self.step + 1 == step:
            signal.raise_signal(signal.SIGINT)
        return tick(self, *loss)

    with monkeypatch.context() as m, pytest.raises(SystemExit) as stop:
        m.setattr(utils.Run, "tick", stopping)
        yield
    assert stop.value.code == 130


# ----------------------------------------------------------------------------------------------- outputs


@pytest.mark.real_figures
@pytest.mark.parametrize("conditional", [False, True])
def test_a_run_writes_what_it_promises(chapter, conditional):
    name = chapter.__name__ + "_conditional" * conditional
    chapter.main(SHORT + ["--num-samples", "23"] + ["--conditional"] * conditional)
    folder = Path("runs") / name
    for picture in ("samples", "progress", "loss"):
        assert (folder / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(COMMON_METRICS) <= set(metrics)
    assert metrics["model"] == chapter.__name__ and metrics["conditional"] is conditional and metrics["data"] == "mnist_5k"
    assert metrics["likelihood"] in ("exact", "bound", "none") and metrics["steps"] == 30 and metrics["batch_size"] == 16
    assert metrics["command"].startswith(f"python {chapter.__name__}.py --steps 30")
    if metrics["likelihood"] != "none":
        assert 60 < metrics["test_nats"] < 784 * math.log(2)  # learned something, and nothing impossible
        assert metrics["bits_per_dim"] == pytest.approx(metrics["test_nats"] / (784 * math.log(2)))
    curve = metrics["curve"]
    assert 15 <= len(curve) <= 20 and curve[-1]["step"] == 30
    assert all({"step", "seconds", "train_nats", "val_nats"} <= set(row) for row in curve)
    assert [row["seconds"] for row in curve] == sorted(row["seconds"] for row in curve)
    score = "val_frechet" if metrics["likelihood"] == "none" else "val_nats"
    assert metrics["best_step"] == min(curve, key=lambda row: row[score])["step"]  # the first, of equals
    samples = np.load(folder / "samples.npy")
    assert samples.shape == (23, 28, 28) and samples.dtype == np.float32
    assert set(np.unique(samples)) <= {0.0, 1.0} or (metrics["likelihood"] == "none" and 0 <= samples.min() and samples.max() <= 1)
    assert (folder / "labels.npy").exists() == conditional
    if conditional:
        assert np.load(folder / "labels.npy").tolist() == [i % 10 for i in range(23)]
    assert not list(folder.glob("*.part"))


def test_training_learns(chapter):
    """300 steps on the small set: below 206 nats, which is what 784 independent coins reach."""
    chapter.main(["--steps", "300", "--batch-size", "32"])
    metrics = json.loads((Path("runs") / chapter.__name__ / "metrics.json").read_text())
    if metrics["likelihood"] == "none":  # no likelihood: then the Fréchet distance of what is drawn
        assert metrics["curve"][-1]["val_frechet"] < metrics["curve"][0]["val_frechet"] / 2
        return
    assert metrics["test_nats"] < 190
    assert metrics["curve"][-1]["val_nats"] < metrics["curve"][0]["val_nats"] - 30


def test_the_best_weights_are_the_ones_kept(chapter, monkeypatch):
    """Validation is made to be lowest in the middle: those weights are scored, and not the last."""
    record, seen = utils.Run.record, {}

    def bent(self, train_nats, val_nats, model, *rest, **more):
        seen[self.step] = {k: v.clone() for k, v in model.state_dict().items()}
        return record(self, train_nats, val_nats, model, *rest, **{**more, "score": abs(self.step - 10)})

    monkeypatch.setattr(utils.Run, "record", bent)
    chapter.main(SHORT)
    best = checkpoint(f"runs/{chapter.__name__}")["best"]
    middle = min(seen, key=lambda step: abs(step - 10))
    assert best["step"] == middle and same(best["weights"], seen[middle]) and not same(best["weights"], seen[30])


def test_sample_only(chapter):
    folder = Path("runs") / f"{chapter.__name__}_conditional"
    chapter.main(SHORT + ["--conditional"])
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    chapter.main(["--conditional", "--sample-only", "--num-samples", "7", "--label", "3", "--seed", "1"])
    assert np.load(folder / "labels.npy").tolist() == [3] * 7
    first = np.load(folder / "samples.npy")
    assert (folder / "samples_seed1_label3.png").exists()
    chapter.main(["--sample-only", "--num-samples", "7", "--label", "3", "--seed", "1", "--out", str(folder)])
    assert np.array_equal(first, np.load(folder / "samples.npy"))
    chapter.main(["--sample-only", "--num-samples", "7", "--label", "3", "--seed", "2", "--out", str(folder)])
    assert not np.array_equal(first, np.load(folder / "samples.npy"))
    chapter.main(["--sample-only", "--out", str(folder)])  # without a seed: the run's own picture again
    assert all((folder / name).read_bytes() == content for name, content in before.items())


def test_same_seed_same_run_another_seed_another(chapter):
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        chapter.main(SHORT + ["--seed", seed, "--out", out])
    assert same(result("a"), result("b")) and not same(result("a")[1], result("c")[1])


def test_the_weights_alone_draw(chapter, monkeypatch, tmp_path, fails, capsys):
    """weights.pt is half precision and has no optimizer: enough to draw, and not to train. What ships is found by the run's name."""
    chapter.main(SHORT + ["--out", "a"])
    folder, name = Path("a"), chapter.__name__
    size = (folder / "checkpoint.pt").stat().st_size
    (folder / "checkpoint.pt").unlink()
    assert (folder / "weights.pt").stat().st_size < size / 2
    chapter.main(["--sample-only", "--out", "a", "--num-samples", "5"])
    assert np.load(folder / "samples.npy").shape == (5, 28, 28)
    fails(lambda: chapter.main(["--resume", "--out", "a"]), "checkpoint.pt")
    # As if it had been cloned: utils.py and samples/ side by side.
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    shipped = tmp_path / "samples" / name / "weights.pt"
    shipped.parent.mkdir(parents=True)
    (folder / "weights.pt").rename(shipped)
    before = shipped.read_bytes()
    capsys.readouterr()
    foreign = tmp_path / "runs" / name / "thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("precious")
    for _ in range(2):
        fails(lambda: chapter.main(["--sample-only"]), "not from a run")
    assert list(foreign.parent.iterdir()) == [foreign]
    foreign.unlink()
    chapter.main(["--sample-only"])
    assert "weights that ship along" in capsys.readouterr().out and list(shipped.parent.iterdir()) == [shipped]
    assert (Path("runs") / name / "samples.png").stat().st_size > 100 and shipped.read_bytes() == before
    chapter.main(["--sample-only"])  # now they are in runs/, which a later run moves aside
    chapter.main(SHORT)
    assert (Path("runs") / f"{name}.1" / "weights.pt").exists() and (Path("runs") / name / "metrics.json").exists()
    capsys.readouterr()
    chapter.main(["--sample-only"])  # the run of one's own goes first
    assert "ship along" not in capsys.readouterr().out
    for content in (before[:len(before) // 2], b"", b"not weights"):
        shipped.write_bytes(content)
        fails(lambda: chapter.main(["--sample-only", "--out", str(shipped.parent)]), "truncated or is not a checkpoint")
    fails(lambda: chapter.main(["--sample-only", "--out", "elsewhere"]), "checkpoint.pt", "train first")


def test_weights_that_do_not_fit_are_told(chapter, fails):
    chapter.main(SHORT + ["--out", "a"])
    w = torch.load("a/weights.pt", weights_only=True)
    Path("a/checkpoint.pt").unlink()
    name = next(k for k, v in w["best"]["weights"].items() if v.dim() > 1)
    w["best"]["weights"][name] = w["best"]["weights"][name][:1]
    torch.save(w, "a/weights.pt")
    fails(lambda: chapter.main(["--sample-only", "--out", "a"]), "does not fit")
    del w["best"]["weights"][name]
    torch.save(w, "a/weights.pt")
    fails(lambda: chapter.main(["--sample-only", "--out", "a"]), "does not fit")


# -------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("step", [1, 12, 13, 29])  # 13 is a step with an evaluation
def test_resume_equals_not_stopping(chapter, monkeypatch, step):
    chapter.main(SHORT + ["--out", "whole"])
    assert step != 13 or 13 in [row["step"] for row in checkpoint("whole")["curve"]]
    with stopped_at(step, monkeypatch):
        chapter.main(SHORT + ["--out", "parts"])
    assert checkpoint("parts")["step"] == step and not Path("parts/metrics.json").exists()
    chapter.main(["--resume", "--out", "parts"])  # the settings come from the checkpoint
    assert same(result("whole"), result("parts"))


def test_resume_without_the_random_state_would_differ(chapter, monkeypatch):
    """Control for the test above."""
    chapter.main(SHORT + ["--out", "whole"])
    with stopped_at(11, monkeypatch):
        chapter.main(SHORT + ["--out", "parts"])
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    chapter.main(["--resume", "--out", "parts"])
    assert not same(result("whole")[1], result("parts")[1])


def test_width_is_a_setting_of_the_run(chapter, fails):
    """It changes the model, is in the folder's name, comes back by itself on --resume, and must not be contradicted."""
    short = ["--steps", "2", "--batch-size", "4"]
    chapter.main(short)
    chapter.main([*short, "--width", "16"])
    folder = Path(f"runs/{chapter.__name__}_width16")
    usual, wide = (json.loads((path / "metrics.json").read_text()) for path in (folder.with_name(chapter.__name__), folder))
    assert wide["settings"]["width"] == 16 != usual["settings"]["width"] and wide["parameters"] != usual["parameters"]
    before = result(folder)
    (folder / "metrics.json").unlink()
    for flag in ("--resume", "--sample-only"):
        fails(lambda: chapter.main([flag, "--out", str(folder), "--width", "32"]), "--width 16", "32")
    chapter.main(["--resume", "--out", str(folder)])
    assert same(result(folder), before)


OLD_NAMES = {"vae": "WIDTH", "made": "WIDTH", "wavenet": "CHANNELS", "pixelcnn": "CHANNELS", "transformer_ar": "CHANNELS", "gan": "CHANNELS"}


def test_checkpoints_from_before_there_were_flags_for_sizes(chapter, fails, monkeypatch):
    """Then width and depth were constants of the script, by their names, and nothing was dropped out."""
    with stopped_at(11, monkeypatch):
        chapter.main(SHORT + ["--out", "a"])
    c = checkpoint("a")
    old = {{"width": OLD_NAMES[chapter.__name__], "depth": "DEPTH"}.get(key, key): value for key, value in c["settings"].items() if key != "dropout"}
    torch.save({**c, "settings": old}, "a/checkpoint.pt")
    fails(lambda: chapter.main(["--resume", "--out", "a", "--width", "64"]), "--width", "64")
    if "dropout" in c["settings"]:
        fails(lambda: chapter.main(["--resume", "--out", "a", "--dropout", "0.3"]), "--dropout 0.0", "0.3")
    chapter.main(["--resume", "--out", "a"])
    chapter.main(SHORT + ["--out", "whole"])
    assert same(result("a"), result("whole"))


def test_resume_of_a_run_that_was_killed_while_it_was_scored(chapter, monkeypatch):
    chapter.main(SHORT + ["--out", "whole"])
    with monkeypatch.context() as m, pytest.raises(ZeroDivisionError):
        m.setattr(utils.Run, "finish", lambda *args, **kwargs: 1 / 0)
        chapter.main(SHORT + ["--out", "parts"])
    chapter.main(["--resume", "--out", "parts"])
    assert same(result("whole"), result("parts"))


def test_resume_of_a_finished_run_changes_nothing(chapter, capsys):
    chapter.main(SHORT + ["--out", "a"])
    before = {p.name: p.read_bytes() for p in Path("a").iterdir()}
    chapter.main(["--resume", "--out", "a"])
    assert "finished" in capsys.readouterr().out
    assert before == {p.name: p.read_bytes() for p in Path("a").iterdir()}


def test_a_new_run_does_not_destroy_an_old_one(chapter, monkeypatch):
    with stopped_at(11, monkeypatch):
        chapter.main(SHORT + ["--out", "a"])
    unfinished = {p.name: p.read_bytes() for p in Path("a").iterdir()}
    chapter.main(SHORT + ["--out", "a"])
    finished = {p.name: p.read_bytes() for p in Path("a").iterdir()}
    chapter.main(SHORT + ["--out", "a", "--seed", "1"])
    assert {p.name: p.read_bytes() for p in Path("a.1").iterdir()} == unfinished
    assert {p.name: p.read_bytes() for p in Path("a.2").iterdir()} == finished
    assert checkpoint("a")["settings"]["seed"] == 1


def test_a_run_whose_folder_was_moved_away_does_not_write_into_the_new_one(chapter, fails, monkeypatch):
    tick, new = utils.Run.tick, {}

    def second_run_starts(self, *loss):
        if self.step == 3 and not new:
            new["folder"] = Path("a").rename("a.1")
            Path("a").mkdir()
            Path("a/checkpoint.pt").write_text("the other run's")
        return tick(self, *loss)

    monkeypatch.setattr(utils.Run, "tick", second_run_starts)
    fails(lambda: chapter.main(SHORT + ["--out", "a"]), "moved away")
    assert Path("a/checkpoint.pt").read_text() == "the other run's"


def test_nor_does_it_write_its_results_there(chapter, fails, monkeypatch):
    """The other run starts when training is over and scoring has begun."""
    load_best = utils.Run.load_best

    def second_run_starts(self, model):
        Path("a").rename("a.1")
        Path("a").mkdir()
        return load_best(self, model)

    monkeypatch.setattr(utils.Run, "load_best", second_run_starts)
    fails(lambda: chapter.main(SHORT + ["--out", "a"]), "moved away")
    assert not list(Path("a").iterdir())


def test_a_write_that_breaks_off_leaves_the_old_checkpoint(chapter, monkeypatch, fails):
    saves = []

    def full_disk(fd):
        saves.append(fd)
        if len(saves) > 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full_disk)
        fails(lambda: chapter.main(SHORT + ["--out", "a"]), "No space left on device", "unchanged")
    assert 1 <= checkpoint("a")["step"] < 30
    assert not list(Path("a").glob("*.part"))


@pytest.fixture
def process(tmp_path):
    """Start a chapter as a process of its own, and wait for its first few evaluations."""
    started = []

    def start(script, *flags):
        p = subprocess.Popen([sys.executable, str(ROOT / script), *flags], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        started.append(p)
        return p

    yield start
    for p in started:
        p.kill()
        p.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_can_be_resumed(process, how):
    """Once, with the first chapter: the signal handling is in utils and the same for all."""
    script = next(iter(CHAPTERS))
    p = process(f"{script}.py", "--steps", "100000", "--batch-size", "8", "--out", "a")
    while not Path("a/checkpoint.pt").exists() and p.poll() is None:
        time.sleep(0.05)
    time.sleep(0.7)
    p.send_signal(how)
    out, err = p.communicate(timeout=60)
    assert "Traceback" not in err
    c = checkpoint("a")  # whole, whatever the moment was
    if how != signal.SIGKILL:
        assert p.returncode == 130 and "--resume --out a" in out + err and c["step"] > 0
    module = importlib.import_module(script)
    stop = []

    class Enough(Exception):
        pass

    def tick(self, *loss):
        stop.append(self.step)
        raise Enough

    with pytest.MonkeyPatch.context() as m, pytest.raises(Enough):
        m.setattr(utils.Run, "tick", tick)
        module.main(["--resume", "--out", "a"])
    assert stop == [c["step"]]


def test_the_main_job_as_a_user_runs_it(process):
    """A process of its own, in an empty folder, without a network: the default command, shortened."""
    for script in CHAPTERS:
        p = process(f"{script}.py", "--steps", "2", "--batch-size", "32")
        out, err = p.communicate(timeout=300)
        assert p.returncode == 0, err
        assert "Traceback" not in err and "ONLY 5,000 DIGITS" in out and ("bits/dim" in out or "no likelihood" in out)
        metrics = json.loads(Path(f"runs/{script}/metrics.json").read_text())
        assert metrics["command"] == f"python {script}.py --steps 2 --batch-size 32"
        assert len(list(Path(f"runs/{script}").glob("*.png"))) >= 3


# ---------------------------------------------------------------------------------------------- errors


BAD_FLAGS = [
    (["--steps", "0"], "--steps"), (["--steps", "1.5"], "--steps"), (["--batch-size", "0"], "--batch-size"),
    (["--batch-size", "4001"], "4000"), (["--lr", "0"], "--lr"), (["--lr", "-1"], "--lr"), (["--lr", "nan"], "--lr"),
    (["--lr", "inf"], "--lr"), (["--seed", "-1"], "--seed"), (["--num-samples", "0"], "--num-samples"),
    (["--label", "10"], "--label"), (["--label", "3"], "--sample-only"), (["--device", "cuda:99"], "--device"),
    (["--device", "toaster"], "toaster"), (["--device", "cpu:"], "cpu:"), (["--steps", "1" * 400], "--steps"),
    (["--sample-only", "--out", "n" * 300], "--sample-only"), (["--out", "n" * 300], "cannot be written"),
    (["--data-dir", "file"], "is a file"), (["--device", "cpu:x"], "cpu:x"), (["--colour"], "--colour"),
    (["--resume"], "--resume"), (["--sample-only", "--out", "new"], "--sample-only"), (["--resume", "--sample-only"], "one of them"),
    (["--out", "file"], "file"), (["--out", "file/a"], "file"), (["--out", "full"], "not from a run"),
    (["--width", "0"], "--width"), (["--width", "wide"], "--width"),
]


@pytest.mark.parametrize("flags, word", BAD_FLAGS, ids=[" ".join(flags) for flags, _ in BAD_FLAGS])
def test_bad_flags(chapter, fails, tmp_path, flags, word):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    fails(lambda: chapter.main(flags), word)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("how", ["truncated", "corrupt", "swapped"])
def test_bad_data(chapter, fails, tmp_path, how):
    """A file of MNIST that is not what it should be is named, by each script alike (test_data.py has more kinds)."""
    raw = tmp_path / "full" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    size, _ = utils.MNIST_FILES["t10k-labels-idx1-ubyte"]
    content = bytes({"truncated": size - 100, "corrupt": size, "swapped": utils.MNIST_FILES["t10k-images-idx3-ubyte"][0]}[how])
    (raw / "t10k-labels-idx1-ubyte").write_bytes(content)
    fails(lambda: chapter.main(SHORT + ["--data-dir", "full"]), "t10k-labels-idx1-ubyte", "corrupt" if how == "corrupt" else "truncated or swapped")
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes() == content and not list(Path("runs").rglob("*.pt"))


@pytest.fixture
def trained(chapter):
    chapter.main(SHORT + ["--out", "a"])
    Path("a/metrics.json").unlink()  # so that --resume has something to do
    return chapter


def test_bad_checkpoints(trained, fails, monkeypatch):
    path = Path("a/checkpoint.pt")
    good = path.read_bytes()

    def both(*words):
        for flag in ("--resume", "--sample-only"):
            before = path.read_bytes()
            fails(lambda: trained.main([flag, "--out", "a"]), "checkpoint.pt", *words)
            assert path.read_bytes() == before

    for content in (good[:len(good) // 2], good[:-1], b"", b"not a checkpoint at all", b"\x80\x04\x95"):
        path.write_bytes(content)
        both("truncated or is not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, path)
    both("not a checkpoint")
    torch.save([1, 2, 3], path)
    both("not a checkpoint")
    c = torch.load(_write(path, good), weights_only=True)
    torch.save({**c, "settings": {**c["settings"], "script": "another"}}, path)
    both("another.py", f"{trained.__name__}.py")
    torch.save({k: v for k, v in c.items() if k != "best"}, path)
    both("not a checkpoint")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4  # one bit, in the middle of some weight: only the checksum can tell
    path.write_bytes(flipped)
    both("not a checkpoint")
    weights = {k: v[:1] if v.dim() else v for k, v in c["best"]["weights"].items()}
    torch.save({**c, "best": {**c["best"], "weights": weights}, "parts": {**c["parts"], **{name: weights for name in ("model", "average") if name in c["parts"]}}}, path)
    both("does not fit")
    _write(path, good)
    name = next(name for name in c["settings"] if name.isupper() and hasattr(trained, name))
    with monkeypatch.context() as m:
        m.setattr(trained, name, getattr(trained, name) * 2)
        both(name)
    fails(lambda: trained.main(["--resume", "--out", "a", "--lr", "0.5"]), "--lr", "0.5")
    fails(lambda: trained.main(["--sample-only", "--out", "a", "--conditional"]), "--conditional")
    fails(lambda: trained.main(["--sample-only", "--out", "a", "--label", "3"]), "--conditional")
    with monkeypatch.context() as m:
        plain = utils.load_mnist
        m.setattr(utils, "load_mnist", lambda *args: _renamed(plain(*args)))
        fails(lambda: trained.main(["--resume", "--out", "a"]), "mnist_5k", "trained on")
    trained.main(["--resume", "--out", "a"])  # control: the good one is taken


def _write(path, content):
    path.write_bytes(content)
    return path


def _renamed(data):
    data.name = "mnist"
    return data


def test_a_checkpoint_cannot_run_code(trained, fails, tmp_path):
    """A pickle may call any function when it is loaded; weights_only=True does not."""
    import pickle

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    Path("a/checkpoint.pt").write_bytes(pickle.dumps(Evil()))
    fails(lambda: trained.main(["--sample-only", "--out", "a"]), "not a checkpoint")
    assert not (tmp_path / "owned").exists()
    with contextlib.suppress(Exception):  # control: the plain way does run it
        pickle.loads(Path("a/checkpoint.pt").read_bytes())
    assert (tmp_path / "owned").exists()


def test_a_loss_that_is_not_finite_stops_the_run(chapter, fails, monkeypatch):
    """From step 13 on the weights are poisoned; the checkpoint before it stays and is finite."""
    batch = utils.random_batch

    def poisoned(data, batch_size, **more):
        x, y = batch(data, batch_size, **more)
        poisoned.calls += 1
        return (x * math.nan if poisoned.calls > 12 else x), y

    poisoned.calls = 0
    monkeypatch.setattr(utils, "random_batch", poisoned)
    fails(lambda: chapter.main(SHORT + ["--out", "a"]), "after step 12", "nan", "--lr")
    c = checkpoint("a")
    assert 1 <= c["step"] <= 12 and finite(c["parts"])


def test_a_learning_rate_far_too_high_leaves_no_poisoned_checkpoint(chapter):
    with contextlib.suppress(SystemExit):
        chapter.main(SHORT + ["--out", "a", "--lr", "1e8"])
    assert finite(checkpoint("a")["parts"])


# ------------------------------------------------------------------------------------- the same in all


def test_help_reads_well(chapter, capsys):
    with pytest.raises(SystemExit) as stop:
        chapter.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and all(flag in text for flag in COMMON_FLAGS)
    assert all(line.strip() for line in text.split("options:")[1].strip().splitlines())
    assert "default: None" not in text and "default: False" not in text


def test_every_setting_of_the_visible_block_can_be_changed(chapter, monkeypatch):
    """Each constant in capitals, another value, two steps; and the value arrives in metrics.json if it shapes the run."""
    source = (ROOT / f"{chapter.__name__}.py").read_text()
    names = [node.targets[0].id for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    assert len(names) >= 5 and all(name.isupper() for name in names)
    for i, name in enumerate(names):
        value = getattr(chapter, name)
        with monkeypatch.context() as m:
            m.setattr(chapter, name, 2 * value if isinstance(value, int) else (value or 1.0) / 2)
            chapter.main((["--steps", "2"] if name != "STEPS" else ["--steps", "1"]) + ["--batch-size", "4", "--out", str(i)])
        assert source.count(name) >= 2  # it is used, too


def test_scripts_stand_alone(chapter):
    """Imports: the standard library, torch, torchvision, numpy, matplotlib, tqdm and utils; nothing runs on import."""
    allowed = {"torch", "torchvision", "numpy", "matplotlib", "tqdm", "utils"} | set(sys.stdlib_module_names)
    tree = ast.parse((ROOT / f"{chapter.__name__}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            assert {name.split(".")[0] for name in names} <= allowed
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef, ast.Expr, ast.If)
    assert all(isinstance(node, kinds) for node in tree.body)
    assert all(isinstance(node.value, ast.Constant) for node in tree.body if isinstance(node, ast.Expr))  # docstrings only
    assert [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)] == ["__name__ == '__main__'"]


def test_chapters_share_a_vocabulary_and_an_order(chapter):
    text = (ROOT / f"{chapter.__name__}.py").read_text()
    assert list(inspect.signature(chapter.main).parameters) == ["argv"]
    assert inspect.signature(chapter.main).parameters["argv"].default is None
    parts = ["Papers", "Lecture", "Run ", "Reached", "Left out", "import ", "# Settings to turn", "# Notes", "\nclass ",
             "def train(", "def main(argv=None)", "# Exercises", 'if __name__ == "__main__"']
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)
    loop = inspect.getsource(chapter.train).splitlines()
    assert len(loop) <= 40, len(loop)
    for item in list(vars(chapter).values()):  # public functions and classes have docstrings
        if inspect.isfunction(item) and item.__module__ == chapter.__name__ and item.__name__ != "main":
            assert item.__doc__, item.__name__


# What chapters do each in a way of their own, though the name is one.
OWN = {"main", "draw_pictures", "fields", "draw_fields", "choose_dilations", ("vae", "evaluate"), ("vae", "evaluate_without_label"),
       ("vae", "train"), ("gan", "train"),
       ("transformer_ar", "surprise")}


def functions(name):
    """name: body without docstring, of a chapter's functions."""
    found = {}
    for node in ast.parse((ROOT / f"{name}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            found[node.name] = ast.unparse(node.args) + "\n" + "\n".join(map(ast.unparse, body))
    return found


def drifted(chapters):
    """Names of functions that two chapters have, and not alike."""
    first, wrong = {}, []
    for chapter, found in chapters.items():
        for name, body in found.items():
            if name not in OWN and (chapter, name) not in OWN:
                wrong += [(chapter, name)] * (first.setdefault(name, body) != body)
    return wrong


def test_what_chapters_repeat_is_the_same_in_all():
    chapters = {name: functions(name) for name in CHAPTERS}
    assert drifted(chapters) == []
    chapters["made"]["draw"] += "\npass"  # control
    assert len(drifted(chapters)) >= 1
