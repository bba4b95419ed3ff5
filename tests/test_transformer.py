"""The mathematics of transformer_ar.py, each with a control: a version that is wrong on purpose and has to fail."""
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_made import all_images, chi_square
from torch.utils.flop_counter import FlopCounterMode

import transformer_ar
from transformer_ar import Transformer


def lively(size=4, patch=2, seed=0, channels=16, layers=2, heads=4, reach=1, scale=0.5, **flags):
    """A model in float64 whose logits really depend on what they may: fresh networks are nearly constant."""
    torch.manual_seed(seed)
    model = Transformer(size, channels, layers, heads, patch, reach, **flags).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape).double() * scale)
    return model


MODELS = {"pixels": dict(patch=1), "words": dict(patch=2), "pixels, one word": dict(patch=1, reach=0),
          "words, one word": dict(patch=2, reach=0), "words, one head": dict(patch=2, heads=1)}
every_model = pytest.mark.parametrize("flags", MODELS.values(), ids=MODELS)


def log_prob(model, x, y=None):
    """log p of many images, in parts: (N,)."""
    with torch.no_grad():
        return torch.cat([model.log_prob(part, y if y is None else y[:len(part)]) for part in x.split(8192)])


# --------------------------------------------------------------------------------------------- densities


@every_model
@pytest.mark.parametrize("conditional", [False, True])
def test_probabilities_of_all_images_sum_to_one(flags, conditional):
    model, x = lively(conditional=conditional, **flags), all_images(4, 4)
    assert len(x) == 65536
    log_p = log_prob(model, x, torch.full((len(x),), 7) if conditional else None)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert log_p.std() > 0.5  # and the distribution is not the uniform one


def off_by_one(step):
    """attention_weights with its mask moved by `step` to the right: 1 shows each step one step of the future."""
    def weights(q, k):
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + step)
        return scores.masked_fill(future, -math.inf).softmax(dim=-1).nan_to_num()

    return weights


def with_mask(m, step):
    m.setattr(transformer_ar, "attention_weights", off_by_one(step))
    m.setattr(transformer_ar, "fast_attention", transformer_ar.attention)


def unmasked(model):
    """The entrance sees the word itself: mask B where A should be."""
    model.mask[-1, model.reach] = 1
    return model


@pytest.mark.parametrize("patch", [1, 2])
def test_each_way_to_see_the_future_breaks_the_sum(monkeypatch, patch):
    x = all_images(2, 4) if patch == 2 else all_images()
    size = tuple(x.shape[2:])

    def total(model):
        return log_prob(model, x).exp().sum().item()

    assert total(lively(size, patch)) == pytest.approx(1, abs=1e-10)
    assert abs(total(unmasked(lively(size, patch))) - 1) > 1e-3
    with monkeypatch.context() as m:
        with_mask(m, 0)
        assert total(lively(size, patch)) == pytest.approx(1, abs=1e-10)  # control of the control: the right mask
    with monkeypatch.context() as m:
        with_mask(m, 1)
        assert abs(total(lively(size, patch)) - 1) > 1e-3
    model = lively(size, patch)  # the sentence is not shifted: step t is told word t
    with torch.no_grad():
        logits = model.logits(model.images(model.words(x).roll(-1, 1)))
    assert abs(transformer_ar.word_log_probs(logits, model.words(x)).sum(dim=1).exp().sum().item() - 1) > 1e-3


@pytest.mark.parametrize("patch", [1, 2])
def test_a_word_is_its_pixels(patch):
    """Spelling is one to one, and the nats of words are the nats of pixels: the factors of (1), added up by hand."""
    model = lively((4, 6), patch)
    x = (torch.rand(50, 1, 4, 6) < 0.5).double()
    words = model.words(x)
    assert words.shape == (50, 24 // patch**2) and words.max() < 2 ** (patch**2)
    assert torch.equal(model.images(words), x)
    for i in range(model.rows):
        for j in range(model.columns):
            block = x[:, 0, i * patch:(i + 1) * patch, j * patch:(j + 1) * patch].flatten(1)
            number = (block * 2.0 ** torch.arange(patch**2)).sum(dim=1)
            assert torch.equal(words[:, i * model.columns + j], number.long())
    by_hand = model.logits(x).softmax(dim=2).gather(2, words[..., None]).log().sum(dim=(1, 2))
    assert torch.allclose(by_hand, model.log_prob(x)) and torch.allclose(-by_hand.mean(), model.loss(x))
    nats = transformer_ar.surprise(model.float(), x, None).sum(dim=(1, 2, 3)) * math.log(2)
    assert torch.allclose(nats.double(), -by_hand, rtol=1e-4)


# -------------------------------------------------------------------------------------------- dependence


def flips(model):
    """How far the logits of word t move if pixel i is flipped: (T, D). Words have no gradient."""
    torch.manual_seed(1)
    x = (torch.rand(1, 1, *model.image_size) < 0.5).double()
    many = x.repeat(x.numel(), 1, 1, 1)
    many.flatten(1)[:] = (many.flatten(1) + torch.eye(x.numel())) % 2
    with torch.no_grad():
        same = model.logits(x.expand_as(many))  # as many rows: then it rounds alike
        return (model.logits(many) - same).abs().sum(dim=2).T


def past_of(model):
    """Which pixels word t may know: (T, D)."""
    number = torch.arange(model.rows * model.columns).view(model.rows, model.columns)
    of_pixel = number.repeat_interleave(model.patch, 0).repeat_interleave(model.patch, 1).flatten()
    return of_pixel[None] < torch.arange(len(number.flatten()))[:, None]


@every_model
@pytest.mark.parametrize("size", [4, (6, 8)])
def test_logits_depend_on_the_past_and_on_nothing_else(flags, size, monkeypatch):
    model = lively(size, **flags)
    moves, past = flips(model), past_of(model)
    assert (moves[~past] == 0).all() and (moves[past] > 0).all()
    with monkeypatch.context() as m:  # control: one step of the future
        with_mask(m, 1)
        moves = flips(model)
        assert (moves[~past] > 0).any()
    with monkeypatch.context() as m:  # control: no step may be looked at, and what the entrance does not see is lost
        with_mask(m, -len(past))
        moves = flips(model)
        assert (moves[~past] == 0).all() and ((moves[past] == 0).any() or size == 4 == 2 * model.patch)
    if model.reach:
        assert (flips(unmasked(lively(size, **flags)))[~past] > 0).any()


def test_one_layer_sees_everything_and_none_sees_the_neighbours():
    none, one = lively((8, 8), layers=1), lively((8, 8), layers=1)
    none.blocks = torch.nn.ModuleList()
    past = past_of(one)
    assert (flips(one)[past] > 0).all()
    seen = flips(none) > 0
    assert not seen[~past].any() and 0 < seen.sum() < past.sum()
    t = 2 * 4 + 2  # third row, third column: the words up to one row above and one column away, and the word before
    assert sorted(set((seen[t].nonzero()[:, 0] // 16 * 4 + seen[t].nonzero()[:, 0] % 8 // 2).tolist())) == [5, 6, 7, 9]


def test_the_entrance_sees_rows_above_and_what_is_left():
    assert Transformer(8, 8, 1, 2, 2, reach=2).mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_a_sentence_begins_with_a_word_that_is_no_patch():
    model, x = lively((4, 6)), (torch.rand(9, 1, 4, 6) < 0.5).double()
    first = model.logits(x)[:, 0].detach()
    model.word.weight.data[:16] += torch.randn(16)  # all words that are patches
    assert torch.equal(first, model.logits(x)[:, 0])
    model.word.weight.data[16] += torch.randn(16)
    assert not torch.allclose(first, model.logits(x)[:, 0])


# --------------------------------------------------------------------------------------------- attention


def test_attention_as_it_is_written_equals_the_librarys():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 5).double()
    ours, theirs = transformer_ar.attention(q, k, v), transformer_ar.fast_attention(q, k, v)
    assert torch.allclose(ours, theirs)
    weights = transformer_ar.attention_weights(q, k)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 9).double())
    assert (weights.triu(1) == 0).all() and (weights.tril() > 0)[..., torch.ones(9, 9).tril().bool()].all()
    # By hand, for one step: (2) and (3).
    scores = torch.stack([(q[0, 0, 3] * k[0, 0, s]).sum() / math.sqrt(5) for s in range(4)])
    assert torch.allclose(ours[0, 0, 3], (scores.exp() / scores.exp().sum()) @ v[0, 0, :4])
    assert not torch.allclose(off_by_one(1)(q, k) @ v, theirs)  # controls
    assert not torch.allclose(transformer_ar.attention(q * math.sqrt(5), k, v), theirs)


def test_a_model_with_written_out_attention_is_the_same_model(monkeypatch):
    model, x = lively((6, 8)), (torch.rand(7, 1, 6, 8) < 0.5).double()
    fast = model.logits(x)
    monkeypatch.setattr(transformer_ar, "fast_attention", transformer_ar.attention)
    assert torch.allclose(fast, model.logits(x))
    maps = model.attention_maps(x)
    assert len(maps) == 2 and maps[0].shape == (7, 4, 12, 12)
    assert not torch.allclose(maps[0][:, 0], maps[0][:, 1])


def test_the_spread_of_the_logits_is_what_theory_says():
    """q · k of independent entries of variance 1 has variance d, and 1 if it is divided by √d."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 400, 64).double()
    assert (q @ k.transpose(2, 3)).std().item() == pytest.approx(8, rel=0.05)
    spread = transformer_ar.attention_spread(lively((6, 8), scale=0.3), (torch.rand(5, 1, 6, 8) < 0.5).double())
    assert spread["plain_std"] == pytest.approx(2 * spread["scaled_std"])  # d = 4
    assert 0 < spread["scaled_max"] < spread["plain_max"] <= 1


def test_places_are_told():
    model = lively((6, 8), reach=0)
    x = torch.zeros(1, 1, 6, 8).double()
    model.bias.data.zero_()
    with torch.no_grad():
        assert len(model.logits(x)[0].round(decimals=9).unique(dim=0)) == 12
        model.row.zero_(), model.column.zero_()
        # Without them a black image looks the same from everywhere: only "start" is another word.
        model.word.weight[16] = model.word.weight[0]
        assert len(model.logits(x)[0].round(decimals=9).unique(dim=0)) == 1


# ----------------------------------------------------------------------------------------------- samplers


@every_model
@pytest.mark.parametrize("conditional", [False, True])
def test_the_cache_gives_the_pixels_of_the_obvious_loop(flags, conditional):
    model, n = lively((6, 4), conditional=conditional, **flags), 20
    y = torch.arange(n) % 10 if conditional else None
    x, known = (torch.rand(n, 1, 6, 4) < 0.5).double(), torch.rand(6, 4) < 0.4  # also parts of words
    for given in ({}, {"x": x, "known": known}, {"temperature": 0.6}):
        draws = [f(n, y, torch.Generator().manual_seed(0), **given) for f in (model.sample, model.sample_obvious)]
        assert torch.equal(*draws) and set(draws[0].unique().tolist()) == {0, 1}
        if "x" in given:
            assert torch.equal(draws[0][:, :, known], x[:, :, known])
            assert not torch.equal(draws[0], x)
    assert not torch.equal(draws[0], model.sample(n, y, torch.Generator().manual_seed(1), temperature=0.6))
    assert not torch.equal(draws[0], model.sample(n, y, torch.Generator().manual_seed(0)))  # temperature matters


@pytest.mark.parametrize("break_it", [
    lambda m: m.mask.copy_(m.mask.flip(1)), lambda m: [setattr(b, "heads", 2) for b in m.blocks], lambda m: m.row.data.mul_(1.5)])
def test_a_sampler_of_another_model_is_caught(break_it):
    """Control for the test above."""
    model = lively((6, 4))
    right = model.sample_obvious(20, None, torch.Generator().manual_seed(0))
    break_it(model)
    assert not torch.equal(right, model.sample(20, None, torch.Generator().manual_seed(0)))


@every_model
def test_the_cache_costs_one_forward_pass(flags, monkeypatch):
    """Counted in multiplications, not in seconds. The obvious loop costs T passes."""
    monkeypatch.setattr(transformer_ar, "fast_attention", transformer_ar.attention)  # which the counter can count
    model = lively((8, 8), **flags)

    def flops(f):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            f()
        return counter.get_total_flops()

    one_pass = flops(lambda: model.logits(torch.zeros(10, 1, 8, 8).double()))
    assert 0.2 * one_pass < flops(lambda: model.sample(10)) <= 1.05 * one_pass
    assert flops(lambda: model.sample_obvious(10)) == model.rows * model.columns * one_pass


@every_model
def test_sampled_frequencies_match_probabilities(flags):
    """And, as control, not another model's, nor those at another temperature."""
    model, other, x = lively((2, 4), **flags), lively((2, 4), seed=1, **flags), all_images(2, 4)
    draws = model.sample(30000, None, torch.Generator().manual_seed(0))
    assert abs(chi_square(draws, log_prob(model, x))) < 5
    assert abs(chi_square(draws, log_prob(other, x))) > 10
    assert abs(chi_square(model.sample(30000, None, torch.Generator().manual_seed(0), temperature=0.7), log_prob(model, x))) > 10


@pytest.mark.parametrize("patch", [1, 2])
def test_completion_is_exact_where_all_that_is_given_comes_first(patch):
    """Also if a word is given in part: its upper half, and then the rest is drawn given that half."""
    model, known = lively((2, 4), patch), torch.zeros(2, 4, dtype=torch.bool)
    known[0] = patch == 1
    known[:, :2] = known[:, :2] | (patch == 2)
    if patch == 2:
        known[0, 2:] = True
    x = torch.tensor([[[[1, 0, 1, 1], [0, 1, 0, 0]]]]).double()
    draws = model.sample(20000, None, torch.Generator().manual_seed(0), x.expand(20000, -1, -1, -1), known)
    log_p = log_prob(model, all_images(2, 4))
    possible = (all_images(2, 4)[:, :, known] == x[:, :, known]).flatten(1).all(dim=1)
    log_p = torch.where(possible, log_p, -math.inf)
    assert abs(chi_square(draws, log_p - torch.logsumexp(log_p, dim=0))) < 5


def test_words_are_drawn_from_the_distribution_they_should_be():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).double()
    u = (torch.arange(100000) + 0.5).double() / 100000  # all noise there is, evenly
    share = torch.bincount(transformer_ar.draw_word(u, logits.expand(100000, 4), None), minlength=4) / 100000
    assert torch.allclose(share.double(), logits[0].softmax(dim=0), atol=2e-5)
    allowed = torch.tensor([[True, False, True, False]])
    words = transformer_ar.draw_word(u, logits.expand(100000, 4), allowed.expand(100000, 4))
    assert torch.allclose((words == 0).double().mean(), logits[0, [0, 2]].softmax(dim=0)[0], atol=2e-5)
    last = torch.tensor([math.nextafter(1.0, 0.0)]).double()  # the largest u there is still finds a word, and an allowed one
    assert transformer_ar.draw_word(last, logits, allowed).item() == 2
    assert transformer_ar.draw_word(last.float(), logits.float(), None).item() == 3


# ---------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("size, patch, n", [(28, 2, 1), (4, 1, 7), ((6, 10), 2, 3), ((1, 4), 1, 2), ((4, 1), 1, 2), (9, 3, 2)])
def test_shapes_for_any_size_and_number(size, patch, n):
    model = Transformer(size, 8, 1, 2, patch, 2)
    height, width = (size, size) if isinstance(size, int) else size
    x = model.sample(n)
    assert x.shape == (n, 1, height, width) and x.dtype == torch.float32
    assert model.log_prob(x).shape == (n,) and model.logits(x).shape == (n, height * width // patch**2, 2 ** (patch**2))


def test_what_cannot_be_built_is_refused(fails):
    with pytest.raises(ValueError, match="do not tile an image of 28×28"):
        Transformer(28, patch=3)
    with pytest.raises(ValueError, match="do not tile an image of 4×5"):
        Transformer((4, 5), patch=2)
    with pytest.raises(ValueError, match="16 channels cannot be split among 3 heads"):
        Transformer(28, 16, heads=3)
    fails(lambda: transformer_ar.main(["--patch", "3"]), "--patch 3", "28×28", "use 1 or 2")
    fails(lambda: transformer_ar.main(["--patch", "4"]), "--patch 4", "65,536", "use 1 or 2")
    fails(lambda: transformer_ar.main(["--patch", "29"]), "--patch 29", "use 1 or 2")
    fails(lambda: transformer_ar.main(["--patch", "0"]), "--patch")
    fails(lambda: transformer_ar.main(["--width", "30"]), "--width 30", "4 heads")
    fails(lambda: transformer_ar.main(["--temperature", "0", "--sample-only"]), "--temperature")
    fails(lambda: transformer_ar.main(["--temperature", "0.5"]), "--temperature", "--sample-only")
    assert not Path("runs").exists()


@every_model
def test_labels_are_asked_for_and_refused(flags):
    x, y = all_images(4, 4)[:4], torch.arange(4)
    for call, first in (("log_prob", x), ("loss", x), ("sample", 4), ("sample_obvious", 4)):
        getattr(lively(**flags), call)(first)
        getattr(lively(conditional=True, **flags), call)(first, y=y)
        with pytest.raises(ValueError, match="needs y"):
            getattr(lively(conditional=True, **flags), call)(first)
        with pytest.raises(ValueError, match="takes no y"):
            getattr(lively(**flags), call)(first, y=y)
    model = lively(conditional=True, **flags)
    assert not torch.isclose(model.log_prob(x, y), model.log_prob(x, y + 1)).any()


def test_start_from_mean_is_the_model_of_independent_pixels():
    model = Transformer(4, 8, 1, 2)
    grey = torch.randint(0, 256, (500, 1, 4, 4), dtype=torch.uint8)
    model.start_from_mean(grey)
    model.last.weight.data.zero_()
    p = grey.double().mean(dim=0) / 255
    x = (torch.rand(30, 1, 4, 4) < 0.5).float()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(dim=(1, 2, 3)).float()
    assert torch.allclose(model.log_prob(x), expected, atol=1e-4)


def test_evaluate_is_the_mean_of_log_prob():
    model, x = lively().float(), all_images(4, 4)[:403].to(torch.uint8)
    with torch.no_grad():
        expected = -model.log_prob(x.float()).mean().item()
    assert transformer_ar.evaluate(model, x, None) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("patch", [1, 2])
def test_overfits_one_batch(patch):
    """Eight images of noise by heart: from 44 nats, which no model that has not seen them beats, towards log 8 ≈ 2.1."""
    torch.manual_seed(0)
    model = Transformer(8, 32, 2, 4, patch)
    x = (torch.rand(8, 1, 8, 8) < 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        loss = model.loss(x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert math.log(8) < loss.item() < 4
    patterns = set(map(tuple, x.flatten(1).long().tolist()))
    draws = list(map(tuple, model.sample(50).flatten(1).long().tolist()))
    assert sum(draw in patterns for draw in draws) > 20


# ------------------------------------------------------------------------------------------------- runs


@pytest.mark.real_figures
def test_a_variant_can_be_resumed_and_drawn_from_at_a_temperature(monkeypatch):
    for name, value in (("CHANNELS", 8), ("LAYERS", 1), ("HEADS", 2), ("EVAL_IMAGES", 10)):
        monkeypatch.setattr(transformer_ar, name, value)
    monkeypatch.setattr(transformer_ar, "evaluate", lambda model, x, y, f=transformer_ar.evaluate: f(model, x[:10], y if y is None else y[:10]))
    monkeypatch.setattr(transformer_ar, "surprise", lambda model, x, y, f=transformer_ar.surprise: f(model, x[:10], y if y is None else y[:10]))
    transformer_ar.main(["--steps", "2", "--batch-size", "4", "--reach", "0", "--conditional"])
    folder = Path("runs/transformer_ar_reach0_conditional")
    first = json.loads((folder / "metrics.json").read_text())
    assert first["variant"] == "reach0" and first["settings"]["patch"] == 2 and first["likelihood"] == "exact"
    (folder / "metrics.json").unlink()
    transformer_ar.main(["--resume", "--out", str(folder)])
    assert json.loads((folder / "metrics.json").read_text())["test_nats"] == first["test_nats"]
    before = (folder / "samples.png").read_bytes()
    transformer_ar.main(["--sample-only", "--out", str(folder), "--temperature", "0.5"])
    assert (folder / "samples_temperature0.5.png").read_bytes() != before == (folder / "samples.png").read_bytes()
    for picture in ("attention", "temperatures", "completion_top", "completion_left", "surprise"):
        assert (folder / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "sampling.gif").read_bytes()[:3] == b"GIF"
