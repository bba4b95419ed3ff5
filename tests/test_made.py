"""What is made.py's own, each with a control that has to fail: its equations written anew in plain
loops, masks and which of their inequalities does what, several mask sets and their averages,
orders. What it shares with all autoregressive models is in test_autoregressive.py."""
import copy
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import CHAPTERS, rewritten, small, values
from test_autoregressive import (
    all_images,
    as_if,
    chi_square,
    flips,
    gradients,
    log_probs,
    noise,
    sees,
    shaken,
)

import made


def small_made(size=3, seed=0, **flags):
    torch.manual_seed(seed)
    return shaken(made.MADE(size, **{"width": 20, "depth": 3, **flags}), seed)


def small_rnn(size=3, seed=0, **flags):
    torch.manual_seed(seed)
    return shaken(made.RNN(size, **{"width": 8, "features": 10, "reach": 1, **flags}), seed)


# ------------------------------------------------------------------------- the equations, once more


def sigmoid(u):
    return 1 / (1 + math.exp(-u))


def silu(u):
    return u * sigmoid(u)


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def plain(model):
    """Parameters as nested lists of Python's floats, by their names."""
    return {name: p.tolist() for name, p in model.named_parameters()}


def made_by_hand(model, x, label, place, degree):
    """(3) to (6), unit by unit. x: D numbers -> D logits."""
    p, mean, depth = plain(model), model.mean.tolist(), len(model.hidden)
    place, degree = place.tolist(), degree.tolist()
    pixels, units = range(len(place)), range(len(degree))
    v = [x[i] - mean[i] for i in pixels]
    h = []
    for k in units:
        total = p["first.bias"][k] + sum(
            p["first.weight"][k][i] * v[i] for i in pixels if degree[k] >= place[i])
        if label is not None:
            total += p["label_to_hidden.weight"][label][k]
        h.append(silu(total))
    for layer in range(depth):
        weight, bias = p[f"hidden.{layer}.weight"], p[f"hidden.{layer}.bias"]
        h = [h[k] + silu(bias[k] + sum(weight[k][j] * h[j] for j in units
                                       if degree[k] >= degree[j])) for k in units]
    logits = []
    for d in pixels:
        total = p["last.bias"][d]
        total += sum(p["last.weight"][d][k] * h[k] for k in units if place[d] > degree[k])
        total += sum(p["direct"][d][i] * v[i] for i in pixels if place[d] > place[i])
        if label is not None:
            total += p["label_to_logit.weight"][label][d]
        logits.append(total)
    return logits


def rnn_by_hand(model, x, label, reach, cell):
    """(10), step by step. x: D numbers -> D logits. A window shows the pixel of the step before,
    then what was drawn before within reach, row by row: ±1, or 0 for what is not known; offsets
    that no step ever sees are left out."""
    p, (height, width), order = plain(model), model.image_size, model.pixel_at.tolist()
    place = {d: t for t, d in enumerate(order)}
    signs = [2 * bit - 1 for bit in x]

    def seen(t, dr, dc):
        """The sign at this offset from the pixel of step t; None if it is not to be seen."""
        row, column = order[t] // width + dr, order[t] % width + dc
        inside = 0 <= row < height and 0 <= column < width
        return signs[row * width + column] if inside and place[row * width + column] < t else None

    steps = range(len(order))
    offsets = [(dr, dc) for dr in range(-reach, reach + 1) for dc in range(-reach, reach + 1)
               if any(seen(t, dr, dc) is not None for t in steps)]
    state = len(p["state_to_head.weight"][0])
    h, c, logits = [0.0] * state, [0.0] * state, [0.0] * len(order)
    for t in steps:
        window = [signs[order[t - 1]] if t else 0] + [seen(t, *offset) or 0 for offset in offsets]
        fed = [silu(b + dot(w, window) + at + (p["label_to_features.weight"][label][k]
                                               if label is not None else 0))
               for k, (w, b, at) in enumerate(zip(p["window_to_features.weight"],
                                                  p["window_to_features.bias"],
                                                  p["position_to_features"][t][0]))]
        from_fed = [dot(w, fed) + b for w, b in zip(p["rnn.weight_ih_l0"], p["rnn.bias_ih_l0"])]
        from_h = [dot(w, h) + b for w, b in zip(p["rnn.weight_hh_l0"], p["rnn.bias_hh_l0"])]
        if cell == "lstm":  # torch's order of gates: input, forget, candidate, output
            for s in range(state):
                i, f, g, o = (from_fed[q * state + s] + from_h[q * state + s] for q in range(4))
                c[s] = sigmoid(f) * c[s] + sigmoid(i) * math.tanh(g)
                h[s] = sigmoid(o) * math.tanh(c[s])
        else:  # reset, update, candidate
            for s in range(state):
                r, z = (sigmoid(from_fed[q * state + s] + from_h[q * state + s]) for q in (0, 1))
                n = math.tanh(from_fed[2 * state + s] + r * from_h[2 * state + s])
                h[s] = (1 - z) * n + z * h[s]
        heard = [silu(dot(a, h) + b + dot(e, fed) + f) for a, b, e, f in zip(
            p["state_to_head.weight"], p["state_to_head.bias"],
            p["features_to_head.weight"], p["features_to_head.bias"])]
        logits[order[t]] = dot(p["last.weight"][0], heard) + p["bias"][order[t]]
    return logits


@pytest.mark.parametrize("label", [None, 7])
@pytest.mark.parametrize("flags", [{}, {"depth": 1}, {"order": "random", "num_masks": 2}], ids=str)
def test_made_is_what_its_equations_say(flags, label):
    model = small_made((2, 4), width=9, classes=10 * (label is not None), **flags)
    x = noise(3, (2, 4))
    y = None if label is None else torch.full((3,), label)
    for sets in zip(model.place, model.degree):
        logits = model.logits(x, y, *sets).flatten(1)
        for image, row in zip(x.flatten(1).tolist(), logits):
            by_hand = torch.tensor(made_by_hand(model, image, label, *sets)).double()
            assert torch.allclose(by_hand, row)
            other = torch.tensor(made_by_hand(model, image, label, sets[0], sets[1].roll(1)))
            assert not torch.allclose(other.double(), row)  # control


@pytest.mark.parametrize("label", [None, 7])
@pytest.mark.parametrize("cell, order, reach", [("lstm", "natural", 1), ("lstm", "random", 2),
                                                ("gru", "natural", 2), ("gru", "random", 0)])
def test_the_rnn_is_what_its_equations_say(cell, order, reach, label):
    model = small_rnn((3, 4), cell=cell, order=order, reach=reach, width=3, features=4,
                      classes=10 * (label is not None))
    x = noise(3, (3, 4))
    logits = model.logits(x, None if label is None else torch.full((3,), label)).flatten(1)
    for image, row in zip(x.flatten(1).tolist(), logits):
        by_hand = torch.tensor(rnn_by_hand(model, image, label, reach, cell)).double()
        assert torch.allclose(by_hand, row)
    image[0] = 1 - image[0]  # control
    assert not torch.allclose(torch.tensor(rnn_by_hand(model, image, label, reach, cell)).double(),
                              row)


def test_the_rnn_starts_by_remembering():
    """The forget gate's bias, the second quarter, is 1; a GRU has none."""
    torch.manual_seed(0)
    bias = made.RNN(3, width=8).rnn.bias_ih_l0
    assert (bias[8:16] == 1).all() and not (bias == 1)[[*range(8), *range(16, 32)]].any()
    assert not (made.RNN(3, width=8, cell="gru").rnn.bias_ih_l0 == 1).any()


# --------------------------------------------------------------------------- masks, one by one


class Broken(made.MADE):
    """Control: one of the four inequalities is replaced, > for ≥ (strict) or ≥ for >."""

    broken = None  # (which mask, strict)

    def masks(self, place, degree):
        masks = list(super().masks(place, degree))
        if self.broken:
            which, strict = self.broken
            left = (degree, degree, place, place)[which][:, None]
            right = (place, degree, degree, place)[which][None]
            masks[which] = left > right if strict else left >= right
        return tuple(masks)


BREAKS = {"hidden > pixel": (0, True), "hidden > hidden": (1, True),
          "logit >= hidden": (2, False), "logit >= pixel": (3, False)}


def broken_made(which=None, **flags):
    model = small_made(width=40, **flags)
    model.__class__ = type("Wrong", (Broken,), {"broken": BREAKS.get(which)})
    return model


@pytest.mark.parametrize("which", BREAKS)
def test_a_pixel_that_sees_itself_breaks_the_sum(which):
    """And nothing else does: a mask that is too strict leaves a distribution."""
    leaks = which.startswith("logit")
    assert (abs(log_probs(broken_made(which)).exp().sum().item() - 1) > 1e-6) is leaks


@pytest.mark.parametrize("order", ["natural", "random"])
@pytest.mark.parametrize("moves_of", [gradients, flips])
def test_each_inequality_broken_alone_is_caught(order, moves_of):
    def looks(which=None, direct=1.0):
        model = broken_made(which, order=order)
        model.direct.data *= direct
        return sees(model, moves_of)

    # Through hidden units alone all of the past arrives, too.
    assert looks() == looks(direct=0.0) == (True, True)
    assert looks("logit >= hidden") == looks("logit >= pixel") == (False, True)  # leaks
    # Leaks nothing, loses the nearest neighbour:
    assert looks("hidden > pixel", direct=0.0) == (True, False)


def masks_are_the_largest_that_do_not_leak(model):
    """No path leads from a pixel to its own or an earlier logit; and any further connection would
    open one."""
    place, degree = model.place[0], model.degree[0]

    def leaks(to_hidden, between, to_logit, direct):
        ways = to_hidden + between @ to_hidden  # past a layer by the residual, or through it
        ways = ways + between @ ways
        return bool(((direct + to_logit @ ways)[place[:, None] <= place[None]] > 0).any())

    masks = [mask.double() for mask in model.masks(place, degree)]
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
def test_masks_are_the_largest_that_do_not_leak(order):
    assert masks_are_the_largest_that_do_not_leak(broken_made(order=order))
    for which in BREAKS:
        assert not masks_are_the_largest_that_do_not_leak(broken_made(which, order=order))


def test_a_masked_weight_gets_no_gradient():
    model = small_made()
    model.loss(noise(20, (3, 3))).backward()
    to_hidden, between, to_logit, direct = model.masks(model.place[0], model.degree[0])
    for p, mask in ((model.first.weight, to_hidden), (model.hidden[0].weight, between),
                    (model.last.weight, to_logit), (model.direct, direct)):
        assert (p.grad[~mask] == 0).all() and (p.grad[mask] != 0).all()


@pytest.mark.parametrize("order", ["natural", "random"])
def test_degrees_follow_the_surprise(order):
    """More hidden units where pixels vary (7), whatever the order; all degrees in 1..D−1."""
    torch.manual_seed(0)
    model = made.MADE(4, width=300, order=order)
    counts = torch.bincount(model.degree[0], minlength=17)
    assert model.degree.min() == 1 and model.degree.max() == 15
    assert counts[1:16].min() >= 10  # even, at first
    grey = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    grey[:5, :, 1:3, 1:3] = 255  # only the middle varies
    model.start_from_mean(grey)
    assert model.degree.min() >= 1 and model.degree.max() <= 15
    counts = torch.bincount(model.degree[0], minlength=17)[model.place[0]]  # of each pixel
    middle, edge = [5, 6, 9, 10], [0, 1, 2, 3, 12, 13]
    assert counts[middle].min() > 5 * counts[edge].max()
    share = 300 * 0.26 / (4 * 0.26 + 12 * 0.01)
    assert counts[middle].double().mean() == pytest.approx(share, abs=1)


class CentresWrongly(made.MADE):
    """Control: the fast sampler takes the middle for the mean."""

    def sample_by(self, *args):
        other = copy.deepcopy(self)
        other.mean.fill_(0.5)
        return made.MADE.sample_by(other, *args)


class ComputesTooEarly(made.MADE):
    """Control: to the fast sampler the degrees look one too low."""

    def sample_by(self, place, degree, *args):
        return super().sample_by(place, (degree - 1).clamp(min=1), *args)


@pytest.mark.parametrize("control", [CentresWrongly, ComputesTooEarly])
def test_a_wrong_fast_sampler_is_caught(control):
    """By what test_autoregressive.py compares: pixel by pixel with the obvious one."""
    def both(model):
        return [f(20, None, torch.Generator().manual_seed(0))
                for f in (model.sample, model.sample_obvious)]

    assert torch.equal(*both(small_made((5, 4))))
    assert not torch.equal(*both(as_if(small_made((5, 4)), control)))


# ----------------------------------------------------------------------------- the RNN's windows


def test_windows_that_show_the_present_break_the_sum():
    model = small_rnn()
    assert log_probs(model).exp().sum().item() == pytest.approx(1, abs=1e-10)
    model.seen[:, 1] = torch.arange(9)  # each step is shown the very pixel it has to predict
    assert abs(log_probs(model).exp().sum().item() - 1) > 1e-3


def test_the_far_past_reaches_the_rnn_through_its_state_alone():
    model = small_rnn(size=5, reach=1)
    moves = gradients(model, ())
    assert moves[24, 0] > 0 and moves[12, 1] > 0  # far outside a window of one pixel
    model.state_to_head.weight.data.zero_()  # control: without the state only the window is left
    moves = gradients(model, ())
    assert moves[24, 0] == 0 and moves[24, 23] > 0


def test_the_rnn_is_told_where_it_is():
    model, x = small_rnn(), torch.zeros(1, 1, 3, 3).double()
    model.bias.data.zero_()
    assert len(model.logits(x).flatten().unique()) == 9
    features = model.features(model.windows(x.flatten(1)), model.position_to_features, None)
    assert not torch.allclose(features[4], features[5])


# ----------------------------------------------------------------------------- several mask sets


def logits_of_sets(model, x):
    return torch.stack([model.logits(x, None, *sets) for sets in zip(model.place, model.degree)])


@torch.no_grad()
def test_mixture_and_averaged_logits():
    """(8) is a distribution for any sets. (9) is one only if all sets have the same order."""
    x = all_images()
    for order, is_one in (("natural", True), ("random", False)):
        model = small_made(order=order, num_masks=3)
        logits = logits_of_sets(model, x)
        averaged = made.bernoulli_log_prob(logits.mean(dim=0), x).exp().sum().item()
        probs = model.log_probs(x).exp()
        assert torch.allclose(probs.sum(dim=1), torch.ones(3).double())
        assert torch.allclose(model.log_prob(x), probs.mean(dim=0).log())
        assert not torch.allclose(probs[0], probs[1])
        assert model.log_prob(x).exp().sum().item() == pytest.approx(1)
        assert (abs(averaged - 1) < 1e-10) is is_one and (abs(averaged - 1) > 1e-3) is not is_one


@torch.no_grad()
def test_compare_averages_measures_what_it_says():
    model = small_made(order="random", num_masks=3).float()
    x = all_images()[:507].to(torch.uint8)  # of a number that no batch divides
    result = made.compare_averages(model, x, None)
    each = -model.log_probs(x.float()).mean(dim=1)
    logits = logits_of_sets(model, x.float()).mean(dim=0)
    assert result["mask_nats"] == pytest.approx(each.tolist(), rel=1e-5)
    assert result["mixture_nats"] == pytest.approx(made.evaluate(model, x, None), rel=1e-6)
    assert result["mixture_nats"] == pytest.approx(-model.log_prob(x.float()).mean().item(),
                                                   rel=1e-5)
    assert result["logits_nats"] == pytest.approx(
        -made.bernoulli_log_prob(logits, x.float()).mean().item(), rel=1e-5)
    assert result["mixture_nats"] < sum(result["mask_nats"]) / 3 - 1e-3  # Jensen


class Watched(made.MADE):
    """Notes which mask set each call of logits() is about."""

    def logits(self, x, y=None, place=None, degree=None):
        self.used.append((*place.tolist(), *degree.tolist()))
        return super().logits(x, y, place, degree)


def test_mask_sets_take_turns_and_agnostic_training_draws_new_orders():
    torch.manual_seed(0)
    same, orders = (made.MADE(4, width=50, order=order, num_masks=3)
                    for order in ("natural", "random"))
    assert torch.equal(same.place[0], same.place[1])
    assert not torch.equal(same.degree[0], same.degree[1])
    assert torch.equal(same.degree.sort(dim=1).values[0], same.degree.sort(dim=1).values[1])
    assert not torch.equal(orders.place[0], orders.place[1])
    assert torch.equal(orders.place.sort(dim=1).values, torch.arange(1, 17).repeat(3, 1))
    x = torch.zeros(2, 1, 4, 4)
    agnostic = made.MADE(4, width=50, order="agnostic", num_masks=3)
    grey = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    grey[:5, :, 1:3, 1:3] = 255
    agnostic.start_from_mean(grey)  # else all orders would have the same degrees
    for model in (same, orders, agnostic):
        sets = [(*place.tolist(), *degree.tolist())
                for place, degree in zip(model.place, model.degree)]
        as_if(model, Watched).used = []
        for step in range(6):
            model.loss(x, step=step)
        if model is agnostic:  # a new order each time, none of those kept for scoring
            assert len({*model.used, *sets}) == 9
            for used in model.used:  # (7), of that very order
                degree = model.new_degree(torch.tensor(used[:16]))
                assert list(used[16:]) == degree.tolist()
        else:
            assert model.used == sets + sets


@torch.no_grad()
def test_the_loss_is_of_the_set_whose_turn_it_is():
    model, x = small_made(order="random", num_masks=3), noise(7, (3, 3))
    for step in range(4):
        expected = -model.log_probs(x)[step % 3].mean()
        assert torch.allclose(model.loss(x, step=step), expected)
        assert not torch.allclose(model.loss(x, step=step + 1), expected)


# ----------------------------------------------------------------------------------- known first


def test_known_first():
    known = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]]).bool()
    places = [made.known_first(known, torch.Generator().manual_seed(seed)).view(2, 4)
              for seed in range(20)]
    for place in places:
        assert sorted(place[known].tolist()) == [1, 2, 3]
        assert sorted(place[~known].tolist()) == [4, 5, 6, 7, 8]
    assert len({tuple(place.flatten().tolist()) for place in places}) > 15


@pytest.mark.slow
@torch.no_grad()
def test_an_order_agnostic_model_completes_any_part_exactly():
    """In the order of known_first(), whose p(x) / p(given) draws follow; a model of reading order
    completes the top exactly, but not the left."""
    x, image = all_images(), torch.tensor([[[[1, 0, 1], [1, 0, 0], [0, 0, 1]]]]).double()
    top, left = torch.zeros(2, 3, 3, dtype=torch.bool)
    top[:2], left[:, :2] = True, True

    def off(model, known, log_p):
        generator = torch.Generator().manual_seed(0)
        draws = model.sample(10000, None, generator, image.expand(10000, -1, -1, -1), known)
        assert torch.equal(draws[:, :, known], image[:, :, known].expand(10000, -1, -1))
        possible = (x[:, :, known] == image[:, :, known]).flatten(1).all(dim=1)
        log_p = torch.where(possible, log_p, -math.inf)
        return abs(chi_square(draws, log_p - log_p.logsumexp(dim=0)))

    model = small_made(seed=2)
    assert off(model, top, model.log_prob(x)) < 5 and off(model, left, model.log_prob(x)) > 10
    agnostic = small_made(order="agnostic", num_masks=2)
    for known in (top, left):
        generator = torch.Generator().manual_seed(0)  # as in sample(): noise, the part, the order
        torch.rand(10000, 9, generator=generator, dtype=torch.float64)
        torch.randint(2, (10000,), generator=generator)
        place = made.known_first(known, generator)
        logits = agnostic.logits(x, None, place, agnostic.degree_as_trained())
        assert off(agnostic, known, made.bernoulli_log_prob(logits, x)) < 5
        assert off(agnostic, known, agnostic.log_prob(x)) > 10  # control: the mixture's p


def test_check_prints_who_looks_at_whom_and_a_leak(capsys, monkeypatch):
    """As typed, and with other masks: logit d at pixels before d, and at d itself if it leaks."""
    def printed(chapter, own, after="."):
        monkeypatch.setattr("sys.argv", ["made.py", "--check"])
        chapter.main()
        said = capsys.readouterr().out
        assert not Path("runs").exists()
        chapter.main(["--check"])
        assert capsys.readouterr().out == said
        maps = [line.split() for line in said.splitlines() if line]
        rows = ["".join(maps[d // 4 * 4 + row][d % 4] for row in range(4)) for d in range(16)]
        return rows == ["#" * d + own + after * (15 - d) for d in range(16)]

    assert printed(made, "o")
    for before, after in (("> place[None]  # (6)", ">= place[None]  # (6)"),
                          ("> degree[None]  # (5)", ">= degree[None]  # (5)")):
        broken = rewritten("made", (before, after))
        assert not printed(broken, "o"), before  # control
    everything = rewritten("made", ("torch.where(mask, weight, 0.0)", "weight"))
    assert printed(everything, "@", "#")
    blind = rewritten("made", ("    nn.init.ones_(model.direct)  #", "    #"), (
        "> place[None]  # (6)", ">= place[None]  # (6)"))
    assert printed(blind, "o")  # why direct weights must not be 0


@torch.no_grad()
def test_nats_in_an_order_are_those_of_its_masks():
    model, x = small_made((3, 4), order="agnostic").float(), noise(207, (3, 4))
    expected = []
    for place in (made.natural_place(3, 4), made.natural_place(3, 4).flip(0)):
        logits = model.logits(x.float(), None, place, model.degree_as_trained())
        expected.append(-made.bernoulli_log_prob(logits, x.float()).mean().item())
        nats = made.nats_in_order(model, x.to(torch.uint8), None, place)
        assert nats == pytest.approx(expected[-1], rel=1e-5)
    assert abs(expected[0] - expected[1]) > 0.01
    reading = small_made((3, 4)).float()  # of the same masks evaluate() says the same
    reading.degree[0] = reading.degree_as_trained()
    assert made.nats_in_order(reading, x, None, reading.place[0]) == pytest.approx(
        made.evaluate(reading, x, None), rel=1e-5)
    degree = model.degree_as_trained()  # each of 1 … 11 as often as any other
    counts = torch.bincount(degree, minlength=12)[1:]
    assert len(counts) == 11 and counts.min() >= 1 and counts.max() - counts.min() <= 1
    assert (degree.diff() >= 0).all()  # as (7) has them: unit k the k-th


@torch.no_grad()
def test_compare_orders_is_about_reading_order_and_the_left_half():
    model, x = small_made((4, 6), order="agnostic").float(), noise(107, (4, 6))
    result = made.compare_orders(model, x, None)
    left, top = torch.zeros(2, 4, 6, dtype=torch.bool)
    left[:, :3], top[:2] = True, True

    def nats(place):
        return pytest.approx(made.nats_in_order(model, x, None, place), rel=1e-6)

    def first(known):
        return made.known_first(known, torch.Generator().manual_seed(0))

    assert result == {"natural_order_nats": nats(torch.arange(1, 25)),
                      "left_half_first_nats": nats(first(left))}
    assert result["left_half_first_nats"] != nats(first(top))  # control


# ------------------------------------------------------------------------------------------ runs


def test_the_variants_have_defaults_of_their_own():
    def chosen(flags):
        s = values(made, flags)
        return (type(made.build(s, 3)), s.steps, s.batch_size, s.lr, s.clip, s.eval_images,
                s.width)

    assert chosen("") == (made.MADE, 9000, 128, 1e-2, 100.0, 5000, 1024)
    assert chosen("--order agnostic") == (made.MADE, 9000, 128, 8e-3, 1.0, 5000, 1024)
    assert chosen("--order agnostic --lr 0.1")[3:5] == (0.1, 1.0)
    assert chosen("--variant rnn") == (made.RNN, 1600, 64, 1e-2, 1.0, 2000, 64)


def test_flags_make_the_model_they_say():
    def built(flags):
        return made.build(values(made, flags), (3, 4))

    model = built("--width 10 --depth 3 --order random --num-masks 2 --conditional")
    assert len(model.hidden) == 2 and model.first.out_features == 10 and model.num_masks == 2
    assert model.order == "random" and model.classes and model.image_size == (3, 4)
    model = built("--variant rnn --width 10 --cell gru --reach 2")
    assert isinstance(model.rnn, torch.nn.GRU) and model.rnn.hidden_size == 10
    assert model.window_to_features.out_features == 15  # K in proportion to S
    assert model.seen.shape[1] == 1 + 2 * 5 + 2 and not model.classes
    random = built("--variant rnn --order random")
    assert isinstance(random.rnn, torch.nn.LSTM)
    assert torch.equal(model.pixel_at, torch.arange(12))
    assert not torch.equal(random.pixel_at, torch.arange(12))


def test_flags_that_do_not_go_together(fails):
    for flags, words in (("--variant rnn --order agnostic", ["--order agnostic", "masks"]),
                         ("--variant rnn --num-masks 2", ["--num-masks", "masks"]),
                         ("--variant rnn --depth 3", ["--depth", "masks"]),
                         ("--cell gru", ["--cell", "--variant rnn"]),
                         ("--reach 2", ["--reach", "--variant rnn"]),
                         ("--variant cnn", ["--variant"]), ("--num-masks 0", ["--num-masks"]),
                         ("--num-masks 65", ["--num-masks"])):
        fails(lambda flags=flags: made.main(flags.split()), *words)
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("few_images", "few_draws", "sketches")
@pytest.mark.parametrize("order", ["natural", "agnostic"])
def test_a_run_with_several_mask_sets_measures_both_averages(order):
    made.main(small(CHAPTERS["made"], "--steps", 2, "--order", order, "--num-masks", 2,
                    "--out", "a"))
    metrics = json.loads(Path("a/metrics.json").read_text(encoding="utf-8"))
    assert metrics["test_nats"] == pytest.approx(metrics["mixture_nats"], rel=1e-6)
    assert len(metrics["mask_nats"]) == 2
    assert metrics["logits_are_a_likelihood"] == (order == "natural")
    assert ("left_half_first_nats" in metrics) == (order == "agnostic")
