"""evaluate_without_label(), which five chapters have: is what it calls p(x) a distribution over images, and does it read labels by Bayes' rule?"""
import itertools
import math

import made
import pixelcnn
import pytest
import torch
import transformer_ar
import vae
import wavenet
from conftest import ROOT  # noqa: F401  (puts the chapters on the path)

MODELS = {
    "made": (made, lambda: made.MADE(3, 16, 2, conditional=True)),
    "made, two orders": (made, lambda: made.MADE(3, 16, 2, "random", 2, conditional=True)),
    "made, rnn": (made, lambda: made.RNN(3, 8, 8, 1, conditional=True)),
    "wavenet": (wavenet, lambda: wavenet.WaveNet(3, 8, 8, 3, conditional=True)),
    "pixelcnn, gated": (pixelcnn, lambda: pixelcnn.GatedPixelCNN(3, 8, 2, True)),
    "pixelcnn, original": (pixelcnn, lambda: pixelcnn.PixelCNN(3, 8, 2, True)),
    "pixelcnn, rnn": (pixelcnn, lambda: pixelcnn.RowLSTM(3, 8, 2, True)),
    "transformer_ar": (transformer_ar, lambda: transformer_ar.Transformer(3, 16, 1, 2, 1, 2, True)),
}


def all_images(side):
    return torch.tensor(list(itertools.product((0, 1), repeat=side * side)), dtype=torch.uint8).view(-1, 1, side, side)


def rough(model):
    """Weights far from their start, so that the ten labels are ten different distributions."""
    torch.manual_seed(0)
    for p in model.parameters():
        p.data += 0.5 * torch.randn_like(p)
    return model.double()


def nats_one_by_one(module, model, x):
    """−log p(x) of each image, by the chapter's own function."""
    return torch.tensor([module.evaluate_without_label(model, x[i:i + 1].double(), torch.tensor([0]))[0] for i in range(len(x))])


@pytest.mark.parametrize("name", list(MODELS))
def test_probabilities_without_the_label_sum_to_one(name, monkeypatch):
    module, make = MODELS[name]
    model, x = rough(make()), all_images(3)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.double())  # the function scores uint8 images as float
    assert nats_one_by_one(module, model, x).neg().exp().sum().item() == pytest.approx(1, abs=1e-6)
    with monkeypatch.context() as m:  # control: a sum over labels in place of a mean
        m.setattr(module.math, "log", lambda value: 0.0)
        total = nats_one_by_one(module, model, x).neg().exp().sum().item()
    assert total == pytest.approx(20 if name == "made, two orders" else 10, abs=1e-5)


@pytest.mark.parametrize("name", list(MODELS))
def test_most_probable_label(name):
    """Against the rule written out, for one image at a time; and told the right label, the nats are lower by at most log 10."""
    module, make = MODELS[name]
    model, x = rough(make()).float(), all_images(3)[torch.randperm(512, generator=torch.Generator().manual_seed(1))[:50]]
    y, right = torch.arange(50) % 10, 0
    with torch.no_grad():
        for image, label in zip(x, y):
            by_label = [model.log_prob(image[None].float(), torch.tensor([k])).item() for k in range(10)]
            right += by_label.index(max(by_label)) == label.item()
    nats, accuracy = module.evaluate_without_label(model, x, y)
    assert accuracy == pytest.approx(right / 50)
    assert nats <= module.evaluate(model, x, y) + math.log(10) + 1e-4
    best = torch.stack([model.log_prob(x.float(), torch.full((50,), k)) for k in range(10)]).argmax(dim=0)
    assert module.evaluate_without_label(model, x, best)[1] == 1  # control: with the labels that it would give


def test_vae_without_the_label():
    """An average of unbiased estimates is one, whatever the number of draws: over all images the estimates of p(x) sum to 1."""
    model, x = rough(vae.VAE(2, 2, 8, 2, conditional=True)).float(), all_images(2)
    for p in model.encoder.last.parameters():
        p.data.zero_()  # q is the prior: then no weight is large, and few draws will do

    def total(num_samples):
        nats = [vae.evaluate_without_label(model, x[i:i + 1].repeat(400, 1, 1, 1), torch.zeros(400, dtype=torch.long), num_samples) for i in range(16)]
        return sum(math.exp(-n) for n, _ in nats)  # of means of logarithms: a little below 1, the less the more draws

    few, many = total(10), total(1000)
    assert few < many < 1.01 and many == pytest.approx(1, abs=0.03) and few < 0.985
    y = torch.arange(16) % 10
    with torch.no_grad():
        exact = torch.stack([model.log_prob_bound(x.float(), 2000, torch.full((16,), k)) for k in range(10)])
    assert vae.evaluate_without_label(model, x, y, 2000)[0] == pytest.approx(-(exact.logsumexp(dim=0) - math.log(10)).mean().item(), abs=0.05)
    assert vae.evaluate_without_label(model, x, exact.argmax(dim=0), 5000)[1] > 0.8
    # The label that is given gets ten times the draws: worth more if it is the one that makes x probable.
    many = x.repeat(400, 1, 1, 1)
    likely, unlikely = (vae.evaluate_without_label(model, many, labels.repeat(400), 10)[0] for labels in (exact.argmax(dim=0), exact.argmin(dim=0)))
    assert likely < unlikely - 0.002
