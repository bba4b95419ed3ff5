"""What every chapter promises around its model: outputs, resume, samples, seeds, help; that its
loop trains on what it says and scores what it says, with the rate and the clip that it says; and
one form.

Folders, locks, broken files and flags are runner.py's and settings.py's: test_runner.py and
test_settings.py try them with a toy. Chapters are found, not listed: a new one is tried at once."""
import ast
import contextlib
import inspect
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fit
import numpy as np
import pytest
import torch
from conftest import (
    CHAPTERS,
    ROOT,
    OnlyTrains,
    StopsAt,
    checkpoint,
    result,
    rewritten,
    same,
    small,
    train_by_main,
    trained,
    values,
    weights_of_fit,
    weights_of_run,
)

import judge
import settings
import tables
import utils

FLAGS = ("--steps --batch-size --lr --seed --conditional --device --data-dir --out --resume "
         "--sample-only --num-samples --label --width").split()
VARIANTS = [(name, re.sub("--steps \\d+", "", flags).strip()) for name, chapter in CHAPTERS.items()
            for flags in chapter.ABOUT["variants"].values()]
CLIPPED = [name for name, chapter in CHAPTERS.items() if "clip" in chapter.SETTINGS]


def source(name):
    return (ROOT / f"{name}.py").read_text(encoding="utf-8")


pytestmark = pytest.mark.usefixtures("few_images", "short_chains")


# --------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("name, flags, conditional", [
    *((name, flags, False) for name, flags in VARIANTS),
    *((name, "", True) for name in CHAPTERS)])
def test_a_run_writes_what_it_promises(name, flags, conditional, capsys, request):
    """And its weights, through all evaluations and to the end of main(), are bit for bit those that
    fit() trains, which evaluates nothing."""
    chapter = CHAPTERS[name]
    words = small(chapter, "--steps", 2, *flags.split(), "--num-samples", 3)
    words += ["--conditional"] * conditional
    # Figures of who is told the label are painted in test_own_data.py, but for those of guidance.
    painted = not conditional or name == "diffusion"
    if not painted:
        request.getfixturevalue("sketches")
    fitted = weights_of_fit(chapter, words_of_settings(words))
    chapter.main([*words, "--out", "run"])
    folder, out = Path("run"), capsys.readouterr().out
    assert same(fitted, weights_of_run(folder))
    other = weights_of_fit(chapter, f"{words_of_settings(words)} --seed 1")
    assert not same(fitted, other)  # control
    m = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert m["model"] == name and m["conditional"] is conditional and m["steps"] == 2
    s = values(chapter, words_of_settings(words))
    assert m["settings"] == vars(s)
    assert m["likelihood"] == getattr(chapter.build(s), "likelihood",
                                      chapter.ABOUT["abilities"]["likelihood"])
    if m["likelihood"] == "none":
        assert m["test_nats"] is None and m["test_frechet"] > 0 and "no likelihood" in out
    else:
        assert 60 < m["test_nats"] < 784 * math.log(2) + 100 and "bits/dim" in out
        assert m["bits_per_dim"] == pytest.approx(m["test_nats"] / (784 * math.log(2)))
    if conditional and m["likelihood"] != "none":
        assert 60 < m["marginal_nats"] <= m["test_nats"] + math.log(10) + 0.1
        assert 0 <= m["bayes_accuracy"] <= 1
    assert m["judge"] == (judge.judge_digest() if "test_frechet" in m else None)
    assert len(m["curve"]) == 2 and m["curve"][-1]["step"] == 2
    for picture in (*folder.glob("*.png"), *folder.glob("*.gif")):
        assert picture.read_bytes()[:4] in (b"\x89PNG", b"GIF8")
        assert picture.stat().st_size > 500 * painted
        assert picture.name in {**tables.SENTENCES, **chapter.ABOUT.get("pictures", {})}
    named = {p.name for p in folder.iterdir()}
    assert {"samples.png", "progress.png", "loss.png", "weights.pt", "checkpoint.pt"} <= named
    samples = np.load(folder / "samples.npy")
    assert samples.shape == (3, 28, 28) and samples.min() >= 0 and samples.max() <= 1
    assert set(np.unique(samples)) <= {0.0, 1.0} or m["likelihood"] == "none"
    assert (folder / "labels.npy").exists() == conditional
    if m["likelihood"] != "none":
        check_figures(chapter, m, checkpoint(folder)["best"]["weights"])
    if "test_frechet" in m:
        check_scores(chapter, m, checkpoint(folder)["best"]["weights"])
    if conditional:
        check_draws_of_a_label(chapter, folder)
    else:  # what ships is enough to draw, without the checkpoint
        (folder / "checkpoint.pt").unlink()
        chapter.main(["--sample-only", "--out", "run"])


def check_scores(chapter, m, weights):
    """Scores that are published are those of draws of the best weights beside the test digits:
    drawn and scored once more; beside validation digits they would be others."""
    s, network = SimpleNamespace(**m["settings"]), judge.load_judge()
    data = fit.told(utils.load_mnist(), s.conditional)
    model = fit.the_one_that_draws(chapter.build(s))
    model.load_state_dict(weights)
    y = judge.data_labels(data, s.test_draws)
    draws = judge.sample_many(model, s.test_draws, y)

    def scored(grey, bits):
        return judge.scores(network, draws, bits) if m["likelihood"] != "none" else judge.measure(
            network, draws, (grey, bits))

    for key, value in scored(data.test, data.x_test).items():
        assert m[f"test_{key}"] == pytest.approx(value, rel=1e-5), key
    for key, value in scored(data.val, data.x_val).items():  # controls
        assert "frechet" not in key or m[f"test_{key}"] != pytest.approx(value, rel=1e-4), key
    for key, value in judge.obeyed(network, draws, y).items():
        assert m.get(key, m.get(f"test_{key}")) == pytest.approx(value)
    if "base_nats" in m:
        nats = -model.base.log_prob(data.x_test, data.y_test).mean().item()
        assert m["base_nats"] == pytest.approx(nats, rel=1e-5)


def check_draws_of_a_label(chapter, folder):
    """Other noise, or another label, are other digits; and --sample-only draws the same ones as at
    the end of training. (What it makes of --label and --seed the toy says in test_runner.py.)"""
    before, model = (folder / "samples.png").read_bytes(), chapter.load(folder)
    drawn = [model.sample(4, torch.full((4,), label), torch.Generator().manual_seed(seed))
             for seed, label in ((1, 3), (2, 3), (1, 4))]
    assert not torch.equal(drawn[0], drawn[1])
    if drawn[0].max() < 1:  # grey ones change with the label even in so young a model
        assert not torch.equal(drawn[0], drawn[2])
    chapter.main(["--sample-only", "--out", str(folder)])
    assert (folder / "samples.png").read_bytes() == before


def check_figures(chapter, m, weights):
    """The published figures are those of the test bits, with their labels, and of the best weights:
    scored once more."""
    s, data = SimpleNamespace(**m["settings"]), utils.load_mnist()
    model, y = fit.the_one_that_draws(chapter.build(s)), data.test_labels if s.conditional else None
    model.load_state_dict(weights)
    draws = [getattr(s, name) for name in ("iw_samples", "bound_draws") if hasattr(s, name)]
    score = getattr(chapter, "evaluate_bound", chapter.evaluate)
    if m["likelihood"] == "estimate":  # of log Z, which is counted once more
        ends, _ = chapter.estimate_z(model, s)
        if s.variant == "residual":  # and from the other side: the interval spans both
            other = model.measure_from_digits(*utils.first(1000, data.x_val, data.y_val if
                                              s.conditional else None), s.z_steps // 500)
            ends = torch.minimum(ends[0], other[0]), torch.maximum(ends[1], other[1])
        assert m["nats_interval"][0] <= m["test_nats"] <= m["nats_interval"][1]
        assert m["nats_interval"][1] - m["nats_interval"][0] == pytest.approx(
            (ends[1] - ends[0]).mean().item(), abs=1e-3)
    assert m["test_nats"] == pytest.approx(score(model, data.x_test, y, *draws), rel=1e-6)
    if "elbo_nats" in m:
        assert m["elbo_nats"] == pytest.approx(fit.nats(chapter, model, data.x_test, y), rel=1e-6)
    if s.conditional:
        without_label = chapter.evaluate_without_label(model, data.x_test, y, *draws)
        assert (m["marginal_nats"], m["bayes_accuracy"]) == pytest.approx(without_label, rel=1e-6)


def words_of_settings(words):
    """Without the flags of the run."""
    text = " ".join(words)
    return re.sub(r"--(num-samples|out|data-dir) \S+", "", text)


@pytest.mark.slow
@pytest.mark.usefixtures("short_chains")
def test_training_learns(chapter):
    """On the small set: below 206 nats, what 784 independent coins reach, in 80 steps, or 250 of
    those that are quick; or, in 100, draws that are nearer to digits."""
    s, data = values(chapter, f"{chapter.ABOUT['small']} --width 16 --batch-size 16"), small_set()
    model, figures = chapter.build(s), []
    quick = 250 if fit.has_nats(chapter, model) else 100
    for s.steps in (1, 80 if hasattr(model, "sample_obvious") else quick):
        model, _, norms = fit.fit(chapter, s, data)
        assert len(norms) in (0, s.steps)
        if fit.has_nats(chapter, model):
            figures.append(fit.nats(chapter, model, data.x_val))
        else:
            draws = model.sample(200, None, torch.Generator().manual_seed(0))
            network = judge.load_judge()
            figures.append(judge.frechet_distance(judge.judged(network, draws)[0],
                                                  judge.judged(network, data.val)[0]))
    assert figures[1] < figures[0] and figures[1] < 203


def small_set():
    return utils.load_mnist()


@pytest.mark.slow
@pytest.mark.usefixtures("sketches")
@pytest.mark.parametrize("name, flags", VARIANTS)
def test_resume_equals_not_stopping(name, flags):
    chapter = CHAPTERS[name]
    words = small(chapter, *flags.split())
    trained(chapter, words + ["--out", "whole"])
    with pytest.raises(SystemExit):
        trained(chapter, words + ["--out", "parts"], type("Stops", (StopsAt,), {"at": 3}))
    assert checkpoint("parts")["step"] == 3
    trained(chapter, ["--resume", "--out", "parts"])  # the settings come from the checkpoint
    assert same(result("whole"), result("parts"))
    # Control: another seed. (What it trains does not hang on evaluations: those are left out.)
    trained(chapter, words + ["--out", "other", "--seed", "1"], OnlyTrains).save()
    assert checkpoint("other")["step"] == 4
    assert not same(result("whole")[1], result("other")[1])


@pytest.mark.slow
def test_the_main_job_as_a_user_runs_it(tmp_path):
    """A process of its own, in an empty folder, without a network: README's line, shortened."""
    words = small(CHAPTERS["vae"], "--steps", 2)
    done = process("vae", words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "ONLY 5,000 DIGITS" in done.stdout
    folder, = Path("runs").iterdir()
    assert folder.name.startswith("vae")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["command"] == f"python vae.py {' '.join(words)}"


def process(name, words, folder):
    """python NAME.py WORDS, in a folder."""
    return subprocess.run([sys.executable, str(ROOT / f"{name}.py"), *words], cwd=folder,
                          capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1"})


@pytest.mark.slow
def test_each_script_starts_as_a_process(tmp_path):
    """One after the other, each as __main__ and with its folder in front of the path, in a process
    that has nothing else of ours: to import torch for each of them takes longest."""
    code = """if True:
        import os, runpy, sys
        streams, scripts = (sys.stdout, sys.stderr), sys.argv[1:]
        for script in scripts:
            sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                code = end.code
            sys.stdout, sys.stderr = streams
            print("exit code", code, flush=True)
    """
    scripts = [str(ROOT / f"{name}.py") for name in CHAPTERS]
    done = subprocess.run([sys.executable, "-c", code, *scripts], cwd=tmp_path, text=True,
                          capture_output=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    *said, rest = done.stdout.split("exit code 0\n")
    assert len(said) == len(CHAPTERS) and rest == ""
    for name, text in zip(CHAPTERS, said):
        assert text.startswith(f"usage: {name}.py") and "--sample-only" in text, name


@pytest.mark.parametrize("name, flags", VARIANTS)
def test_what_makes_no_sense_is_refused(name, flags):
    """Called from Python: grey levels 0 … 255 for bits (one pixel is enough, and so is nan), and
    pixels that are given without saying which, or the other way round."""
    chapter = CHAPTERS[name]
    model = chapter.build(values(chapter, f"{chapter.ABOUT['small']} {flags}"))
    one, nan = torch.zeros(2, 1, 28, 28), torch.zeros(2, 1, 28, 28)
    one[1, 0, 5, 5], nan[1, 0, 5, 5] = 255, math.nan
    draws = fit.the_one_that_draws(model)
    if fit.has_nats(chapter, model):
        for x in (one, one - 255, nan):
            for ask in (chapter.evaluate, getattr(chapter, "surprise", chapter.evaluate)):
                with pytest.raises(ValueError, match="pixels have to lie in 0 … "):
                    ask(draws, x, None)
        chapter.evaluate(draws, one / 255, None)  # control
    if "known" in inspect.signature(draws.sample).parameters:
        known = torch.zeros(28, 28, dtype=torch.bool)
        for given in ({"x": one / 255}, {"known": known}):
            with pytest.raises(ValueError, match="go together"):
                draws.sample(2, **given)
        with pytest.raises(ValueError, match="pixels have to lie in 0 … "):
            draws.sample(2, x=one, known=known)


# --------------------------------------------------------------- the loop does what it says it does


class Untouchable:
    """Stands for the test set while training goes on: whoever looks at it is told."""

    def __getattr__(self, name):
        raise AssertionError(f"training looked at the test set ({name})")

    __getitem__ = __len__ = __iter__ = __truediv__ = lambda self, *args: self.__getattr__("…")


class Spy:
    """In place of a Run: notes what the loop does. evaluate_at: steps at which it wants to know."""

    def __init__(self, s, evaluate_at=()):
        self.settings, self.step, self.evaluate_at = s, 0, evaluate_at
        self.device, self.optimizers = torch.device("cpu"), []
        self.records, self.losses, self.rates, self.norms = [], [], [], []

    def load_judge(self):
        return judge.load_judge()

    def training(self, **parts):
        self.parts = parts
        self.optimizers = [part for part in parts.values() if hasattr(part, "param_groups")]
        return contextlib.nullcontext()

    def check_finite(self, **numbers):
        self.norms.append(numbers)
        assert all(math.isfinite(number) for number in numbers.values())
        # Called between the gradient and the step (gan.py: behind both steps).
        self.rates.append([o.param_groups[0]["lr"] for o in self.optimizers])
        self.gradients = {name: [p.grad.clone() for p in (
            *(p for group in o.param_groups for p in group["params"]),
            *getattr(o, "matrices", ())) if p.grad is not None]  # muon.py keeps those apart
                          for name, o in enumerate(self.optimizers)}

    def tick(self, loss, unit="nats"):
        self.losses.append(loss)
        self.step += 1
        return self.step in self.evaluate_at

    def record(self, train_nats, val_nats, model, picture, score=None, **more):
        self.records.append(SimpleNamespace(train=train_nats, val=val_nats, model=model,
                                            picture=picture, score=score, more=more))


def toy_data(conditional, n=40, seed=0):
    """Digits of noise: training images in one half, validation in the other, no test set at all."""
    generator = torch.Generator().manual_seed(seed)
    grey = (torch.rand(2 * n, 1, 28, 28, generator=generator) < 0.3).to(torch.uint8) * 255
    labels = torch.arange(2 * n) % 10
    data = SimpleNamespace(
        name="toy", train=grey[:n], val=grey[n:], train_labels=labels[:n], val_labels=labels[n:],
        x_train=grey[:n] // 255, x_val=grey[n:] // 255, y_train=None, y_val=None, y_test=None,
        test=Untouchable(), x_test=Untouchable(), test_labels=Untouchable())
    if conditional:
        data.y_train, data.y_val, data.y_test = labels[:n], labels[n:], Untouchable()
    return data


def loop(chapter, flags="", conditional=False, evaluate_at=(), data=None, seed=0, before=None):
    """Train a small model under a Spy: (the spy, the model, the data). before(model): what is done
    first."""
    s = values(chapter, f"{chapter.ABOUT['small']} --batch-size 4 --steps 4 {flags}")
    s.conditional, s.classes = conditional, 10 * conditional
    torch.manual_seed(seed)
    model, data = chapter.build(s), data or toy_data(conditional)
    spy = Spy(s, evaluate_at)
    if before:
        before(model)
    chapter.train(model, data, spy)
    return spy, model, data


@pytest.mark.parametrize("name, flags", VARIANTS)
def test_the_rate_rises_and_falls_to_zero(name, flags):
    """Every optimizer's, in every step: a warm-up where the chapter has one, then linear to 0 (with
    chains: as a square)."""
    spy, _, _ = loop(CHAPTERS[name], f"{flags} --steps 8 --lr 0.001")
    warm = getattr(spy.settings, "warm_up", 0.0)
    if getattr(spy.settings, "base_part", 0) and spy.settings.variant == "residual":
        assert spy.rates[3][0] < spy.rates[1][0] > spy.rates[7][0] < spy.rates[5][0]
        return  # two ramps in one run: test_ebm.py
    for step, rates in enumerate(spy.rates):
        rise = (step + 1) / (8 * warm + 1) if warm else 1
        left = (1 - step / 8) ** (2 if name == "ebm" else 1)
        assert rates == pytest.approx([0.001 * min(rise, left)] * len(rates)), step
    assert len(spy.rates) == 8 and spy.optimizers


@pytest.mark.parametrize("name", CLIPPED)
def test_gradients_are_clipped(name):
    chapter = CHAPTERS[name]
    free, _, _ = loop(chapter, "--clip 1e8 --steps 1")
    norm = free.norms[0]["gradient"]
    for clip in (norm / 7, norm * 7):
        spy, _, _ = loop(chapter, f"--clip {clip:.6g} --steps 1")
        assert spy.norms[0]["gradient"] == pytest.approx(norm, rel=1e-4)  # as it was, unclipped
        clipped = math.sqrt(sum(g.square().sum().item() for g in spy.gradients[0]))
        assert clipped == pytest.approx(min(norm, clip), rel=1e-3)


@pytest.mark.parametrize("conditional", [False, True])
def test_batches_are_training_images_with_their_labels(chapter, conditional):
    """Only those are asked for; and of white training images white is learned."""
    data = toy_data(conditional)
    data.train = torch.full_like(data.train, 255)
    seen = []

    class Data(SimpleNamespace):
        """Notes which of its tensors are indexed at random."""

        def __getattribute__(self, name):
            if name in ("train", "train_labels", "y_train", "val", "x_val"):
                seen.append(name)
            return super().__getattribute__(name)

    spy, model, _ = loop(chapter, "--steps 3", conditional, data=Data(**vars(data)))
    assert "train" in seen and "y_train" in seen and "train_labels" not in seen
    assert len(spy.losses) == 3
    # Twenty steps later white is what it expects, and black is not.
    spy, model, data = loop(chapter, "--steps 20 --lr 0.05", conditional, data=data)
    white, black = torch.ones(8, 1, 28, 28), torch.zeros(8, 1, 28, 28)
    y = torch.arange(8) if conditional else None
    if fit.has_nats(chapter, model):
        nats = [chapter.evaluate(model, x, y) for x in (white, black)]
        nats = [n[1] - n[0] if isinstance(n, tuple) else n for n in nats]
        assert nats[0] < nats[1] - 20
    else:
        draws, plain = (fit.the_one_that_draws(m).sample(8, y, torch.Generator().manual_seed(0))
                        for m in (model, chapter.build(spy.settings)))
        assert draws.mean() > plain.mean() + 0.01


def batches_of(chapter, flags, conditional, data):
    """What the loss is given in a few steps: images and labels, before it looks at them."""
    seen = []

    def watch(model):
        learner = getattr(model, "model", model)  # of diffusion.py: beside it is its average
        name, at = ("loss", 0) if hasattr(learner, "loss") else ("discriminator_step", 3)
        usual = getattr(learner, name)

        def noting(*given):
            x, y = given[at:at + 2]
            seen.append((x.clone(), None if y is None else y.clone()))
            return usual(*given)

        setattr(learner, name, noting)

    loop(chapter, f"{flags} --steps 2 --batch-size 8", conditional, data=data, before=watch)
    return seen


def are_training_images(batches, data):
    """Is each image one of data.train, with the label that it has there? Its pixels are 0 or 255
    alone: coins and levels leave them as they are."""
    for x, y in batches:
        where = [(data.train / 255 == image).flatten(1).all(dim=1).nonzero() for image in x]
        if [len(places) for places in where] != [1] * len(x):
            return False
        if y is not None and data.train_labels[torch.cat(where)[:, 0]].tolist() != y.tolist():
            return False
    return len(batches) > 1


@pytest.mark.parametrize("name, flags", VARIANTS)
def test_the_loss_is_given_each_training_image_with_its_own_label(name, flags, monkeypatch):
    chapter, right = CHAPTERS[name], utils.random_batch
    for conditional in (False, True):
        data = toy_data(conditional)
        batches = batches_of(chapter, flags, conditional, data)
        assert are_training_images(batches, data)
        assert all((y is not None) is conditional for _, y in batches)

    def mistaken(mistake):
        monkeypatch.setattr(utils, "random_batch", lambda *a, **k: mistake(*right(*a, **k)))
        return not are_training_images(batches_of(chapter, flags, True, data), data)

    assert mistaken(lambda x, y: (x, y.flip(0)))  # controls
    assert mistaken(lambda x, y: (x.roll(1, 3), y))


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_an_evaluation_scores_what_it_says(chapter, conditional):
    """Training bits under "train", validation bits under "val", each with its labels, of the model
    as it is; the test set is not there to be looked at."""
    spy, model, data = loop(chapter, "--steps 2", conditional, evaluate_at=(2,))
    record, = spy.records
    assert record.picture.shape == (10, 1, 28, 28)
    if not fit.has_nats(chapter, model):
        assert record.train is None and record.val is None
        more = record.more
        nats = [more[key] for key in ("val_grey_nats", "val_noisy_nats") if key in more]
        assert record.score == (nats or [more["val_frechet"]])[0] and more["val_frechet"] > 0
        assert record.model is fit.the_one_that_draws(model)
        network, s = judge.load_judge(), spy.settings
        steps = {"steps": 25} if chapter.__name__ == "diffusion" else {}
        draws = judge.sample_many(fit.the_one_that_draws(model), s.eval_draws,
                                  judge.data_labels(data, s.eval_draws), **steps)
        distance = judge.frechet_distance(*(judge.judged(network, x)[0]
                                            for x in (draws, data.val)))
        assert record.more["val_frechet"] == pytest.approx(distance, rel=1e-4)
        if nats:  # a likelihood of another scale chooses the weights
            assert record.score == pytest.approx(chapter.evaluate(model, data.val, data.y_val))
        return
    n = getattr(spy.settings, "eval_images", 10**6) // getattr(spy.settings, "num_masks", 1)
    nats = [chapter.evaluate(model, x[:n], None if y is None else y[:n]) for x, y in (
        (data.x_train, data.y_train), (data.x_val, data.y_val), (data.x_val, data.y_train))]
    nats = [n[1] - n[0] if isinstance(n, tuple) else n for n in nats]
    assert record.train == pytest.approx(nats[0]) and record.val == pytest.approx(nats[1])
    assert nats[0] != pytest.approx(nats[1], rel=1e-6) and record.model is model
    flipped = None if data.y_val is None else (data.y_val + 1) % 10
    if conditional:  # control: other labels give another figure
        other = chapter.evaluate(model, data.x_val[:n], flipped[:n])
        other = other[1] - other[0] if isinstance(other, tuple) else other
        assert other != pytest.approx(record.val, rel=1e-7)


class HidesTheTestSet(OnlyTrains):
    """A run whose test set is not there to be looked at until the best weights are asked for."""

    def load_data(self):
        data = super().load_data()
        for name in ("test", "x_test", "test_labels", "y_test"):
            if getattr(data, name) is not None:
                setattr(data, name, Untouchable())
        return data


def leaves_the_test_set_alone(name, flags, *pairs):
    """Does the main() of a chapter, rewritten, as long as training has not ended?"""
    words = small(CHAPTERS[name], *flags.split(), "--steps", 2, "--out", "run")
    try:
        train_by_main(name, words, *pairs, run_class=HidesTheTestSet)
    except AssertionError as error:
        assert "looked at the test set" in str(error)
        return False
    return True


@pytest.mark.parametrize("name, flags", [
    *VARIANTS, *((name, "--conditional") for name in CHAPTERS)])
def test_main_looks_at_the_test_set_after_training_alone(name, flags):
    assert leaves_the_test_set_alone(name, flags)


# Where something begins with the mean of the training images.
BEGINNINGS = {"diffusion": "--variant masked", "ebm": "--variant rbm"}
MEAN = "start_from_mean(data.train)"


@pytest.mark.parametrize("name", [name for name in CHAPTERS if MEAN in source(name)])
def test_a_main_that_begins_with_the_test_set_is_noticed(name):
    """Control of the test above."""
    flags = BEGINNINGS.get(name, "")
    assert not leaves_the_test_set_alone(name, flags, (MEAN, "start_from_mean(data.test)"))
    assert leaves_the_test_set_alone(name, flags, (MEAN, MEAN))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHAPTERS))
def test_a_main_that_scores_the_last_weights_is_noticed(name):
    """Control of the same: a main() that forgets to ask for the best ones."""
    line, = re.findall(r"^    (?:average, .* = )?run\.load_best.*\n", source(name), re.M)
    forgetful = re.sub(r"run\.load_best\((\S+?)\)", r"\1", line)
    assert forgetful != line
    assert not leaves_the_test_set_alone(name, "", (line, forgetful))


def test_coins_are_not_tossed_by_the_numbers_of_the_draws(monkeypatch):
    """flow.py once drew pixels by u and then tossed their coins by the same u, as both seeds were
    0: its distance after the coins was 1.57, and is 2.45."""
    seeds, toss = [], judge.coins
    monkeypatch.setattr(judge, "coins", lambda means, seed=0: seeds.append(seed))
    monkeypatch.setattr(judge, "scores", lambda *a: {"shares": 0})
    judge.measure(None, None, (None, None))
    assert seeds and 0 not in seeds
    generator = torch.Generator().manual_seed(0)  # control: why that matters
    z, means = torch.randn(200, 1, 28, 28, generator=generator), torch.full((200, 1, 28, 28), 0.5)
    for seed, low, high in ((0, 0.2, 1), (1, -0.02, 0.02)):
        tossed = torch.stack([z.flatten(), toss(means, seed).flatten()])
        assert low < torch.corrcoef(tossed)[0, 1] < high


@pytest.mark.parametrize("name", CLIPPED)
def test_each_step_moves_the_weights_by_fresh_gradients(name):
    """With a rate of nearly nothing the gradient of a step is that of its batch alone: no sum of
    gradients from earlier steps (a forgotten zero_grad)."""
    chapter, data = CHAPTERS[name], toy_data(False, n=1)  # one image: all batches are alike
    spy, _, _ = loop(chapter, "--steps 6 --lr 1e-9 --clip 1e8", data=data)
    first = int(6 * getattr(spy.settings, "base_part", 1))  # ebm.py then trains another network
    norms = [step["gradient"] for step in spy.norms][:first]
    if not hasattr(chapter.build(spy.settings), "sample_obvious"):  # noise is drawn in each step
        assert max(norms) < 3 * min(norms)
    else:
        assert norms == pytest.approx([norms[0]] * 6, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHAPTERS))
def test_every_setting_is_heard(name):
    """Another value for each, and something is different: the weights after two steps, the size of
    the model, the evaluation, or the draws. A flag that nobody reads is a lie."""
    chapter = CHAPTERS[name]
    unread = []
    for key in chapter.SETTINGS:
        if key in ("steps", "lr"):  # test_the_rate_rises_and_falls_to_zero
            continue
        if re.search(rf"\bs\.{key}\b|settings\.{key}\b", source(name)) is None:
            unread.append(key)
    assert not unread
    base = f"{chapter.ABOUT['small']} --batch-size 4 --steps 3"
    base += " --eval-images 20" * ("eval_images" in chapter.SETTINGS)
    silent, as_usual = [], {}
    for key, setting in chapter.SETTINGS.items():
        if key in ("steps", "lr", "batch_size") or setting.drawing:
            continue
        about = f"--{setting.only[0].replace('_', '-')} {setting.only[1]} " if setting.only else ""
        about += {"penalty": "--loss wgan-gp "}.get(key, "")
        usual = values(chapter, about + base)
        other = changed(setting, getattr(usual, key))
        unusual = SimpleNamespace(**{**vars(usual), key: other})
        if about not in as_usual:
            as_usual[about] = outcome(chapter, usual)
        with contextlib.suppress(ValueError):  # what cannot be built is heard, too
            if as_usual[about] != outcome(chapter, unusual):
                continue
            silent.append(key)
    read_at_the_end = {"iw_samples", "naive_samples", "test_draws", "bound_draws",
                       "noise_draws", "z_steps"}
    assert set(silent) <= read_at_the_end


def changed(setting, value):
    if setting.choices:
        return next(choice for choice in setting.choices if choice != value)
    if isinstance(value, float):
        return value / 100 if value else 0.5
    other = value // 2 if value > 1 else 2
    return other if other >= (setting.least or 0) else value + 1


def outcome(chapter, s):
    """All that a short training decides: weights, and what was recorded."""
    torch.manual_seed(0)
    model = chapter.build(s)
    data = toy_data(s.conditional)
    if hasattr(model, "start_from_mean"):
        model.start_from_mean(data.train)
    spy = Spy(s, (3,))
    chapter.train(model, data, spy)
    state = {k: v.double().sum().item() for k, v in model.state_dict().items()}
    seen = [(r.train, r.val, r.score, r.more.get("val_frechet")) for r in spy.records]
    return state, seen, len(spy.rates)


DRAWN = [(name, flags, key) for name, flags in VARIANTS
         for key, setting in CHAPTERS[name].SETTINGS.items() if setting.drawing and (
             not setting.only or vars(values(CHAPTERS[name], flags))[setting.only[0]]
             in setting.only[1:])]


@pytest.fixture(scope="module")
def young_runs(tmp_path_factory):
    """(name, flags) -> the folder of a run of two steps, told the digit."""
    made = {}

    def run(name, flags):
        if (name, flags) not in made:
            made[name, flags] = tmp_path_factory.mktemp("young") / "run"
            trained(CHAPTERS[name], small(CHAPTERS[name], *flags.split(), "--conditional",
                                          "--steps", 2, "--lr", 0.01, "--out",
                                          made[name, flags]))
        return made[name, flags]

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("sketches")
@pytest.mark.parametrize("name, flags, key", DRAWN)
def test_every_setting_of_drawing_is_heard(name, flags, key, young_runs):
    """Of one run, from one seed: another value, other draws."""
    chapter, folder = CHAPTERS[name], young_runs(name, flags)

    def draws(*typed):
        chapter.main(["--sample-only", "--num-samples", "20", *typed, "--out", str(folder)])
        return np.load(folder / "samples.npy")

    usual = vars(values(chapter, f"{flags} --conditional"))[key]
    plain, flag = draws(), settings.flag(key)
    assert np.array_equal(plain, draws(flag, str(usual)))  # control: what holds anyway
    for other in chapter.SETTINGS[key].choices or [changed(chapter.SETTINGS[key], usual)]:
        assert other == usual or not np.array_equal(plain, draws(flag, str(other)))


@pytest.mark.slow
def test_a_setting_of_drawing_that_nobody_reads_is_noticed(young_runs):
    """Control of the test above."""
    folder = young_runs("transformer_ar", "")
    deaf, drawn = rewritten(
        "transformer_ar", ("model.temperature = run.settings.temperature", "pass")), []
    for chapter in (CHAPTERS["transformer_ar"], deaf):
        for temperature in ("1", "0.01"):
            chapter.main(["--sample-only", "--num-samples", "20", "--temperature", temperature,
                          "--out", str(folder)])
            drawn.append(np.load(folder / "samples.npy"))
    assert not np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[2], drawn[3])


# ---------------------------------------------------------------------------------------- one form


def test_help_reads_well(chapter, capsys):
    with pytest.raises(SystemExit) as stop:
        chapter.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and all(flag in text for flag in FLAGS)
    assert all(settings.flag(name) in text for name in chapter.SETTINGS)
    assert "default: None" not in text and "default: False" not in text


def test_scripts_stand_alone(chapter):
    """They import the standard library, torch, torchvision, numpy, matplotlib, tqdm and the shared
    modules, and no other chapter; nothing runs on import."""
    allowed = {"torch", "torchvision", "numpy", "matplotlib", "tqdm", *sys.stdlib_module_names,
               "utils", "pictures", "settings", "runner", "judge", "weights", "muon"}
    tree = ast.parse(source(chapter.__name__))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            assert {name.split(".")[0] for name in names} <= allowed
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef, ast.Expr,
             ast.If)
    assert all(isinstance(node, kinds) for node in tree.body)
    assert all(isinstance(node.value, ast.Constant) for node in tree.body
               if isinstance(node, ast.Expr))  # docstrings only
    assert [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)] == [
        "__name__ == '__main__'"]


ON_THE_CPU = {"agree", "inside", "below + up_to"}  # what judged(), energies() gave, and no other


def doubles(text):
    """Where a source asks for float64: of what, as code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, words = node.func.attr, {ast.unparse(word) for word in node.args}
            if name == "double" or name == "to" and "torch.float64" in words:
                yield ast.unparse(node.func.value)


@pytest.mark.parametrize("name", [*CHAPTERS, "judge", "utils", "pictures", "runner"])
def test_float64_is_asked_for_on_the_cpu_alone(name):
    """Apple's MPS has none: .double() of what was trained there raises, after all training."""
    for of in doubles(source(name)):
        assert ".cpu()" in of or of in ON_THE_CPU or of.startswith("torch.") or "judged(" in of, of


def test_float64_on_a_device_is_noticed():
    """Control, with the mistake that was made: of a sum on the device, and then to the CPU."""
    bad = set(doubles("each -= part.double().cpu(); z = u.to(torch.float64); w = v.to(u)"))
    assert bad == {"part", "u"} and not bad & ON_THE_CPU


def test_chapters_share_a_vocabulary_and_an_order(chapter):
    text = source(chapter.__name__)
    for name, parameters in (("main", ["argv"]), ("build", ["s", "image_size"]),
                             ("train", ["model", "data", "run"])):
        assert list(inspect.signature(getattr(chapter, name)).parameters) == parameters
    parts = ["Papers", "Lecture", "Run ", "Reached", "Gallery", "Left out", "import ",
             "# Settings to turn", "\nSETTINGS = ", "\nVARIANTS = ", "# Notes", "\nclass ",
             "def build(", "def train(", "def main(argv=None)", "\nABOUT = ", "# What was measured",
             "# Exercises", 'if __name__ == "__main__"']
    if not (ROOT / "samples" / chapter.__name__ / "metrics.json").exists():  # not published
        evidence = ("Reached", "Gallery", "# What was measured")
        parts = [part for part in parts if part not in evidence]
    missing = [part for part in parts if part not in text]
    assert not missing, f"{chapter.__name__}.py lacks {missing}"
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)
    assert len(inspect.getsource(chapter.train).splitlines()) <= 42
    assert len(inspect.getsource(chapter.main).splitlines()) <= 48
    assert "def draw" not in text and text.count("if model.classes else None") <= 1
    for item in list(vars(chapter).values()):  # public functions and classes have docstrings
        if inspect.isfunction(item) and item.__module__ == chapter.__name__:
            assert item.__doc__ or item.__name__ == "main", item.__name__


def test_a_chapter_declares_itself(chapter):
    about = chapter.ABOUT
    assert {"order", "title", "published", "abilities", "variants", "small"} <= set(about)
    assert set(about["abilities"]) - {"besides"} == set(CHAPTERS["wavenet"].ABOUT["abilities"])
    literal = re.findall(r"utils\.first\((\d+), ", inspect.getsource(chapter.train))
    assert {str(about["scored"])} == set(literal) if "scored" in about else not literal
    for flags in (*about["variants"].values(), *about.get("cases", [])):
        assert about["title"](values(chapter, flags))
    values(chapter, about["small"])
    for name, setting in chapter.SETTINGS.items():
        assert setting.help and (not setting.only or setting.only[0] in chapter.SETTINGS), name
    for (name, value), other in chapter.VARIANTS.items():
        setting = {**chapter.SETTINGS, **settings.COMMON}[name]
        assert set(other) <= set(chapter.SETTINGS) and value in (setting.choices or (value,))


@pytest.mark.parametrize("name, flags", [
    (name, flags) for name, flags in VARIANTS if flags == "" or flags.startswith("--variant")])
def test_a_class_has_no_other_defaults_than_its_settings(name, flags):
    """MADE() is the model of `python made.py`: a size that stands in both places is one size."""
    chapter = CHAPTERS[name]
    model = fit.the_one_that_draws(chapter.build(values(chapter, flags)))
    other = type(model)()
    assert [p.shape for p in other.parameters()] == [p.shape for p in model.parameters()]
    # Of drawing, of a run, and what tells flow matching from its sibling.
    free = {"training", "sampling_steps", "guidance", "base_steps", "straight"}
    kept = [{key: value for part in net.modules() for key, value in vars(part).items()
             if key not in free and isinstance(value, (bool, int, float, str, tuple))}
            for net in (model, other)]
    assert kept[0] == kept[1]  # what shapes do not show: heads, dilations, σ


# What chapters do each in a way of their own, though the name is one.
OWN = {"main", "build", "plot_pictures", "fields", "choose_dilations", ("vae", "evaluate"),
       ("vae", "evaluate_without_label"), ("vae", "train"), ("gan", "train"), ("made", "train"),
       ("diffusion", "evaluate"), ("diffusion", "train"), ("flow", "evaluate"), ("flow", "train"),
       ("flow", "evaluate_without_label"), ("ebm", "evaluate"), ("ebm", "train"),
       ("ebm", "evaluate_without_label"), ("tarflow", "evaluate"), ("tarflow", "train"),
       ("transformer_ar", "surprise"), ("pixelcnn", "train"),
       ("pixelcnn", "toss"), ("pixelcnn", "surprise"), ("pixelcnn", "sight")}  # of levels, too


def functions(text):
    """name: body without docstring, of the functions of a chapter's source."""
    bodies = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            bodies[node.name] = ast.unparse(node.args) + "\n" + "\n".join(map(ast.unparse, body))
    return bodies


def drifted(chapters):
    """Names of functions that two chapters have, and not alike."""
    first, wrong = {}, []
    for chapter, bodies in chapters.items():
        for name, body in bodies.items():
            if name not in OWN and (chapter, name) not in OWN:
                wrong += [(chapter, name)] * (first.setdefault(name, body) != body)
    return wrong


TWINS = {  # methods that are the same in several classes, and have to stay so
    "loss": ("made.RNN", "wavenet.WaveNet", "pixelcnn.Autoregressive",
             "transformer_ar.Transformer"),
    "log_prob": ("made.RNN", "wavenet.WaveNet"),
    "start_looking": ("pixelcnn.Autoregressive", "transformer_ar.Transformer"),
    "seen": ("pixelcnn.Autoregressive", "transformer_ar.Transformer"),
    "sample": ("gan.Players", "diffusion.Learner")}
# What a loop has in place of wavenet.py's line, where all its other lines are the same.
BY_ADAM = {"optimizer = Muon(model, s.lr, adam=ADAM)":
           "optimizer = torch.optim.Adam(model.parameters(), lr=s.lr, fused=True)"}
LOOPS = {"transformer_ar": {}, "pixelcnn": {}, "made": {
    **BY_ADAM,
    "s = run.settings":
        "s = run.settings\neval_images = max(1, s.eval_images // s.num_masks)",
    "utils.first(s.eval_images, x, y)": "utils.first(eval_images, x, y)"}}


def methods(text):
    """{"Class": its methods, as functions() has them} of a chapter's source."""
    return {node.name: functions("\n".join(map(ast.unparse, node.body)))
            for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def test_methods_that_are_repeated_are_the_same():
    classes = {f"{name}.{key}": bodies for name in CHAPTERS
               for key, bodies in methods(source(name)).items()}
    for method, places in TWINS.items():
        assert len({classes[place][method] for place in places}) == 1, method
    assert classes["made.RNN"]["loss"] != classes["made.MADE"]["loss"]  # control


def test_loops_differ_in_what_is_their_own_and_no_more():
    usual = functions(source("wavenet"))["train"]
    for name, changes in LOOPS.items():
        wanted = usual
        for before, after in changes.items():
            assert wanted.count(before) == 1, before
            wanted = wanted.replace(before, after)
        assert functions(source(name))["train"] == wanted, name


# What is another class's own in place of a line of the first.
SIBLINGS = {
    ("wavenet.WaveNet.sample_obvious", "made.RNN.sample_obvious"):
        ("range(u.shape[1])", "self.pixel_at.tolist()"),
    ("wavenet.WaveNet.sample_obvious", "pixelcnn.Autoregressive.sample_obvious"):
        (".flatten(1)[:, d]\n", ".flatten(2)[:, :, d]\n"),
    ("flow.evaluate", "ebm.evaluate"): None,
    ("flow.evaluate_without_label", "ebm.evaluate_without_label"): ("yb.cpu()", "yb")}


def test_siblings_differ_in_one_expression_and_no_more():
    bodies = {f"{name}.{key}": body for name in CHAPTERS
              for key, body in functions(source(name)).items()}
    bodies |= {f"{name}.{key}.{method}": body for name in CHAPTERS
               for key, inside in methods(source(name)).items() for method, body in inside.items()}
    for (one, other), change in SIBLINGS.items():
        assert not change or bodies[one].count(change[0]) == 1, one
        assert bodies[other] == (bodies[one].replace(*change) if change else bodies[one]), other


def test_what_chapters_repeat_is_the_same_in_all():
    chapters = {name: functions(source(name)) for name in CHAPTERS}
    assert drifted(chapters) == [], "same name, other code: copy it, rename it, or put it in OWN"
    chapters["made"]["toss"] += "\npass"  # control
    assert len(drifted(chapters)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name, flags", VARIANTS)
def test_validation_digits_and_no_others_choose_the_weights(name, flags):
    """In every variant: of other validation digits the score is another; of other training bits
    that are scored only what is called "train" is."""
    def recorded(*turned):
        data = toy_data(False)
        for key in turned:
            x = getattr(data, key)
            setattr(data, key, x.max() - x)  # black for white
        spy, _, _ = loop(CHAPTERS[name], f"{flags} --steps 2", evaluate_at=(2,), data=data)
        record, = spy.records
        return record.train, record.val, record.val if record.score is None else record.score

    usual, val, train = recorded(), recorded("val", "x_val"), recorded("x_train")
    assert usual[2] != val[2] and usual[2] == train[2]
    assert usual[0] == val[0] and usual[1] == train[1]
    if usual[0] is not None:
        assert usual[0] != train[0] and usual[1] != val[1]
