"""tarflow.py: determinants against autograd, both inverses, who is told of whom, the slope that
takes noise away, and a bound beside what it bounds. Each with a control: the classic mistakes."""
import json
import math
from pathlib import Path

import bench_inverse
import pytest
import torch
from conftest import checkpoint, rewritten, small

import tarflow
import utils
from tarflow import Block, TarFlow


def lively(size=8, classes=0, blocks=3, module=tarflow):
    """A flow with weights that say something, in float64."""
    torch.manual_seed(0)
    model = module.TarFlow(size, 8, blocks, 2, classes=classes)
    return enliven(model)


def enliven(model, scale=0.3):
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape) * (p.shape[-1] if p.dim() > 1 else 1) ** -0.5
    return model.to(torch.float64)


def digits(n, size=8):
    """uint8, mostly black, as digits are."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (n, 1, size, size), generator=generator)
    return (x * (torch.rand(x.shape, generator=generator) < 0.3)).to(torch.uint8)


def off(model, u, y=None):
    """How far log |det| is from that of the Jacobian."""
    jacobian = torch.autograd.functional.jacobian(
        lambda v: model.encode(v.view(u.shape), y)[0].flatten(), u.flatten())
    return abs(torch.linalg.slogdet(jacobian)[1] - model.encode(u, y)[1]).item()


def test_the_determinant_is_that_of_the_jacobian():
    u = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    assert off(lively(), u) < 1e-8 and off(lively(classes=10), u, torch.tensor([3])) < 1e-8
    assert lively().encode(u)[1].abs() > 0.1
    for before, after in (("is_causal=kept is None", "is_causal=False"),  # controls
                          ("-log_scale.sum(dim=(1, 2))", "log_scale.sum(dim=(1, 2))"),
                          ("log_det = log_det + more", "log_det = more"),
                          ("self.first(words[:, :-1])", "self.first(words[:, 1:])")):
        assert off(lively(module=rewritten("tarflow", (before, after))), u) > 1e-3, before


@torch.no_grad()
def test_what_is_encoded_is_decoded():
    model, y = lively(classes=10), torch.arange(5)
    u = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    z, _ = model.encode(u, y)
    assert torch.allclose(model.decode(z, y), u, atol=1e-9)
    assert not torch.allclose(z, model.to_words(u), atol=0.1)
    assert not torch.allclose(model.decode(z, y.flip(0)), u, atol=1e-3)  # control: other labels
    for before, after in (("kept[:] = k, v", "kept[:] = k[:, :, -1:], v[:, :, -1:]"),  # the newest
                          ("self.says(h, y, slice(t, t + 1), kept)", "self.says(h, y, 0, kept)"),
                          ("z = block.back(z, y)", "z = block.back(z)"),
                          ("reversed(self.blocks)", "self.blocks")):
        broken = lively(classes=10, module=rewritten("tarflow", (before, after)))
        assert not torch.allclose(broken.decode(z, y), u, atol=1e-3), before


@torch.no_grad()
def test_the_inverse_is_the_obvious_one():
    """Which runs each block for all words, once a word."""
    model, y = lively(classes=10), torch.arange(6)
    z = torch.randn(6, 4, 16, dtype=torch.float64)
    assert torch.allclose(model.decode(z, y), bench_inverse.blocks_obvious(model, z, y), atol=1e-9)
    model.blocks[1].order = []  # control: another order
    other = bench_inverse.blocks_obvious(lively(classes=10), z, y)
    assert not torch.allclose(model.decode(z, y), other, atol=1e-3)


def test_each_word_hears_those_before_it_alone():
    """In a block's own order; and all of them."""
    for backwards in (False, True):
        torch.manual_seed(0)
        block = enliven(Block(5, 2, 8, 2, backwards, 0))
        words = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
        for t in range(5):
            slope, = torch.autograd.grad(block(words)[0][0, t].sum(), words)
            heard = slope[0].abs().sum(dim=1) > 0
            place = torch.arange(5)
            assert torch.equal(heard, place >= t if backwards else place <= t)


@pytest.mark.slow
@torch.no_grad()
def test_the_density_of_two_numbers_integrates_to_one():
    """Two words of one number: summed over a grid, with the base density of what they become."""
    torch.manual_seed(1)
    blocks = [enliven(Block(2, 1, 8, 1, k == 1, 0), 0.4) for k in range(2)]
    line = torch.linspace(-20, 20, 401, dtype=torch.float64)
    words, total = torch.cartesian_prod(line, line)[:, :, None], 0.0
    for block in blocks:
        words, log_det = block(words)
        total = total + log_det
    log_p = total - 0.5 * (words**2 + math.log(2 * math.pi)).sum(dim=(1, 2))
    area = (line[1] - line[0])**2
    assert (log_p.exp().sum() * area).item() == pytest.approx(1, abs=1e-3)
    assert abs((log_p - total).exp().sum().item() * area - 1) > 0.01  # control: no determinant
    mean = (log_p.exp()[:, None] * torch.cartesian_prod(line, line)).sum(dim=0) * area
    assert mean.abs().max() > 0.1  # and it is not the Gaussian that it began as


@torch.no_grad()
def test_at_its_start_it_is_a_gaussian():
    model = TarFlow(8, 8, 3, 2, classes=10).to(torch.float64)
    u = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(dim=(1, 2, 3))
    assert torch.allclose(model.log_density(u, torch.arange(4)), wanted)
    assert torch.equal(model.to_image(model.to_words(u)), u)
    # (5), where E[clean | noisy] is known: digits N(0, 1 − σ²), with noise N(0, 1).
    model.noise = 0.3
    assert torch.allclose(model.denoise(0.1 * u, torch.arange(4)), 0.1 * u * (1 - 0.3**2))
    enliven(model)
    assert not torch.allclose(model.log_density(u, torch.arange(4)), wanted, atol=0.1)  # control


def test_noise_is_taken_away_along_the_slope_of_log_p():
    """(5), the slope by differences; and a draw is that of decode(), cleaned."""
    model = lively()
    u = 0.2 * torch.randn(1, 1, 8, 8, dtype=torch.float64)
    one = torch.zeros_like(u)
    for d in (0, 27, 63):
        step = one.clone()
        step.view(-1)[d] = 1e-5
        with torch.no_grad():
            slope = (model.log_density(u + step) - model.log_density(u - step)) / 2e-5
        clean = (u.view(-1)[d] + model.noise**2 * slope).clamp(-1, 1)
        assert model.denoise(u).view(-1)[d].item() == pytest.approx(clean.item(), abs=1e-6)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for temperature in (1.0, 0.5):
        u = model.decode(temperature * model.to_words(noise))
        for clean, wanted in ((False, u.clamp(-1, 1)), (True, model.denoise(u))):
            draws = model.sample(3, None, torch.Generator().manual_seed(5), temperature, clean)
            assert torch.allclose(2 * draws - 1, wanted)


def test_the_noise_is_as_wide_as_it_says():
    model = TarFlow(28, 8, 1, 1, noise=0.2)
    u = model.noisy(torch.full((50, 1, 28, 28), 0.75), torch.Generator().manual_seed(0))
    assert u.mean().item() == pytest.approx(0.5, abs=0.005)
    assert u.std().item() == pytest.approx(0.2, abs=0.005)


def test_no_level_is_impossible_and_each_row_sums_to_one():
    model, x = lively().float(), digits(20)
    table = tarflow.level_table(model, x, None)
    assert torch.allclose(table.exp().sum(dim=1), torch.ones(256), atol=1e-5)
    assert torch.isfinite(table).all()
    _, guess = tarflow.guesses(model, x, None, torch.Generator().manual_seed(0))
    seen = (guess == guess.flatten()[0])
    share = (x[seen] == 0).float().mean().item()
    assert table[guess.flatten()[0], 0].exp().item() == pytest.approx(share, abs=0.2)


def exact_nats(model, x, table):
    """−log P(x) of the flow as it begins, N(0, I), whose pixels are independent: an integral for
    each level, on a fine grid of u."""
    u = torch.linspace(-9, 9, 90001, dtype=torch.float64)
    guess = (255 * ((u * (1 - model.noise**2)).clamp(-1, 1) + 1) / 2).round().long()
    p = torch.distributions.Normal(0.0, 1.0).log_prob(u).exp() * (u[1] - u[0])
    by_level = (p[:, None] * table[guess].double().exp()).sum(dim=0)
    return -by_level.log()[x.long()].flatten(1).sum(dim=1).mean().item()


def test_the_bound_is_above_what_it_bounds():
    """By the KL from q(u|x) to p(u|x), which here can be summed. With another width of the noise
    under the logarithm, or without the table, it is below: no bound."""
    model, x = TarFlow(8, 8, 2, 1, noise=0.1), digits(300)
    table = tarflow.level_table(model, x, None)
    exact, bound = exact_nats(model, x, table), tarflow.level_bound(model, x, None, table)
    assert exact + 1 < bound < 10 * exact
    for before, after in (("2 * math.pi * model.noise**2", "2 * math.pi * (20 * model.noise)**2"),
                          ("- log_p.sum().item()", "+ 0 * log_p.sum().item()")):
        broken = rewritten("tarflow", (before, after))
        assert broken.level_bound(model, x, None, table) < exact, before


def test_the_bound_is_the_sum_of_its_three_terms():
    """(6), by torch's own distributions, of a flow that is no Gaussian."""
    model, x = lively(size=8).float(), digits(40)
    table = tarflow.level_table(model, x, None)
    u = model.noisy(x / 255, torch.Generator().manual_seed(1))
    q = torch.distributions.Normal(2 * (x / 255) - 1, model.noise).log_prob(u).flatten(1).sum(dim=1)
    guess = (255 * (model.denoise(u) + 1) / 2).round().long()
    p = table[guess, x.long()].flatten(1).sum(dim=1)
    wanted = (q - model.log_density(u) - p).mean().item()
    assert tarflow.level_bound(model, x, None, table) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_a_run_publishes_the_bound_of_the_test_set_by_a_table_of_training_digits():
    tarflow.main(small(tarflow, "--out", "a"))
    metrics = json.loads(Path("a/metrics.json").read_text(encoding="utf-8"))
    data, model = utils.load_mnist(), tarflow.load("a")
    model.load_state_dict(checkpoint("a")["best"]["weights"])  # weights.pt has half precision
    by = [tarflow.level_bound(model, data.test, None, tarflow.level_table(model, digits, None))
          for digits in (data.train[:5000], data.test[:5000])]
    assert metrics["grey_nats"] == pytest.approx(by[0], rel=1e-5)
    assert by[0] != pytest.approx(by[1], rel=1e-3)  # control
    assert metrics["noisy_nats"] == pytest.approx(tarflow.evaluate(model, data.test, None))
    assert metrics["grey_bits_per_dim"] == utils.bits_per_dim(metrics["grey_nats"])


def test_words_are_those_of_the_image():
    model = TarFlow(8, 8, 1, 1)
    x = torch.arange(64.0).view(1, 1, 8, 8)
    words = model.to_words(x)
    assert words.shape == (1, 4, 16) and words[0, 1, :4].tolist() == [4, 5, 6, 7]
    assert words[0, 2].tolist() == x[0, 0, 4:, :4].flatten().tolist()


@pytest.mark.parametrize("words, sizes", [("10×12", ((10, 12), 8)), ("--width 6", (8, 6))])
def test_sizes_that_do_not_fit_are_said(words, sizes):
    with pytest.raises(ValueError, match=words):
        TarFlow(*sizes)


def test_every_block_is_told_the_label():
    model, y = lively(classes=10), torch.tensor([2])
    model.log_density(torch.randn(1, 1, 8, 8, dtype=torch.float64), y).sum().backward()
    for block in model.blocks:
        assert block.label.weight.grad[2].abs().sum() > 0
        assert block.label.weight.grad[3].abs().sum() == 0
    with pytest.raises(ValueError):
        model.log_density(torch.zeros(1, 1, 8, 8, dtype=torch.float64))


def test_pixels_are_checked():
    with pytest.raises(ValueError):
        TarFlow(8, 8).noisy(digits(1))
    utils.check_pixels(digits(1) / 255)
