"""The mathematics of wavenet.py and pixelcnn.py, each with a control: a version that is wrong on purpose and has to fail."""
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_made import all_images, chi_square
from torch.utils.flop_counter import FlopCounterMode

import pixelcnn
import wavenet


def lively(make, seed=0, scale=0.5):
    """A model in float64 whose logits really depend on what they may: fresh networks are nearly constant."""
    torch.manual_seed(seed)
    model = make().double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape).double() * scale)
    return model


def wave(kind, taps):
    return lambda size=3, seed=0, channels=6, **f: lively(lambda: wavenet.WaveNet(size, channels, 16, taps, kind, **f), seed)


def plane(kind):
    return lambda size=3, seed=0, channels=6, layers=3, **f: lively(lambda: kind(size, channels, layers, **f), seed)


MODELS = {"wavenet": wave("image", 1), "wavenet, line": wave("line", 1), "wavenet, many taps": wave("image", 7), "original": plane(pixelcnn.PixelCNN),
          "gated": plane(pixelcnn.GatedPixelCNN), "row lstm": plane(pixelcnn.RowLSTM)}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


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


def other_side(monkeypatch, at):
    """F.pad with the padding of one axis on the other side (at 0: left and right; 2: above and below)."""
    pad = F.pad

    def swapped(x, p, *rest):
        p = list(p)
        p[at:at + 2] = p[at + 1:at - 1 if at else None:-1]
        return pad(x, p, *rest)

    monkeypatch.setattr(pixelcnn.F, "pad", swapped)


def leaks(make, **flags):
    """Does the sum over all images, or the gradient, tell that the future is seen?"""
    model = make(**flags)
    seen, past = gradients(model), torch.arange(9)[:, None] > torch.arange(9)[None]
    return abs(total_probability(model) - 1) > 1e-3, bool((seen[~past] > 0).any())


def test_each_way_to_see_the_future_is_caught(monkeypatch):
    for make in MODELS.values():
        assert leaks(make) == (False, False)
    model = MODELS["wavenet"]()
    with torch.no_grad():  # a WaveNet whose input is not shifted
        x = all_images()
        unshifted = wavenet.bernoulli_log_prob(model.logits(x.flatten(1).roll(-1, 1).view(x.shape)), x)
    assert abs(unshifted.exp().sum() - 1) > 1e-3
    mask = pixelcnn.causal_mask
    with monkeypatch.context() as m:  # mask B where A should be
        m.setattr(pixelcnn, "causal_mask", lambda kernel, kind: mask(kernel, "B"))
        assert leaks(MODELS["original"]) == leaks(MODELS["row lstm"]) == (True, True)
    with monkeypatch.context() as m:  # one column too many in later layers
        m.setattr(pixelcnn, "causal_mask", lambda kernel, kind: mask(kernel, kind) if kernel == 7 else torch.ones(3, 3))
        assert leaks(MODELS["original"]) == (True, True)
    for at in (0, 2):
        with monkeypatch.context() as m:
            other_side(m, at)
            assert leaks(MODELS["gated"]) == (True, True)
    with monkeypatch.context() as m:
        other_side(m, 0)
        assert leaks(MODELS["row lstm"]) == (True, True)


def test_masks():
    assert pixelcnn.causal_mask(3, "A").tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert pixelcnn.causal_mask(3, "B").tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]


# -------------------------------------------------------------------------------------------- dependence


def gradients(model):
    """|∂ℓ_d/∂x_i|, summed over a few random images: (D, D), rows d."""
    torch.manual_seed(1)
    x = (torch.rand(5, 1, *model.image_size) < 0.5).double().requires_grad_()
    logits = model.logits(x).flatten(1)
    return torch.stack([torch.autograd.grad(logits[:, d].sum(), x, retain_graph=True)[0].abs().sum(0).flatten()
                        for d in range(logits.shape[1])])


def flips(model):
    """How far ℓ_d moves if pixel i is flipped: (D, D), rows d."""
    torch.manual_seed(1)
    x = (torch.rand(1, 1, *model.image_size) < 0.5).double()
    many = x.repeat(x.numel(), 1, 1, 1)
    many.flatten(1)[:] = (many.flatten(1) + torch.eye(x.numel())) % 2
    with torch.no_grad():
        same = model.logits(x.expand_as(many))  # as many rows: then it rounds alike
        return (model.logits(many) - same).abs().flatten(1).T


@every_model
@pytest.mark.parametrize("how", [gradients, flips])
def test_a_small_image_is_seen_whole(make, how):
    moves, past = how(make()), torch.arange(9)[:, None] > torch.arange(9)[None]
    # A ReLU that is off passes nothing: a logit that hangs on one of them may be still at one image.
    assert (moves[~past] == 0).all() and (moves[past] > 0).float().mean() > (0.9 if how is flips else 0.999)


def add(*sets):
    """Minkowski sums of sets of offsets (rows, columns)."""
    total = {(0, 0)}
    for s in sets:
        total = {(a + c, b + d) for a, b in total for c, d in s}
    return total


def box(r0, r1, c0, c1):
    return {(r, c) for r in range(r0, r1 + 1) for c in range(c0, c1 + 1)}


def field_in_theory(name, layers):
    """Offsets that a logit sees, from the definition of each model, without its code."""
    mask_a, mask_b = box(-3, -1, -3, 3) | box(0, 0, -3, -1), box(-1, -1, -1, 1) | box(0, 0, -1, 0)
    if name == "original":
        return add(mask_a, *[mask_b] * layers)
    if name == "gated":
        v, h = box(-3, -1, -3, 3), box(-3, -1, -3, 3) | box(0, 0, -3, -1)
        for k in range(layers):
            delta = 2 ** (k % 4)
            v = add(v, {(r * delta, c * delta) for r, c in box(-1, 0, -1, 1)})
            h = add(h, {(0, -delta), (0, 0)}) | v
        return h
    field = mask_a
    cone = {(-m, c) for m in range(20) for c in range(-m, m + 1)}
    for _ in range(layers):
        field = field | add(field, box(0, 0, -1, 0), cone)
    return field


@pytest.mark.parametrize("name", ["original", "gated", "row lstm"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_receptive_fields_are_what_theory_says(name, layers):
    size, at = (13, 21), (11, 10)
    model = MODELS[name](size, layers=layers)
    x = (torch.rand(40, 1, *size, generator=torch.Generator().manual_seed(0)) < 0.5).double().requires_grad_()
    seen = torch.autograd.grad(model.logits(x)[:, 0, at[0], at[1]].sum(), x)[0].abs().sum(dim=(0, 1)) > 0
    theory = torch.zeros(size, dtype=torch.bool)
    for r, c in field_in_theory(name, layers):
        if 0 <= at[0] + r < size[0] and 0 <= at[1] + c < size[1]:
            theory[at[0] + r, at[1] + c] = True
    assert torch.equal(seen, theory)
    # The blind spot: one row up, four columns to the right. The gated model of the same depth sees it.
    assert seen[at[0] - 1, at[1] + 4].item() == (name == "gated")
    if name == "gated":  # and everything else within reach
        reach = 3 + 2**layers - 1
        assert seen[max(0, at[0] - reach):at[0], max(0, at[1] - reach):at[1] + 1 + reach].all()


@pytest.mark.parametrize("kind", ["line", "image"])
def test_wavenet_sees_all_of_the_line_before(kind):
    for size in ((1, 1), (1, 7), (7, 1), (3, 3), (5, 9), (9, 5), (28, 28), (14, 40)):
        sums = {0}
        for delta in wavenet.choose_dilations(kind, size[1], size[0] * size[1]):
            sums |= {s + delta for s in sums}
        assert set(range(size[0] * size[1] - 1)) <= sums, size
    model = MODELS["wavenet, line" if kind == "line" else "wavenet"]((5, 9))
    x = (torch.rand(3, 1, 5, 9) < 0.5).double().requires_grad_()
    seen = torch.autograd.grad(model.logits(x)[:, 0, 4, 8].sum(), x)[0].abs().sum(dim=(0, 1)).flatten() > 0
    assert seen.tolist() == [True] * 44 + [False]
    model.past[1].weight.data.zero_()  # control: without one tap there are holes
    seen = torch.autograd.grad(model.logits(x)[:, 0, 4, 8].sum(), x)[0].abs().sum(dim=(0, 1)).flatten() > 0
    assert 0 < seen[:44].sum() < 44


@pytest.mark.parametrize("make", [MODELS["wavenet"], MODELS["gated"], MODELS["original"], MODELS["row lstm"]])
def test_fields_grow_from_layer_to_layer(make):
    model, module = make((9, 9), seed=3).float(), wavenet if make is MODELS["wavenet"] else pixelcnn
    x = torch.rand(5, 1, 9, 9) < 0.5
    counts = [int((map_ > 0).sum()) for map_ in module.fields(model, x, None, 40)]
    assert counts == sorted(counts) and counts[0] < counts[-1] <= 40


@every_model
def test_a_model_is_told_where_it_is(make):
    model = make((9, 9))
    model.bias.data.zero_()
    x = torch.zeros(1, 1, 9, 9).double()
    with torch.no_grad():
        told = model.logits(x).flatten()
        model.position.zero_()
        not_told = model.logits(x).flatten()
    assert len(told.unique()) > 40 and told[80] != not_told[80]


def test_gates():
    taps = torch.randn(2, 6, 3)
    assert torch.allclose(pixelcnn.gate(taps), taps[:, :3].tanh() * taps[:, 3:].sigmoid())
    model = wavenet.WaveNet(3, 6)
    assert torch.allclose(model.gate(taps.transpose(1, 2)).transpose(1, 2), pixelcnn.gate(taps))


def test_the_row_lstm_is_an_lstm():
    """On an image one pixel wide, with convolutions of one tap, it is nn.LSTMCell down the rows."""
    model = lively(lambda: pixelcnn.RowLSTM((5, 1), 4, 1))
    cell = torch.nn.LSTMCell(4, 4).double()
    order = [0, 1, 3, 2]  # ours: input, forget, output, candidate; torch's: input, forget, candidate, output
    with torch.no_grad():
        def gates(w):
            return torch.cat([w.chunk(4)[k] for k in order])
        cell.weight_ih.copy_(gates(model.input_to_state[0].weight[:, :, 0, 1]))
        cell.bias_ih.copy_(gates(model.input_to_state[0].bias))
        cell.weight_hh.copy_(gates(model.state_to_state[0].weight[:, :, 1]))
        cell.bias_hh.zero_()
        x = (torch.rand(3, 1, 5, 1) < 0.5).double()
        below, above = model.streams(x)
        state = None
        for i in range(5):
            state = cell(below[:, :, i, 0], state)
            assert torch.allclose(above[:, :, i, 0], below[:, :, i, 0] + state[0])


# ----------------------------------------------------------------------------------------------- samplers


@every_model
@pytest.mark.parametrize("conditional", [False, True])
def test_the_fast_sampler_draws_the_pixels_of_the_obvious_one(make, conditional):
    model = make(conditional=conditional, size=(6, 5))
    n = 20
    y = torch.arange(n) % 10 if conditional else None
    x, known = (torch.rand(n, 1, 6, 5) < 0.5).double(), torch.rand(6, 5) < 0.4
    for given in ({}, {"x": x, "known": known}):
        draws = [f(n, y, torch.Generator().manual_seed(0), **given) for f in (model.sample, model.sample_obvious)]
        assert torch.equal(*draws) and set(draws[0].unique().tolist()) == {0, 1}
        if given:
            assert torch.equal(draws[0][:, :, known], x[:, :, known])
            assert not torch.equal(draws[0], x)
    assert not torch.equal(draws[0], model.sample(n, y, torch.Generator().manual_seed(1), x, known))


@pytest.mark.parametrize("name, break_it", [
    ("wavenet", lambda m: setattr(m, "dilations", [d + 1 for d in m.dilations])),  # queues one too long
    ("original", lambda m: m.mask_b.copy_(torch.tensor([[1., 1, 0], [1, 1, 0], [0, 0, 0]]))),
    ("row lstm", lambda m: m.mask_a.copy_(pixelcnn.causal_mask(7, "A") * (torch.arange(7) != 2))),
])
def test_a_sampler_of_another_model_is_caught(name, break_it):
    """Control for the test above: the fast sampler does not quite compute what logits() does."""
    model = MODELS[name]((6, 5))
    right = model.sample_obvious(20, None, torch.Generator().manual_seed(0))
    break_it(model)
    assert not torch.equal(right, model.sample(20, None, torch.Generator().manual_seed(0)))


@every_model
def test_the_fast_sampler_costs_one_forward_pass(make):
    """Counted in multiplications, not in seconds. The obvious loop costs D passes."""
    model = make((8, 8))

    def flops(f):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            f()
        return counter.get_total_flops()

    one_pass = flops(lambda: model.logits(torch.zeros(10, 1, 8, 8).double()))
    assert 0.2 * one_pass < flops(lambda: model.sample(10)) <= 1.2 * one_pass
    assert flops(lambda: model.sample_obvious(10)) == 64 * one_pass


@every_model
def test_sampled_frequencies_match_probabilities(make):
    """And, as control, not another model's."""
    model, other = make(), make(seed=1)
    draws = model.sample(30000, None, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert abs(chi_square(draws, model.log_prob(all_images()))) < 5
        assert abs(chi_square(draws, other.log_prob(all_images()))) > 10


@every_model
def test_completion_of_the_top_is_exact(make):
    model, known = make(), torch.zeros(3, 3, dtype=torch.bool)
    known[:2] = True
    x = torch.tensor([[[[1, 0, 1], [1, 0, 0], [0, 0, 1]]]]).double()
    draws = model.sample(20000, None, torch.Generator().manual_seed(0), x.expand(20000, -1, -1, -1), known)
    with torch.no_grad():
        log_p = model.log_prob(all_images())
    possible = (all_images()[:, :, known] == x[:, :, known]).flatten(1).all(dim=1)
    log_p = torch.where(possible, log_p, -math.inf)
    assert abs(chi_square(draws, log_p - torch.logsumexp(log_p, dim=0))) < 5


# ---------------------------------------------------------------------------------------------- the models


CLASSES = [wavenet.WaveNet, pixelcnn.PixelCNN, pixelcnn.GatedPixelCNN, pixelcnn.RowLSTM]


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("size, n", [(28, 1), (5, 7), ((6, 9), 3), ((1, 4), 2), ((4, 1), 2)])
def test_shapes_for_any_size_and_number(make, size, n):
    model = make(size, 8)
    height, width = (size, size) if isinstance(size, int) else size
    x = model.sample(n)
    assert x.shape == (n, 1, height, width) and x.dtype == torch.float32
    assert model.log_prob(x).shape == (n,) and model.logits(x).shape == x.shape


@every_model
def test_labels_are_asked_for_and_refused(make):
    x, y = all_images()[:4], torch.arange(4)
    for call, first in (("log_prob", x), ("loss", x), ("sample", 4), ("sample_obvious", 4)):
        getattr(make(), call)(first)
        getattr(make(conditional=True), call)(first, y=y)
        with pytest.raises(ValueError, match="needs y"):
            getattr(make(conditional=True), call)(first)
        with pytest.raises(ValueError, match="takes no y"):
            getattr(make(), call)(first, y=y)
    model = make(conditional=True)
    assert not torch.isclose(model.log_prob(x, y), model.log_prob(x, y + 1)).any()


@every_model
def test_evaluate_is_the_mean_of_log_prob_and_surprise_its_parts(make):
    model, x = make().float(), all_images().repeat(3, 1, 1, 1)[:1203].to(torch.uint8)  # not a multiple of 500
    for module in (wavenet, pixelcnn):
        with torch.no_grad():
            expected = -model.log_prob(x.float()).mean().item()
        assert module.evaluate(model, x, None) == pytest.approx(expected, rel=1e-5)
        bits = module.surprise(model, x, None)
        assert bits.shape == x.shape and bits.sum().item() / len(x) == pytest.approx(expected / math.log(2), rel=1e-5)


@pytest.mark.parametrize("make", CLASSES)
def test_overfits_one_batch(make):
    """Eight images of noise by heart: from 44 nats, which no model that has not seen them beats, towards log 8 ≈ 2.1."""
    torch.manual_seed(0)
    model = make(8, 32)
    x = (torch.rand(8, 1, 8, 8) < 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
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


@pytest.fixture
def small(monkeypatch):
    for name in ("ORIGINAL_CHANNELS", "RNN_CHANNELS", "CHANNELS"):
        monkeypatch.setattr(pixelcnn, name, 4)
    for name in ("ORIGINAL_LAYERS", "RNN_LAYERS", "LAYERS"):
        monkeypatch.setattr(pixelcnn, name, 1)
    monkeypatch.setattr(pixelcnn, "EVAL_IMAGES", 20)
    monkeypatch.setattr(pixelcnn, "evaluate", lambda model, x, y, evaluate=pixelcnn.evaluate: evaluate(model, x[:20], None if y is None else y[:20]))


SHORT = ["--steps", "4", "--batch-size", "4"]


@pytest.mark.parametrize("variant", ["original", "rnn"])
def test_a_variant_can_be_resumed_without_saying_which(small, variant):
    pixelcnn.main(SHORT + ["--variant", variant, "--conditional"])
    folder = Path(f"runs/pixelcnn_{variant}_conditional")
    first = json.loads((folder / "metrics.json").read_text())
    assert first["variant"] == variant and first["likelihood"] == "exact" and (first["settings"]["width"], first["settings"]["depth"]) == (4, 1)
    (folder / "metrics.json").unlink()
    pixelcnn.main(["--resume", "--out", str(folder)])
    again = json.loads((folder / "metrics.json").read_text())
    assert again["test_nats"] == first["test_nats"] and again["variant"] == variant
    pixelcnn.main(["--sample-only", "--out", str(folder), "--num-samples", "3", "--label", "4"])
    for picture in ("completion_top", "completion_left", "surprise", "sight", "receptive_field", "samples"):
        assert (folder / f"{picture}.png").exists()
    assert (folder / "sampling.gif").read_bytes()[:3] == b"GIF"


def test_the_variants_have_defaults_of_their_own(small, monkeypatch):
    seen = []
    monkeypatch.setattr(pixelcnn, "train", lambda model, data, run, *rest: seen.append((type(model), rest[0], rest[2])) or 1 / 0)
    for flags in ([], ["--variant", "original"], ["--variant", "rnn"], ["--variant", "rnn", "--steps", "7", "--lr", "0.1"]):
        with pytest.raises(ZeroDivisionError):
            pixelcnn.main(flags)
    assert seen == [(pixelcnn.GatedPixelCNN, pixelcnn.STEPS, pixelcnn.LR), (pixelcnn.PixelCNN, pixelcnn.ORIGINAL_STEPS, pixelcnn.ORIGINAL_LR),
                    (pixelcnn.RowLSTM, pixelcnn.RNN_STEPS, pixelcnn.LR), (pixelcnn.RowLSTM, 7, 0.1)]


def test_flags_that_do_not_exist(small, fails):
    fails(lambda: pixelcnn.main(["--variant", "masks"]), "--variant")
    fails(lambda: wavenet.main(["--dilations", "3"]), "--dilations")
    pixelcnn.main(SHORT)
    fails(lambda: pixelcnn.main(["--resume", "--out", "runs/pixelcnn", "--variant", "rnn"]), "--variant gated", "not rnn")
