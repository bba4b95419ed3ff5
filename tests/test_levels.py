"""Pixels of more than two levels: pixelcnn.py and transformer_ar.py with --levels. The contract is
that of coins (test_autoregressive.py), where levels make a difference."""
import inspect
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHAPTERS, small, values
from test_autoregressive import shaken

import flow
import judge
import pixelcnn
import utils
from transformer_ar import Transformer

CASES = [("pixelcnn", "--levels 3"), ("pixelcnn", "--variant original --levels 3"),
         ("pixelcnn", "--variant rnn --levels 3"), ("transformer_ar", "--levels 3"),
         ("transformer_ar", "--patch 1 --levels 3")]
every_case = pytest.mark.parametrize("name, flags", CASES, ids=[" ".join(case) for case in CASES])


def lively(name, flags, size=(2, 2), conditional=False, seed=0):
    chapter = CHAPTERS[name]
    s = values(chapter, f"{chapter.ABOUT['small']} --width 12 {flags}")
    s.conditional, s.classes = conditional, 10 * conditional
    torch.manual_seed(seed)
    return shaken(chapter.build(s, size), seed)


def all_images(levels, height=2, width=2):
    """All images of so many levels: (levels^(H·W), 1, H, W) in [0, 1]."""
    every = list(itertools.product(range(levels), repeat=height * width))
    return torch.tensor(every).double().view(-1, 1, height, width) / (levels - 1)


@every_case
def test_probabilities_of_all_images_sum_to_one(name, flags):
    model, x = lively(name, flags), all_images(3)
    p = model.log_prob(x).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-9) and p.max() < 0.9
    coins = lively(name, flags.replace("--levels 3", ""))  # control: levels are no coins
    assert coins.log_prob(x.round()).exp().sum().item() != pytest.approx(1, abs=0.1)


@every_case
def test_both_samplers_draw_the_same_levels(name, flags):
    model = lively(name, flags, (4, 6))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    a, b = (sample(30, generator=g) for sample, g in zip((model.sample, model.sample_obvious),
                                                         generators))
    assert torch.equal(a, b) and set((2 * a).unique().tolist()) == {0, 1, 2}


@every_case
def test_draws_have_the_probabilities_that_are_computed(name, flags):
    model, x, n = lively(name, flags), all_images(3), 20000
    p = model.log_prob(x).exp()
    drawn = (2 * model.sample(n, generator=torch.Generator().manual_seed(0))).round().long()
    count = torch.bincount((drawn.flatten(1) * 3**torch.arange(3, -1, -1)).sum(dim=1), minlength=81)
    chi2 = ((count - n * p) ** 2 / (n * p)).sum()
    assert chi2 < 81 + 6 * (2 * 81)**0.5
    other = ((count - n * p.flip(0)) ** 2 / (n * p.flip(0))).sum()  # control
    assert other > 10 * (81 + 6 * (2 * 81)**0.5)


@every_case
def test_what_is_known_stays_and_the_rest_is_drawn_given_it(name, flags):
    model = lively(name, flags)
    known = torch.tensor([[True, False], [False, False]])
    x = torch.tensor([0.5, 0, 0, 0]).double().view(1, 1, 2, 2)
    drawn = model.sample(9000, generator=torch.Generator().manual_seed(0),
                         x=x.repeat(9000, 1, 1, 1), known=known)
    assert (drawn[:, 0, 0, 0] == 0.5).all()
    every = all_images(3)
    p = model.log_prob(every).exp() * (every[:, 0, 0, 0] == 0.5)
    if name == "transformer_ar" and "--patch 1" not in flags:  # one word: exact
        wanted = (p / p.sum() * every[:, 0, 1, 1]).sum().item()
        assert drawn[:, 0, 1, 1].mean().item() == pytest.approx(wanted, abs=0.02)
    wanted = (p / p.sum() * every[:, 0, 0, 1]).sum().item()  # the next pixel: exact in all
    assert drawn[:, 0, 0, 1].mean().item() == pytest.approx(wanted, abs=0.02)


def test_levels_are_equal_steps_and_256_are_the_grey_levels_themselves():
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal((utils.to_levels(grey, 256) * 255).round(), grey.float())
    four = utils.to_levels(grey, 4)
    assert four.unique().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert torch.bincount((3 * four).round().int()).tolist() == [64] * 4


def test_data_in_levels():
    data = utils.load_mnist()
    four = utils.in_levels(data, 4)
    for name, grey in (("x_val", data.val), ("x_test", data.test), ("x_train", data.train[:500])):
        assert torch.equal(getattr(four, name), utils.to_levels(grey, 4))
    assert utils.in_levels(data, 2) is data and (data.x_test <= 1).all()  # as it was
    torch.manual_seed(0)
    x, _ = utils.random_batch(four, 50)
    torch.manual_seed(0)
    grey, _ = utils.random_batch(data, 50, grey=True)
    assert torch.equal(x, utils.to_levels((grey * 255).round().to(torch.uint8), 4))


@pytest.mark.parametrize("name", ["pixelcnn", "transformer_ar"])
def test_a_fresh_model_knows_how_frequent_levels_are(name):
    """Its first loss is about the entropy of a pixel's (a word's) level, whatever the place."""
    chapter = CHAPTERS[name]
    data = utils.in_levels(utils.load_mnist(), 4)
    torch.manual_seed(0)
    model = chapter.build(values(chapter, f"{chapter.ABOUT['small']} --levels 4"))
    before = model.log_prob(data.x_val[:50]).mean()
    model.start_from_mean(data.train)
    assert model.log_prob(data.x_val[:50]).mean() > before + 200


@pytest.mark.parametrize("name", ["pixelcnn", "transformer_ar"])
def test_a_fresh_model_sees_levels_by_how_frequent_they_are_in_the_images(name):
    model = lively(name, "--levels 4", (4, 4)).float()
    grey = torch.tensor([0] * 9 + [70] * 4 + [130] * 2 + [255], dtype=torch.uint8)
    model.start_from_mean(grey.view(1, 1, 4, 4))
    # 10, 5, 3 and 2 pixels of each, one more than there are: of 10 that are not black 5, 8, 10.
    assert torch.allclose(model.look.weight[1:, 0], torch.tensor([0.5, 0.8, 1.0]))
    bias = model.bias if name == "transformer_ar" else model.last.bias
    assert torch.isfinite(bias).all()  # what no image has is rare, and not impossible


@pytest.mark.slow
@pytest.mark.usefixtures("few_images", "few_draws")
@pytest.mark.parametrize("name", ["pixelcnn", "transformer_ar"])
def test_a_run_of_levels_is_of_another_scale(name, monkeypatch):
    chapter, many = CHAPTERS[name], judge.sample_many
    monkeypatch.setattr(judge, "sample_many", lambda model, n, y: many(model, 200, y))  # of 5,000
    chapter.main(small(chapter, "--levels", "4", "--num-samples", "3", "--out", "a"))
    m = json.loads(Path("a/metrics.json").read_text(encoding="utf-8"))
    assert m["test_nats"] is None and m["likelihood"] == "none"
    assert m["grey_bits_per_dim"] == pytest.approx(m["grey_nats"] / (784 * np.log(2)))
    assert m["grey_levels"] == 4
    model = chapter.build(values(chapter, small(chapter, "--levels", "4")))
    model.load_state_dict(torch.load("a/checkpoint.pt", weights_only=True)["best"]["weights"])
    draws, data = many(model, 200), utils.load_mnist()
    levelled, grey = (judge.scores(judge.load_judge(), draws, real)["frechet"]
                      for real in (utils.to_levels(data.test, 4), data.test))
    assert m["test_frechet"] == pytest.approx(levelled, rel=1e-5) != pytest.approx(grey, rel=1e-3)
    assert m["test_frechet"] > 0 and all(row["val_nats"] is None for row in m["curve"])
    assert m["curve"][-1]["val_grey_nats"] < 600  # 784 log 4 = 1087 is knowing nothing
    drawn = np.load("a/samples.npy")
    assert np.allclose(3 * drawn, np.round(3 * drawn)) and len(np.unique(drawn)) > 2


def test_too_many_words_are_refused(fails):
    chapter = CHAPTERS["transformer_ar"]
    fails(lambda: chapter.main(small(chapter, "--levels", "5")), "5^4", "--patch 1")
    fails(lambda: chapter.main(small(chapter, "--levels", "1")), "--levels")


def test_what_both_chapters_see_of_levels_is_the_same():
    """Repeated, since a reader gains by it; and it must not drift apart."""
    for method in ("seen", "start_looking"):
        bodies = [inspect.getsource(getattr(model, method))
                  for model in (pixelcnn.Autoregressive, Transformer)]
        convolutions, entrance = (body.split('"""')[2] for body in bodies)
        assert convolutions == entrance and "self.look" in entrance


@every_case
def test_a_level_is_six_learned_numbers_which_begin_as_its_rank_and_waves(name, flags):
    """The same that flow.py begins with."""
    model = lively(name, flags.replace("--levels 3", "--levels 4"), (4, 4)).float()
    counts = torch.tensor([700, 100, 150, 50])
    model.start_looking(counts)
    grey = flow.Flow(4, 256, 4)
    grey.counts.zero_()
    grey.counts[:4] = counts
    grey.start_looking()
    assert torch.allclose(model.look.weight, grey.look.weight[:4], atol=1e-6)
    x = torch.tensor([0, 1, 2, 3.]).view(1, 1, 2, 2) / 3
    assert torch.allclose(model.seen(x).flatten(2)[0].T, model.look.weight, atol=1e-6)
    between = model.seen(x + 0.5 / 3).flatten(2)[0, :, 0]  # straight between two
    assert torch.allclose(between, model.look.weight[:2].mean(dim=0), atol=1e-6)
    model.loss(torch.rand(8, 1, 4, 4).mul(3).round() / 3).backward()
    assert (model.look.weight.grad != 0).all()  # learned


def test_a_coin_is_still_a_coin():
    """toss() and log_probs() of one logit, against two logits of which one is 0."""
    u, logits = torch.rand(500), torch.randn(500, 1)
    x = torch.zeros(500)
    drawn = pixelcnn.toss(u, logits, x, False)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert torch.equal(drawn, pixelcnn.toss(1 - u, both, x, False)) and 0 < drawn.mean() < 1
    assert torch.equal(pixelcnn.toss(u, logits, x, True), x)
    maps = torch.randn(7, 1, 2, 2), (torch.rand(7, 1, 2, 2) < 0.5).float()
    assert torch.allclose(pixelcnn.log_probs(*maps), pixelcnn.log_probs(
        torch.cat([torch.zeros_like(maps[0]), maps[0]], dim=1), maps[1]), atol=1e-6)


def test_sight_is_of_the_odds_that_a_pixel_is_not_black():
    """A number that all logits share says nothing, and is not seen; and what is seen is what one
    level of a pixel does, 1/(levels − 1) of x."""
    model, x = lively("pixelcnn", "--levels 3", (4, 4)).float(), torch.rand(4, 1, 4, 4)
    x = (2 * x).round() / 2
    seen, usual = pixelcnn.sight(model, x, None, (5, 15)), model.logits
    model.logits = lambda x, y=None: usual(x, y) + 10 * x.sum()
    again = pixelcnn.sight(model, x, None, (5, 15))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(seen, again))
    assert (seen[1].flatten()[:15] > 0).any() and (seen[1].flatten()[15:] == 0).all()
    # ℓ = ±6x_0 for white, −99 between, 0 for black: half of 6 by one level of pixel 0.
    for slope in (6, -6):
        model.logits = lambda x, y=None: torch.stack(
            [0 * x, 0 * x - 99, slope * x[..., :1, :1].expand_as(x)], dim=1)[:, :, 0]
        first, = pixelcnn.sight(model, x, None, (5,))
        assert first[0, 0].item() == pytest.approx(3) and first.count_nonzero() == 1
