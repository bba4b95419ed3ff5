"""Trained weights: loaded from Python, and as the start of another run."""
import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from conftest import CHAPTERS, ROOT, StopsAt, checkpoint, result, same, small, trained
from PIL import Image

import runner
import weights

pytestmark = pytest.mark.usefixtures("sketches")
SHIPPED = [name for name in CHAPTERS if (ROOT / "samples" / name / "weights.pt").exists()]


# --------------------------------------------------------------------------------- random numbers


class Cards:
    """Answers for torch, with two cards of which the first is the current one."""

    def __init__(self):
        self.states = {"cpu": 10, 0: 20, 1: 30, "mps": 40}
        self.cuda = SimpleNamespace(
            get_rng_state=lambda device: self.states[device.index or 0],
            set_rng_state=lambda state, device: self.states.update({device.index or 0: state}))
        self.mps = SimpleNamespace(get_rng_state=lambda: self.states["mps"],
                                   set_rng_state=lambda state: self.states.update(mps=state))

    def get_rng_state(self):
        return self.states["cpu"]

    def set_rng_state(self, state):
        self.states["cpu"] = state


@pytest.mark.parametrize("name, key", [("cpu", "cpu"), ("cuda", 0), ("cuda:1", 1), ("mps", "mps")])
def test_random_numbers_are_those_of_the_device_that_trains(name, key):
    device, cards, others = torch.device(name), Cards(), Cards()
    kept = weights.random_states(device, cards)
    assert kept == {"cpu": 10, device.type: cards.states[key]}
    others.states = dict.fromkeys(others.states, 0)
    weights.set_random_states(kept, device, others)
    assert others.states == {**dict.fromkeys(others.states, 0), "cpu": 10, key: cards.states[key]}
    if name != "cpu":  # begun on the CPU, and gone on with here
        weights.set_random_states({"cpu": 5}, device, others)
        assert others.states["cpu"] == 5 and others.states[key] == cards.states[key]


def test_random_numbers_of_torch_itself_come_back():
    kept = weights.random_states(torch.device("cpu"))
    first = torch.rand(3)
    assert not torch.equal(torch.rand(3), first)  # control
    weights.set_random_states(kept, torch.device("cpu"))
    assert torch.equal(torch.rand(3), first)


# ----------------------------------------------------------------------------------- from Python


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*drawing does not need")
@pytest.mark.parametrize("name", SHIPPED)
def test_the_run_that_ships_is_loaded_and_draws_its_own_picture(name):
    """load() from any folder; its first digits are those of samples.png."""
    model = CHAPTERS[name].load()
    assert not model.training
    draws = model.sample(64, None, torch.Generator().manual_seed(0))
    picture = np.array(Image.open(ROOT / "samples" / name / "samples.png").convert("L"))
    shown = torch.tensor(picture)[4:60:2, 4:60:2] / 255  # the first of the grid, 2×2 a pixel
    assert (draws[0, 0] - shown).abs().mean() < 0.1  # rounded to half, a pixel may differ


def test_a_run_is_loaded_from_its_folder():
    toy.main(["--conditional", "--out", "a"])
    model, best = load("a"), checkpoint("a")["best"]
    assert same(model.state_dict(), best["weights"]) and model.classes == 10
    shipped = torch.load("a/weights.pt", weights_only=True)["best"]["weights"]
    assert (shipped["logits"].dtype, best["weights"]["logits"].dtype) == (torch.half, torch.float)
    Path("a/checkpoint.pt").unlink()  # then weights.pt, in half precision and without "extra"
    with pytest.warns(UserWarning, match="has no extra, which drawing"):
        model = load("a")
    assert torch.allclose(model.logits, best["weights"]["logits"], rtol=1e-3)


def test_of_a_run_the_best_weights_are_loaded_and_not_the_last():
    toy.main(["--out", "a"])
    c = checkpoint("a")
    c["best"]["weights"]["logits"] = c["best"]["weights"]["logits"] + 1
    assert not same(c["best"]["weights"], c["parts"]["model"])
    torch.save(c, "a/checkpoint.pt")
    assert same(dict(load("a").state_dict()), dict(c["best"]["weights"]))


def load(folder):
    return weights.load(toy.__file__, toy.SETTINGS, toy.VARIANTS, toy.build, folder)


@pytest.mark.slow
def test_weights_of_other_code_are_refused():
    """One weight less, or one more, than the model has."""
    toy.main(["--out", "a"])
    c = checkpoint("a")
    best = dict(c["best"]["weights"])
    for other in ({k: v for k, v in best.items() if k != "logits"},
                  {**best, "foreign": torch.zeros(3)}):
        torch.save({**c, "best": {**c["best"], "weights": other}}, "a/checkpoint.pt")
        with pytest.raises(ValueError, match="does not fit toy.py"):
            load("a")
    torch.save(c, "a/checkpoint.pt")
    assert same(dict(load("a").state_dict()), best)  # control


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*drawing does not need")
def test_what_cannot_be_loaded_is_said():
    with pytest.raises(FileNotFoundError, match="nowhere.*train first"):
        load("nowhere")
    toy.main(["--out", "a"])
    for name in ("checkpoint.pt", "weights.pt"):
        assert load("a") is not None
        Path("a", name).write_bytes(Path("a", name).read_bytes()[:-100])
        with pytest.raises(ValueError, match=f"{name}.*truncated"):
            load("a")
        Path("a", name).unlink()
    CHAPTERS["vae"].main(small(CHAPTERS["vae"], "--out", "b"))
    with pytest.raises(ValueError, match="vae.py, not of toy.py"):
        load("b")
    content = weights.read("b/weights.pt", "vae")
    content["best"]["weights"] = {k: v[:1] for k, v in content["best"]["weights"].items()}
    Path("b/checkpoint.pt").unlink()
    torch.save(content, "b/weights.pt")
    with pytest.raises(ValueError, match="does not fit vae.py"):
        CHAPTERS["vae"].load("b")


# ------------------------------------------------------------------------------------- training on


@pytest.mark.slow
def test_a_finished_run_is_the_start_of_a_new_one(fails, capsys):
    toy.main(["--out", "a", "--lr", "0.05"])
    before = {p.name: p.read_bytes() for p in Path("a").iterdir() if p.name != ".lock"}
    fails(lambda: toy.main(["--resume", "--out", "a", "--steps", "40"]), "made for 30 steps",
          "python toy.py --start-from a --steps 40")
    toy.main(shlex.split("--start-from a --steps 40 --out b"))  # as it was told
    metrics = json.loads(Path("b/metrics.json").read_text())
    old = json.loads(Path("a/metrics.json").read_text())
    assert metrics["began_from"] == {"file": str(Path("a/checkpoint.pt")), "data": "mnist_5k",
                                     "command": old["command"], "step": old["best_step"]}
    assert metrics["settings"]["lr"] == 0.05 and metrics["steps"] == 40  # the rest is as it was
    assert (old["seed"], metrics["seed"]) == (0, 1)  # but for the seed: other batches
    assert metrics["test_nats"] < old["test_nats"] and old["began_from"] is None
    assert before == {p.name: p.read_bytes() for p in Path("a").iterdir() if p.name != ".lock"}


@pytest.mark.slow
def test_the_new_run_begins_with_the_best_weights_and_all_else_is_new():
    toy.main(["--out", "a"])
    seen = []

    class Seen(StopsAt):
        def restore(self):
            raise AssertionError("nothing is restored")

        def save(self):
            seen.append([{k: v.clone() for k, v in self.parts["model"].state_dict().items()},
                         self.parts["optimizer"].state_dict()["state"], self.step])
            super().save()

    toy.main(["--start-from", "a"], Seen)
    assert same(seen[0][0], checkpoint("a")["best"]["weights"])
    assert seen[0][1:] == [{}, 0] and Path("runs/toy_more/metrics.json").exists()


@pytest.mark.slow
def test_it_can_be_stopped_and_goes_on():
    toy.main(["--out", "a"])
    toy.main(["--start-from", "a", "--out", "whole"])

    class Stopped(StopsAt):
        at = 11

    with pytest.raises(SystemExit):
        toy.main(["--start-from", "a", "--out", "b"], Stopped)
    toy.main(["--resume", "--out", "b"])
    assert same(result("b"), result("whole"))
    assert json.loads(Path("b/metrics.json").read_text())["began_from"]["step"] == 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan", "diffusion"])
def test_of_several_networks_all_go_on(name):
    chapter = CHAPTERS[name]
    trained(chapter, small(chapter, "--out", "a"))
    seen = []

    class Seen(StopsAt):
        def save(self):
            seen.append({name: {k: v.clone() for k, v in part.state_dict().items()}
                         for name, part in self.parts.items() if hasattr(part, "named_parameters")})
            super().save()

    trained(chapter, small(chapter, "--start-from", "a", "--out", "b"), Seen)
    then = checkpoint("a")["parts"]
    history = seen[0].pop("history", None)  # of gan.py: what was noted is not taken over
    assert history is None or not any(v.any() for v in history.values())
    assert len(seen[0]) > 1 and all(same(part, then[name]) for name, part in seen[0].items())
    assert not all(same(part, then[name]) for name, part in seen[-1].items())  # control


@pytest.mark.slow
def test_a_start_that_does_not_fit_is_said(fails):
    toy.main(["--out", "a"])
    fails(lambda: toy.main(["--start-from", "nowhere"]), "--start-from nowhere", "train first")
    fails(lambda: toy.main(["--start-from", "a", "--width", "5"]), "checkpoint.pt", "sizes")
    fails(lambda: toy.main(["--start-from", "a", "--conditional"]), "checkpoint.pt", "sizes")
    fails(lambda: toy.main(["--start-from", "a", "--resume"]), "--start-from", "give one")
    fails(lambda: toy.main(["--start-from", "a", "--sample-only"]), "--start-from", "give one")
    fails(lambda: toy.main(["--start-from", "a", "--frills", "2"]), "--frills", "add that")
    toy.main(["--variant", "fancy", "--out", "fancy"])  # a flag of the variant that it starts from
    toy.main(["--start-from", "fancy", "--frills", "3", "--out", "more"])
    assert checkpoint("more")["settings"]["frills"] == 3
    assert not Path("runs/toy_more/metrics.json").exists()
    toy.main(["--out", "b"])
    before = sorted(p.name for p in Path("b").iterdir())
    fails(lambda: toy.main(["--start-from", "a", "--width", "5", "--out", "b"]), "sizes")
    assert sorted(p.name for p in Path("b").iterdir()) == before and not Path("b.1").exists()


def test_a_run_that_was_never_evaluated_is_no_start(fails):
    class Stopped(StopsAt):
        at = 1

    with pytest.raises(SystemExit):
        toy.main(["--steps", "3000", "--out", "a"], Stopped)
    fails(lambda: toy.main(["--start-from", "a"]), "a/checkpoint.pt", "not evaluated yet")
    with pytest.raises(ValueError, match="not evaluated yet"):
        load("a")


@pytest.mark.slow
def test_a_start_from_itself_leaves_it_where_it_is():
    for start, end in (("runs/toy", "toy_more"), ("runs/toy_more", "toy_more_more")):
        toy.main(["--start-from", start] if Path(start).exists() else [])
        if start == "runs/toy":
            toy.main(["--start-from", start])
        assert Path("runs", end, "metrics.json").exists()
    assert not Path("runs/toy_more.1").exists()


def test_a_loss_that_is_not_finite_says_how_to_go_on(fails, capsys):
    class Run(runner.Run):
        def tick(self, loss):
            if self.step == self.at:
                self.check_finite(loss=float("nan"))
            return super().tick(loss)

    Run.at = 0  # before it was evaluated: there are no weights to go on from
    with pytest.raises(SystemExit):
        toy.main(["--out", "b"], Run)
    assert "--start-from" not in capsys.readouterr().err
    Run.at = 20
    fails(lambda: toy.main(["--out", "a"], Run), "--start-from a", "--lr 0.02")
    toy.main(["--start-from", "a", "--lr", "0.02"])  # as it was told


# ------------------------------------------------------------------------------- pictures meanwhile


@pytest.mark.slow
@pytest.mark.painted
def test_pictures_are_there_from_the_first_evaluation_on_and_are_renewed():
    shown = []

    class Seen(StopsAt):
        def record(self, *args, **options):
            super().record(*args, **options)
            shown.append(Path("runs/toy/progress.png").read_bytes())

    toy.main(["--steps", "800"], Seen)
    assert Path("runs/toy/loss.png").exists() and len(shown) > 10
    heights = [Image.open(io.BytesIO(png)).height for png in shown]
    assert heights[0] < 120 and Image.open("runs/toy/progress.png").height > 5 * heights[0]


@pytest.mark.slow
def test_pictures_take_a_fiftieth_of_the_time_at_most():
    drawn = []

    class Slow(StopsAt):
        def plot_progress(self):
            drawn.append(self.step)
            self.plot_seconds += 10

        def tick(self, loss):
            self.train_seconds += 1
            return super().tick(loss)

    toy.main(["--steps", "1600"], Slow)
    # 10 s a time, and 1 s a step: a fiftieth allows a second time after 500 steps, a third after
    # 1,000; evaluations are at 4, 16, 36, … 484, 576, …; and finish() draws once more.
    assert drawn == [4, 576, 1024, 1600, 1600]


@pytest.mark.slow
def test_threads_are_as_many_as_was_asked_for(fails):
    before = torch.get_num_threads()
    try:
        toy.main(["--out", "a", "--threads", "2"])
        assert json.loads(Path("a/metrics.json").read_text())["threads"] == 2 != before
    finally:
        torch.set_num_threads(before)
    fails(lambda: toy.main(["--threads", "0"]), "--threads")


def test_draws_as_single_files(fails):
    toy.main(["--conditional", "--out", "a", "--num-samples", "12", "--png"])
    files = sorted(Path("a/png").iterdir())
    assert [p.name for p in files] == [f"{i:05}_{i % 10}.png" for i in range(12)]
    images = np.stack([np.array(Image.open(p)) for p in files]) / 255
    assert np.array_equal(images, np.load("a/samples.npy"))
    fails(lambda: toy.main(["--png"]), "--png", "--num-samples")
