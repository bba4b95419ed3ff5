"""What is transformer_ar.py's own, each with a control that has to fail: its equations written anew
in plain loops, spelling, attention and its mask, the cache, words and how they are tossed,
temperatures. What it shares with all autoregressive models is in test_autoregressive.py."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHAPTERS, small, trained, values
from test_autoregressive import all_images, as_if, chi_square, flips, log_probs, noise, sees, shaken

import transformer_ar
from transformer_ar import Transformer


def lively(size=4, patch=2, seed=0, channels=12, layers=2, heads=2, reach=1, **flags):
    torch.manual_seed(seed)
    return shaken(Transformer(size, channels, layers, heads, patch, reach, **flags), seed)


# ------------------------------------------------------------------------- the equations, once more
#
# One step at a time, from the notes: h is a list of C numbers, a weight is a list of rows.


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def plus(*vectors):
    return [sum(parts) for parts in zip(*vectors)]


def softmax(scores):
    powers = [math.exp(s - max(scores)) for s in scores]
    return [p / sum(powers) for p in powers]


class Plain(dict):
    """Parameters as nested lists of Python's floats, by their names."""

    def __init__(self, model):
        super().__init__({name: p.tolist() for name, p in model.named_parameters()})

    def linear(self, name, h):
        return [dot(row, h) + b for row, b in zip(self[f"{name}.weight"], self[f"{name}.bias"])]

    def norm(self, name, h):
        """LayerNorm over the C numbers of one step."""
        mean = sum(h) / len(h)
        deviation = math.sqrt(sum((u - mean) ** 2 for u in h) / len(h) + 1e-5)
        return [(u - mean) / deviation * scale + shift for u, scale, shift in zip(
            h, self[f"{name}.weight"], self[f"{name}.bias"])]


def words_by_hand(image, patch):
    """Rows of words of an image (rows of bits): top left counts 1, top right 2, and so on."""
    return [[sum(image[i * patch + k // patch][j * patch + k % patch] << k
                 for k in range(patch * patch)) for j in range(len(image[0]) // patch)]
            for i in range(len(image) // patch)]


def transformer_by_hand(model, image, label):
    """(2), (3), (5), step by step. image: rows of 0 and 1 -> T lists of V logits, and of each layer
    and head the weights A[t][s]."""
    p, patch, reach, heads = Plain(model), model.patch, model.reach, model.blocks[0].heads
    words = words_by_hand(image, patch)
    rows, columns, bits = len(words), len(words[0]), patch * patch
    sentence, streams = sum(words, []), []
    for t in range(rows * columns):
        i, j = divmod(t, columns)
        before = sentence[t - 1] if t else 2**bits  # the start is a word of its own
        h = plus(p["word.weight"][before], p["row"][i][0], p["column"][0][j])
        for r in range(reach + 1):  # mask A: rows above, and what is left
            for c in range(2 * reach + 1):
                at = i + r - reach, j + c - reach
                past = r < reach or c < reach
                if reach and past and at[0] >= 0 and 0 <= at[1] < columns:
                    for k in range(bits):
                        sign = 2 * (words[at[0]][at[1]] >> k & 1) - 1
                        h = [u + kernel[k][r][c] * sign
                             for u, kernel in zip(h, p["neighbours.weight"])]
        streams.append(h if label is None else plus(h, p["label.weight"][label]))
    d, maps = len(streams[0]) // heads, []
    for layer in range(len(model.blocks)):
        name = f"blocks.{layer}"
        qkv = [p.linear(f"{name}.qkv", p.norm(f"{name}.norm_1", h)) for h in streams]
        taken, weights = [[] for _ in streams], []
        for head in range(heads):
            q, k, v = ([row[(part * heads + head) * d:(part * heads + head + 1) * d]
                        for row in qkv] for part in range(3))
            weights.append([])
            for t in range(len(streams)):
                a = softmax([dot(q[t], k[s]) / math.sqrt(d) for s in range(t + 1)])
                weights[-1].append(a + [0.0] * (len(streams) - t - 1))
                taken[t] += [sum(a[s] * v[s][u] for s in range(t + 1)) for u in range(d)]
        maps.append(weights)
        streams = [plus(h, p.linear(f"{name}.out", a)) for h, a in zip(streams, taken)]
        streams = [plus(h, p.linear(f"{name}.down", [max(0.0, u) for u in p.linear(
            f"{name}.up", p.norm(f"{name}.norm_2", h))])) for h in streams]
    logits = [plus([dot(row, p.norm("norm", h)) for row in p["last.weight"]], p["bias"][t])
              for t, h in enumerate(streams)]
    return logits, maps


@pytest.mark.parametrize("label", [None, 7])
@pytest.mark.parametrize("patch, size, reach, heads, layers", [
    (2, (4, 8), 1, 2, 2), (2, (6, 6), 2, 3, 1), (1, (3, 4), 1, 1, 2), (1, (3, 3), 0, 2, 2)])
def test_the_transformer_is_what_its_equations_say(patch, size, reach, heads, layers, label):
    model = lively(size, patch, channels=6, reach=reach, heads=heads, layers=layers,
                   classes=10 * (label is not None))
    x, y = noise(2, size), None if label is None else torch.full((2,), label)
    logits, maps = model.logits(x, y), model.attention_maps(x, y)
    for k, image in enumerate(x[:, 0].long().tolist()):
        by_hand, weights = transformer_by_hand(model, image, label)
        assert torch.allclose(torch.tensor(by_hand).double(), logits[k])
        assert not torch.allclose(torch.tensor(by_hand).double(), logits[1 - k])  # control
        for layer, attention in zip(weights, maps):
            assert torch.allclose(torch.tensor(layer).double(), attention[k])
    assert len(maps) == layers


# ------------------------------------------------------------------------------ ways to cheat


class OffByOne(transformer_ar.Block):
    """Control: the mask is `by` steps to the right; 1 shows each step one step of the future."""

    by = 1

    def forward(self, h):
        q, k, v = self.split(h)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + self.by)
        return self.join(h, scores.masked_fill(future, -math.inf).softmax(dim=-1).nan_to_num() @ v)


def with_mask(model, by):
    for block in model.blocks:
        block.__class__ = type("Masked", (OffByOne,), {"by": by})
    return model


def unmasked(model):
    """The entrance sees the word itself: mask B where A should be."""
    model.mask[-1, model.reach] = 1
    return model


class NotShifted(Transformer):
    """Control: step t is told word t."""

    def logits(self, x, y=None):
        return super().logits(self.images(self.words(x).roll(-1, 1)), y)


@pytest.mark.parametrize("patch", [1, 2])
def test_each_way_to_see_the_future_breaks_the_sum(patch):
    size = (2, 4) if patch == 2 else (3, 3)

    def off(model):
        return abs(log_probs(model).exp().sum().item() - 1)

    assert off(lively(size, patch)) < 1e-10
    assert off(with_mask(lively(size, patch), 0)) < 1e-10  # control of the control: the right mask
    assert off(with_mask(lively(size, patch), 1)) > 1e-6
    assert off(unmasked(lively(size, patch))) > 1e-6
    assert off(as_if(lively(size, patch), NotShifted)) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("patch, heads, reach", [(1, 2, 1), (2, 2, 1), (1, 2, 0), (2, 2, 0),
                                                 (2, 1, 1)])
@pytest.mark.parametrize("size", [(4, 4), (6, 8)])
def test_logits_depend_on_the_past_and_on_nothing_else(patch, heads, reach, size):
    def model():
        return lively(size, patch, heads=heads, reach=reach)

    assert sees(model(), flips) == (True, True)
    assert sees(with_mask(model(), 1), flips)[0] is False  # one step of the future
    # No step may be looked at, and what the entrance does not see is lost.
    all_seen = size == (4, 4) and patch == 2 and reach
    assert sees(with_mask(model(), -100), flips) == (True, bool(all_seen))
    if reach:
        assert sees(unmasked(model()), flips)[0] is False


def test_one_layer_sees_everything_and_none_sees_the_neighbours():
    none, one = lively((8, 8), layers=1), lively((8, 8), layers=1)
    none.blocks = torch.nn.ModuleList()
    assert sees(one, flips) == (True, True)
    seen = flips(none, ()) > 0
    only, whole = sees(none, flips)
    assert only and not whole
    t = 2 * 4 + 2  # third row, third column: one row up, one column aside, and the word before
    pixels = seen[t].nonzero()[:, 0]
    assert sorted(set((pixels // 16 * 4 + pixels % 8 // 2).tolist())) == [5, 6, 7, 9]


def test_the_entrance_sees_rows_above_and_what_is_left():
    assert Transformer(8, 8, 1, 2, 2, reach=2).mask.tolist() == [
        [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


# ------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("patch", [1, 2])
def test_a_word_is_its_pixels(patch):
    """Spelling is one to one, and the nats of words are the nats of pixels: the factors of (1),
    added up by hand."""
    model, x = lively((4, 6), patch), noise(50, (4, 6))
    words = model.words(x)
    assert words.shape == (50, 24 // patch**2) and words.max() < 2 ** (patch**2)
    assert torch.equal(model.images(words), x)
    for image, sentence in zip(x[:, 0].long().tolist(), words.tolist()):
        assert sum(words_by_hand(image, patch), []) == sentence
    with torch.no_grad():
        each = model.logits(x).softmax(dim=2).gather(2, words[..., None]).log()
        by_hand = each.sum(dim=(1, 2))
        assert torch.allclose(by_hand, model.log_prob(x))
        assert torch.allclose(-by_hand.mean(), model.loss(x))
    bits = transformer_ar.surprise(model.float(), x, None)
    assert bits.shape == (50, 1, 4 // patch, 6 // patch)
    assert torch.allclose(bits.flatten(1).double() * math.log(2), -each[..., 0], atol=1e-4)


def test_all_images_are_all_sentences():
    model, x = lively((2, 4)), all_images(2, 4)
    assert len(model.words(x).unique(dim=0)) == 256 == model.word.num_embeddings**2 - 33


def test_a_sentence_begins_with_a_word_that_is_no_patch():
    model, x = lively((4, 6)), noise(9, (4, 6))
    first = model.logits(x)[:, 0].detach()
    model.word.weight.data[:16] += torch.randn(16, 12)  # all words that are patches
    assert torch.equal(first, model.logits(x)[:, 0])
    model.word.weight.data[16] += torch.randn(12)
    assert not torch.allclose(first, model.logits(x)[:, 0])


def test_words_are_tossed_from_the_distribution_they_should_be():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).double()
    u = (torch.arange(100000) + 0.5).double() / 100000  # all noise there is, evenly
    words = transformer_ar.toss_word(u, logits.expand(100000, 4), None)
    share = torch.bincount(words, minlength=4) / 100000
    assert torch.allclose(share.double(), logits[0].softmax(dim=0), atol=2e-5)
    allowed = torch.tensor([[True, False, True, False]])
    words = transformer_ar.toss_word(u, logits.expand(100000, 4), allowed.expand(100000, 4))
    assert set(words.tolist()) == {0, 2}
    zero = logits[0, [0, 2]].softmax(dim=0)[0]
    assert torch.allclose((words == 0).double().mean(), zero, atol=2e-5)
    # The largest u there is still finds a word, and an allowed one.
    last = torch.tensor([math.nextafter(1.0, 0.0)]).double()
    assert transformer_ar.toss_word(last, logits, allowed).item() == 2
    assert transformer_ar.toss_word(last.float(), logits.float(), None).item() == 3


@pytest.mark.slow
@torch.no_grad()
def test_completion_is_exact_if_a_word_is_given_in_part():
    """The first word, and the upper half of the second: the rest is drawn given that half."""
    model, known = lively((2, 4)), torch.zeros(2, 4, dtype=torch.bool)
    known[:, :2] = known[0] = True
    image = torch.tensor([[[[1, 0, 1, 1], [0, 1, 0, 0]]]]).double()

    def off(given):
        draws = model.sample(10000, None, torch.Generator().manual_seed(0),
                             image.expand(10000, -1, -1, -1), known)
        x, log_p = all_images(2, 4), log_probs(model)
        possible = (x[:, :, given] == image[:, :, given]).flatten(1).all(dim=1)
        log_p = torch.where(possible, log_p, -math.inf)
        return abs(chi_square(draws, log_p - log_p.logsumexp(dim=0)))

    assert off(known) < 5
    known[0, :2] = False  # of the first word the lower half alone: still exact, if ...
    known[0, 2:] = False  # ... nothing is given of the second
    assert off(known) < 5
    known[0, 2:] = True  # else the first is drawn before what is given later has been seen
    assert off(known) > 10


# --------------------------------------------------------------------------------------- attention


def test_attention_as_it_is_written_equals_the_librarys():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 5).double()
    ours, theirs = transformer_ar.attention(q, k, v), transformer_ar.fast_attention(q, k, v)
    assert torch.allclose(ours, theirs)
    weights = transformer_ar.attention_weights(q, k)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 9).double())
    past = torch.ones(9, 9).tril().bool()
    assert (weights[..., ~past] == 0).all() and (weights[..., past] > 0).all()
    # By hand, for one step: (2) and (3).
    scores = torch.stack([(q[0, 0, 3] * k[0, 0, s]).sum() / math.sqrt(5) for s in range(4)])
    assert torch.allclose(ours[0, 0, 3], (scores.exp() / scores.exp().sum()) @ v[0, 0, :4])
    assert not torch.allclose(transformer_ar.attention(q * math.sqrt(5), k, v), theirs)  # control


def test_the_spread_of_the_logits_is_what_theory_says():
    """Divided by √d the logits' spread is √d times smaller, and weights are more even."""
    spread = transformer_ar.attention_spread(lively((6, 8), channels=16, heads=4),
                                             noise(5, (6, 8)))
    assert spread["plain_std"] == pytest.approx(2 * spread["scaled_std"])  # d = 4
    assert 0 < spread["scaled_max"] < spread["plain_max"] <= 1


def test_the_spread_is_of_the_steps_that_may_be_looked_at():
    """By hand, of all s ≤ t; the largest weight of all steps but the first, which has no choice."""
    model, x = lively((4, 6), channels=8, heads=2), noise(3, (4, 6))  # d = 4
    q, k, _ = model.blocks[0].split(model.embed(x))
    rows = [[(q[b, h, t] * k[b, h, s]).sum().item() for s in range(t + 1)]
            for b in range(3) for h in range(2) for t in range(6)]
    spread = transformer_ar.attention_spread(model, x)
    assert spread["plain_std"] == pytest.approx(np.std(sum(rows, []), ddof=1))
    for name, root in (("plain_max", 1), ("scaled_max", 2)):
        largest = [max(softmax([u / root for u in row])) for row in rows if len(row) > 1]
        assert spread[name] == pytest.approx(sum(largest) / len(largest))


def test_places_are_told():
    model, x = lively((6, 8), reach=0), torch.zeros(1, 1, 6, 8).double()
    model.bias.data.zero_()
    with torch.no_grad():
        assert len(model.logits(x)[0].round(decimals=9).unique(dim=0)) == 12
        model.row.zero_()
        model.column.zero_()
        # Without them a black image looks the same from everywhere: only "start" is another word.
        model.word.weight[16] = model.word.weight[0]
        assert len(model.logits(x)[0].round(decimals=9).unique(dim=0)) == 1


# ------------------------------------------------------------------------- samplers, temperatures


@pytest.mark.parametrize("break_it", [
    lambda m: m.mask.copy_(m.mask.flip(1)),
    lambda m: [setattr(b, "heads", 3) for b in m.blocks],
    lambda m: m.row.data.mul_(1.5)], ids=["mask", "heads", "row"])
def test_a_sampler_of_another_model_is_caught(break_it):
    model = lively((6, 4))
    right = model.sample_obvious(60, None, torch.Generator().manual_seed(0))
    break_it(model)
    assert not torch.equal(right, model.sample(60, None, torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize("patch, conditional", [(1, False), (2, True)])
def test_both_samplers_have_the_same_temperature(patch, conditional):
    model, n = lively((6, 4), patch, classes=10 * conditional), 40
    y = torch.arange(n) % 10 if conditional else None

    def both(**given):
        return [f(n, y, torch.Generator().manual_seed(0), **given)
                for f in (model.sample, model.sample_obvious)]

    plain, cool = both(), both(temperature=0.6)
    assert torch.equal(*plain) and torch.equal(*cool) and not torch.equal(plain[0], cool[0])
    assert torch.equal(plain[0], both(temperature=1.0)[0])
    model.temperature = 0.6  # what --temperature sets
    assert torch.equal(both()[0], cool[0]) and torch.equal(both()[1], cool[0])


@pytest.mark.parametrize("patch", [1, 2])
def test_near_zero_the_likeliest_word_is_drawn_and_far_above_any(patch):
    """τ → 0: argmax, whatever the noise. τ → ∞: fair coins."""
    model = lively((4, 4), patch)
    cold = model.sample(20, temperature=1e-6)
    assert len(cold.unique(dim=0)) == 1
    words = model.words(cold)
    assert torch.equal(model.logits(cold).argmax(dim=2), words)
    hot = model.sample(2000, None, torch.Generator().manual_seed(0), temperature=1e6)
    assert ((hot.mean(dim=0) - 0.5).abs() < 0.06).all()
    assert ((model.sample(2000).mean(dim=0) - 0.5).abs() > 0.06).any()  # control


@pytest.mark.slow
@torch.no_grad()
def test_frequencies_at_a_temperature_are_those_of_its_words():
    """Σ log softmax(ℓ/τ), word by word: not p, nor p to a power."""
    model, x = lively((2, 4)), all_images(2, 4)
    log_p = transformer_ar.word_log_probs(model.logits(x) / 0.6, model.words(x)).sum(dim=1)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
    draws = model.sample(10000, None, torch.Generator().manual_seed(0), temperature=0.6)
    assert abs(chi_square(draws, log_p)) < 5
    assert abs(chi_square(draws, log_probs(model))) > 10
    power = log_probs(model) / 0.6
    assert abs(chi_square(draws, power - power.logsumexp(dim=0))) > 10


# ------------------------------------------------------------------------------------------- runs


def test_what_cannot_be_built_is_refused(fails):
    with pytest.raises(ValueError, match="do not tile an image of 28×28"):
        Transformer(28, patch=3)
    with pytest.raises(ValueError, match="do not tile an image of 4×5"):
        Transformer((4, 5), patch=2)
    with pytest.raises(ValueError, match="16 channels cannot be split among 3 heads"):
        Transformer(28, 16, heads=3)
    assert Transformer(9, 8, 1, 2, 3, 2).sample(2).shape == (2, 1, 9, 9)  # 512 words, if asked for
    for flags, words in (("--patch 3", ["--patch 3", "28×28", "use 1 or 2"]),
                         ("--patch 4", ["--patch 4", "65,536", "use 1 or 2"]),
                         ("--patch 29", ["--patch 29", "use 1 or 2"]), ("--patch 0", ["--patch"]),
                         ("--width 30", ["--width 30", "4 heads"]), ("--reach 14", ["--reach"]),
                         ("--temperature 0 --sample-only", ["--temperature"]),
                         ("--temperature 0.5", ["--temperature", "--sample-only"])):
        fails(lambda flags=flags: transformer_ar.main(flags.split()), *words)
    assert not Path("runs").exists()


def test_flags_make_the_model_they_say():
    s = values(transformer_ar, "--width 12 --depth 2 --heads 3 --reach 1 --conditional")
    model = transformer_ar.build(s, (4, 6))
    assert len(model.blocks) == 2 and model.blocks[0].heads == 3 and model.reach == 1
    assert model.row.shape == (2, 1, 12) and model.column.shape == (1, 3, 12)
    assert model.classes and model.patch == 2 and model.mask.shape == (2, 3)


def test_single_pixels_have_defaults_of_their_own():
    def chosen(flags):
        s = values(transformer_ar, flags)
        return transformer_ar.build(s, 4).patch, s.steps, s.reach

    assert chosen("") == (2, 6000, 3) and chosen("--patch 1") == (1, 2000, 6)
    assert chosen("--patch 1 --reach 0") == (1, 2000, 0)


@pytest.mark.slow
def test_a_run_is_drawn_from_at_a_temperature():
    """--temperature changes the draws, and nothing else of the run."""
    trained(CHAPTERS["transformer_ar"],
            small(CHAPTERS["transformer_ar"], "--steps", 2, "--reach", 0, "--out", "a"))
    drawn = {}
    for temperature in ("1", "0.5"):
        transformer_ar.main(["--sample-only", "--out", "a", "--num-samples", "4",
                             "--temperature", temperature])
        drawn[temperature] = np.load("a/samples.npy")
    assert Path("a/samples_temperature0.5.png").exists()
    assert drawn["0.5"].sum() < drawn["1"].sum()  # black, which is likeliest, is likelier
    s = values(transformer_ar, "--width 8 --depth 1 --heads 2 --reach 0")
    model = transformer_ar.build(s)
    weights = torch.load("a/checkpoint.pt", weights_only=True)["best"]["weights"]
    model.load_state_dict(weights)
    generator = torch.Generator().manual_seed(s.seed)
    model.sample(64, None, generator, temperature=0.5)  # samples.png comes first
    expected = model.sample(4, None, generator, temperature=0.5)
    assert np.array_equal(drawn["0.5"], expected[:, 0].numpy())
