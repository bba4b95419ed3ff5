"""The contract of an autoregressive model, once, for every model of every chapter that has
sample_obvious(): found through CHAPTERS, each with the flags of its ABOUT["variants"] and
ABOUT["cases"].

What is asked of all: that its probabilities sum to 1, that each factor hears all of the past and
nothing else, that both samplers draw from exactly this distribution, and that what chapters measure
is what they say. Each with a control: the same model, one step ahead of itself or one behind, must
fail. What is one model's own is in test_made.py, test_convolutions.py and test_transformer.py."""
import math
import re
from types import SimpleNamespace

import fit
import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import CHAPTERS, values
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pictures


def settings_of(name, flags=""):
    return values(CHAPTERS[name], f"{CHAPTERS[name].ABOUT['small']} --width 12 {flags}")


def has_the_contract(name):
    return hasattr(CHAPTERS[name].build(settings_of(name)), "sample_obvious")


def all_flags(about):
    """Those of variants, without how long to train, and of further cases."""
    variants = [re.sub(r"--steps \d+", "", flags).strip() for flags in about["variants"].values()]
    return variants + about.get("cases", [])


CASES = [(name, flags) for name in CHAPTERS if has_the_contract(name)
         for flags in all_flags(CHAPTERS[name].ABOUT)]
VARIANTS = [(name, flags) for name, flags in CASES
            if flags not in CHAPTERS[name].ABOUT.get("cases", [])]


def parametrized(cases):
    return pytest.mark.parametrize("name, flags", cases, ids=[" ".join(c).strip() for c in cases])


every_case, every_variant = parametrized(CASES), parametrized(VARIANTS)
told_or_not = pytest.mark.parametrize("conditional", [False, True], ids=["p(x)", "p(x|y)"])

# Sizes, the first of which a model can be built for is taken: words of 2×2 do not tile all of them.
ENUMERATED = (3, 3), (2, 4)  # 512 and 256 images
TINY = (1, 3), (2, 2)  # 8 and 16
SEEN_WHOLE = (3, 3), (4, 4)
LARGER = (6, 5), (6, 4)
# Layers that sum over many inputs; what stands alone, as a position or a bias, does not.
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)


def all_images(height=3, width=3):
    """All binary images of that size: (2^(H·W), 1, H, W)."""
    n = height * width
    bits = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    return bits.double().view(-1, 1, height, width)


def noise(n, size, seed=1):
    """n images of fair coins, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 1, *size, generator=generator) < 0.5).double()


def built(name, s, sizes):
    """A model of the first of these sizes that it can have."""
    for size in sizes:
        try:
            return CHAPTERS[name].build(s, size)
        except ValueError as error:
            reason = error
    raise reason


def shaken(model, seed, scale=1.5):
    """The model in float64, all of whose parameters are random: fresh networks are nearly constant,
    and start with zeros here and there. Its mean image is far from the middle, too; and its logits
    are neither all small nor all large."""
    torch.manual_seed(seed)
    model = model.double()
    if hasattr(model, "start_from_mean"):
        model.start_from_mean(torch.randint(256, (2, 1, *model.image_size), dtype=torch.uint8))
    with torch.no_grad():
        for module in model.modules():
            for p in module.parameters(recurse=False):
                sums = p.dim() > 1 and isinstance(module, WEIGHTED)
                terms = p[0].numel() if sums else 4 if isinstance(module, nn.Embedding) else 16
                p.copy_(torch.randn(p.shape).double() * scale * terms**-0.5)
        x = noise(50, model.image_size)
        model.last.weight *= 1.5 / model.logits(x, labels(model, 50)).std()
    return model


def lively(name, flags, sizes=ENUMERATED, conditional=False, seed=0):
    s = settings_of(name, flags)
    s.conditional, s.classes = conditional, 10 * conditional
    torch.manual_seed(seed)
    return shaken(built(name, s, sizes), seed)


def labels(model, n, k=None):
    """n times the label k, or 0 to 9 in turn; None for a model that is told none."""
    if not model.classes:
        return None
    return torch.arange(n) % 10 if k is None else torch.full((n,), k)


# ------------------------------------------------------------------------ the order, and two leaks


def step_of(model):
    """The step, from 1, at which each pixel is drawn (D,): reading order, by pixels or by words,
    unless the model says otherwise."""
    if hasattr(model, "place"):
        return model.place[0]
    if hasattr(model, "pixel_at"):
        return model.pixel_at.argsort() + 1
    height, width = model.image_size
    patch = getattr(model, "patch", 1)
    word = torch.arange(1, height * width // patch**2 + 1).view(height // patch, width // patch)
    return word.repeat_interleave(patch, 0).repeat_interleave(patch, 1).flatten()


def parts_of(model):
    """Of what it is a mixture: (what else logits() is given, the step of each pixel) each."""
    if hasattr(model, "place"):
        return [(sets, sets[0]) for sets in zip(model.place, model.degree)]
    return [((), step_of(model))]


def moved(x, step, by):
    """Each pixel has the value of that `by` steps further on, and the last ones 0 (or first)."""
    order, size = step.argsort(stable=True), int((step == 1).sum()) * by
    flat, out = x.flatten(1), torch.zeros_like(x.flatten(1))
    if by > 0:
        out[:, order[:-size]] = flat[:, order[size:]]
    else:
        out[:, order[-size:]] = flat[:, order[:size]]
    return out.view(x.shape)


class Peeks:
    """Control: each step is shown its own pixel, too, as by a mask that is off by one."""

    by = 1

    def logits(self, x, y=None, *sets):
        step = sets[0] if sets else step_of(self)
        return super().logits(moved(x, step, self.by), y, *sets)


class Forgets(Peeks):
    """Control: the step just before is lost, as by an input that is shifted twice."""

    by = -1


def as_if(model, control):
    """The model, with other logits: an instance of a subclass that is wrong on purpose."""
    model.__class__ = type(control.__name__, (control, type(model)), {})
    return model


# ------------------------------------------------------------------------------------- densities


@torch.no_grad()
def log_probs(model, k=None):
    """log p of all images of the model's size, each with label k: (N,)."""
    x = all_images(*model.image_size)
    return model.log_prob(x, labels(model, len(x), k))


@every_case
@told_or_not
def test_probabilities_of_all_images_sum_to_one(name, flags, conditional):
    model = lively(name, flags, conditional=conditional)
    log_p = log_probs(model, 7)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert log_p.std() > 0.5  # and the distribution is not the uniform one
    assert abs(log_probs(as_if(model, Peeks), 7).exp().sum().item() - 1) > 1e-6


def of_words(name, flags):
    return built(name, settings_of(name, flags), ENUMERATED).image_size != ENUMERATED[0]


@pytest.mark.slow
@parametrized([case for case in CASES if of_words(*case)])
def test_probabilities_sum_to_one_where_words_have_all_their_neighbours(name, flags):
    """65,536 images of 4×4, which have rows and columns of words of 2×2 pixels."""
    model = lively(name, flags, [(4, 4)])
    with torch.no_grad():
        total = sum(model.log_prob(x).exp().sum().item() for x in all_images(4, 4).split(8192))
    assert total == pytest.approx(1, abs=1e-10)


@every_case
def test_probabilities_without_the_label_sum_to_one(name, flags):
    """What evaluate_without_label() calls p(x) is a distribution: each image on its own."""
    model = lively(name, flags, TINY, conditional=True).float()
    x = all_images(*model.image_size).to(torch.uint8)

    def total():
        nats = [CHAPTERS[name].evaluate_without_label(model, x[i:i + 1], torch.tensor([0]))[0]
                for i in range(len(x))]
        return sum(math.exp(-n) for n in nats)

    class Counts:
        """Control: three has twice its share."""

        def log_prob(self, x, y=None):
            return super().log_prob(x, y) + math.log(2) * (y == 3)

    assert total() == pytest.approx(1, abs=1e-4)
    as_if(model, Counts)
    assert total() == pytest.approx(1.1, abs=1e-4)


@every_case
def test_surprise_has_the_factors_of_the_chain_rule(name, flags):
    """p(x_t | before) from sums of p(x) over all images, without a look at logits: −log₂ of it is
    what surprise() says of each step."""
    model = lively(name, flags)
    x, step = all_images(*model.image_size), step_of(model)
    if hasattr(model, "num_masks"):
        model.num_masks = 1  # surprise() is about the first set
        model.place, model.degree = model.place[:1], model.degree[:1]
    p = log_probs(model).exp()
    factors, before = [], torch.ones(len(x)).double()
    for t in range(1, int(step.max()) + 1):
        bits = x.flatten(1)[:, step <= t]
        alike = (bits[:, None] == bits[None]).all(dim=2).double()
        now = alike @ p
        factors.append(-(now / before).log2())
        before = now
    by_step = torch.stack(factors, dim=1)  # (N, T)
    surprise = CHAPTERS[name].surprise(model.float(), x, None)
    if surprise.shape == x.shape:  # a factor a pixel, at its place
        by_step = by_step[:, step - 1]
    assert torch.allclose(surprise.flatten(1).double(), by_step, rtol=1e-3, atol=1e-3)
    other = by_step.roll(1, 1)  # control
    assert not torch.allclose(surprise.flatten(1).double(), other, rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------ dependence


def by_factor(logits):
    """(B, 1, H, W) or (B, T, V) -> (B, factors, numbers of each)."""
    return logits.flatten(1)[:, :, None] if logits.dim() == 4 else logits


def flips(model, sets, n=12):
    """How far the logits of each factor move, at most, if pixel i of n images is flipped:
    (factors, D)."""
    x = noise(n, model.image_size)
    pixels = x[0].numel()
    same = x.repeat_interleave(pixels, 0)  # as many rows: then it rounds alike
    many = ((same.flatten(1) + torch.eye(pixels).repeat(n, 1)) % 2).view(same.shape)
    y = labels(model, len(many))
    with torch.no_grad():
        moves = by_factor(model.logits(many, y, *sets) - model.logits(same, y, *sets))
    return moves.abs().amax(dim=2).view(n, pixels, -1).amax(dim=0).T


def gradients(model, sets, n=5):
    """|∂ℓ/∂x_i|, summed over n images: (factors, D)."""
    x = noise(n, model.image_size).requires_grad_()
    logits = by_factor(model.logits(x, labels(model, n), *sets)).sum(dim=(0, 2))
    zero = torch.zeros_like(x)
    grads = [torch.autograd.grad(one, x, retain_graph=True, allow_unused=True)[0]
             if one.requires_grad else None for one in logits]
    return torch.stack([(zero if g is None else g).abs().sum(dim=0).flatten() for g in grads])


def past_of(step, factors):
    """Which pixels each factor may know: (factors, D) bool."""
    of_factor = step if factors == len(step) else torch.arange(1, factors + 1)
    return of_factor[:, None] > step[None]


def sees(model, moves_of):
    """(nothing but the past?, all of the past?), over all parts of a mixture."""
    verdicts = []
    for sets, step in parts_of(model):
        moves = moves_of(model, sets)
        past = past_of(step, len(moves))
        verdicts.append((bool((moves[~past] == 0).all()), bool((moves[past] > 0).all())))
    return all(only for only, _ in verdicts), all(whole for _, whole in verdicts)


@every_case
def test_logits_depend_on_the_past_alone_and_on_all_of_it(name, flags):
    """An image so small that any field of view covers it."""
    model = lively(name, flags, SEEN_WHOLE)
    assert sees(model, flips) == (True, True)
    assert sees(as_if(model, Peeks), flips)[0] is False
    model = as_if(lively(name, flags, SEEN_WHOLE), Forgets)
    assert sees(model, flips) == (True, False)


@every_case
def test_nothing_of_the_future_is_seen_in_a_larger_image(name, flags):
    model = lively(name, flags, LARGER, conditional=True)
    assert sees(model, flips)[0] and sees(model, gradients)[0]
    as_if(model, Peeks)
    assert not sees(model, flips)[0]


@every_case
def test_reading_order_unless_another_is_asked_for(name, flags):
    model, order = lively(name, flags, LARGER), getattr(settings_of(name, flags), "order", "")
    reading = torch.arange(1, math.prod(model.image_size) + 1)
    for _, step in parts_of(model):
        if getattr(model, "patch", 1) == 1:
            assert torch.equal(step, reading) == (order in ("", "natural"))
        assert len(step.unique()) == step.max() and step.min() == 1


# -------------------------------------------------------------------------------------- samplers


def both(model, n=20, **given):
    """What both samplers draw from the same noise."""
    y = labels(model, n)
    return [sampler(n, y, torch.Generator().manual_seed(0), **given)
            for sampler in (model.sample, model.sample_obvious)]


@every_case
@told_or_not
def test_the_fast_sampler_draws_the_pixels_of_the_obvious_one(name, flags, conditional):
    """One by one, in float64; also with pixels given, anywhere."""
    model = lively(name, flags, LARGER, conditional)
    size = model.image_size
    x, known = noise(20, size), noise(1, size, seed=2)[0, 0] > 0
    for given in ({}, {"x": x, "known": known}):
        fast, obvious = both(model, **given)
        assert torch.equal(fast, obvious) and set(fast.unique().tolist()) == {0, 1}
        if given:
            assert torch.equal(fast[:, :, known], x[:, :, known]) and not torch.equal(fast, x)
    other = model.sample(20, labels(model, 20), torch.Generator().manual_seed(1), x, known)
    assert not torch.equal(fast, other)
    # Control. Fast: as it was; obvious: one step ahead.
    assert not torch.equal(*both(as_if(model, Peeks), 60))


@pytest.mark.slow
@every_case
def test_the_fast_sampler_hears_every_weight_that_logits_hear(name, flags):
    """Any of them (a mean to centre by, a mask, a label too) is changed: other logits, other draws.
    A sampler that leaves one out, or has kept another, is caught by this and the test above."""
    model, n = lively(name, flags, LARGER, conditional=True), 60
    x, y = noise(n, model.image_size), labels(model, n)

    @torch.no_grad()
    def outcome():
        logits = [model.logits(x, y, *sets) for sets, _ in parts_of(model)]
        return torch.stack(logits), model.sample(n, y, torch.Generator().manual_seed(0))

    (logits, draws), generator = outcome(), torch.Generator().manual_seed(0)
    buffers = [(key, b) for key, b in model.named_buffers() if b.is_floating_point()]
    heard = []
    for key, tensor in [*model.named_parameters(), *buffers]:
        kept = tensor.detach().clone()
        other = 1 - kept if "mask" in key else changed(kept, generator)
        tensor.data.copy_(other)
        other_logits, other_draws = outcome()
        heard.append(not torch.equal(logits, other_logits))
        assert heard[-1] == (not torch.equal(draws, other_draws)), key
        tensor.data.copy_(kept)
    assert sum(heard) > 0.7 * len(heard)  # (what ends in the last layer nobody hears)
    assert torch.equal(outcome()[1], draws)


def changed(tensor, generator):
    return tensor + torch.randn(tensor.shape, generator=generator, dtype=torch.float64)


def flops(f):
    """Multiplications and additions of f(), counted. MATH: attention by products that count."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        f()
    return counter.get_total_flops()


@pytest.mark.slow
@every_case
def test_the_fast_sampler_costs_one_forward_pass(name, flags):
    """Counted in multiplications, not in seconds; the obvious loop costs a pass for each step."""
    model = lively(name, flags, [(6, 6)])
    one_pass = flops(lambda: model.logits(torch.zeros(10, 1, 6, 6).double()))
    assert 0.2 * one_pass < flops(lambda: model.sample(10)) <= 1.2 * one_pass
    assert flops(lambda: model.sample_obvious(10)) == int(step_of(model).max()) * one_pass


def chi_square(draws, log_p):
    """How many standard deviations the χ² statistic of draws (n, 1, H, W) is from its mean, given
    log p of all_images(H, W)."""
    index = (draws.flatten(1).long() << torch.arange(draws[0].numel())).sum(1)
    counts = torch.bincount(index, minlength=len(log_p)).double()
    expected = len(draws) * log_p.exp()
    rare = expected < 5  # χ² wants cells that are not too small: the rest is one cell
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]])
    want = torch.cat([expected[~rare], expected[rare].sum()[None]])
    keep = want > 0
    if seen[~keep].any():
        return math.inf  # what cannot be was drawn
    freedom = keep.sum().item() - 1
    statistic = (((seen - want) ** 2)[keep] / want[keep]).sum().item()
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.slow
@every_case
def test_sampled_frequencies_match_probabilities(name, flags):
    """And, as control, not another model's."""
    model, other = lively(name, flags), lively(name, flags, seed=1)
    draws = model.sample(10000, None, torch.Generator().manual_seed(0))
    assert abs(chi_square(draws, log_probs(model))) < 5
    assert abs(chi_square(draws, log_probs(other))) > 10


def in_one_order(name, flags):
    """What is given can come first in all parts of a mixture (test_made.py has the rest)."""
    s = settings_of(name, flags)
    order = getattr(s, "order", "natural")
    return order == "natural" or (order == "random" and s.num_masks == 1)


@pytest.mark.slow
@parametrized([case for case in CASES if in_one_order(*case)])
@torch.no_grad()
def test_completion_is_exact_if_what_is_given_comes_first(name, flags):
    """Draws then follow p(x) / p(given). Of a mixture each part does: the toss for the part does
    not look. As control what is given comes last, of which draws know nothing."""
    model = lively(name, flags)
    x, step = all_images(*model.image_size), step_of(model)
    image = noise(1, model.image_size, seed=3)
    by_part = getattr(model, "log_probs", lambda x: model.log_prob(x)[None])(x)

    def off(known):
        draws = model.sample(10000, None, torch.Generator().manual_seed(0),
                             image.expand(10000, -1, -1, -1), known)
        possible = (x[:, :, known] == image[:, :, known]).flatten(1).all(dim=1)
        given = torch.where(possible, by_part, -math.inf)
        given = given - given.logsumexp(dim=1, keepdim=True)
        return abs(chi_square(draws, given.exp().mean(dim=0).log()))

    half = (step <= (step.max() + 1) // 2).view(model.image_size)
    assert off(half) < 5
    assert off(~half) > 10


# -------------------------------------------------------------------------- shapes, labels, scores


@every_case
@pytest.mark.parametrize("sizes, n", [([(28, 28)], 1), ([(5, 5), (4, 4)], 7),
                                      ([(6, 9), (6, 10)], 3), ([(1, 4), (2, 8)], 2),
                                      ([(4, 1), (8, 2)], 2)], ids=str)
def test_shapes_for_any_size_and_number(name, flags, sizes, n):
    model = built(name, settings_of(name, flags), sizes)
    if sizes == [(28, 28)]:  # the one that is meant if nothing is said
        assert CHAPTERS[name].build(settings_of(name, flags)).image_size == (28, 28)
        x = torch.zeros(1, 1, 28, 28)
    else:
        x = model.sample(n)
    assert x.shape == (n, 1, *model.image_size) and x.dtype == torch.float32
    assert model.log_prob(x).shape == (n,) and model.loss(x).shape == ()
    logits, steps = model.logits(x), int(step_of(model).max())
    assert logits.shape == x.shape or logits.shape[:2] == (n, steps)
    assert CHAPTERS[name].surprise(model, x, None).numel() == n * steps


@every_case
def test_labels_are_asked_for_and_refused(name, flags):
    conditional, plain = (lively(name, flags, conditional=c) for c in (True, False))
    x, y = noise(4, conditional.image_size), torch.arange(4)
    for call, argument in (("logits", x), ("log_prob", x), ("loss", x), ("sample", 4),
                           ("sample_obvious", 4)):
        getattr(plain, call)(argument)
        getattr(conditional, call)(argument, y=y)
        with pytest.raises(ValueError, match="needs y"):
            getattr(conditional, call)(argument)
        with pytest.raises(ValueError, match="takes no y"):
            getattr(plain, call)(argument, y=y)


@every_case
def test_labels_are_heard_everywhere(name, flags):
    """Each label gives other logits at every place, and another probability, and other draws."""
    model = lively(name, flags, conditional=True)
    x = noise(6, model.image_size)
    with torch.no_grad():
        for sets, _ in parts_of(model):
            logits = torch.stack([by_factor(model.logits(x, torch.full((6,), k), *sets))
                                  for k in range(10)])
            apart = (logits[:, None] - logits[None]).abs().amax(dim=(2, 4))  # (10, 10, factors)
            assert (apart[~torch.eye(10, dtype=torch.bool)] > 1e-9).all()
        log_p = torch.stack([model.log_prob(x, torch.full((6,), k)) for k in range(10)])
    assert len(log_p.flatten().unique()) == 60
    draws = [model.sample(200, torch.full((200,), k), torch.Generator().manual_seed(0))
             for k in range(10)]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 10


@every_case
@told_or_not
def test_evaluate_is_the_mean_of_log_prob_over_all_images(name, flags, conditional):
    """Of a number that no batch divides; and surprise() has its parts, in bits."""
    chapter, model = CHAPTERS[name], lively(name, flags, conditional=conditional).float()
    x = all_images(*model.image_size)[:207].to(torch.uint8)
    y = labels(model, 207)
    with torch.no_grad():
        log_p = model.log_prob(x.float(), y)
        parts = getattr(model, "log_probs", lambda x, y: model.log_prob(x, y)[None])(x.float(), y)
    assert chapter.evaluate(model, x, y) == pytest.approx(-log_p.mean().item(), rel=1e-5)
    assert chapter.evaluate(model, x, y) != pytest.approx(-log_p[:200].mean().item(), rel=1e-5)
    bits = chapter.surprise(model, x, y)
    assert len(bits) == 207
    assert torch.allclose(bits.flatten(1).sum(dim=1) * math.log(2), -parts[0], rtol=1e-4)
    if conditional:  # control
        other = chapter.evaluate(model, x, (y + 1) % 10)
        assert other != pytest.approx(-log_p.mean().item(), rel=1e-5)


@every_case
def test_without_the_label_all_ten_are_tried_and_the_most_probable_is_named(name, flags):
    """By Bayes' rule written out, one image at a time; told the right label, nats are lower by at
    most log 10."""
    chapter, model = CHAPTERS[name], lively(name, flags, conditional=True).float()
    pick = torch.randperm(256, generator=torch.Generator().manual_seed(1))[:107]
    x, y = all_images(*model.image_size)[pick].to(torch.uint8), torch.arange(107) % 10
    with torch.no_grad():
        by_label = torch.stack([model.log_prob(x.float(), torch.full((107,), k))
                                for k in range(10)], dim=1).double()
    total, right, best = 0.0, 0, []
    for image, label in zip(by_label.tolist(), y.tolist()):
        total -= math.log(sum(math.exp(value) for value in image) / 10)
        best.append(image.index(max(image)))
        right += best[-1] == label
    nats, accuracy = chapter.evaluate_without_label(model, x, y)
    assert nats == pytest.approx(total / 107, rel=1e-5)
    assert accuracy == pytest.approx(right / 107)
    assert nats <= chapter.evaluate(model, x, y) + math.log(10) + 1e-4
    assert chapter.evaluate_without_label(model, x, torch.tensor(best))[1] == 1  # control


# -------------------------------------------------------------------------------------- learning


@parametrized([(name, flags) for name, flags in CASES if name != "pixelcnn" and hasattr(
    CHAPTERS[name].build(settings_of(name, flags)), "start_from_mean")])  # its has no places
def test_start_from_mean_is_the_model_of_independent_pixels(name, flags):
    """Where the last weights are zero. What was off, or on, in all images is not impossible."""
    model = lively(name, flags)
    for key, p in model.named_parameters():
        if key.split(".")[0] in ("last", "direct"):
            p.data.zero_()
    grey = torch.randint(256, (5, 1, *model.image_size), dtype=torch.uint8)
    grey[:, :, 0, 0], grey[:, :, 0, 1] = 0, 255
    model.start_from_mean(grey)
    p = (grey.double().mean(dim=0) / 255).clamp(0.001, 0.999)
    x = all_images(*model.image_size)
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=(1, 2, 3))
    assert torch.allclose(log_probs(model), expected, atol=1e-5)
    model.start_from_mean(255 - grey)  # control
    assert not torch.allclose(log_probs(model), expected, atol=0.1)


@pytest.mark.slow
@every_variant
def test_overfits_one_batch(name, flags):
    """Eight images of noise by heart, by the chapter's own loop: from 25 nats, which no model that
    has not seen them beats, towards log 8 ≈ 2.1; and draws them. (All 36! orders of their pixels
    take longer: from 25 to 8.)"""
    chapter = CHAPTERS[name]
    s = settings_of(name, f"{flags} --width 64 --steps 250 --batch-size 16")
    all_orders = getattr(s, "order", None) == "agnostic"
    generator = torch.Generator().manual_seed(0)
    grey = (torch.rand(8, 1, 6, 6, generator=generator) < 0.5).to(torch.uint8) * 255
    data = SimpleNamespace(train=grey, **dict.fromkeys(
        ("train_labels", "val_labels", "test_labels"), torch.zeros(8, dtype=torch.long)))
    model, _, _ = fit.fit(chapter, s, data, lambda s: chapter.build(s, 6))
    nats = chapter.evaluate(model, grey // 255, None)
    assert math.log(8) < nats < (8 if all_orders else 3.5)
    patterns = set(map(tuple, (grey // 255).flatten(1).tolist()))
    draws = map(tuple, model.sample(50, None, generator).flatten(1).long().tolist())
    assert all_orders or sum(draw in patterns for draw in draws) > 10


@every_case
def test_every_weight_learns(name, flags):
    """Each that logits hear has a gradient: no position, bias or label is left as it started."""
    model = lively(name, flags, conditional=True)
    n = 40
    x, y = noise(n, model.image_size), labels(model, n)
    gradient = dict.fromkeys(dict(model.named_parameters()), 0.0)
    for step in range(getattr(model, "num_masks", 1)):
        model.zero_grad()
        model.loss(x, y, step).backward()
        for key, p in model.named_parameters():
            gradient[key] += 0.0 if p.grad is None else p.grad.abs().sum().item()
    logits, generator = model.logits(x, y), torch.Generator().manual_seed(0)
    for key, p in model.named_parameters():
        kept = p.detach().clone()
        p.data.copy_(changed(kept, generator))
        with torch.no_grad():
            heard = not torch.equal(model.logits(x, y), logits)
        p.data.copy_(kept)
        assert heard == (gradient[key] > 0), key


def test_an_animation_begins_with_the_first_pixel_and_ends_with_all():
    """Of white digits: grey where nothing is drawn yet, and at the end nowhere."""
    white = SimpleNamespace(classes=0, sample=lambda n, y, generator: torch.ones(n, 1, 28, 28))
    pictures.plot_animation("a.gif", white, torch.arange(784))
    shown = []
    with Image.open("a.gif") as gif:
        for k in range(gif.n_frames):
            gif.seek(k)
            digit = np.array(gif.convert("L"))[2:58, 2:58]
            shown.append((digit == 255).sum().item() / 4)  # 2×2 a pixel
    assert shown == [*range(1, 784, 14), 784]
