"""What all tests share: the list of chapters, and a machine without a network.

A new chapter joins by one line in CHAPTERS: its name, and settings that make it small, since a test
wants the mathematics and not the digits.
"""
import importlib
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402

CHAPTERS = {
    "vae": {"WIDTH": 32, "DEPTH": 2, "IW_SAMPLES": 3, "NAIVE_SAMPLES": 4},
    "made": {"WIDTH": 32, "EVAL_IMAGES": 100},
    "wavenet": {"CHANNELS": 4, "HEAD": 4, "FIRST_TAPS": 5, "EVAL_IMAGES": 20, "choose_dilations": lambda kind, width, length: [1, width]},
    "pixelcnn": {"CHANNELS": 4, "LAYERS": 1, "EVAL_IMAGES": 20},
    "transformer_ar": {"CHANNELS": 8, "LAYERS": 1, "HEADS": 2, "EVAL_IMAGES": 20},
    "gan": {"CHANNELS": 4, "EVAL_DRAWS": 80, "TEST_DRAWS": 100},
}


@pytest.fixture(autouse=True)
def offline(request, monkeypatch, tmp_path):
    """No test downloads anything, and each has a folder of its own to run in."""
    if "real_download" not in request.keywords:
        monkeypatch.setattr(utils, "download_mnist", lambda data_dir: "tests are offline")
    monkeypatch.chdir(tmp_path)
    # For processes that a test starts: a proxy that refuses every connection.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """matplotlib takes most of the time of a tiny run. Only tests that look at pictures have it draw."""
    if "real_figures" not in request.keywords:
        monkeypatch.setattr(utils, "save_figure", lambda path, figure: (utils.plt.close(figure), path.touch()))


def one_pass(model, n, y=None, generator=None, x=None, known=None, temperature=None):
    """In place of an autoregressive sampler, whose 784 steps a test of checkpoints need not wait for: all pixels
    from the logits of a black image. It depends on weights, labels and noise as a draw does."""
    y = y if y is None else y.to(model.last.weight.device)
    with torch.no_grad():
        logits = model.logits(torch.zeros(n, 1, *model.image_size), y)
    if logits.dim() == 3:  # words: (n, T, V)
        words = torch.multinomial(logits.nan_to_num().flatten(0, 1).softmax(dim=1), 1, generator=generator).view(n, -1)
        return model.images(words)
    return (torch.rand(logits.shape, generator=generator) < torch.sigmoid(logits)).float()


@pytest.fixture(params=list(CHAPTERS))
def chapter(request, monkeypatch):
    """Each chapter in turn, made small. Tests of samplers are elsewhere; those that look at pictures have the real ones."""
    module = importlib.import_module(request.param)
    for name, value in CHAPTERS[request.param].items():
        monkeypatch.setattr(module, name, value)
    models = [item for item in vars(module).values() if hasattr(item, "sample_obvious")]
    if models and "real_figures" not in request.keywords:
        for model in models:
            monkeypatch.setattr(model, "sample", one_pass)
        for name in ("evaluate", "surprise"):  # and score few images

            def few(model, x, y, whole=getattr(module, name)):
                return whole(model, x[:60], None if y is None else y[:60])

            monkeypatch.setattr(module, name, few)
    return module


@pytest.fixture
def fails(capsys):
    """fails(f, *words): f() ends with exit code 2 and one sentence on stderr that has these words."""

    def check(f, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            f()
        lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "error:" in line]
        assert stop.value.code == 2
        assert len(lines) == 1, lines
        assert "Traceback" not in lines[0]
        for word in words:
            assert str(word) in lines[0], (word, lines[0])

    return check
