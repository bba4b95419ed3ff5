"""ebm.py: everything summed on 4×4 bits: Z, gradients, samplers that leave p as it is, both sides
of AIS, the optimum of noise contrast. Each with a control: the classic mistakes, made."""
import math
from types import SimpleNamespace

import fit
import pytest
import torch
import torch.nn.functional as F
from by_hand import conv, differ, enlivened, linear, noise, normed, silu

import ebm
import judge
import runner
import utils
from ebm import RBM, Residual, Smoothed

WEIGHTS = 2.0 ** torch.arange(16, dtype=torch.float64)


def all_images(size=4):
    d = size * size
    bits = (torch.arange(2**d)[:, None] >> torch.arange(d)) & 1
    return bits.to(torch.float64).view(-1, 1, size, size)


def index(x):
    """Which of all_images(4) each of x (N, 1, 4, 4) is."""
    return (x.flatten(1).to(torch.float64) @ WEIGHTS).long()


def lively_rbm(size=4, conditional=False, scale=0.7, hidden=5):
    torch.manual_seed(0)
    model = RBM(size, hidden, 10 * conditional, 20)
    model.start_from_mean((torch.rand(50, 1, size, size) * 255).to(torch.uint8))
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn_like(p)
    return model.to(torch.float64)


def lively_residual(conditional=False, scale=0.5):
    torch.manual_seed(0)
    model = Residual(4, 4, 10 * conditional, pool=64)
    model.base = ebm.Base((4, 4), 8, 10 * conditional, reach=1)  # a small window: less to sum over
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn_like(p)
    return model.to(torch.float64)


@torch.no_grad()
def exact_log_z(model, y=None):
    x = all_images()
    y = None if y is None else torch.full((len(x),), y)
    return (-model.energy(x, y)).logsumexp(dim=0).item()


def transitions(model, beta=1.0, step_beta=None):
    """p_β (2^9,) and the matrix of sweep() on 3×3 bits, by summing over all hidden bits."""
    x = all_images(3).flatten(1)
    inputs = model.inputs(x, 0)
    p = model.log_p_star(x, inputs, 0, beta).softmax(dim=0)
    h = ((torch.arange(2**5)[:, None] >> torch.arange(5)) & 1).to(x)
    beta = beta if step_beta is None else step_beta
    on = (beta * inputs).sigmoid()[:, None]
    p_h = (h * on + (1 - h) * (1 - on)).prod(dim=2)  # (512, 32)
    logits = beta * ((h - 0.5) @ model.weight.T) + beta * model.b[0] + (1 - beta) * model.a
    on = logits.sigmoid()[:, None]
    return p, p_h @ (x * on + (1 - x) * (1 - on)).prod(dim=2)


# --------------------------------------------------------------------------------------------- RBM


def test_the_free_energy_is_what_is_left_of_all_hidden_bits():
    model, x = lively_rbm(), all_images()[::97]
    h = ((torch.arange(2**5)[:, None] >> torch.arange(5)) & 1).to(x)
    v = x.flatten(1)
    joint = (v @ model.b[0])[:, None] + h @ model.c[0] + (
        v - model.a.sigmoid()) @ model.weight @ (h - 0.5).T
    assert torch.allclose(model.energy(x), -joint.logsumexp(dim=1))


@pytest.mark.parametrize("variant", ["rbm", "residual"])
def test_the_gradient_is_data_minus_model(variant):
    """(2) against finite differences of the exact mean of −log p; without the draws it is wrong."""
    model = lively_rbm() if variant == "rbm" else lively_residual()
    x = all_images() if variant == "rbm" else all_images()[::50]  # any set of images has a Z
    data = all_images()[[3, 777, 40000]]

    def exact():
        return (model.energy(data).mean() + (-model.energy(x)).logsumexp(dim=0)).item()

    p = (-model.energy(x)).softmax(dim=0).detach()
    loss = model.energy(data).mean() - (p * model.energy(x)).sum()  # (3), with all draws there are
    name = "weight" if variant == "rbm" else "network.body.0.weight"
    weight = dict(model.named_parameters())[name]
    gradient, = torch.autograd.grad(loss, weight)
    half, = torch.autograd.grad(model.energy(data).mean(), weight)
    for i in range(0, weight.numel(), max(1, weight.numel() // 7)):
        ends = []
        for e in (1e-5, -1e-5):
            with torch.no_grad():
                weight.view(-1)[i] += e
                ends.append(exact())
                weight.view(-1)[i] -= e
        slope = (ends[0] - ends[1]) / 2e-5
        assert gradient.view(-1)[i].item() == pytest.approx(slope, abs=1e-6)
    assert (half - gradient).abs().max() > 0.01  # control


def test_the_loss_has_the_gradient_of_data_minus_chains():
    model, x = lively_rbm(), all_images()[[3, 777, 40000]]
    torch.manual_seed(5)
    loss = model.loss(x)
    chains = model.chains.to(x).view(-1, 1, 4, 4)  # where they are now
    assert loss.item() == pytest.approx(
        (model.energy(x).mean() - model.energy(chains).mean()).item())
    before = model.chains.clone()
    model.loss(x)
    assert not torch.equal(before, model.chains)  # they walk on
    assert 0 <= model.chains.min() and model.chains.max() == 1


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_a_sweep_leaves_its_distribution_as_it_is(beta):
    model = lively_rbm(3)
    p, step = transitions(model, beta)
    assert torch.allclose(step.sum(dim=1), torch.ones(512, dtype=torch.float64))
    assert torch.allclose(p @ step, p, atol=1e-12)
    p, step = transitions(model, 1.0, step_beta=0.7)  # control: another temperature
    assert (p @ step - p).abs().sum() > 0.05
    # And sweep() has these probabilities.
    start = all_images(3)[[300]].flatten(1).repeat(40000, 1)
    drawn = model.sweep(start, torch.zeros(len(start), dtype=torch.long),
                        torch.Generator().manual_seed(0), beta)
    shares = torch.bincount((drawn @ WEIGHTS[:9]).long(), minlength=512) / len(start)
    _, step = transitions(model, beta)
    assert (shares - step[300]).abs().sum() < 0.12
    assert (shares - step[511 - 300]).abs().sum() > 0.2 or beta == 0


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_annealing_finds_log_z_from_both_sides(conditional):
    model = lively_rbm(conditional=conditional)
    model.sampling_steps = 200
    low, high = model.measure(300, n=400)
    for k in range(len(low)):
        exact = exact_log_z(model, k if conditional else None)
        assert low[k] - 0.02 < exact < high[k] + 0.02 and high[k] - low[k] < 0.4
        assert model.log_z[k].item() == pytest.approx(exact, abs=0.1)
    x = all_images()
    y = torch.full((len(x),), 3) if conditional else None
    assert model.log_prob(x, y).exp().sum().item() == pytest.approx(1, abs=0.1)


class Planted(RBM):
    """Its chains say that log w is 0, and in reverse this."""

    back = -2.0

    def anneal(self, v, y, temperatures, generator, reverse=False):
        return v.new_full((len(v),), self.back if reverse else 0.0)


def test_what_is_kept_lies_in_the_middle_of_both_sides():
    model = lively_rbm()
    model.__class__, model.sampling_steps = Planted, 2
    z_0 = F.softplus(model.a).sum().item() + 5 * math.log(2)
    for model.back, low, high in ((-2.0, 0, 2), (1.0, -1, 0)):  # which side is the lower one?
        ends = [end.item() for end in model.measure(10)]
        assert ends == pytest.approx([z_0 + low, z_0 + high])
        assert model.log_z.item() == pytest.approx(z_0 + (low + high) / 2)


def test_the_standard_error_of_a_log():
    log_w = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]], dtype=torch.float64)
    mean, error = ebm.log_mean(log_w)
    assert mean.tolist() == pytest.approx([math.log(2), 5])
    assert error.tolist() == pytest.approx([0.5, 0])  # std of 1 and 3, /√2, /2


def test_a_ladder_that_is_too_short_flatters():
    """Over many runs: forward log Z is below the exact one, the reverse one above."""
    model = lively_rbm(scale=1.2)
    exact, n = exact_log_z(model), 2000
    y, generator = torch.zeros(n, dtype=torch.long), torch.Generator().manual_seed(0)
    z_0 = F.softplus(model.a).sum().item() + 5 * math.log(2)
    independent = (torch.rand(n, 16, generator=generator) < model.a.sigmoid()).to(torch.float64)
    p = (-model.energy(all_images())).softmax(dim=0)
    drawn = all_images()[torch.multinomial(p, n, True, generator=generator)].flatten(1)
    forward = z_0 + model.anneal(independent, y, 4, generator)
    reverse = z_0 - model.anneal(drawn, y, 4, generator, reverse=True)
    assert forward.mean().item() < exact - 0.1 and reverse.mean().item() > exact + 0.1
    # And yet E[w] is exact, from both sides.
    for log_w, sign in ((forward, 1), (reverse, -1)):
        w = (sign * (log_w - exact)).exp()
        assert (w.mean() - 1).abs() < 5 * w.std() / n**0.5
    wrong = (reverse - exact).exp()  # control: the wrong way up
    assert (wrong.mean() - 1).abs() > 5 * wrong.std() / n**0.5


# --------------------------------------------------------------- the networks, once more, by hand
#
# left_out: a part that a control does without.


def energy_by_hand(net, x, label, left_out=None):
    """x: (1, H, W) -> a number."""
    h = x if left_out == "-1 … 1" else 2 * x - 1
    h = silu(conv(net.body[0], h, stride=2, padding=1))
    h = silu(conv(net.body[2], h, stride=2, padding=1))
    h = conv(net.body[4], h, padding=1)
    h = linear(net.body[7], (h if left_out == "silu" else silu(h)).flatten())
    if label is not None and left_out != "label":
        h = h + net.label.weight[label]
    return linear(net.last, silu(h))[0]


def base_by_hand(base, x, label, reach, left_out=None):
    """log q of one image, word by word. x: (1, H, W), 0 or 1 -> a number."""
    bits, total = x[0].long().tolist(), 0
    height, width = len(bits) // 2, len(bits[0]) // 2

    def sign(k, i, j):
        """Pixel k of the word in row i, column j: ±1; 0 outside."""
        inside = 0 <= i < height and 0 <= j < width
        return 2.0 * bits[2 * i + k // 2][2 * j + k % 2] - 1 if inside else 0.0

    for i in range(height):
        for j in range(width):
            window = [sign(k, i + di, j + dj) for k in range(4) for di in range(-reach, 1)
                      for dj in range(-reach, reach + 1) if di < 0 or dj < 0]
            h = linear(base.see, torch.tensor(window).double())
            if left_out != "position":
                h = h + base.position[i, j]
            if label is not None and left_out != "label":
                h = h + base.label.weight[label]
            for layer in base.inner:
                u = normed(silu(linear(layer, silu(h))))
                h = u if left_out == "residual" else h + u
            logits = linear(base.last, silu(h)).tolist()
            word = int("".join(str(bits[2 * i + a][2 * j + b]) for a in (0, 1) for b in (0, 1)), 2)
            total += logits[word] - math.log(sum(math.exp(logit) for logit in logits))
    return total


@pytest.mark.parametrize("label", [None, 7])
@torch.no_grad()
def test_the_energy_is_what_is_written(label):
    net, x = enlivened(ebm.Energy((8, 12), 3, 10)), noise(3, 1, 8, 12)
    energies = net(x, None if label is None else torch.full((3,), label))
    assert energies.shape == (3,)
    for number, image in zip(energies, x):
        assert number.item() == pytest.approx(energy_by_hand(net, image, label).item())
        for part in ["-1 … 1", "silu"] + ["label"] * (label is not None):  # controls
            assert differ(number, energy_by_hand(net, image, label, part)), part


@pytest.mark.parametrize("reach", [1, 6])
@pytest.mark.parametrize("label", [None, 7])
@torch.no_grad()
def test_the_base_is_what_is_written(label, reach):
    base, x = enlivened(ebm.Base((6, 8), 5, 10, reach)), (noise(3, 1, 6, 8) < 0).double()
    log_probs = base.log_prob(x, None if label is None else torch.full((3,), label))
    for number, image in zip(log_probs.tolist(), x):
        assert number == pytest.approx(base_by_hand(base, image, label, reach))
        for part in ["position", "residual"] + ["label"] * (label is not None):  # controls
            other = base_by_hand(base, image, label, reach, part)
            assert number != pytest.approx(other, abs=1e-3), part
    assert log_probs[0].item() != pytest.approx(base_by_hand(base, x[1], label, reach), abs=1e-3)


# ---------------------------------------------------------------------------------------- residual


def test_the_base_is_exact_and_draws_what_it_says():
    model, x = lively_residual(), all_images()
    q = model.base.log_prob(x).exp().detach()
    assert q.sum().item() == pytest.approx(1)
    drawn = model.base.sample(20000, None, torch.Generator().manual_seed(0))
    assert drawn.mean(dim=0).flatten().tolist() == pytest.approx(
        (q[:, None] * x.flatten(1)).sum(dim=0).tolist(), abs=0.02)
    first = index(drawn) % 4 + 4 * (index(drawn) // 16 % 4)  # the first word: pixels 0, 1, 4, 5
    where = torch.arange(2**16) % 4 + 4 * (torch.arange(2**16) // 16 % 4)
    expected = 20000 * torch.zeros(16, dtype=torch.float64).index_add(0, where, q)
    chi = ((torch.bincount(first, minlength=16) - expected) ** 2 / expected.clamp(min=1)).sum()
    assert chi < 45 < ((torch.bincount(first, minlength=16) - expected.roll(1)) ** 2
                       / expected.roll(1).clamp(min=1)).sum()


def test_a_word_sees_those_before_it_and_no_other():
    torch.manual_seed(0)
    model = Residual(8, 4).base.to(torch.float64)
    x = (torch.rand(1, 1, 8, 8) < 0.5).to(torch.float64)

    class Noting(ebm.Base):
        def logits(self, *given):
            self.said = super().logits(*given)
            return self.said

    model.__class__ = Noting

    def words(x):
        model.log_prob(x)
        return model.said[0]  # (16, 16)

    before = words(x)
    for d in range(64):
        other = x.clone()
        other.view(-1)[d] = 1 - other.view(-1)[d]
        changed = (words(other) - before).abs().amax(dim=1).gt(1e-12).nonzero().flatten().tolist()
        word = d // 16 * 4 + d % 8 // 2
        assert all(w > word for w in changed) and (changed or word == 15)
    model.before = torch.arange(4 * 7 * 13)[-len(model.before):]  # control: the window is shifted
    assert not torch.allclose(words(x), before)


@pytest.mark.slow
def test_the_energy_is_normalised_by_draws_of_the_base():
    model, x = lively_residual(scale=0.35), all_images()
    exact = exact_log_z(model)
    (low, high), effective = model.measure(20000)
    assert low.item() - 0.01 < exact < high.item() + 0.01 and high - low < 0.1
    assert model.log_prob(x).exp().sum().item() == pytest.approx(1, abs=0.05)
    q, e = model.base.log_prob(x).exp().detach(), model.network(x).detach()
    w = (-e).exp()
    assert effective == pytest.approx(((q * w).sum() ** 2 / (q * w * w).sum()).item(), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_log_z_from_the_other_side(conditional):
    """Chains that begin far from p end as draws of p, and log Z by (16) is the exact one; without
    the walk it is not."""
    model, x = lively_residual(conditional, scale=0.35), torch.ones(2000, 1, 4, 4).double()
    with torch.no_grad():
        model.network.last.weight *= 3
    y = torch.arange(2000) % 10 if conditional else None
    model.measure(20000)
    exact = torch.tensor([exact_log_z(model, k if conditional else None)
                          for k in range(len(model.log_z))])
    low, high = model.measure_from_digits(x, y, 40)
    spread = (high - low) / 4
    assert ((exact - (low + high) / 2).abs() < 3.5 * spread + 0.005).all() and spread.max() < 0.1
    low, high = model.measure_from_digits(x, y, 0)  # control: where chains begin, not draws of p
    assert (exact - (low + high) / 2).abs().max() > 0.15


@pytest.mark.slow
def test_every_step_of_the_chains_from_digits_leaves_p_as_it_is():
    """Exact draws of p are draws of p after ten steps: (16) finds log Z by them."""
    model = lively_residual(scale=0.35)
    with torch.no_grad():
        model.network.last.weight *= 3
    images, generator = all_images(), torch.Generator().manual_seed(0)
    p = (-model.energy(images)).softmax(dim=0).detach()
    x = images[torch.multinomial(p, 20000, replacement=True, generator=generator)]
    model.log_z.fill_(exact_log_z(model))
    low, high = model.measure_from_digits(x, None, 10)
    assert low - 0.01 < exact_log_z(model) < high + 0.01 and high - low < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_what_is_published_spans_both_sides(few_images, conditional):
    torch.manual_seed(0)
    data = fit.told(utils.load_mnist(), conditional)
    model = Residual(28, 4, 10 * conditional)
    with torch.no_grad():
        model.network.last.weight.normal_(std=20)
    s = fit.values(ebm, "--width 4 --z-steps 1000 --test-draws 10" + " --conditional" * conditional)
    nats, figures = ebm.figures_in_the_end(model, data, judge.load_judge("cpu"), s)
    sides = model.measure(1000)[0], model.measure_from_digits(data.x_val, data.y_val, 2)
    low, high = (torch.stack(ends) for ends in zip(*sides))  # (sides, labels)
    label = data.y_test if conditional else torch.zeros_like(data.test_labels)

    def told(log_z):
        return nats + (log_z - model.log_z)[label].mean().item()

    assert figures["nats_interval"] == pytest.approx(
        [told(low.amin(dim=0)), told(high.amax(dim=0))], abs=1e-3)
    assert figures["nats_from_digits"] == pytest.approx(told((low[1] + high[1]) / 2), abs=1e-3)
    assert (low[0] - low[1]).abs().max() + (high[0] - high[1]).abs().max() > 0.01  # it can fail


def test_at_first_the_energy_says_nothing():
    model = Residual(8, 4).to(torch.float64)
    x = (torch.rand(5, 1, 8, 8) < 0.5).to(torch.float64)
    assert torch.equal(model.log_prob(x), model.base.log_prob(x))
    assert model.measure(100)[1] == pytest.approx(1)


def test_noise_contrast_finds_the_ratio_and_log_z():
    """All images at once, as often as p and q have them: the optimum of (13) is log q/p."""
    torch.manual_seed(0)
    p, q = (torch.randn(16, dtype=torch.float64) * 2).softmax(0), torch.ones(16).double() / 16
    energy = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([energy], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (p * F.softplus(energy)).sum() + (q * F.softplus(-energy)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.allclose(energy.detach(), (q / p).log(), atol=1e-3)
    assert (q * (-energy).exp()).sum().item() == pytest.approx(1, abs=1e-3)  # log Z = 0
    # And this is what the model's loss is.
    model, x = lively_residual(), all_images()[:64]
    model.base_steps = 0
    torch.manual_seed(1)
    models_loss = model.loss(x, step=1).item()  # not a step at which the pool changes
    torch.manual_seed(1)
    drawn = model.pool[torch.randint(len(model.pool), (64,))].to(torch.float64)
    wanted = F.softplus(model.network(x)).mean() + F.softplus(-model.network(drawn)).mean()
    assert models_loss == pytest.approx(wanted.item())
    swapped = F.softplus(-model.network(x)).mean() + F.softplus(model.network(drawn)).mean()
    assert models_loss != pytest.approx(swapped.item(), abs=1e-3)  # control


def test_the_pool_holds_what_the_base_drew():
    model = Residual(8, 4, pool=64, base_steps=10)
    with torch.no_grad():
        model.base.last.bias += torch.tensor([-50.0] * 15 + [50])  # it draws white
    model.loss(torch.zeros(4, 1, 8, 8), step=9)
    assert model.pool.max() == 0  # q is still being trained
    model.loss(torch.zeros(4, 1, 8, 8), step=10)
    assert model.pool.min() == 1
    with torch.no_grad():
        model.base.last.bias -= 2 * torch.tensor([-50.0] * 15 + [50])
        model.base.last.bias += torch.tensor([50.0] + [0] * 15)  # now black
    for step in range(11, 10 + 16 * 4 + 1):
        model.loss(torch.zeros(4, 1, 8, 8), step=step)
        quarters = (step - 10) // 16
        assert model.pool.float().mean().item() == pytest.approx(1 - quarters / 4)


@pytest.mark.slow
def test_metropolis_draws_from_p():
    model = lively_residual(scale=0.35)
    with torch.no_grad():
        model.network.last.weight *= 3
    p = (-model.energy(all_images())).softmax(dim=0).detach()
    q = model.base.log_prob(all_images()).exp().detach()
    where = torch.arange(2**16) % 4 + 4 * (torch.arange(2**16) // 16 % 4)
    model.sampling_steps, n = 30, 4000
    drawn = index(model.sample(n, generator=torch.Generator().manual_seed(0)))
    counts = torch.bincount(where[drawn], minlength=16)
    chi = [((counts - n * e) ** 2 / (n * e).clamp(min=1)).sum().item() for e in (
        torch.zeros(16, dtype=torch.float64).index_add(0, where, d) for d in (p, q))]
    assert chi[0] < 45 < chi[1]  # control: the draws of the base itself


def test_given_pixels_come_out():
    model = lively_residual()
    known = torch.zeros(4, 4, dtype=torch.bool)
    known[:2] = True
    x = all_images()[[777, 40000]].repeat_interleave(100, 0)
    drawn = model.sample(200, None, torch.Generator().manual_seed(0), x, known)
    assert torch.equal(drawn[..., :2, :], x[..., :2, :]) and drawn[..., 2:, :].std() > 0.1
    rbm = lively_rbm()
    rbm.sampling_steps = 3
    assert torch.equal(rbm.sample(200, None, None, x, known)[..., :2, :], x[..., :2, :])


# ---------------------------------------------------------------------------------------- smoothed


def gaussian(size=4, noise=0.3):
    """A Smoothed whose network says nothing: independent Gaussian pixels."""
    model = Smoothed(size, 4, noise=noise, chains=64)
    model.start_from_mean((torch.rand(500, 1, size, size) * 255).to(torch.uint8))
    return model.to(torch.float64)


def test_energies_add_up():
    """Two Gaussians, x and x turned round: a Gaussian again, whose precisions are added."""
    model = gaussian()
    both, turned = ebm.both_ways(model), {n: getattr(model, n).flip(1, 2) for n in ("mean", "var")}
    precision = 1 / model.var + 1 / turned["var"]
    mean = (model.mean / model.var + turned["mean"] / turned["var"]) / precision
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    assert torch.allclose(both.score(x), (mean - x) * precision)
    assert not torch.allclose(model.score(x), (mean - x) * precision)  # it is still what it was


@pytest.mark.slow
def test_walking_leaves_a_gaussian_nearly_as_it_is():
    """In the end chains have mean and variance, but for ε; with noise that is too small (the
    classic mistake) they have not."""
    model = gaussian()
    for temperature in (1.0, 0.01):
        generator, x = torch.Generator().manual_seed(0), model.begin(2000)
        for _ in range(150):
            x = model.walk(x, None, generator, temperature)
        ratio = (x.var(dim=0) / model.var).mean().item()
        # x′ = (1 − s/var)x + noise with s = ε²/2: its variance is var/(1 − s/(2 var)).
        s = (model.noise / 2) ** 2 / 2
        wanted = temperature / (1 - s / (2 * model.var)).mean().item()
        assert ratio == pytest.approx(wanted, rel=0.05)
        assert (x.mean(dim=0) - model.mean).abs().max() < 0.05


def test_the_score_is_the_slope_and_the_jump_is_bayes():
    model = gaussian()
    x = model.begin(5)
    assert torch.allclose(model.score(x), -(x - model.mean) / model.var)
    # A digit N(m, var − σ²), seen with noise σ²: the mean of it given x.
    clean = model.var - model.noise**2
    wanted = model.mean + clean / model.var * (x - model.mean)
    assert torch.allclose(model.jump(x), wanted.clamp(0, 1))
    with torch.no_grad():
        for p in model.network.parameters():
            p += 0.3 * torch.randn_like(p)
    at, e = x[:1].clone(), 1e-6
    at[0, 0, 1, 2] += e
    slope = (model.energy(at) - model.energy(x[:1])).item() / e
    assert model.score(x[:1])[0, 0, 1, 2].item() == pytest.approx(-slope, abs=1e-3)


class Heard(Smoothed):
    def energy(self, x, y=None):
        self.heard.append(x.detach())
        return super().energy(x, y)


def test_digits_get_noise_before_their_energy_is_asked():
    """(17)."""
    torch.manual_seed(0)
    model, x = Smoothed(4, 4, noise=0.3), torch.rand(2000, 1, 4, 4)
    model.__class__, model.heard = Heard, []
    model.loss(x)
    noise = model.heard[-2] - x  # the last but one: digits; the last: chains
    assert noise.std().item() == pytest.approx(0.3, rel=0.03) and abs(noise.mean()) < 0.01


def test_a_step_of_langevin_is_6():
    model = gaussian(noise=0.4)
    x, eps = model.begin(5), 0.2  # σ/2
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    assert torch.allclose(model.walk(x, None, torch.Generator().manual_seed(1)),
                          x + eps**2 / 2 * model.score(x) + eps * noise)


def test_given_pixels_walk_with_noise_and_come_out_without():
    model, known, seen = gaussian(), torch.zeros(4, 4, dtype=torch.bool), []
    known[:2], x = True, torch.full((2000, 1, 4, 4), 0.9, dtype=torch.float64)
    model.sampling_steps = 3
    drawn = model.sample(2000, None, torch.Generator().manual_seed(0), x, known,
                         watch=lambda step, images: seen.append(images))
    assert torch.equal(drawn[..., :2, :], x[..., :2, :]) and len(seen) == 3
    for images in seen:
        noise = images[..., :2, :] - 0.9
        assert abs(noise.mean()) < 0.02 and noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert not torch.equal(drawn[..., 2:, :], x[..., 2:, :])


def test_biases_and_chains_begin_with_independent_pixels():
    torch.manual_seed(0)
    grey = torch.randint(256, (60, 1, 4, 4)).to(torch.uint8)
    grey[..., 0], grey[..., 3] = 0, 255
    mean, var = grey.float().mean(dim=0) / 255, (grey / 255).var(dim=0, correction=0) + 0.3**2
    p, rbm, model = 0.01 + 0.98 * mean.flatten(), RBM(4, 5, 10, 4000), Smoothed(
        4, 4, noise=0.3, chains=4000)
    rbm.start_from_mean(grey)
    model.start_from_mean(grey)
    assert torch.allclose(rbm.a.sigmoid(), p, atol=1e-6)
    assert torch.allclose(rbm.b.sigmoid(), p.expand(10, 16), atol=1e-6)
    assert torch.allclose(rbm.chains.float().mean(dim=0), p, atol=0.04)  # five standard errors
    assert torch.allclose(model.mean, mean) and torch.allclose(model.var, var, atol=1e-6)
    assert torch.allclose(model.chains.mean(dim=0), mean, atol=0.05)
    assert torch.allclose(model.chains.var(dim=0), var, rtol=0.15)


def test_outliers_and_annealing_tell_what_they_say(tmp_path):
    """Digits with all their ink below; an energy that counts ink above."""
    x = torch.zeros(40, 1, 4, 4)
    x[:, :, 2:] = 1
    top = SimpleNamespace(likelihood="estimate", energy=lambda x, y: x[:, :, :2].sum(dim=(1, 2, 3)))
    areas = ebm.plot_outliers(tmp_path / "a.png", top, x, None)
    assert areas == {"upside down": 1, "independent pixels": 0.5}
    noisy = SimpleNamespace(likelihood="none", noise=0.5,
                            energy=lambda x, y: x.square().mean(dim=(1, 2, 3)))
    assert ebm.energies(noisy, torch.zeros(500, 1, 4, 4), None).mean().item() == pytest.approx(
        0.25, abs=0.02)
    sides = SimpleNamespace(log_z=torch.zeros(1), measure=lambda t: (
        torch.tensor([-1 / t]), torch.tensor([1 / t])))
    assert ebm.plot_annealing(tmp_path / "b.png", sides, 80.0, (2, 4)) == {
        2: [79.5, 80.5], 4: [79.75, 80.25]}


def test_chains_walk_on_from_where_they_were():
    torch.manual_seed(0)
    model = gaussian()
    before = model.chains.clone()
    loss = model.loss(torch.rand(8, 1, 4, 4, dtype=torch.float64))
    moved = (model.chains != before).flatten(1).any(dim=1)
    assert moved.sum() == 8 and loss.requires_grad
    loss.backward()
    assert all(p.grad is not None and p.requires_grad for p in model.network.parameters())
    assert model.chains.grad_fn is None
    # They forget slowly: K steps are few, but for the one in twenty that begins anew.
    near = (model.chains - before).flatten(1).norm(dim=1)[moved]
    far = (model.begin(64) - before).flatten(1).norm(dim=1).median()
    assert near.median() < 0.8 * far
    model.anew, before = 1.0, model.chains.clone()  # control: all of them begin anew
    model.loss(torch.rand(64, 1, 4, 4, dtype=torch.float64))
    assert (model.chains - before).flatten(1).norm(dim=1).median() > 0.8 * far


# ------------------------------------------------------------------------------------------ all


def test_auroc_counts_pairs():
    low, high = torch.tensor([0.0, 1, 2, 2]), torch.tensor([2.0, 3, -1])
    pairs = [(h > v) + 0.5 * (h == v) for v in low.tolist() for h in high.tolist()]
    assert ebm.auroc(low, high) == pytest.approx(sum(pairs) / len(pairs))
    assert ebm.auroc(high, low) == pytest.approx(1 - sum(pairs) / len(pairs))


def test_the_rate_rises_and_falls_twice_where_a_base_comes_first():
    from types import SimpleNamespace
    s = SimpleNamespace(variant="residual", steps=100, base_part=0.4, warm_up=0.1, lr=1.0)
    rates = [ebm.rate(step, s) for step in range(100)]
    assert rates == pytest.approx([min((k + 1) / 5, 1 - k / 40) for k in range(40)]
                                  + [0.2 * min((k + 1) / 7, 1 - k / 60) for k in range(60)])
    assert all(0 < r <= 1 for r in rates) and rates[39] < 0.05 and rates[99] < 0.05
    assert max(rates[:40]) > 0.8 and 0.2 > max(rates[40:]) > 0.16 and rates[40] < 0.06
    for s.variant in ("rbm", "conv"):
        assert ebm.rate(50, s) == pytest.approx(0.25)  # the square of one half


@pytest.mark.slow
@pytest.mark.parametrize("variant, momentum", [("rbm", 0.0), ("conv", 0.9), ("residual", 0.9)])
def test_an_rbm_is_trained_without_momentum(variant, momentum):
    class Told(fit.Quiet):
        def training(self, **parts):
            self.parts = parts
            return super().training(**parts)

    s = fit.values(ebm, f"--variant {variant} --width 4 --steps 1 --batch-size 10")
    data, run = fit.told(utils.load_mnist(), False), Told(s)
    ebm.train(ebm.build(s), data, run)
    assert run.step == 1
    assert [group["betas"] for group in run.parts["optimizer"].param_groups] == [(momentum, 0.999)]


class Counted(Smoothed):
    steps = 0

    def walk(self, *args):
        self.steps += 1
        return super().walk(*args)


def test_chains_take_as_many_steps_as_they_are_told():
    model = gaussian()
    model.__class__ = Counted
    for model.chain_steps in (1, 4):
        model.steps = 0
        model.loss(torch.rand(5, 1, 4, 4, dtype=torch.float64))
        assert model.steps == model.chain_steps


class StillRBM(RBM):
    """Its chains stay where they are."""

    def sweep(self, v, y, generator=None, beta=1.0, inputs=None):
        return v


class StillSmoothed(Smoothed):
    """The same, and none of them begins anew."""

    anew = 0.0

    def walk(self, x, y=None, generator=None, temperature=1.0):
        return x


@pytest.mark.parametrize("variant", ["rbm", "conv"])
def test_both_means_of_the_loss_have_the_same_labels(variant):
    """Chains that stand still, those of label k with pixel k on: the loss takes those of y."""
    torch.manual_seed(0)
    model = StillRBM(4, 5, 10, 40) if variant == "rbm" else StillSmoothed(4, 4, 10, chains=40)
    model.to(torch.float64)
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    model.noise = 0.0
    model.chains.copy_(F.one_hot(torch.arange(40) % 10, 16).view_as(model.chains))
    y = torch.tensor([1, 1, 1, 7, 3])
    assert (ebm.chains_of(y, 40, 10) % 10).tolist() == y.tolist()
    twelve = torch.arange(12).repeat(50)  # of others' images: all chains of a label, no other's
    places = ebm.chains_of(twelve, 40, 12)
    assert (places % 12).tolist() == twelve.tolist() and set(places.tolist()) == set(range(36))
    x = (torch.arange(5 * 16).view(5, 1, 4, 4) % 3 == 0).to(torch.float64)
    chains = F.one_hot(y, 16).view(5, 1, 4, 4).to(torch.float64)
    wanted = model.energy(x, y).mean() - model.energy(chains, y).mean()
    assert model.loss(x, y).item() == pytest.approx(wanted.item())
    weights, data = list(model.parameters()), model.energy(x, y).mean()
    of_loss, of_wanted, of_data = (torch.autograd.grad(value, weights, retain_graph=True)
                                   for value in (model.loss(x, y), wanted, data))
    assert all(torch.allclose(a, b) for a, b in zip(of_loss, of_wanted))
    assert not all(torch.allclose(a, b) for a, b in zip(of_loss, of_data))  # control
    others = model.energy(x, y).mean() - model.energy(chains.roll(1, dims=0), y).mean()  # control
    assert abs(others - wanted) > 1e-3


def test_labels_have_a_z_of_their_own():
    model = lively_rbm(conditional=True)
    model.log_z.copy_(torch.tensor([exact_log_z(model, k) for k in range(10)]))
    x = all_images()
    for k in (0, 7):
        y = torch.full((len(x),), k)
        assert model.log_prob(x, y).exp().sum().item() == pytest.approx(1)
    pair = x[[3, 777]]
    marginal, right = ebm.evaluate_without_label(model, pair, torch.tensor([0, 1]))
    by_label = torch.stack([model.log_prob(pair, torch.full((2,), k)) for k in range(10)])
    assert marginal == pytest.approx(-by_label.exp().mean(dim=0).log().mean().item())
    assert right == (by_label.argmax(dim=0) == torch.tensor([0, 1])).double().mean().item()
    with pytest.raises(ValueError, match="conditional"):
        model.log_prob(x)


def test_sizes_that_cannot_be_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match="halved twice"):
        Residual(30)


def test_few_images_shorten_the_base_as_well():
    """On the small set a run is a quarter as long, which build() does not know yet; and a run that
    is resumed is built with the shorter one."""
    class Ready(Exception):
        pass

    class Run(runner.Run):
        def training(self, model, **parts):
            raise Ready(model.base_steps, self.settings.steps)

    for flags, steps in (([], ebm.SETTINGS["steps"].default // 4), (["--steps", "80"], 80)):
        run = Run(ebm.__file__, "", ebm.SETTINGS, ebm.VARIANTS, ["--width", "4", *flags])
        model, data = run.build(ebm.build), run.load_data()
        with pytest.raises(Ready) as ready:
            ebm.train(model, data, run)
        assert ready.value.args == (int(run.settings.base_part * steps), steps)


class AtTheEnd(fit.Quiet):
    """In place of a Run: is recorded at once, after the last step."""

    def tick(self, loss, unit="nats"):
        super().tick(loss)
        return self.step == self.settings.steps

    def record(self, train_nats, val_nats, model, picture, **more):
        self.log_z, self.nats = model.log_z.clone(), val_nats


@pytest.mark.slow
@pytest.mark.usefixtures("short_chains", "few_images")
@pytest.mark.parametrize("variant", ["rbm", "residual"])
def test_log_z_is_measured_before_weights_are_chosen(variant):
    """Or they would be chosen by energies that have no common zero."""
    s = fit.values(ebm, f"--variant {variant} --width 4 --steps 2 --batch-size 10")
    data, run = fit.told(utils.load_mnist(), False), AtTheEnd(s)
    torch.manual_seed(0)
    model = ebm.build(s)
    if variant == "rbm":
        model.start_from_mean(data.train)
    ebm.train(model, data, run)
    assert run.log_z.item() != 0
    model.log_z.zero_()
    unmeasured = ebm.evaluate(model, data.x_val, None)
    model.measure()
    assert torch.equal(model.log_z, run.log_z)
    assert run.nats == pytest.approx(ebm.evaluate(model, data.x_val, None))
    assert run.nats == pytest.approx(unmeasured + run.log_z.item(), rel=1e-5)


class Chosen(AtTheEnd):
    def record(self, train_nats, val_nats, model, picture, score, val_frechet):
        self.score = score


@pytest.mark.slow
@pytest.mark.usefixtures("short_chains", "few_images")
def test_smoothed_weights_are_chosen_by_what_chains_jump_to():
    s = fit.values(ebm, "--variant conv --width 4 --steps 1 --batch-size 10")
    data, run, network = fit.told(utils.load_mnist(), False), Chosen(s), judge.load_judge()
    torch.manual_seed(0)
    model = ebm.build(s)
    model.start_from_mean(data.train)
    ebm.train(model, data, run)

    def distance(draws):
        return judge.frechet_distance(*(judge.judged(network, x)[0] for x in (draws, data.val)))

    assert run.score == pytest.approx(distance(model.jump(model.chains)), rel=1e-5)
    assert run.score != pytest.approx(distance(model.chains), rel=1e-3)  # control


def test_draws_in_the_pool_keep_the_labels_that_they_were_drawn_for():
    """A base that draws pictures of its labels: the energy is asked of each with just that one."""
    model, asked = Residual(8, 4, 10, pool=64), []
    model.base.sample = lambda n, y: y.view(n, 1, 1, 1).expand(n, 1, 8, 8)
    usual = model.network.forward
    model.network.forward = lambda x, y: asked.append((x[:, 0, 0, 0], y)) or usual(x, y)
    x, y = torch.zeros(40, 1, 8, 8), torch.arange(40) % 10
    for step in (0, 5, 16, 32, 48, 64):
        model.loss(x, y, step=step)
        (_, of_digits), (drawn, labels) = asked[-2:]
        assert torch.equal(of_digits, y) and torch.equal(drawn.long(), labels)
    assert len({tuple(labels.tolist()) for _, labels in asked[1::2]}) > 1  # by chance


def test_each_chain_gets_proposals_of_its_own_label():
    model, y, seen = Residual(4, 4, 10), torch.tensor([3, 7, 7, 1, 0]), []
    model.sampling_steps = 3
    model.base.sample = lambda n, y, *given: (y / 10).view(n, 1, 1, 1).expand(n, 1, 4, 4)
    drawn = model.sample(5, y, torch.Generator().manual_seed(0),
                         watch=lambda step, images: seen.append(images))
    assert len(seen) == 3
    for images in (*seen, drawn):  # at first the energy says nothing: all proposals are accepted
        assert torch.equal(images[:, 0, 0, 0], y / 10)


@pytest.mark.slow
@torch.no_grad()
def test_draws_of_the_base_give_each_label_its_own_log_z():
    model, x = lively_residual(conditional=True, scale=0.35), all_images()
    model.network.last.weight *= 3
    model.measure(40000)
    exact = torch.tensor([exact_log_z(model, k) for k in range(10)], dtype=torch.float64)
    assert torch.allclose(model.log_z, exact, atol=0.1)
    assert exact.max() - exact.min() > 0.5  # control: one for all would not do
    for k in (exact.argmin(), exact.argmax()):
        p = model.log_prob(x, torch.full((len(x),), k.item())).exp()
        assert p.sum().item() == pytest.approx(1, abs=0.1)


def test_intervals_reach_two_standard_errors_to_both_sides():
    """Of weights that are known, by log_mean(), which has a test of its own."""
    weights = torch.randn(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Annealed(RBM):
        def anneal(self, v, y, temperatures, generator, reverse=False):
            return weights[int(reverse)]

    rbm, residual = lively_rbm(), lively_residual()
    rbm.__class__, rbm.sampling_steps = Annealed, 2
    z_0 = F.softplus(rbm.a).sum().item() + 5 * math.log(2)
    (forward, error), (back, error_back) = (
        [value.item() for value in ebm.log_mean(log_w[None])] for log_w in weights)
    low, high = rbm.measure(3)
    assert low.item() == pytest.approx(z_0 + min(forward - 2 * error, -back - 2 * error_back))
    assert high.item() == pytest.approx(z_0 + max(forward + 2 * error, -back + 2 * error_back))
    with torch.no_grad():
        drawn = residual.base.sample(10, None, torch.Generator().manual_seed(0))
        log_z, error = ebm.log_mean(-residual.network(drawn)[None])
        (low, high), _ = residual.measure(10)
        assert (low.item(), high.item()) == pytest.approx(
            ((log_z - 2 * error).item(), (log_z + 2 * error).item()))
        x, c = all_images()[:3], residual.log_z[0]
        drawn = residual.base.sample(3, None, torch.Generator().manual_seed(1))
        of_q, error_q = ebm.log_mean(F.logsigmoid(-residual.network(drawn) - c)[None])
        of_p, error_p = ebm.log_mean(F.logsigmoid(residual.network(x) + c)[None])
        low, high = residual.measure_from_digits(x, None, 0)  # two errors, as if apart
        errors = 2 * (error_q**2 + error_p**2).sqrt()
        log_z = c + of_q - of_p
        assert (low.item(), high.item()) == pytest.approx(
            ((log_z - errors).item(), (log_z + errors).item()))
