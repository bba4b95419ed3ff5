"""The mathematics of made.py, each with a control: a version that is wrong on purpose and has to fail."""
import json
import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import made


def all_images(height=3, width=3):
    """All binary images of that size: (2^(H·W), 1, H, W)."""
    n = height * width
    return ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double().view(-1, 1, height, width)


def small_made(size=3, seed=0, **flags):
    """A MADE in float64 whose logits really depend on what they may: fresh networks are nearly constant."""
    torch.manual_seed(seed)
    model = made.MADE(size, **{"width": 40, "depth": 3, **flags}).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape).double() * 0.4)
    return model


def small_rnn(size=3, seed=0, **flags):
    torch.manual_seed(seed)
    model = made.RNN(size, **{"width": 8, "features": 10, "reach": 1, **flags}).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape).double())
    return model


MODELS = {
    "masks": lambda **f: small_made(**f),
    "masks, random order": lambda **f: small_made(order="random", **f),
    "masks, one hidden layer": lambda **f: small_made(depth=1, **f),
    "masks, three sets": lambda **f: small_made(num_masks=3, **f),
    "masks, three orders": lambda **f: small_made(order="random", num_masks=3, **f),
    "masks, agnostic": lambda **f: small_made(order="agnostic", num_masks=2, **f),
    "lstm": lambda **f: small_rnn(**f),
    "lstm, random order": lambda **f: small_rnn(order="random", **f),
    "gru, wide window": lambda **f: small_rnn(cell="gru", reach=3, **f),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def place_of(model, m=0):
    return model.pixel_at.argsort() + 1 if isinstance(model, made.RNN) else model.place[m]


def broken_masks(which, strict):
    """build_masks with one inequality replaced: > for ≥ (strict) or ≥ for >."""
    plain = made.build_masks

    def broken(place, degree):
        masks = list(plain(place, degree))
        left = (degree, degree, place, place)[which][:, None]
        right = (place, degree, degree, place)[which][None]
        masks[which] = left > right if strict else left >= right
        return tuple(masks)

    return broken


BREAKS = {"hidden > pixel": (0, True), "hidden > hidden": (1, True), "logit >= hidden": (2, False), "logit >= pixel": (3, False)}


# --------------------------------------------------------------------------------------------- densities


def total_probability(model, y=None):
    with torch.no_grad():
        x = all_images()
        return model.log_prob(x, None if y is None else torch.full((len(x),), y)).exp().sum().item()


@every_model
@pytest.mark.parametrize("conditional", [False, True])
def test_probabilities_sum_to_one(make, conditional):
    model = make(conditional=conditional)
    assert total_probability(model, 7 if conditional else None) == pytest.approx(1, abs=1e-10)
    with torch.no_grad():
        y = torch.full((512,), 7) if conditional else None
        assert model.log_prob(all_images(), y).std() > 0.5  # and the distribution is not the uniform one


@pytest.mark.parametrize("which", ["logit >= hidden", "logit >= pixel"])
def test_a_pixel_that_sees_itself_breaks_the_sum(monkeypatch, which):
    monkeypatch.setattr(made, "build_masks", broken_masks(*BREAKS[which]))
    assert abs(total_probability(small_made()) - 1) > 0.01


def test_windows_that_show_the_present_break_the_sum():
    model = small_rnn()
    model.seen[:, 1] = torch.arange(9)  # each step is shown the very pixel it has to predict
    assert abs(total_probability(model) - 1) > 0.01


def test_mixture_and_averaged_logits():
    """(8) is a distribution for any sets. (9) is one only if all sets have the same order."""
    x = all_images()

    def sums(model):
        with torch.no_grad():
            logits = torch.stack([model.logits(x, None, *sets) for sets in zip(model.place, model.degree)])
            averaged = made.bernoulli_log_prob(logits.mean(dim=0), x).exp().sum().item()
            probs = model.log_probs(x).exp()
            assert torch.allclose(probs.sum(dim=1), torch.ones(len(probs)).double())
            assert torch.allclose(model.log_prob(x), probs.mean(dim=0).log())
            assert not torch.allclose(probs[0], probs[1])
        return total_probability(model), averaged

    mixture, averaged = sums(small_made(num_masks=3))
    assert mixture == pytest.approx(1) and averaged == pytest.approx(1)
    mixture, averaged = sums(small_made(order="random", num_masks=3))
    assert mixture == pytest.approx(1) and abs(averaged - 1) > 0.01


def test_compare_averages_measures_what_it_says():
    model, x = small_made(order="random", num_masks=3).float(), all_images()[:507].to(torch.uint8)  # not a multiple of 500
    result = made.compare_averages(model, x, None)
    with torch.no_grad():
        each = -model.log_probs(x.float()).mean(dim=1)
        logits = torch.stack([model.logits(x.float(), None, *sets) for sets in zip(model.place, model.degree)]).mean(dim=0)
    assert result["mask_nats"] == pytest.approx(each.tolist(), rel=1e-5)
    assert result["mixture_nats"] == pytest.approx(made.evaluate(model, x, None), rel=1e-6)
    assert result["mixture_nats"] == pytest.approx(-model.log_prob(x.float()).mean().item(), rel=1e-5)
    assert result["logits_nats"] == pytest.approx(-made.bernoulli_log_prob(logits, x.float()).mean().item(), rel=1e-5)
    assert result["mixture_nats"] < sum(result["mask_nats"]) / 3  # Jensen


# -------------------------------------------------------------------------------------------- dependence


def gradients(model, m=0):
    """|∂ℓ_d/∂x_i| at a random image, summed over a few: (D, D), rows d."""
    torch.manual_seed(1)
    x = (torch.rand(5, 1, *model.image_size) < 0.5).double().requires_grad_()
    sets = (model.place[m], model.degree[m]) if isinstance(model, made.MADE) else ()
    logits = model.logits(x, None, *sets).flatten(1)
    return torch.stack([torch.autograd.grad(logits[:, d].sum(), x, retain_graph=True)[0].abs().sum(0).flatten()
                        for d in range(logits.shape[1])])


def flips(model, m=0):
    """How far ℓ_d moves if pixel i is flipped: (D, D), rows d. For networks that no gradient passes through."""
    torch.manual_seed(1)
    x = (torch.rand(1, 1, *model.image_size) < 0.5).double()
    many = x.repeat(x.numel(), 1, 1, 1)
    many.flatten(1)[:] = (many.flatten(1) + torch.eye(x.numel())) % 2
    sets = (model.place[m], model.degree[m]) if isinstance(model, made.MADE) else ()
    with torch.no_grad():
        same = model.logits(x.expand_as(many), None, *sets)  # as many rows: then it rounds alike
        return (model.logits(many, None, *sets) - same).abs().flatten(1).T


def sees_the_past_only_and_all_of_it(model, moves, m=0):
    place = place_of(model, m)
    past = place[:, None] > place[None]
    return bool((moves[~past] == 0).all()), bool((moves[past] > 0).all())


def test_dropout_is_in_the_loss_alone_and_leaks_nothing():
    x = all_images()[::7]
    model, plain = small_made(dropout=0.5), small_made()
    assert torch.equal(model.log_prob(x), plain.log_prob(x)) and torch.equal(plain.loss(x), -plain.log_prob(x).mean())
    losses = [model.loss(x).item() for _ in range(2)]
    assert losses[0] != losses[1] and plain.loss(x) == plain.loss(x)
    draws = [m.sample(20, None, torch.Generator().manual_seed(0)) for m in (model, plain)]
    assert torch.equal(*draws)
    logits, past = model.logits, model.place[0][:, None] > model.place[0][None]
    moves = 0.0
    for seed in range(20):  # whichever units are silenced, what remains sees the past only
        def silenced(*args, seed=seed):
            torch.manual_seed(seed)
            return logits(*args, dropout=0.5)

        model.logits = silenced
        moves = moves + gradients(model)
    assert (moves[~past] == 0).all() and (moves[past] > 0).all()
    # Twice as loud where half are silent: so the first layer's sum is right on average, and the logits of one layer are.
    torch.manual_seed(0)
    shallow = small_made(depth=1)
    mean = torch.stack([shallow.logits(x, dropout=0.5) for _ in range(4000)]).mean(dim=0)
    assert (mean - shallow.logits(x)).abs().max() < 0.2 < (0.5 * mean - shallow.logits(x)).abs().max()


@every_model
@pytest.mark.parametrize("how", [gradients, flips])
def test_logits_depend_on_the_past_and_on_nothing_else(make, how):
    model = make()
    for m in range(getattr(model, "num_masks", 1)):
        assert sees_the_past_only_and_all_of_it(model, how(model, m), m) == (True, True)


@pytest.mark.parametrize("order", ["natural", "random"])
@pytest.mark.parametrize("how", [gradients, flips])
def test_each_inequality_broken_alone_is_caught(monkeypatch, order, how):
    def looks(which=None, direct=1.0):
        with monkeypatch.context() as m:
            if which:
                m.setattr(made, "build_masks", broken_masks(*BREAKS[which]))
            model = small_made(order=order)
            model.direct.data *= direct
            return sees_the_past_only_and_all_of_it(model, how(model))

    assert looks() == looks(direct=0.0) == (True, True)  # through hidden units alone all of the past arrives, too
    assert looks("logit >= hidden") == looks("logit >= pixel") == (False, True)  # leaks
    assert looks("hidden > pixel", direct=0.0) == (True, False)  # leaks nothing, loses the nearest neighbour


def masks_are_the_largest_that_do_not_leak(place, degree):
    """No path leads from a pixel to its own or an earlier logit; and any further connection would open one."""
    def leaks(to_hidden, between, to_logit, direct):
        paths = direct + to_logit @ between @ between @ to_hidden + to_logit @ between @ to_hidden + to_logit @ to_hidden
        return bool((paths[place[:, None] <= place[None]] > 0).any())

    masks = [mask.double() for mask in made.build_masks(place, degree)]
    if leaks(*masks):
        return False
    for mask in masks:
        for i, j in (mask == 0).nonzero().tolist():
            mask[i, j] = 1
            if not leaks(*masks):
                return False
            mask[i, j] = 0
    return True


@pytest.mark.parametrize("order", ["natural", "random"])
def test_masks_are_the_largest_that_do_not_leak(monkeypatch, order):
    torch.manual_seed(0)
    model = made.MADE(3, width=20, order=order)
    assert masks_are_the_largest_that_do_not_leak(model.place[0], model.degree[0])
    for change in BREAKS.values():
        with monkeypatch.context() as m:
            m.setattr(made, "build_masks", broken_masks(*change))
            assert not masks_are_the_largest_that_do_not_leak(model.place[0], model.degree[0])


def test_the_far_past_reaches_the_rnn_through_its_state_alone():
    model = small_rnn(size=5, reach=1)
    moves = gradients(model)
    assert moves[24, 0] > 0 and moves[12, 1] > 0  # far outside a window of one pixel
    model.state_to_head.weight.data.zero_()  # control: without the state only the window is left
    moves = gradients(model)
    assert moves[24, 0] == 0 and moves[24, 23] > 0


def test_the_rnn_is_told_where_it_is():
    model = small_rnn()
    x = torch.zeros(1, 1, 3, 3).double()
    model.bias.data.zero_()
    logits = model.logits(x).flatten()
    assert len(logits.unique()) == 9
    features = model.features(model.windows(x.flatten(1)), model.position_to_features, None)
    assert not torch.allclose(features[4], features[5])


# ----------------------------------------------------------------------------------------------- samplers


@every_model
@pytest.mark.parametrize("conditional", [False, True])
def test_the_fast_sampler_draws_the_pixels_of_the_obvious_one(make, conditional):
    model = make(conditional=conditional, size=(5, 4))
    n = 20
    y = torch.arange(n) % 10 if conditional else None
    x, known = (torch.rand(n, 1, 5, 4) < 0.5).double(), torch.rand(5, 4) < 0.4
    for given in ({}, {"x": x, "known": known}):
        draws = [f(n, y, torch.Generator().manual_seed(0), **given) for f in (model.sample, model.sample_obvious)]
        assert torch.equal(*draws) and set(draws[0].unique().tolist()) == {0, 1}
        if given:
            assert torch.equal(draws[0][:, :, known], x[:, :, known])
            assert not torch.equal(draws[0], x)
    assert not torch.equal(draws[0], model.sample(n, y, torch.Generator().manual_seed(1), x, known))


def test_a_sampler_that_computes_a_unit_too_early_is_caught(monkeypatch):
    """Control for the test above: the degrees are one too low when the fast sampler looks at them."""
    model = small_made(size=(5, 4))
    right = model.sample(20, None, torch.Generator().manual_seed(0))
    bincount = torch.bincount
    monkeypatch.setattr(torch, "bincount", lambda d, minlength: bincount((d - 1).clamp(min=0), minlength=minlength))
    assert not torch.equal(right, model.sample(20, None, torch.Generator().manual_seed(0)))


def test_the_fast_sampler_costs_one_forward_pass():
    """Counted in multiplications, not in seconds. The obvious loop costs D passes."""
    model = made.MADE(8, width=100, depth=3)

    def flops(f):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            f()
        return counter.get_total_flops()

    one_pass = flops(lambda: model.logits(torch.zeros(10, 1, 8, 8)))
    assert 0.3 * one_pass < flops(lambda: model.sample(10)) <= one_pass
    assert flops(lambda: model.sample_obvious(10)) == 64 * one_pass


def chi_square(draws, log_p):
    """How many standard deviations the χ² statistic of draws (n, 1, H, W) is from its mean, given log p of all_images(H, W)."""
    index = (draws.flatten(1).long() << torch.arange(draws[0].numel())).sum(1)
    counts = torch.bincount(index, minlength=len(log_p)).double()
    expected = len(draws) * log_p.exp()
    rare = expected < 5  # χ² wants cells that are not too small: the rest is one cell
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]])
    want = torch.cat([expected[~rare], expected[rare].sum()[None]])
    keep = want > 0
    return ((((seen - want) ** 2)[keep] / want[keep]).sum() - (keep.sum() - 1)) / math.sqrt(2 * (keep.sum() - 1))


@every_model
def test_sampled_frequencies_match_probabilities(make):
    """And, as control, not another model's."""
    model, other = make(), make(seed=1)
    draws = model.sample(30000, None, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert abs(chi_square(draws, model.log_prob(all_images()))) < 5
        assert abs(chi_square(draws, other.log_prob(all_images()))) > 10


def completions_are_exact(model, known, log_p):
    """Draws with `known` pixels given follow p(x) / p(known pixels)? In standard deviations of χ²."""
    x = torch.tensor([[[[1, 0, 1], [1, 0, 0], [0, 0, 1]]]]).double()
    draws = model.sample(30000, None, torch.Generator().manual_seed(0), x.expand(30000, -1, -1, -1), known)
    possible = (all_images()[:, :, known] == x[:, :, known]).flatten(1).all(dim=1)
    log_p = torch.where(possible, log_p, -math.inf)
    return abs(chi_square(draws, log_p - torch.logsumexp(log_p, dim=0))) < 5


@torch.no_grad()
def test_completion_of_what_comes_first_is_exact_and_of_other_parts_is_not(monkeypatch):
    top, left = torch.zeros(2, 3, 3, dtype=torch.bool)
    top[:2], left[:, :2] = True, True
    for model in (small_made(), small_rnn()):
        log_p = model.log_prob(all_images())
        assert completions_are_exact(model, top, log_p)
        assert not completions_are_exact(model, left, log_p)  # the left of later rows was not looked at
    agnostic = small_made(order="agnostic")
    first = made.known_first
    for known in (top, left):
        place = first(known)
        monkeypatch.setattr(made, "known_first", lambda *args, place=place: place)
        log_p = made.bernoulli_log_prob(agnostic.logits(all_images(), None, place, agnostic.new_degree(place)), all_images())
        assert completions_are_exact(agnostic, known, log_p)


def test_known_first():
    known = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]]).bool()
    places = [made.known_first(known, torch.Generator().manual_seed(seed)).view(2, 4) for seed in range(20)]
    for place in places:
        assert sorted(place[known].tolist()) == [1, 2, 3] and sorted(place[~known].tolist()) == [4, 5, 6, 7, 8]
    assert len({tuple(place.flatten().tolist()) for place in places}) > 15


# ---------------------------------------------------------------------------------------------- the models


def test_degrees_follow_the_surprise():
    """More hidden units where pixels vary; all degrees in 1..D−1; each order has its own."""
    torch.manual_seed(0)
    model = made.MADE(4, width=300)
    counts = torch.bincount(model.degree[0], minlength=17)
    assert model.degree.min() == 1 and model.degree.max() == 15 and counts[1:16].min() >= 10  # even, at first
    grey = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    grey[:5, :, 1:3, 1:3] = 255  # only the middle varies
    model.start_from_mean(grey)
    counts = torch.bincount(model.degree[0], minlength=17)
    assert model.degree.min() >= 1 and model.degree.max() <= 15
    assert counts[[6, 7, 10, 11]].min() > 5 * counts[[1, 2, 13, 14]].max()
    assert torch.allclose(model.last.bias.view(4, 4)[0, 0].sigmoid(), torch.tensor(0.001))
    assert torch.allclose(model.last.bias.view(4, 4)[1, 1].sigmoid(), torch.tensor(0.5))


def test_mask_sets_differ_and_agnostic_training_draws_new_orders(monkeypatch):
    torch.manual_seed(0)
    same, orders = made.MADE(4, width=50, num_masks=3), made.MADE(4, width=50, order="random", num_masks=3)
    assert torch.equal(same.place[0], same.place[1]) and not torch.equal(same.degree[0], same.degree[1])
    assert not torch.equal(orders.place[0], orders.place[1])
    assert torch.equal(orders.place.sort(dim=1).values, torch.arange(1, 17).repeat(3, 1))
    used = []
    logits = made.MADE.logits

    def watched(self, x, y=None, place=None, degree=None, dropout=0.0):
        used.append(tuple(place.tolist()) + tuple(degree.tolist()))
        return logits(self, x, y, place, degree, dropout)

    monkeypatch.setattr(made.MADE, "logits", watched)
    x = torch.zeros(2, 1, 4, 4)
    for model, different in ((same, 3), (orders, 3), (made.MADE(4, width=50, order="agnostic"), 6)):
        used.clear()
        for step in range(6):
            model.loss(x, step=step)
        assert len(set(used)) == different


@pytest.mark.parametrize("make", [made.MADE, made.RNN])
@pytest.mark.parametrize("size, n", [(28, 1), (5, 7), ((6, 9), 3)])
def test_shapes_for_any_size_and_number(make, size, n):
    model = make(size, width=8)
    height, width = (size, size) if isinstance(size, int) else size
    x = model.sample(n)
    assert x.shape == (n, 1, height, width) and x.dtype == torch.float32
    assert model.log_prob(x).shape == (n,) and model.logits(x).shape == x.shape


@pytest.mark.parametrize("small", [small_made, small_rnn])
def test_labels_are_asked_for_and_refused(small):
    x, y = all_images()[:4], torch.arange(4)
    for call, first in (("log_prob", x), ("loss", x), ("sample", 4), ("sample_obvious", 4)):
        getattr(small(), call)(first)
        getattr(small(conditional=True), call)(first, y=y)
        with pytest.raises(ValueError, match="needs y"):
            getattr(small(conditional=True), call)(first)
        with pytest.raises(ValueError, match="takes no y"):
            getattr(small(), call)(first, y=y)
    model = small(conditional=True)
    assert not torch.isclose(model.log_prob(x, y), model.log_prob(x, y + 1)).any()


def test_evaluate_is_the_mean_of_log_prob_and_surprise_its_parts():
    model, x = small_made().float(), all_images().repeat(3, 1, 1, 1)[:1203].to(torch.uint8)  # not a multiple of 500
    with torch.no_grad():
        expected = -model.log_prob(x.float()).mean().item()
    assert made.evaluate(model, x, None) == pytest.approx(expected, rel=1e-6)
    bits = made.surprise(model, x, None)
    assert bits.shape == x.shape and bits.sum().item() / len(x) == pytest.approx(expected / math.log(2), rel=1e-5)
    assert made.nats_in_order(model, x, None, model.place[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [lambda: made.MADE(10, width=128), lambda: made.RNN(10, width=24, features=32)], ids=["masks", "rnn"])
def test_overfits_one_batch(make):
    """Eight images of noise by heart: from 69 nats, which no model that has not seen them beats, towards log 8 ≈ 2.1."""
    torch.manual_seed(0)
    model = make()
    x = (torch.rand(8, 1, 10, 10) < 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = model.loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert math.log(8) < loss.item() < 4
    patterns = set(map(tuple, x.flatten(1).long().tolist()))
    draws = list(map(tuple, model.sample(50).flatten(1).long().tolist()))
    assert sum(draw in patterns for draw in draws) > 20


# ------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def small(monkeypatch):
    for name, value in {"WIDTH": 32, "RNN_WIDTH": 4, "RNN_FEATURES": 6, "RNN_REACH": 1, "EVAL_IMAGES": 100, "RNN_EVAL_IMAGES": 10}.items():
        monkeypatch.setattr(made, name, value)
    monkeypatch.setattr(made, "evaluate", lambda model, x, y, evaluate=made.evaluate: evaluate(model, x[:60], None if y is None else y[:60]))


SHORT = ["--steps", "4", "--batch-size", "4"]


def test_an_rnn_run_can_be_resumed_without_saying_what_it_is(small):
    made.main(SHORT + ["--variant", "rnn", "--cell", "gru", "--conditional"])
    folder = Path("runs/made_rnn_gru_conditional")
    first = json.loads((folder / "metrics.json").read_text())
    assert first["variant"] == "rnn" and first["likelihood"] == "exact" and first["settings"]["width"] == 4
    assert "depth" not in first["settings"]
    (folder / "metrics.json").unlink()
    made.main(["--resume", "--out", str(folder)])
    again = json.loads((folder / "metrics.json").read_text())
    assert again["test_nats"] == first["test_nats"] and again["variant"] == "rnn"
    made.main(["--sample-only", "--out", str(folder), "--num-samples", "3", "--label", "4"])
    for picture in ("completion_top", "completion_left", "surprise", "sight", "samples"):
        assert (folder / f"{picture}.png").exists()
    assert (folder / "sampling.gif").read_bytes()[:3] == b"GIF"


def test_the_variants_have_defaults_of_their_own(small, monkeypatch):
    seen = []
    monkeypatch.setattr(made, "train", lambda model, data, run, *rest: seen.append((type(model), *rest[:3], rest[4])) or 1 / 0)
    for flags in ([], ["--order", "agnostic"], ["--order", "agnostic", "--lr", "0.1"], ["--variant", "rnn"]):
        with pytest.raises(ZeroDivisionError):
            made.main(flags)
    assert seen == [(made.MADE, made.STEPS, made.BATCH_SIZE, made.LR, made.CLIP),
                    (made.MADE, made.STEPS, made.BATCH_SIZE, made.AGNOSTIC_LR, made.AGNOSTIC_CLIP),
                    (made.MADE, made.STEPS, made.BATCH_SIZE, 0.1, made.AGNOSTIC_CLIP),
                    (made.RNN, made.RNN_STEPS, made.RNN_BATCH_SIZE, made.RNN_LR, made.RNN_CLIP)]


@pytest.mark.parametrize("order", ["natural", "random", "agnostic"])
def test_runs_with_several_mask_sets_measure_both_averages(small, order):
    made.main(SHORT + ["--order", order, "--num-masks", "2", "--out", "a"])
    metrics = json.loads(Path("a/metrics.json").read_text())
    assert metrics["test_nats"] == metrics["mixture_nats"] and len(metrics["mask_nats"]) == 2
    assert metrics["logits_are_a_likelihood"] == (order == "natural")
    assert ("left_half_first_nats" in metrics) == (order == "agnostic")
    made.main(["--sample-only", "--out", "a"])


def test_flags_that_do_not_go_together(small, fails):
    fails(lambda: made.main(["--variant", "rnn", "--order", "agnostic"]), "--order agnostic", "masks")
    fails(lambda: made.main(["--variant", "rnn", "--num-masks", "2"]), "--num-masks", "masks")
    fails(lambda: made.main(["--cell", "gru"]), "--cell", "--variant rnn")
    fails(lambda: made.main(["--variant", "cnn"]), "--variant")
    fails(lambda: made.main(["--num-masks", "0"]), "--num-masks")
    fails(lambda: made.main(["--dropout", "1"]), "--dropout")
    assert not Path("runs").exists()
    for flags in (["--depth", "3"], ["--dropout", "0.2"]):
        fails(lambda: made.main(["--variant", "rnn", *flags]), flags[0], "masks")
    made.main(SHORT + ["--variant", "rnn"])
    Path("runs/made_rnn/metrics.json").unlink()
    fails(lambda: made.main(["--resume", "--out", "runs/made_rnn", "--depth", "3"]), "--depth", "masks")  # nobody said again what it is
    made.main(SHORT)
    fails(lambda: made.main(["--resume", "--out", "runs/made", "--variant", "rnn"]), "--variant masks", "not rnn")
