"""The mathematics of vae.py, each with a control: a version that is wrong on purpose and has to fail."""
import math
from collections import Counter

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import vae


def all_images(height=3, width=3):
    """All binary images of that size: (2^(H·W), 1, H, W)."""
    n = height * width
    return ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double().view(-1, 1, height, width)


def small_vae(conditional=False, wrong_q=0.0, z_size=1, strength=4):
    """A VAE of 3×3 images in float64; wrong_q moves and narrows its encoder's q. Fresh networks hardly
    react to z, so that the prior would be the right q for each image: strength makes z matter."""
    torch.manual_seed(0)
    model = vae.VAE(3, z_size=z_size, width=16, depth=2, conditional=conditional).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.mul_(strength)
        model.encoder.last.bias[:z_size] += wrong_q
        model.encoder.last.bias[z_size:] -= abs(wrong_q)
    return model


def exact_log_prob(model, x, y=None):
    """log ∫ p(x|z) p(z) dz for z_size 1, by the sum over a fine grid (the error is below 1e-9)."""
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)[:, None]
    yz = None if y is None else y[:1].expand(len(z))
    logits = model.decode(z, yz).flatten(1)  # (4801, 9)
    xs = x.flatten(1)
    log_px_z = logits @ xs.T - torch.nn.functional.softplus(logits).sum(1, keepdim=True)  # (4801, B)
    log_pz = Normal(0.0, 1.0).log_prob(z)
    return torch.logsumexp(log_px_z + log_pz, dim=0) + math.log(24 / 4800)


# --------------------------------------------------------------------------------------------- densities


def test_bernoulli_log_prob_is_the_library_s_and_sums_to_one():
    torch.manual_seed(0)
    x, logits = all_images(), torch.randn(1, 1, 3, 3).double() * 3
    ours = vae.bernoulli_log_prob(logits.expand_as(x), x)
    assert torch.allclose(ours, Bernoulli(logits=logits).log_prob(x).sum(dim=(1, 2, 3)))
    assert ours.exp().sum().item() == pytest.approx(1)
    # Control: a mean over pixels is not a density.
    assert abs((ours / 9).exp().sum().item() - 1) > 1
    # Sure of itself: finite, where log(sigmoid(·)) in float32 is −inf.
    assert torch.isfinite(vae.bernoulli_log_prob(torch.full((1, 1, 2, 2), 200.0), torch.zeros(1, 1, 2, 2))).all()


def kl_is_right(kl_to_prior):
    """Against torch.distributions, and against Monte Carlo with 5 standard errors."""
    torch.manual_seed(0)
    mu, log_var = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    q, p = Normal(mu, (0.5 * log_var).exp()), Normal(torch.zeros(()).double(), torch.ones(()).double())
    ours = kl_to_prior(mu, log_var)
    z = q.sample((20000,))
    draws = q.log_prob(z) - p.log_prob(z)
    error = draws.std(0) / math.sqrt(len(z))
    return torch.allclose(ours, kl_divergence(q, p)) and ((draws.mean(0) - ours).abs() < 5 * error).all().item()


def test_kl_closed_form():
    assert kl_is_right(vae.kl_to_prior)
    assert vae.kl_to_prior(torch.zeros(1), torch.zeros(1)).item() == 0
    # Controls: three slips that are easily made.
    assert not kl_is_right(lambda mu, log_var: 0.5 * (mu**2 + log_var.exp() - log_var))
    assert not kl_is_right(lambda mu, log_var: 0.5 * (mu**2 + (0.5 * log_var).exp() - 1 - 0.5 * log_var))
    assert not kl_is_right(lambda mu, log_var: -0.5 * (mu**2 + log_var.exp() - 1 - log_var))


def test_gaussian_log_prob_is_the_library_s():
    torch.manual_seed(0)
    z, mu, log_var = torch.randn(3, 7, 4).double()
    assert torch.allclose(vae.gaussian_log_prob(z, mu, log_var), Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum(1))


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("size", [(3, 3), (2, 4)])
def test_probabilities_of_all_images_sum_to_one(conditional, size):
    torch.manual_seed(0)
    model = vae.VAE(size, z_size=1, width=16, depth=2, conditional=conditional).double()
    x = all_images(*size)
    y = torch.full((len(x),), 3) if conditional else None
    with torch.no_grad():
        assert exact_log_prob(model, x, y).exp().sum().item() == pytest.approx(1, abs=1e-8)


@torch.no_grad()
def bounds_are_ordered(model, draws=20000):
    """ELBO < L_3 < L_10 < log p, each as a mean over many draws, each by 5 standard errors."""
    x = all_images()[[37, 200, 511]]
    exact = exact_log_prob(model, x)
    many = x.repeat_interleave(draws, 0)  # (3·draws, 1, 3, 3)
    g = torch.Generator().manual_seed(0)
    means, errors = [], []
    for bound in (model.elbo(many, generator=g), model.log_prob_bound(many, 3, generator=g),
                  model.log_prob_bound(many, 10, generator=g)):
        bound = bound.view(3, draws)
        means.append(bound.mean(1)), errors.append(bound.std(1) / math.sqrt(draws))
    means.append(exact), errors.append(torch.zeros(3).double())
    return all((b - a > 5 * (ea**2 + eb**2).sqrt()).all() for a, b, ea, eb in
               zip(means, means[1:], errors, errors[1:]))


def test_elbo_below_importance_weighted_bound_below_log_p(monkeypatch):
    assert bounds_are_ordered(small_vae(wrong_q=0.7))
    model = small_vae(wrong_q=0.7, strength=1)
    assert bounds_are_ordered(model)
    # Control: forget the KL and the "bound" lies above log p.
    monkeypatch.setattr(vae, "kl_to_prior", lambda mu, log_var: 0 * mu)
    assert not bounds_are_ordered(model)
    monkeypatch.undo()
    # Control: forget log q in the weights.
    plain = vae.gaussian_log_prob
    monkeypatch.setattr(vae, "gaussian_log_prob", lambda z, mu, log_var: plain(z, mu, log_var) * (mu == 0).all())
    assert not bounds_are_ordered(model)


@torch.no_grad()
def weights_are_unbiased(model):
    """E[w] = p(x), equation (4), whatever q is: within 5 standard errors."""
    x = all_images()[[37, 200]]
    w = model.log_prob_bound(x.repeat_interleave(100000, 0), 1, generator=torch.Generator().manual_seed(0)).exp().view(2, -1)
    error = w.std(1) / math.sqrt(w.shape[1])
    return ((w.mean(1) - exact_log_prob(model, x).exp()).abs() < 5 * error).all().item()


def test_importance_weights_are_unbiased(monkeypatch):
    model = small_vae(wrong_q=0.3)
    assert weights_are_unbiased(model)
    plain = vae.gaussian_log_prob
    monkeypatch.setattr(vae, "gaussian_log_prob", lambda z, mu, log_var: plain(z, mu, log_var) + 0.5 * log_var.sum(1))
    assert not weights_are_unbiased(model)  # control: σ forgotten in the density of q


@torch.no_grad()
def test_the_gap_of_the_elbo_is_a_kl():
    """Equation (6): log p(x) − ELBO = KL(q(z|x) ‖ p(z|x)), all three by sums over a grid."""
    model = small_vae(wrong_q=0.5)
    x = all_images()[[100]]
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)[:, None]
    log_px_z = vae.bernoulli_log_prob(model.decode(z), x.expand(len(z), -1, -1, -1))
    mu, log_var = model.encode(x)
    q = vae.gaussian_log_prob(z, mu.expand_as(z), log_var.expand_as(z))
    log_px = exact_log_prob(model, x)
    log_posterior = log_px_z + Normal(0.0, 1.0).log_prob(z[:, 0]) - log_px
    gap = (q.exp() * (q - log_posterior)).sum() * 24 / 4800
    elbo = (q.exp() * log_px_z).sum() * 24 / 4800 - vae.kl_to_prior(mu, log_var).sum()
    assert gap.item() == pytest.approx((log_px - elbo).item(), abs=1e-8)
    assert gap > 0.01  # and it is not zero for a q that is wrong
    # elbo() estimates that number: 5 standard errors.
    draws = model.elbo(x.repeat(20000, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    assert abs(draws.mean() - elbo) < 5 * draws.std() / math.sqrt(20000)


def test_curves_of_bounds_agree_with_the_bound():
    model, x = small_vae(wrong_q=0.3, strength=1).float(), all_images()
    with torch.no_grad():
        posterior, naive = vae.bounds_by_samples(model, x, None, 300, batch=512)
        exact = -exact_log_prob(small_vae(strength=1), x).mean().item()
        assert posterior[0] > posterior[9] > posterior[-1] > exact - 0.01 and posterior[-1] == pytest.approx(exact, abs=0.02)
        assert naive[-1] == pytest.approx(exact, abs=0.05)
        assert posterior[4] == pytest.approx(vae.evaluate_bound(model, x, None, 5), abs=0.05)


# --------------------------------------------------------------------------------------------- gradients


def gradient_reaches_encoder(model):
    x = all_images()[:32]
    log_px_z, _ = model.elbo_terms(x)
    model.zero_grad()
    log_px_z.sum().backward()
    grad = model.encoder.first.weight.grad
    return grad is not None and grad.abs().sum().item() > 0


def test_gradients_flow_through_z(monkeypatch):
    assert gradient_reaches_encoder(small_vae())
    # Control: without the reparameterization (z drawn, then cut from the graph) the encoder learns nothing from the picture.
    encode = vae.VAE.encode
    monkeypatch.setattr(vae.VAE, "encode", lambda self, x, y=None, dropout=0.0: tuple(t.detach() for t in encode(self, x, y)))
    with pytest.raises(RuntimeError):
        model = small_vae()
        for p in model.decoder.parameters():
            p.requires_grad_(False)
        gradient_reaches_encoder(model)


def test_gradient_of_the_elbo_is_the_gradient_of_its_mean():
    """The reparameterized gradient, averaged over draws, against finite differences of E_q[log p(x|z)] on a grid."""
    model = small_vae()
    x = all_images()[[100]]
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)[:, None]

    def mean_by_grid(shift):
        with torch.no_grad():
            mu, log_var = model.encode(x)
            q = vae.gaussian_log_prob(z, (mu + shift).expand_as(z), log_var.expand_as(z)).exp()
            return ((q * vae.bernoulli_log_prob(model.decode(z), x.expand(len(z), -1, -1, -1))).sum() * 24 / 4800).item()

    expected = (mean_by_grid(1e-4) - mean_by_grid(-1e-4)) / 2e-4
    n = 20000
    many = x.repeat(n, 1, 1, 1)
    shift = torch.zeros(n, 1, dtype=torch.float64, requires_grad=True)
    encode = model.encode
    model.encode = lambda x, y=None, dropout=0.0: (encode(x, y)[0] + shift, encode(x, y)[1])
    log_px_z, _ = model.elbo_terms(many, generator=torch.Generator().manual_seed(0))
    grads, = torch.autograd.grad(log_px_z.sum(), shift)
    assert abs(grads.mean().item() - expected) < 5 * grads.std().item() / math.sqrt(n)
    assert abs(expected) > 10 * grads.std().item() / math.sqrt(n)  # control: zero would be told apart


def test_gradient_estimators_are_unbiased_and_one_is_much_quieter():
    (score, score_var), (baseline, baseline_var), (reparameterized, reparameterized_var) = vae.gradient_variances()
    assert abs(baseline - 1) < 5 * math.sqrt(baseline_var / 20000)
    assert abs(score - 1) < 5 * math.sqrt(score_var / 20000)
    assert abs(reparameterized - 1) < 5 * math.sqrt(reparameterized_var / 20000)
    assert score_var > 10 * baseline_var > 100 * reparameterized_var


# ---------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("conditional", [False, True])
def test_sampled_frequencies_match_probabilities(conditional):
    """χ² over the 512 images of 3×3; and, as control, against another model's probabilities."""
    model, other = small_vae(conditional), small_vae(conditional)
    with torch.no_grad():
        other.decoder.last.bias.add_(0.1)
    n, x = 50000, all_images()
    y = torch.full((n,), 7) if conditional else None
    draws = model.sample(n, y, torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {0, 1}
    index = (draws.flatten(1).long() << torch.arange(9)).sum(1)
    counts = torch.bincount(index, minlength=512).double()

    def z_score(m):
        with torch.no_grad():
            expected = n * exact_log_prob(m, x, None if y is None else y[:512]).exp()
        rare = expected < 5  # χ² wants cells that are not too small: the rest is one cell
        seen = torch.cat([counts[~rare], counts[rare].sum()[None]])
        want = torch.cat([expected[~rare], expected[rare].sum()[None]])
        return (((seen - want) ** 2 / want).sum() - (len(want) - 1)) / math.sqrt(2 * (len(want) - 1))

    assert abs(z_score(model)) < 5
    assert z_score(other) > 10


def test_the_label_matters_to_both_networks():
    model = small_vae(conditional=True)
    x, y = all_images()[:8], torch.arange(8)
    assert not torch.allclose(model.encode(x, y)[0], model.encode(x, y + 1)[0])
    z = torch.zeros(8, 1).double()
    assert not torch.allclose(model.decode(z, y), model.decode(z, y + 1))


def test_labels_are_asked_for_and_refused():
    x, y = all_images()[:4], torch.arange(4)
    for call in ("elbo", "sample", "log_prob_bound"):
        first = 4 if call == "sample" else x
        more = (2,) if call == "log_prob_bound" else ()
        getattr(small_vae(), call)(first, *more)
        getattr(small_vae(True), call)(first, *more, y=y)
        with pytest.raises(ValueError, match="needs y"):
            getattr(small_vae(True), call)(first, *more)
        with pytest.raises(ValueError, match="takes no y"):
            getattr(small_vae(), call)(first, *more, y=y)


@pytest.mark.parametrize("size, n", [(28, 1), (5, 7), ((6, 9), 3)])
def test_shapes_for_any_size_and_number(size, n):
    model = vae.VAE(size, z_size=3, width=8, depth=1)
    height, width = (size, size) if isinstance(size, int) else size
    x = model.sample(n)
    assert x.shape == (n, 1, height, width) and x.dtype == torch.float32
    assert model.elbo(x).shape == model.log_prob_bound(x, 2).shape == (n,)
    g = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert torch.equal(model.sample(n, generator=g[0]), model.sample(n, generator=g[1]))


def test_evaluation_is_repeatable_and_leaves_the_generator_alone():
    model, x = vae.VAE(4, z_size=2, width=8, depth=1), torch.ones(2500, 1, 4, 4, dtype=torch.uint8)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = vae.evaluate(model, x, None)
    assert torch.equal(before, torch.get_rng_state())
    assert first == vae.evaluate(model, x, None)
    log_px_z, kl = first
    with torch.no_grad():
        draws = torch.stack([-model.elbo(x[:1000].float()).mean() for _ in range(50)])
    assert kl - log_px_z == pytest.approx(draws.mean().item(), abs=5 * draws.std().item())  # 2500, not a multiple of 1000


def test_dropout_is_in_the_loss_alone():
    x = all_images()[::7]
    torch.manual_seed(0)
    model, plain = vae.VAE(3, z_size=2, width=16, depth=2, dropout=0.5).double(), vae.VAE(3, z_size=2, width=16, depth=2).double()
    plain.load_state_dict(model.state_dict())
    for f in (lambda m: m.elbo(x, generator=torch.Generator().manual_seed(0)), lambda m: m.sample(20, None, torch.Generator().manual_seed(0)),
              lambda m: m.log_prob_bound(x, 3, generator=torch.Generator().manual_seed(0))):
        assert torch.equal(f(model), f(plain))

    def difference(one, other):  # from the same ε: what is left is the units that were silenced
        noise = torch.zeros(len(x), 2, dtype=torch.float64)
        with pytest.MonkeyPatch.context() as m:
            m.setattr(vae, "randn_like", lambda t, generator=None: noise)
            return abs(one.loss(x).item() - other.loss(x).item())

    assert difference(plain, plain) == 0 < difference(model, model) and difference(model, plain) > 0


def test_overfits_one_batch():
    """Eight images by heart: −log p(x) has to fall far below anything that generalises, towards log 8 ≈ 2.1 nats."""
    torch.manual_seed(0)
    model = vae.VAE(10, z_size=4, width=64, depth=2)
    x = (torch.rand(8, 1, 10, 10) < 0.5).float()  # noise: 69 nats for any model that has not seen it
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(600):
        loss = -model.elbo(x.repeat(4, 1, 1, 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 8
    assert Counter(map(tuple, model.sample(100).flatten(1).long().tolist())).keys() & set(map(tuple, x.flatten(1).long().tolist()))
