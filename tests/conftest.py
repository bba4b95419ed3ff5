"""What all tests share: the chapters, found and not listed, and a machine without a network."""
import dataclasses
import os
import re
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go into files: no window is opened
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import fit  # noqa: E402
from fit import values  # noqa: E402  (the settings that a string of flags asks for)

import draws  # noqa: E402
import pictures  # noqa: E402
import runner  # noqa: E402
import settings  # noqa: E402
import utils  # noqa: E402

CHAPTERS = settings.chapters()
torch.set_num_threads(1)  # networks as small as these gain nothing by a second


def small(chapter, *flags):
    """Flags that make a run of a chapter short and its network small."""
    words = f"{chapter.ABOUT['small']} --steps 4 --batch-size 4".split() + list(flags)
    return [str(word) for word in words]


class StopsAt(runner.Run):
    """A run that is stopped, as by Ctrl-C, in the step that `at` names."""

    at = None

    def tick(self, *loss):
        if self.step + 1 == self.at:
            signal.raise_signal(signal.SIGINT)
        return super().tick(*loss)


class Trained(Exception):
    """Training is over, and what a test wanted to know is known."""


class OnlyTrains(runner.Run):
    """A run without evaluations, that ends where main() asks for the weights to be scored."""

    def tick(self, *loss):
        super().tick(*loss)
        return False

    def load_best(self, model):
        self.save()
        raise Trained


def rewritten(name, *pairs):
    """A chapter as it would be if its source said `after` where it says `before`, once, of each of
    the pairs (before, after)."""
    path = ROOT / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    for before, after in pairs:
        assert text.count(before) == 1, (name, before)
        text = text.replace(before, after)
    module = ModuleType(name)
    module.__file__ = str(path)
    exec(compile(text, path, "exec"), vars(module))
    return module


def train_by_main(name, flags, *pairs, run_class=OnlyTrains):
    """What the main() of a chapter, rewritten, does up to the end of training, with a Run that ends
    there."""
    module = rewritten(name, *pairs)
    module.Run = run_class  # of the copy
    with pytest.raises(Trained):
        module.main(flags)


def trained(chapter, flags, run_class=runner.Run):
    """Train a chapter as its main() does, without what comes after: the run."""
    run = run_class(chapter.__file__, "", chapter.SETTINGS, chapter.VARIANTS, flags)
    model, data = run.build(chapter.build), run.load_data()
    if hasattr(model, "start_from_mean"):
        model.start_from_mean(data.train)
    chapter.train(model, data, run)
    return run


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
    return [c["step"], c["parts"], c["best"], c["pictures"], c["rng"], curve]


def weights_of_fit(chapter, flags):
    """What fit() trains, with which all experiments train, a dict; and nothing is written."""
    before = sorted(Path().iterdir())
    model, seconds, norms = fit.fit(chapter, values(chapter, flags), utils.load_mnist())
    assert seconds > 0 and len(norms) in (0, 2) and sorted(Path().iterdir()) == before
    return dict(model.state_dict())


def weights_of_run(folder):
    """Those that training of two steps ended with, of the one that draws."""
    kept = checkpoint(folder)
    assert kept["step"] == 2
    weights = dict(kept["parts"].get("average") or kept["parts"]["model"])
    # An estimate of it is made when a run is evaluated, and fit() evaluates nothing.
    return {k: torch.zeros_like(v) if k == "log_z" else v for k, v in weights.items()}


@pytest.fixture(autouse=True)
def offline(request, monkeypatch, tmp_path):
    """No test downloads anything, and each has a folder of its own to run in."""
    if "real_download" not in request.keywords:
        monkeypatch.setattr(utils, "download_mnist", lambda data_dir: "tests are offline")
        # For processes that a test starts: a torchvision that refuses to be imported. (The one that
        # would download takes seconds to import the real one, only to meet the proxy below.)
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "offline"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    # And a proxy that refuses every connection.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside as many tests as there are cores


@pytest.fixture(autouse=True)
def validation_the_other_way_round(monkeypatch):
    """The labels of the small set's validation digits are those of its test digits, one by one, so
    whoever takes one for the other would not be noticed: here the former run backwards."""
    load = utils.load_mnist

    def turned(*args, **options):
        data = load(*args, **options)
        if data.name == "mnist_5k":
            for name in ("val", "x_val", "val_labels"):
                setattr(data, name, getattr(data, name).flip(0))
        return data

    monkeypatch.setattr(utils, "load_mnist", turned)


SMALL = {}  # the small set as few_images hands it out; read once by a process


@pytest.fixture
def few_images(monkeypatch):
    """A hundred images to score in place of the small set's 500: on them a run of two steps spends
    nearly all of its time. The set is read once, and each who asks gets a copy."""
    load = utils.load_mnist

    def few(*args, **options):
        if not SMALL:
            SMALL.update(vars(load(*args, **options)))
            for name in ("val", "test", "val_labels", "test_labels", "x_train", "x_val", "x_test"):
                SMALL[name] = SMALL[name][:100]
        return SimpleNamespace(**{name: value.clone() if isinstance(value, torch.Tensor) else value
                                  for name, value in SMALL.items()})

    monkeypatch.setattr(utils, "load_mnist", few)


@pytest.fixture
def short_chains(monkeypatch):
    """The chains of ebm.py and diffusion.py, and what it takes to estimate log Z, are as long as
    they have to be for good figures, and as many: minutes. Not here. (Flags cannot say it:
    --sampling-steps is refused where one trains, --z-steps with --variant conv; `quick`, and how
    many chains and draws of the base are kept, are no settings.)"""
    short, ebm = {"sampling_steps": 10, "z_steps": 50}, CHAPTERS["ebm"]
    for chapter in (ebm, CHAPTERS["diffusion"]):
        table = chapter.SETTINGS
        for name in set(short) & set(table):
            monkeypatch.setitem(table, name,
                                dataclasses.replace(table[name], default=short[name]))
        for variant in chapter.VARIANTS.values():
            for name in set(short) & set(variant):
                monkeypatch.setitem(variant, name, short[name])
    for model in (ebm.RBM, ebm.Residual):
        monkeypatch.setattr(model, "quick", 50)
    for model in (ebm.Residual, ebm.Smoothed):  # pool, chains: the last argument of both
        usual = model.__init__.__defaults__
        monkeypatch.setattr(model.__init__, "__defaults__", (*usual[:-1], 256))


@pytest.fixture
def few_draws(monkeypatch):
    """One digit is completed in place of eight, and no draw is timed: whoever draws pixel by pixel
    spends most of a run of two steps on it."""
    complete = pictures.plot_completions
    monkeypatch.setattr(pictures, "plot_completions", lambda path, model, x, y, known:
                        complete(path, model, x[:1], y, known))
    monkeypatch.setattr(draws, "median_seconds", lambda f: 1.0)


@pytest.fixture
def sketches(request, monkeypatch):
    """Figures are made and not painted: a pixel stands for each. Painting takes most of the time of
    a run of the toy. A test whose pictures are looked at has the mark `painted`, or no sketches."""
    def sketch(path, figure):
        pictures.plt.close(figure)
        pictures.write_png(path, Image.new("L", (1, 1)))

    if "painted" not in request.keywords:
        monkeypatch.setattr(pictures, "save_figure", sketch)


@pytest.fixture(params=list(CHAPTERS))
def chapter(request):
    """Each chapter in turn."""
    return CHAPTERS[request.param]


@pytest.fixture
def fails(capsys):
    """fails(f, *words): f() ends with exit code 2 and one sentence on stderr, with these words."""

    def check(f, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            f()
        text = capsys.readouterr().err.replace("\r", "\n")
        last = (text.splitlines() or [""])[-1]
        assert stop.value.code == 2
        assert re.match(r"\S+: error: ", last), text
        assert text.count("error: ") == 1 and "Traceback" not in text, text
        for word in words:
            assert str(word) in last, (word, last)

    return check
