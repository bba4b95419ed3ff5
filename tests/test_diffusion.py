"""diffusion.py: the chain and its reverse, exact denoisers of Gaussian data with each sampler, the
bounds, and masked diffusion by enumeration. Each with a control: the classic mistakes, made."""
import itertools
import math
from types import SimpleNamespace

import fit
import pytest
import torch
from by_hand import conv, differ, doubled, enlivened, in_groups, linear, noise, normed, silu
from conftest import values

import diffusion
import judge
import utils
from diffusion import Diffusion, Learner, MaskedDiffusion, T, UNet

D = torch.float64


@pytest.fixture(autouse=True)
def double():
    """All of it in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(D)
    yield
    torch.set_default_dtype(before)


def gaussian_model(straight=False, predict="x", size=4, classes=0):
    torch.manual_seed(0)
    return Diffusion(size, 4, straight, predict, classes)


def exact(model, mean, var, late=0):
    """The best guess there is of pixels that are N(mean, var): E[x|x_t]. late: an off-by-one, in
    that α and σ are those of t − late."""
    def guess(z, t, y=None):
        alpha, sigma = (diffusion.spread(a, z) for a in model.path(t - late))
        return mean + var * alpha / (alpha**2 * var + sigma**2) * (z - alpha * mean)

    return guess


PATHS = pytest.mark.parametrize("straight", [False, True])


# --------------------------------------------------------------------------------------- the chain


@PATHS
def test_a_chain_of_small_steps_is_one_draw(straight):
    """(2) has a variance to add at each t, from the digit at t = 0 to nothing but noise at T."""
    model = gaussian_model(straight)
    alpha, sigma = model.path(torch.arange(T + 1))
    ratio = alpha[1:] / alpha[:-1]
    assert (sigma[1:] ** 2 > (ratio * sigma[:-1]) ** 2).all()  # σ_ts² of (2): there is such noise
    assert alpha[0] == 1 and sigma[0] == 0 and sigma[T] == 1  # digit, and nothing but noise
    assert abs(alpha[T]) < 1e-9
    assert bool((alpha[1:] < alpha[:-1]).all() and (sigma[1:] > sigma[:-1]).all())


@PATHS
@pytest.mark.parametrize("t, s", [(1000, 980), (700, 300), (40, 1), (500, 499)])
def test_a_step_back_is_bayes_rule(straight, t, s):
    """(9) has the mean and variance of (8), on a fine grid of x_s; and other κ do not."""
    model, x, z = gaussian_model(straight), 0.7, -0.3
    (a_t, s_t), (a_s, s_s) = (model.path(torch.tensor(i)) for i in (t, s))
    link = s_t**2 - (a_t / a_s * s_s) ** 2
    grid = torch.linspace(-8, 8, 400001) * s_s + a_s * x
    log_p = -(grid - a_s * x) ** 2 / (2 * s_s**2) - (z - a_t / a_s * grid) ** 2 / (2 * link)
    p = log_p.softmax(0)
    mean = (p * grid).sum()
    var = (p * (grid - mean) ** 2).sum()
    zs, xs = torch.tensor([z]), torch.tensor([x])
    at_0, at_1 = (model.step_back(zs, xs, t, s, torch.full((1,), n)) for n in (0.0, 1.0))
    assert at_0.item() == pytest.approx(mean.item(), abs=1e-6)
    assert (at_1 - at_0).item() == pytest.approx(var.sqrt().item(), rel=1e-4)
    off = model.step_back(zs, xs, t, s)  # control: DDIM's mean is another
    assert off.item() != pytest.approx(mean.item(), abs=1e-4 * s_s.item())


@PATHS
def test_a_step_back_keeps_the_marginal(straight):
    """If x̂ is x, x_s has α_s and σ_s of (1), with fresh noise and without; at s = 0 it is x."""
    model = gaussian_model(straight)
    generator = torch.Generator().manual_seed(0)
    eps, fresh = torch.randn(2, 200000, generator=generator)
    for kick in (None, fresh):
        z = model.noised(torch.full((len(eps),), 0.4), torch.full((len(eps),), 600), eps)
        back = model.step_back(z, torch.full_like(z, 0.4), 600, 450, kick)
        alpha, sigma = model.path(torch.tensor(450))
        assert back.mean().item() == pytest.approx(0.4 * alpha.item(), abs=5 / 447 * sigma.item())
        assert back.std().item() == pytest.approx(sigma.item(), rel=0.01)
        end = model.step_back(z, torch.full_like(z, 0.4), 600, 0, kick)
        assert torch.allclose(end, torch.tensor(0.4))  # no noise at the last step


@PATHS
@pytest.mark.parametrize("predict", ["x", "eps", "v"])
def test_x_eps_and_v_are_one_guess_read_in_three_ways(straight, predict):
    model = gaussian_model(straight, predict)
    x, eps = torch.rand(2, 6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t = torch.tensor([1, 20, 300, 500, 900, 990])
    alpha, sigma = (diffusion.spread(a, x) for a in model.path(t))
    target = model.target(x, eps, alpha, sigma)
    model.network.forward = lambda z, level, y=None: target
    assert torch.allclose(model.guess(model.noised(x, t, eps), t), x, atol=1e-9)
    other = gaussian_model(straight, {"x": "v", "eps": "x", "v": "eps"}[predict])  # control
    other.network.forward = model.network.forward
    assert not torch.allclose(other.guess(model.noised(x, t, eps), t), x, atol=0.1)


def test_v_is_the_direction_in_which_x_t_moves():
    for straight in (False, True):
        model = gaussian_model(straight, "v")
        x, eps = torch.randn(2, 1, 1, 4, 4)
        z = [model.noised(x, torch.tensor([t]), eps) for t in (499, 501)]
        alpha, sigma = (diffusion.spread(a, x) for a in model.path(torch.tensor([500])))
        unit = 2 / T * (1 if straight else math.pi / 2)  # in t/T; on the arc: in its angle
        assert torch.allclose((z[1] - z[0]) / unit, model.target(x, eps, alpha, sigma), atol=1e-4)


def test_every_t_is_trained_and_drawn():
    """noise_level() gives each of 1 … T, with σ⁴ uniform, and nothing else; drawing in T steps asks
    for each of them once."""
    u = (torch.arange(4_000_000) + 0.5) / 4_000_000
    t = diffusion.noise_level(u)
    model = gaussian_model()
    _, sigma = model.path(torch.arange(T + 1))
    share = torch.bincount(t, minlength=T + 1) / len(t)
    assert share[0] == 0 and len(share) == T + 1
    assert torch.allclose(share[1:], sigma[1:] ** 4 - sigma[:-1] ** 4, atol=1e-6)
    assert (share[25:] > 0).all()  # of those before it comes one in ten million
    middles = (sigma[1:] ** 4 + sigma[:-1] ** 4) / 2
    assert diffusion.noise_level(1 - middles)[4:].tolist() == list(range(5, T + 1))
    asked = []
    model.guess = lambda z, t, y=None: asked.append(t[0].item()) or z * 0
    model.sample(2, generator=torch.Generator().manual_seed(0), steps=T)
    assert asked == list(range(T, 0, -1))
    asked.clear()
    model.sample(2, steps=7)
    assert len(asked) == 7 and asked[0] == T and min(asked) > 0


# ------------------------------------------------------------------- samplers, with exact denoisers


def drawn(model, sampler, steps, n=40000):
    """Mean and variance of the pixels that a model draws, before they are clipped."""
    frames = []
    model.guided = lambda z, t, y, w: model.guess(z, torch.full((len(z),), t))  # no clamp
    model.sample(n // 16, generator=torch.Generator().manual_seed(0), sampler=sampler, steps=steps,
                 frames=frames)
    return last(model), frames


def last(model):
    return model.kept.mean().item(), model.kept.var().item()


class Kept(Diffusion):
    """Keeps what step_back() says last: draws before they are clipped to [0, 1]."""

    def step_back(self, z, x_hat, t, s, noise=None):
        self.kept = super().step_back(z, x_hat, t, s, noise)
        return self.kept


class NoiseAtTheEnd(Kept):
    def step_back(self, z, x_hat, t, s, noise=None):
        back = super().step_back(z, x_hat, t, s, noise)
        self.kept = back + 0.3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(5)) \
            if s == 0 else back
        return self.kept


class Unfinished(Kept):
    """A chain that ends at α = 0.45, from which is drawn as if it had ended at noise."""

    def path(self, t):
        u = t.to(D) / T * 0.7
        return torch.cos(u * math.pi / 2), torch.sin(u * math.pi / 2)


def moments(model_class, sampler, steps, straight=False, late=0, mean=0.5, var=0.04):
    torch.manual_seed(0)
    model = model_class(4, 4, straight)
    model.guess = exact(model, mean, var, late)
    return drawn(model, sampler, steps)[0]


@pytest.mark.slow
@PATHS
@pytest.mark.parametrize("sampler, steps", [("ddpm", 1000), ("ddim", 250), ("heun", 40)])
def test_samplers_draw_gaussian_data_if_the_guess_is_exact(sampler, steps, straight):
    mean, var = moments(Kept, sampler, steps, straight)
    # 40,000 pixels: five standard errors, and 1 % for the length of steps.
    assert mean == pytest.approx(0.5, abs=5 * 0.2 / 200 + 0.003)
    assert var == pytest.approx(0.04, rel=0.05)


@pytest.mark.slow
def test_each_classic_mistake_shows_in_the_moments():
    """Controls of the test above."""
    mean, var = moments(NoiseAtTheEnd, "ddpm", 250)
    assert var > 0.1  # grain
    mean, var = moments(Unfinished, "ddim", 250)
    assert abs(mean - 0.5) > 0.02 or abs(var / 0.04 - 1) > 0.2
    mean, var = moments(Kept, "ddim", 20, late=40)  # α and σ of another t than that of z
    right = moments(Kept, "ddim", 20)
    assert abs(var / 0.04 - 1) > abs(right[1] / 0.04 - 1) + 0.1


def test_few_steps_err_as_theory_says():
    """(10) errs as 1/K, (11) as 1/K²: against the exact end of the ODE for Gaussian data, which
    maps noise ε to mean + √var ε."""
    model = gaussian_model()
    model.guess = exact(model, 0.0, 0.04)
    model.guided = lambda z, t, y, w: model.guess(z, torch.full((len(z),), t))
    z = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    errors = {}
    for sampler, counts in (("ddim", (50, 100, 200)), ("heun", (25, 50, 100))):
        ends = [2 * model.sample(1, z=z, sampler=sampler, steps=k) - 1 for k in counts]
        errors[sampler] = [(end - 0.2 * z).abs().max().item() for end in ends]
    for sampler, order in (("ddim", 1), ("heun", 2)):
        for coarse, fine in itertools.pairwise(errors[sampler]):
            assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)
    assert errors["heun"][1] < errors["ddim"][1] / 3


def test_on_straight_lines_ddim_is_eulers_step():
    model = gaussian_model(True)
    z, x = torch.randn(2, 3, 1, 4, 4)
    velocity = (z - 0.6 * 0 - (1 - 0.6) * x) / 0.6 - x  # ε̂ − x̂ at t = 600
    assert torch.allclose(model.step_back(z, x, 600, 450), z + (0.45 - 0.6) * velocity)
    arc = gaussian_model(False)  # control
    assert not torch.allclose(arc.step_back(z, x, 600, 450), z + (0.45 - 0.6) * velocity, atol=0.01)


def test_encoding_goes_along_the_same_lines_as_drawing():
    """For Gaussian data the ODE keeps x_t over its standard deviation, √(α² var + σ²): so it is
    known what comes of a digit's first bit of noise at T, and when it is drawn from there."""
    model = gaussian_model()
    model.guess = exact(model, 0.0, 0.04)
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    first = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    z = model.noised(2 * x - 1, torch.full((2,), 100), first)
    alpha, sigma = model.path(torch.tensor(100))
    scaled = z / (alpha**2 * 0.04 + sigma**2).sqrt()
    errors = []
    for steps in (20, 80, 320):
        encoded = model.encode(x, None, torch.Generator().manual_seed(1), steps)
        errors.append((encoded - scaled).abs().max().item())
        drawn = 2 * model.sample(2, z=encoded, sampler="ddim", steps=steps) - 1
    assert errors[2] < errors[1] / 3 < errors[0] / 9 and errors[2] < 0.03
    assert torch.allclose(drawn, 0.2 * scaled, atol=0.02)
    assert (drawn - (2 * x - 1)).abs().max() > 0.03  # with the noise: another digit, a near one


# --------------------------------------------------------------------- the network, labels, ranges


def awake(network):
    """Zero weights (of blocks that at first change nothing) get values."""
    torch.manual_seed(1)
    for p in network.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return network


def test_the_network_hears_noise_level_label_and_place_and_mixes_no_images():
    network = awake(UNet((8, 8), 1, 4, 10))
    z, y, level = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 10]), torch.tensor([0.2, 0.5, 0.9])
    out = network(z, level, y)
    assert out.shape == z.shape
    assert not torch.allclose(out, network(z, level + 0.02, y), atol=1e-4)
    assert not torch.allclose(out[:2], network(z, level, torch.tensor([3, 4, 10]))[:2], atol=1e-4)
    turn = torch.tensor([2, 0, 1])
    assert torch.allclose(network(z[turn], level[turn], y[turn]), out[turn], atol=1e-12)
    # In the hub each place hears all others; at first it changes nothing.
    hub, h, e = diffusion.Hub((4, 3, 3), 5, 7), torch.randn(1, 4, 3, 3), torch.randn(1, 5)
    hub.norm = torch.nn.Identity()  # which also tells each place of all others, a little
    assert torch.equal(hub(h, e), h + hub.last.bias.view(4, 3, 3))
    x = h.clone().requires_grad_()
    slope = torch.autograd.grad(awake(hub)(x, e)[0, 0, 0, 0], x)[0]
    assert (slope != 0).all()


# Once more, by hand. left_out: a part that a control does without.


def block_by_hand(block, h, e, left_out):
    scale, shift = linear(block.tell, e)[:, None, None].split(len(h))
    u = conv(block.conv_1, silu(in_groups(block.norm_1, h)), padding=1)
    u = in_groups(block.norm_2, u)
    u = u if left_out == "told" else u * (1 + scale) + shift
    u = conv(block.conv_2, silu(u), padding=1)
    return u if left_out == "residual" else h + u


def hub_by_hand(hub, h, e, left_out):
    u = normed(linear(hub.first, in_groups(hub.norm, h).flatten()))
    scale, shift = linear(hub.tell, e).split(len(u))
    u = u if left_out == "hub is told" else u * (1 + scale) + shift
    u = normed(linear(hub.second, silu(u)))
    u = linear(hub.last, silu(u)).view(h.shape)
    return u if left_out == "around the hub" else h + u


def unet_by_hand(net, z, level, label, left_out=None):
    """z: (I, H, W), what is told of one image, and how much noise is in it -> (1, H, W)."""
    angles = [level * 10 ** (2 * k / 15) for k in range(16)]  # frequencies of 1 to 100
    waves = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    e = linear(net.level[2], silu(linear(net.level[0], torch.tensor(waves))))
    if label is not None and left_out != "label":
        e = e + net.label.weight[label]
    e = silu(e)
    words = torch.stack([channel[i::2, j::2] for channel in z for i in (0, 1) for j in (0, 1)])
    h = conv(net.first, words, padding=1)
    if left_out != "position":
        h = h + net.position
    skip = block_by_hand(net.down, h, e, left_out)
    h = block_by_hand(net.before, conv(net.shrink, skip, stride=2), e, left_out)
    h = h if left_out == "hub" else hub_by_hand(net.hub, h, e, left_out)
    h = doubled(net.grow, block_by_hand(net.after, h, e, left_out))
    h = block_by_hand(net.up, h if left_out == "skip" else skip + h, e, left_out)
    out = torch.zeros(1, *z.shape[1:])
    for k, word in enumerate(conv(net.last, silu(in_groups(net.norm, h)), padding=1)):
        out[0, k // 2::2, k % 2::2] = word
    return out


@pytest.mark.parametrize("inputs, labels", [(1, None), (1, [7, 10]), (2, None)])
@torch.no_grad()
def test_the_network_is_what_is_written(inputs, labels):
    net, z = enlivened(UNet((8, 12), inputs, 4, 10)), noise(2, inputs, 8, 12)
    level = torch.tensor([0.05, 0.7])
    out = net(z, level, None if labels is None else torch.tensor(labels))
    assert out.shape == (2, 1, 8, 12)
    for k, label in enumerate(labels or [None, None]):
        by_hand = unet_by_hand(net, z[k], level[k].item(), label)
        assert torch.allclose(out[k], by_hand, atol=1e-9)
        for part in ["position", "skip", "hub", "around the hub", "residual", "told", "hub is told"
                     ] + ["label"] * (label is not None):  # controls
            assert differ(out[k], unet_by_hand(net, z[k], level[k].item(), label, part)), part
    assert differ(out[1], unet_by_hand(net, z[1], 0.71, label))


def test_guidance_is_a_line_through_two_guesses():
    model = gaussian_model(classes=10)
    asked = []

    def guess(z, t, y=None):
        asked.append(y.tolist())
        return 0.1 * diffusion.spread((y != 10).to(z), z) * torch.ones_like(z) + 0.05

    model.guess = guess
    z, y = torch.randn(2, 1, 4, 4), torch.tensor([3, 4])
    assert torch.allclose(model.guided(z, 500, y, 1), torch.tensor(0.15))
    assert asked == [[3, 4]]  # the plain model takes one pass
    for w, value in ((0, 0.05), (2, 0.25), (5, 0.55), (100, 1.0)):  # the last is clamped
        assert torch.allclose(model.guided(z, 500, y, w), torch.tensor(value))
    model.guidance = 2.0
    asked.clear()
    model.sample(2, y, steps=3)
    assert asked == [[3, 4], [10, 10]] * 3
    asked.clear()
    model.sample(2, y, steps=3, guidance=1)
    assert asked == [[3, 4]] * 3


def test_labels_are_withheld_now_and_then():
    torch.manual_seed(0)
    y = torch.arange(10).repeat(2000)
    labels = diffusion.withheld(y, 10)
    assert (labels == 10).double().mean().item() == pytest.approx(0.1, abs=5 * 0.3 / 141)
    assert bool(((labels == y) | (labels == 10)).all()) and diffusion.withheld(None, 10) is None


@pytest.mark.parametrize("model_class", [Diffusion, MaskedDiffusion])
def test_a_conditional_model_learns_what_no_label_means(model_class):
    torch.manual_seed(0)
    model = model_class(4, 4, classes=10)
    awake(model.network)
    x, y = (torch.rand(60, 1, 4, 4) < 0.5).to(D), torch.arange(60) % 10
    model.loss(x, y).backward()
    assert bool((model.network.label.weight.grad.abs().sum(dim=1) > 0).all())


def test_grey_levels_go_in_and_come_out_in_0_to_1():
    model = gaussian_model()
    seen = []
    model.network.forward = lambda z, level, y=None: seen.append((z, level)) or torch.zeros_like(z)
    model.noise_level = lambda u: torch.ones(u.shape, dtype=torch.long)  # hardly any noise
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    loss = model.loss(x).item()
    assert loss == pytest.approx(16, abs=1e-4)  # of 16 pixels that are ±1 a guess of 0 is off by 1
    z, level = seen[0]
    assert torch.allclose(z[:, 0, 0, 0], torch.tensor([-1.0, 1.0]), atol=0.01)
    assert torch.allclose(level, torch.tensor(1 / T))
    draws = model.sample(50, generator=torch.Generator().manual_seed(0), steps=5)
    assert draws.min() >= 0 and draws.max() <= 1 and torch.allclose(draws, torch.tensor(0.5))


@PATHS
@pytest.mark.parametrize("predict", ["x", "eps", "v"])
def test_the_loss_is_the_error_of_what_is_asked_for(straight, predict):
    """(4), of x, ε or v, at x_t of (1)."""
    model, x, shown = gaussian_model(straight, predict), torch.rand(6, 1, 4, 4), []
    model.network.forward = lambda z, level, y=None: shown.append((z, level)) or torch.zeros_like(z)
    torch.manual_seed(5)
    loss = model.loss(x).item()
    torch.manual_seed(5)
    t, eps, clean = diffusion.noise_level(torch.rand(6)), torch.randn(x.shape), 2 * x - 1
    (z, level), = shown
    assert torch.equal(level, t / T) and torch.allclose(z, model.noised(clean, t, eps))
    alpha, sigma = (diffusion.spread(a, x) for a in model.path(t))
    v = eps - clean if straight else alpha * eps - sigma * clean
    wanted = {"x": clean, "eps": eps, "v": v}[predict]
    assert loss == pytest.approx(wanted.square().sum(dim=(1, 2, 3)).mean().item())


def test_guidance_of_a_masked_model_is_a_line_of_log_odds():
    model, y = MaskedDiffusion(4, 4, classes=10), torch.full((2000,), 3)
    model.logits = lambda x, known, y=None: 0.1 + 0.3 * diffusion.spread(
        (y != 10).to(x), x).expand_as(x)
    for w in (0, 1, 2, 5):
        drawn = model.sample(2000, y, torch.Generator().manual_seed(0), steps=1, guidance=w)
        assert drawn.mean().item() == pytest.approx(1 / (1 + math.exp(-0.1 - 0.3 * w)), abs=0.014)


@torch.no_grad()
def test_a_masked_model_begins_with_independent_pixels():
    model, grey = MaskedDiffusion(4, 4), torch.randint(256, (5, 1, 4, 4)).byte()
    grey[..., 0], grey[..., 3] = 0, 255
    model.network.last.weight.zero_()
    model.network.last.bias.zero_()
    model.start_from_mean(grey)
    x = torch.zeros(1, 1, 4, 4)
    p = (grey.double().mean(dim=0) / 255).clamp(0.001, 0.999)
    assert torch.allclose(model.logits(x, x > 1).sigmoid()[0], p, atol=1e-6)


def test_what_is_given_comes_out_as_it_was():
    model = gaussian_model()
    model.guess = exact(model, 0.2, 0.3)
    x, known = torch.rand(3, 1, 4, 4), torch.arange(16).view(4, 4) % 3 == 0
    out = model.sample(3, generator=torch.Generator().manual_seed(0), x=x, known=known, steps=9)
    assert torch.allclose(out[:, 0][:, known], x[:, 0][:, known])
    assert not torch.allclose(out[:, 0][:, ~known], x[:, 0][:, ~known], atol=0.1)


def test_on_its_way_what_is_given_has_the_noise_of_its_step():
    """Else the network is shown pixels that it has never seen in training."""
    model, looks = gaussian_model(), {}
    exact_guess = exact(model, 0.2, 0.3)
    model.guess = lambda z, t, y=None: looks.update({int(t[0]): z.clone()}) or exact_guess(z, t, y)
    x, known = torch.full((2000, 1, 4, 4), 0.9), torch.arange(16).view(4, 4) % 3 == 0
    model.sample(2000, generator=torch.Generator().manual_seed(0), x=x, known=known, steps=4)
    for t in sorted(looks)[:-1]:  # T: nothing is given yet
        alpha, sigma = (a.item() for a in model.path(torch.tensor(t)))
        given = looks[t][:, 0][:, known]
        assert given.mean().item() == pytest.approx(alpha * 0.8, abs=0.04)
        assert given.std().item() == pytest.approx(sigma, abs=0.04)
    assert len(looks) == 4


# ---------------------------------------------------------------------------------- the grey bound


def categorical(model, p):
    """The best guess if pixels are independent and level k has probability p[k]: E[x|x_t]."""
    levels = torch.arange(256) / 127.5 - 1

    def guess(z, t, y=None):
        alpha, sigma = (diffusion.spread(a, z)[..., None] for a in model.path(t))
        log_p = p.log() - (z[..., None] - alpha * levels) ** 2 / (2 * sigma**2)
        return (log_p.softmax(-1) * levels).sum(-1)

    return guess


@pytest.mark.slow
@PATHS
def test_the_grey_bound_is_above_the_entropy_and_near_it(straight):
    p = torch.zeros(256) + 1e-9
    p[[0, 100, 130, 255]] = torch.tensor([0.5, 0.2, 0.2, 0.1])
    p = p / p.sum()
    generator = torch.Generator().manual_seed(0)
    x = torch.multinomial(p, 400 * 16, True, generator=generator).view(400, 1, 4, 4).byte()
    entropy = -(p * p.log2()).sum().item()
    bits = -p.log2()[x.long()].mean().item()  # of these very images
    model = gaussian_model(straight)
    model.guess = categorical(model, p)
    coarse, fine = (diffusion.grey_bound(model, x, None, p, k, draws) for k, draws in ((4, 4),
                                                                                       (200, 60)))
    assert bits - 0.02 < fine < bits + 0.12 and coarse > fine + 0.02 and abs(bits - entropy) < 0.05
    model.guess = lambda z, t, y=None: categorical(model, p)(z, t) + 0.2  # controls: a worse guess
    assert diffusion.grey_bound(model, x, None, p, 200, 4) > fine + 0.2
    model.guess = categorical(model, p)
    flat = torch.full((256,), 1 / 256)  # and a worse idea of the levels
    assert diffusion.grey_bound(model, x, None, flat, 4) > coarse + 0.2


@PATHS
def test_what_an_error_costs_in_the_grey_bound_is_a_sum_over_its_steps(straight):
    """White images, and a guess that is off by c at each step: (17) then sums to ½ c² times the
    difference of α²/σ² between the last step but one and the first, for each pixel."""
    model, x = gaussian_model(straight), torch.full((400, 1, 4, 4), 255, dtype=torch.uint8)

    def bound(c):
        model.guess = lambda z, t, y=None: torch.full_like(z, 1 + c)
        return diffusion.grey_bound(model, x, None, torch.full((256,), 1 / 256), 5, 2)

    alpha, sigma = model.path(torch.linspace(T, 0, 6).round().long())
    snr = (alpha / sigma)**2
    cost = 0.5 * 0.3**2 * (snr[4] - snr[0]) / math.log(2)
    assert bound(0.3) - bound(0) == pytest.approx(cost.item(), rel=0.02)


# ------------------------------------------------------------------------------ masked, enumerated


def table_model(size=(2, 2)):
    """A masked model of four pixels whose logits are any function of what is known."""
    model = MaskedDiffusion(4, 4)
    model.image_size, model.pixels = size, math.prod(size)
    weights = torch.randn(4, 12, generator=torch.Generator().manual_seed(3))

    def logits(x, known, y=None):
        seen = known.to(x)
        shown = torch.cat([((2 * x - 1) * seen).flatten(1), seen.flatten(1),
                           (seen * x).flatten(1).roll(1, 1) * seen.flatten(1)], dim=1)
        return (shown @ weights.T.to(x)).view(x.shape)  # evaluate() works in float32

    model.logits = logits
    return model


IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=D).view(16, 1, 2, 2)
ORDERS = list(itertools.permutations(range(4)))


def log_p_in_order(model, order):
    """log p of all 16 images, pixel after pixel. -> (16,)"""
    total, known = torch.zeros(16), torch.zeros(16, 1, 2, 2, dtype=torch.bool)
    for i in order:
        logit = model.logits(IMAGES, known).flatten(1)[:, i]
        bit = IMAGES.flatten(1)[:, i]
        total = total + bit * logit - torch.nn.functional.softplus(logit)
        known = known.clone()
        known.view(16, 4)[:, i] = True
    return total


def test_in_each_order_it_is_a_distribution():
    model = table_model()
    for order in ORDERS:
        assert log_p_in_order(model, order).exp().sum().item() == pytest.approx(1)
    one, other = (log_p_in_order(model, order) for order in (ORDERS[0], ORDERS[-1]))
    assert not torch.allclose(one, other, atol=0.01)  # and each in another one


def test_the_masked_bound_is_the_mean_over_orders():
    """(14) = the right side of (13), for each image, by enumeration of known pixels; and it is
    above −log of the mean over orders."""
    model = table_model()
    by_order = torch.stack([log_p_in_order(model, order) for order in ORDERS])  # (24, 16)
    bound = torch.zeros(16)
    for count in range(4):
        choices = [c for c in itertools.product((False, True), repeat=4) if sum(c) == count]
        costs = [model.cost(IMAGES, torch.tensor(c).view(1, 1, 2, 2).expand(16, 1, 2, 2))
                 for c in choices]
        bound = bound + torch.stack(costs).mean(dim=0)
    assert torch.allclose(bound, -by_order.mean(dim=0))
    exact_nll = -(by_order.logsumexp(dim=0) - math.log(24))
    assert (bound > exact_nll + 1e-6).all()
    # evaluate() and the loss estimate it without bias; five standard errors.
    repeated = IMAGES.repeat(500, 1, 1, 1)
    estimates = [diffusion.evaluate(model, repeated, None, draws=2)]
    torch.manual_seed(0)
    estimates += [model.loss(repeated).item()]
    for value in estimates:
        assert value == pytest.approx(bound.mean().item(), abs=0.06)
    model.pixels = 3  # control: a sum of another length
    assert abs(diffusion.evaluate(model, repeated, None) - bound.mean().item()) > 0.2


def joint_model():
    """A masked model that knows the conditionals of one distribution p of all 16 images, and p."""
    model = MaskedDiffusion(4, 4)
    model.image_size, model.pixels = (2, 2), 4
    p = torch.randn(16, generator=torch.Generator().manual_seed(4)).mul(1.5).softmax(0)
    bits = IMAGES.flatten(1)

    def logits(x, known, y=None):
        fits = ((bits == x.flatten(1)[:, None]) | ~known.flatten(1)[:, None]).all(dim=2) * p
        on = (fits[..., None] * bits).sum(dim=1) / fits.sum(dim=1, keepdim=True)  # (B, 4)
        return torch.logit(on.clamp(1e-9, 1 - 1e-9)).view(x.shape)

    model.logits = logits
    return model, p


def test_fewer_steps_have_a_worse_bound():
    """(15). If the guesses are those of one distribution, the bound in as many steps as pixels is
    no bound but the thing itself; in one step all pixels are independent."""
    model, p = joint_model()
    x = IMAGES[torch.multinomial(p, 20000, True, generator=torch.Generator().manual_seed(0))]
    one, two, four = diffusion.bounds_by_steps(model, x, None, (1, 2, 4), points=4)
    entropy, on = -(p * p.log()).sum().item(), (p[:, None] * IMAGES.flatten(1)).sum(dim=0)
    apart = -(on * on.log() + (1 - on) * (1 - on).log()).sum().item()
    assert one == pytest.approx(apart, abs=0.02) and four == pytest.approx(entropy, abs=0.02)
    assert one > two + 0.05 > four + 0.1
    assert diffusion.evaluate(model, x, None, 2) == pytest.approx(entropy, abs=0.02)
    for order in ORDERS:
        assert torch.allclose(log_p_in_order(model, order), p.log())


def test_masked_draws_have_the_probabilities_of_the_mean_over_orders():
    """χ², 15 degrees of freedom (0.001 beyond 37.7); with all pixels at once they have not."""
    model = table_model()
    p = torch.stack([log_p_in_order(model, order) for order in ORDERS]).exp().mean(dim=0)

    def chi2(steps, n=20000):
        x = model.sample(n, generator=torch.Generator().manual_seed(0), steps=steps)
        index = (x.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
        return ((torch.bincount(index, minlength=16) - n * p) ** 2 / (n * p)).sum().item()

    assert chi2(4) < 37.7 and chi2(1) > 100


def test_a_masked_models_completions_are_its_own_conditionals():
    model = table_model()
    given = torch.tensor([[True, False], [False, True]])
    x = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2).expand(20000, 1, 2, 2)
    out = model.sample(20000, generator=torch.Generator().manual_seed(0), x=x, known=given, steps=2)
    assert (out[:, 0][:, given] == torch.tensor([1.0, 0.0])).all()
    # The two others come in either order.
    both = torch.zeros(2, 2)
    for first, second in ((1, 2), (2, 1)):
        for a, b in itertools.product((0, 1), repeat=2):
            image, known = x[:1].clone(), given.clone().view(1, 1, 2, 2)
            p_first = torch.sigmoid(model.logits(image, known)).flatten()[first]
            image.view(-1)[first] = a
            known.view(-1)[first] = True
            p_second = torch.sigmoid(model.logits(image, known)).flatten()[second]
            p = (p_first if a else 1 - p_first) * (p_second if b else 1 - p_second) / 2
            both[(a, b) if first == 1 else (b, a)] += p
    shares = torch.bincount((out[:, 0, 0, 1] * 2 + out[:, 0, 1, 0]).long(), minlength=4) / 20000
    assert torch.allclose(shares, both.flatten(), atol=5 * 0.5 / 141)


def test_hidden_pixels_say_nothing():
    model = MaskedDiffusion(8, 4)
    awake(model.network)
    x = (torch.rand(2, 1, 8, 8) < 0.5).to(D)
    known = torch.rand(2, 1, 8, 8) < 0.5
    other = torch.where(known, x, 1 - x)
    assert torch.equal(model.logits(x, known), model.logits(other, known))
    shown = torch.where(known, 1 - x, x)  # control
    assert not torch.allclose(model.logits(x, known), model.logits(shown, known), atol=1e-3)
    # A pixel that is known to be 0 is not one that is hidden.
    less = known.clone()
    less[(x == 0) & known] = False
    assert not torch.allclose(model.logits(x, known), model.logits(x, less), atol=1e-3)


def test_numbers_of_known_pixels_are_evenly_spread():
    generator = torch.Generator().manual_seed(0)
    counts = torch.cat([diffusion.spaced(8, 784, generator) for _ in range(5000)])
    assert counts.min() == 0 and counts.max() == 783
    share = torch.bincount(counts // 98, minlength=8) / len(counts)
    assert torch.allclose(share, torch.tensor(1 / 8))  # one of eight in each eighth, always
    known = diffusion.some_known(torch.tensor([0, 5, 15]).repeat(4000), (4, 4), generator)
    assert known.sum(dim=(1, 2, 3)).view(-1, 3).unique(dim=0).tolist() == [[0, 5, 15]]
    often = known[1::3].double().mean(dim=(0, 1))
    assert torch.allclose(often, torch.tensor(5 / 16), atol=5 * 0.46 / 63)


# ------------------------------------------------------------------------------------- the average


@pytest.mark.slow
def test_the_average_follows_and_draws():
    torch.set_default_dtype(torch.float32)
    learner = Learner(Diffusion(8, 4))
    before = {k: v.clone() for k, v in learner.average.state_dict().items()}
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(1)
    diffusion.follow(learner.average, learner.model, 0.9)
    for key, value in learner.average.state_dict().items():
        now = learner.model.state_dict()[key]
        assert torch.allclose(value, 0.9 * before[key] + 0.1 * now, atol=1e-6)
    noise = [torch.Generator().manual_seed(0) for _ in range(3)]
    drawn = learner.sample(2, None, noise[0])
    assert torch.equal(drawn, learner.average.sample(2, None, noise[1]))
    assert not torch.equal(drawn, learner.model.sample(2, None, noise[2]))


def test_settings_reach_the_model():
    torch.set_default_dtype(torch.float32)
    s = values(diffusion, "--width 4 --variant flow-matching --predict v")
    s = SimpleNamespace(**{**vars(s), "sampler": "heun", "sampling_steps": 7})
    model = diffusion.build(s).average
    assert model.straight and model.predict == "v"
    assert (model.sampler, model.sampling_steps, model.guidance) == ("heun", 7, 1.0)
    masked = diffusion.build(values(diffusion, "--variant masked --width 4"))
    assert isinstance(masked.average, MaskedDiffusion) and masked.average.sampling_steps == 98
    for flags, words in (("--width 6", "4 groups"), ("--width 4", "multiples of 4")):
        with pytest.raises(ValueError, match=words):
            diffusion.build(values(diffusion, flags), 28 if "6" in flags else 30)
    assert diffusion.build(values(diffusion, "--width 4 --conditional")).average.guidance == 1.25
    s.guidance = 2.0
    with pytest.raises(ValueError, match="--conditional"):
        diffusion.build(s)


def test_bounds_and_errors_of_grey_levels_are_told_each_digits_label():
    """A network that guesses right only where it is told the digit's own label."""
    model, y = gaussian_model(classes=10), torch.arange(150) % 10
    x = (25 * y).byte().view(150, 1, 1, 1).expand(150, 1, 4, 4)  # brightness says which it is
    model.guess = lambda z, t, y=None: diffusion.spread(
        torch.full((len(z),), 9.0) if y is None else 25 * y / 127.5 - 1, z).expand_as(z)
    p = torch.full((256,), 1 / 256)
    right, wrong = (diffusion.grey_bound(model, x, of, p, 5, 2) for of in (y, (y + 1) % 10))
    assert wrong > right + 0.1
    assert diffusion.errors_by_noise(model, x, y, (1, 500)) == pytest.approx([0, 0], abs=1e-9)
    assert min(diffusion.errors_by_noise(model, x, (y + 1) % 10, (1, 500))) > 0.1  # control


@pytest.mark.slow
def test_without_the_label_a_masked_model_is_told_none(few_images):
    """marginal_nats: of the test bits, by the label that stands for "no label"."""
    torch.set_default_dtype(torch.float32)
    data = fit.told(utils.load_mnist(), True)
    s = values(diffusion, "--variant masked --conditional --width 4 --test-draws 10 "
                          "--bound-draws 1")
    torch.manual_seed(0)
    model = diffusion.build(s).average
    model.sampling_steps = 1
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2)
    nats, figures = diffusion.final_figures(model, data, None, s)
    nobody = torch.full((len(data.x_test),), 10)
    with_label, without_label, validation = (diffusion.evaluate(model, x, y, 1) for x, y in (
        (data.x_test, data.y_test), (data.x_test, nobody), (data.x_val, nobody)))
    assert nats == pytest.approx(with_label)
    assert figures["marginal_nats"] == pytest.approx(without_label)
    for other in (with_label, validation):  # controls
        assert without_label != pytest.approx(other, rel=1e-6)
    test, val = (dict(zip(diffusion.FEWER_STEPS, diffusion.bounds_by_steps(
        model, x, y, diffusion.FEWER_STEPS))) for x, y in (
            (data.x_test, data.y_test), (data.x_val, data.y_val)))
    assert figures["bounds_by_steps"] == pytest.approx(test)
    assert test != pytest.approx(val, rel=1e-6)


def test_speeds_and_guidance_are_scored_beside_validation_digits(few_images):
    """By a model that draws just these."""
    torch.set_default_dtype(torch.float32)
    data, network = fit.told(utils.load_mnist(), True), judge.load_judge()
    planted = SimpleNamespace(likelihood="none", classes=10,
                              sample=lambda n, y, generator, **options: data.val[:n] / 255)
    rows = diffusion.speeds(planted, network, data, {"ddpm": [(3, {"steps": 3})]}, 100)
    (guesses, _, distance), = rows["ddpm"]
    assert guesses == 3 and distance == pytest.approx(0, abs=1e-6)
    (w, distance, precision, recall, _), = diffusion.guidances(planted, network, data, (2,), 100)
    assert (w, precision, recall) == (2, 1, 1) and distance == pytest.approx(0, abs=1e-6)


def test_validation_chooses_the_steps_of_the_grey_bound():
    """On it 25 steps are best, on the test digits 5; and how frequent levels are training says."""
    torch.set_default_dtype(torch.float32)
    data, asked = fit.told(utils.load_mnist(), False), []

    def bound(model, x, y, frequencies, steps):
        asked.append((x, frequencies, steps))
        return abs(steps - (25 if torch.equal(x, data.val) else 5))

    model = Diffusion(28, 4)
    model.sampling_steps = 1
    s = SimpleNamespace(variant="gaussian", test_draws=2)
    _, figures = diffusion.final_figures(model, data, None, s, bound)
    assert figures["grey_bound_steps"] == 25 and figures["grey_bits_per_dim"] == 20
    assert figures["validation_grey_bits_per_dim_by_steps"] == {5: 20, 10: 15, 25: 0, 50: 25}
    *before, (x, _, steps) = asked
    assert torch.equal(x, data.test) and steps == 25 and len(before) == 4
    shares = torch.bincount(data.train.flatten(), minlength=256) + 1
    assert all(torch.allclose(f, shares / shares.sum()) for _, f, _ in asked)
