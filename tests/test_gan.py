"""The mathematics of gan.py and the scores of compare.py, each with a control: a version that is wrong on purpose and has to fail."""
import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import compare
import gan
import utils


def players(seed=0, norm=True, size=8, channels=4, **flags):
    torch.manual_seed(seed)
    return gan.Generator(size, 3, channels, **flags), gan.Discriminator(size, channels, norm, **flags)


def optimizers(G, D, lr=1e-2):
    return [torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999)) for network in (G, D)]


def weights(network):
    return [p.detach().clone() for p in network.parameters()]


def moved(network, before):
    return [not torch.equal(p, q) for p, q in zip(network.parameters(), before)]


# -------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("kind", ["ns", "wgan-gp"])
@pytest.mark.parametrize("conditional", [False, True])
def test_each_step_changes_its_own_network_only(kind, conditional):
    G, D = players(norm=kind == "ns", conditional=conditional)
    opt_G, opt_D = optimizers(G, D)
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10 if conditional else None
    for _ in range(3):
        g, d = weights(G), weights(D)
        gan.discriminator_step(G, D, opt_D, x, y, kind, 10.0)
        # A bias in front of a batch norm, and the last one of a critic, have no gradient.
        assert not any(moved(G, g)) and sum(moved(D, d)) > len(d) / 2
        d = weights(D)
        gan.generator_step(G, D, opt_G, 16, y, kind)
        assert not any(moved(D, d)) and all(moved(G, g))


def test_the_step_of_D_leaves_no_gradient_on_G():
    """Else G's own step would add to it (if it did not set it to zero first: two nets under one trapeze)."""
    G, D = players()
    opt_G, opt_D = optimizers(G, D)
    gan.discriminator_step(G, D, opt_D, torch.rand(16, 1, 8, 8), None, "ns", 0.0)
    assert all(p.grad is None for p in G.parameters())
    gan.discriminator_loss(D(torch.rand(16, 1, 8, 8)), D(G(G.noise(16)))).backward()  # control: without no_grad()
    assert all(p.grad.abs().sum() > 0 for p in G.parameters())


def test_one_optimizer_for_both_would_be_caught():
    """Control: G is in D's optimiser, and D's step draws with gradients."""
    G, D = players()
    both = torch.optim.Adam([*G.parameters(), *D.parameters()], lr=1e-2)
    g = weights(G)
    both.zero_grad()
    gan.discriminator_loss(D(torch.rand(16, 1, 8, 8)), D(G(G.noise(16)))).backward()
    both.step()
    assert any(moved(G, g))


def test_each_step_goes_the_right_way():
    """D's raises D(x) and lowers D(G(z)); G's raises D(G(z))."""
    for kind in ("ns", "wgan-gp"):
        G, D = players(norm=False)
        opt_G, opt_D = optimizers(G, D, lr=1e-3)
        x, z = torch.rand(64, 1, 8, 8), G.noise(64, torch.Generator().manual_seed(0))

        def gap():
            with torch.no_grad():
                return D(x).mean().item(), D(G(z)).mean().item()

        real, fake = gap()
        for _ in range(5):
            gan.discriminator_step(G, D, opt_D, x, None, kind, 0.0)
        assert gap()[0] - gap()[1] > real - fake
        fake = gap()[1]
        for _ in range(5):
            gan.generator_step(G, D, opt_G, 64, None, kind)
        assert gap()[1] > fake


class Black(nn.Module):
    """A generator of black images that notes the labels it is given."""

    def __init__(self):
        super().__init__()
        self.p, self.labels = nn.Parameter(torch.zeros(1)), []

    def noise(self, n):
        return torch.zeros(n, 1, 8, 8)

    def forward(self, z, y=None):
        self.labels.append(y)
        return z + self.p


class Noting(nn.Module):
    """A discriminator that notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.p, self.shown = nn.Parameter(torch.zeros(1)), []

    def forward(self, x, y=None):
        self.shown.append((x.detach(), y))
        return x.mean(dim=(1, 2, 3)) * self.p


def test_all_that_D_sees_has_noise_and_the_right_label():
    torch.manual_seed(0)
    G, D, y = Black(), Noting(), torch.arange(50) % 10
    opt_G, opt_D = optimizers(G, D, lr=1e-9)
    gan.discriminator_step(G, D, opt_D, torch.zeros(50, 1, 8, 8), y, "ns", 0.0, 0.5)
    gan.generator_step(G, D, opt_G, 50, y, "ns", 0.5)
    assert len(D.shown) == 3  # real, drawn, drawn
    for x, label in D.shown:
        assert abs(x.mean()) < 0.05 and x.std().item() == pytest.approx(0.5, rel=0.05) and x.abs().max() > 1 and torch.equal(label, y)
    assert all(torch.equal(label, y) for label in G.labels) and len(G.labels) == 2
    D.shown.clear()
    gan.discriminator_step(G, D, opt_D, torch.zeros(50, 1, 8, 8), y, "ns", 0.0)  # control: without
    assert all(x.std() < 1e-6 for x, _ in D.shown)


def test_the_penalty_is_weighed_and_added(monkeypatch):
    """A penalty that is the last bias of the critic, which (9) itself does not depend on: its gradient is λ."""
    G, D = players(norm=False)
    opt_G, opt_D = optimizers(G, D)
    mixes = []

    def penalty(critic, real, fake, mix):
        mixes.append(mix)
        return D.last.bias.sum()

    monkeypatch.setattr(gan, "gradient_penalty", penalty)
    gan.discriminator_step(G, D, opt_D, torch.rand(16, 1, 8, 8), None, "wgan-gp", 7.0)
    assert D.last.bias.grad.item() == pytest.approx(7.0)
    assert mixes[0].shape == (16, 1, 1, 1) and len(mixes[0].unique()) == 16 and 0 <= mixes[0].min() and mixes[0].max() < 1


@pytest.mark.parametrize("loss", ["ns", "wgan-gp"])
def test_the_loop_gives_each_step_its_own_optimizer(small, monkeypatch, loss):
    """Who is trained by what, how often, with how much noise; and an average that is short at first."""
    calls = []

    def noting(name, network, optimizer, noise):
        def step(*args):
            owned = {id(p) for group in args[optimizer].param_groups for p in group["params"]}
            assert owned == {id(p) for p in args[network].parameters()}
            calls.append((name, args[noise]))
            return plain[name](*args)
        return step

    plain = {"D": gan.discriminator_step, "G": gan.generator_step}
    monkeypatch.setattr(gan, "discriminator_step", noting("D", 1, 2, 7))
    monkeypatch.setattr(gan, "generator_step", noting("G", 0, 2, 6))
    decays, follow = [], gan.follow
    monkeypatch.setattr(gan, "follow", lambda average, G, decay: (decays.append(decay), follow(average, G, decay)))
    gan.main(["--steps", "3", "--batch-size", "8", "--loss", loss])
    noise, rhythm = (gan.NOISE, "DG") if loss == "ns" else (0.0, "D" * gan.CRITIC_STEPS + "G")
    assert "".join(name for name, _ in calls) == 3 * rhythm and all(n == noise for _, n in calls)
    assert decays == pytest.approx([1 / 10, 2 / 11, 3 / 12])


def test_losses_of_a_discriminator_that_tosses_coins():
    half = torch.zeros(7)  # logits: D = ½
    assert gan.discriminator_loss(half, half).item() == pytest.approx(2 * math.log(2))
    assert gan.generator_loss(half).item() == pytest.approx(math.log(2))
    real, fake = torch.randn(2, 50).double()
    p, q = real.sigmoid(), fake.sigmoid()
    assert gan.discriminator_loss(real, fake).item() == pytest.approx(-(p.log().mean() + (1 - q).log().mean()).item())
    assert gan.generator_loss(fake).item() == pytest.approx(-q.log().mean().item())
    assert gan.discriminator_loss(real, fake, "wgan-gp").item() == pytest.approx((fake.mean() - real.mean()).item())
    assert gan.generator_loss(fake, "wgan-gp").item() == pytest.approx(-fake.mean().item())
    assert torch.isfinite(gan.discriminator_loss(-torch.full((1,), 1e4), torch.full((1,), 1e4)))


def test_the_best_discriminator_is_a_ratio_and_its_value_a_divergence():
    """(2) and (3) on three points: gradient descent on the loss finds p / (p + p_G), and its loss is 2 log 2 − 2 JSD."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    s = torch.zeros(3).double().requires_grad_()
    optimizer = torch.optim.Adam([s], lr=0.05)
    for _ in range(1000):
        loss = (p * F.softplus(-s) + q * F.softplus(s)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(s.sigmoid(), p / (p + q), atol=1e-3)
    m = (p + q) / 2
    jsd = ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2
    assert loss.item() == pytest.approx(2 * math.log(2) - 2 * jsd.item(), abs=1e-5)


def test_gradients_of_both_generator_losses():
    for p, minimax, ns in gan.gradient_by_loss((0.01, 0.1, 0.5, 0.9, 0.99)):
        assert minimax == pytest.approx(p) and ns == pytest.approx(1 - p)
    s = torch.tensor([-4.0]).requires_grad_()
    assert torch.autograd.grad(gan.generator_loss(s), s)[0].item() < 0  # going down the loss raises s: D is to say "real"


# ---------------------------------------------------------------------------------------------- Wasserstein


def test_gradient_penalty_of_known_slopes():
    """0 for a critic whose slope is 1 everywhere, 1 for slope 2, 1 for slope 0."""
    direction = F.normalize(torch.randn(64), dim=0)
    real, fake, mix = torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8), torch.rand(5, 1, 1, 1)
    for slope, expected in ((1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (3.0, 4.0)):
        found = gan.gradient_penalty(lambda x: slope * x.flatten(1) @ direction, real, fake, mix)
        assert found.item() == pytest.approx(expected, abs=1e-5)


def test_the_penalty_is_taken_between_real_and_drawn_and_has_a_gradient():
    seen = []

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4))

        def forward(self, x):
            seen.append(x.detach())
            return x.flatten(1) @ self.w

    critic, real, fake = Critic(), torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    penalty = gan.gradient_penalty(critic, real, fake, torch.tensor([0.25, 0.75]).view(2, 1, 1, 1))
    assert penalty.item() == pytest.approx(1.0)  # slope ‖w‖ = 2
    assert seen[0][0].unique().item() == 0.75 and seen[0][1].unique().item() == 0.25
    assert (torch.autograd.grad(penalty, critic.w)[0] > 0).all()  # a smaller slope is a smaller penalty


def test_the_critic_has_no_batch_norm(monkeypatch):
    """With it the gradient with respect to one image would depend on the others: no slope at all."""
    built = []
    init = gan.Discriminator.__init__

    def noting(self, *args, **flags):
        init(self, *args, **flags)
        built.append(self)

    monkeypatch.setattr(gan.Discriminator, "__init__", noting)

    class Enough(Exception):
        pass

    def stop(*args):
        raise Enough

    monkeypatch.setattr(gan, "train", stop)
    for loss in ("ns", "wgan-gp"):
        with pytest.raises(Enough):
            gan.main(["--loss", loss])
    kinds = [any(isinstance(m, nn.BatchNorm2d) for m in D.modules()) for D in built]
    assert kinds == [True, False]

    def slope_of_first(D, others):
        x = torch.cat([torch.zeros(1, 1, 8, 8), others]).requires_grad_()
        return torch.autograd.grad(D(x)[0], x)[0][0]

    a, b = torch.rand(2, 3, 1, 8, 8)
    for norm, same in ((False, True), (True, False)):
        _, D = players(norm=norm)
        assert torch.allclose(slope_of_first(D, a), slope_of_first(D, b)) == same


# -------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("conditional", [False, True])
def test_an_image_depends_on_its_own_noise_only(conditional):
    G, _ = players(conditional=conditional)
    for _ in range(3):
        G(torch.randn(20, 3), torch.arange(20) % 10 if conditional else None)  # batch norm has seen something
    z, y = torch.randn(6, 3), torch.arange(6) if conditional else None
    other = torch.cat([z[:3], torch.randn(3, 3)])
    G.eval()
    assert torch.allclose(G(z, y)[:3], G(other, y)[:3], atol=1e-6) and not torch.allclose(G(z, y)[3:], G(other, y)[3:], atol=1e-3)
    G.train()  # control: in training mode neighbours matter
    assert not torch.allclose(G(z, y)[:3], G(other, y)[:3], atol=1e-3)
    # sample() sees to it by itself, and leaves the mode as it was.
    drawn, z = G.sample(6, y, torch.Generator().manual_seed(0)), G.noise(6, torch.Generator().manual_seed(0))
    assert G.training
    G.eval()
    assert torch.allclose(drawn[:3], G(z[:3], None if y is None else y[:3]), atol=1e-6)
    assert drawn.min() >= 0 and drawn.max() <= 1 and not drawn.requires_grad


def test_labels_are_asked_for_and_refused():
    G, D = players(conditional=True)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    with pytest.raises(ValueError, match="needs y"):
        G.sample(4)
    with pytest.raises(ValueError, match="needs y"):
        D(x)
    z = G.noise(4)
    assert not torch.allclose(G.eval()(z, y), G.eval()(z, y + 1))
    D.label.weight.data.normal_()
    assert not torch.isclose(D(x, y), D(x, y + 1)).any()
    G, D = players()
    with pytest.raises(ValueError, match="takes no y"):
        G.sample(4, y)
    with pytest.raises(ValueError, match="takes no y"):
        D(x, y)


@pytest.mark.parametrize("size, n", [(28, 1), (8, 7), ((12, 20), 3), (4, 2)])
def test_shapes_for_any_size_that_can_be_halved_twice(size, n):
    G, D = gan.Generator(size, 5, 4), gan.Discriminator(size, 4)
    height, width = (size, size) if isinstance(size, int) else size
    x = G.sample(n)
    assert x.shape == (n, 1, height, width) and D.eval()(x).shape == (n,)
    with pytest.raises(ValueError, match="30×28"):
        gan.Generator((30, 28))


def test_the_average_is_an_average():
    G, _ = players()
    average = copy.deepcopy(G)
    with torch.no_grad():
        for p in G.parameters():
            p.add_(1.0)
    G(torch.randn(10, 3))  # moves the statistics of the batch norms
    before = copy.deepcopy(average.state_dict())
    gan.follow(average, G, 0.9)
    for name, value in average.state_dict().items():
        new = G.state_dict()[name]
        assert torch.allclose(value, 0.9 * before[name] + 0.1 * new) if value.is_floating_point() else torch.equal(value, new)
    assert all(not torch.equal(average.state_dict()[name], before[name]) for name in ("first.weight", "norm_1.running_mean"))


def test_the_sphere_keeps_the_length_and_the_straight_line_does_not():
    a, b = torch.tensor([3.0, 0, 0]), torch.tensor([0, 3.0, 0])
    t = torch.linspace(0, 1, 5)
    z = gan.sphere(a, b, t)
    assert torch.allclose(z[0], a, atol=1e-5) and torch.allclose(z[-1], b, atol=1e-5)
    assert torch.allclose(z.norm(dim=1), torch.full((5,), 3.0))
    assert torch.allclose(z[2], torch.tensor([1.0, 1, 0]) * 3 / math.sqrt(2))
    assert ((a + b) / 2).norm().item() == pytest.approx(3 / math.sqrt(2))
    assert torch.allclose(gan.sphere(a, a, t), a.expand(5, 3), atol=1e-3)
    assert torch.isfinite(gan.sphere(a, -a, t)).all() and gan.sphere(a, -a, t).norm(dim=1).max() < 3.01


# --------------------------------------------------------------------------------------------------- coverage


class Plane(nn.Sequential):
    """A generator or a discriminator for points of the plane, with the calls of those for images."""

    def __init__(self, n_in, n_out):
        super().__init__(nn.Linear(n_in, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, n_out))
        self.n_in = n_in

    def noise(self, n, generator=None):
        return torch.randn(n, self.n_in, generator=generator)

    def forward(self, u, y=None):
        out = super().forward(u)
        return out if out.shape[1] == 2 else out[:, 0]


def modes_covered(steps=1500, steps_of_G=1, seed=0):
    """How many of eight Gaussians on a circle get at least 3 % of the draws, after a game with the chapter's own steps."""
    torch.manual_seed(seed)
    angle = torch.arange(8) * math.pi / 4
    centres = torch.stack([angle.cos(), angle.sin()], dim=1) * 2
    G, D = Plane(8, 2), Plane(2, 1)
    opt_G, opt_D = optimizers(G, D, lr=1e-3)
    for _ in range(steps):
        x = centres[torch.randint(8, (256,))] + 0.1 * torch.randn(256, 2)
        gan.discriminator_step(G, D, opt_D, x, None, "ns", 0.0)
        for _ in range(steps_of_G):
            gan.generator_step(G, D, opt_G, 256, None, "ns")
    with torch.no_grad():
        distance = torch.cdist(G(G.noise(4000)), centres)
    near = distance.min(dim=1).values < 0.5
    return int((torch.bincount(distance.argmin(dim=1)[near], minlength=8) > 120).sum())


def test_a_mixture_of_eight_is_covered():
    assert modes_covered() == 8


def test_a_generator_that_runs_ahead_collapses():
    """Control: twenty steps of G for each of D, and it sits on what D believes at the moment. Later it has moved, and covers no more."""
    assert modes_covered(steps=300, steps_of_G=20) < 5 and modes_covered(steps=400, steps_of_G=20) < 5


def test_discriminator_overfits_one_batch_and_the_generator_finds_it():
    """One real image, over and over: D tells it from first drawings, and G ends by drawing it."""
    G, D = players(channels=8)
    opt_G, opt_D = optimizers(G, D, lr=2e-3)
    image = (torch.rand(1, 1, 8, 8) < 0.5).float()
    x = image.repeat(32, 1, 1, 1)
    first = (G.sample(8) - image).abs().mean().item()
    for _ in range(300):
        gan.discriminator_step(G, D, opt_D, x, None, "ns", 0.0)
        gan.generator_step(G, D, opt_G, 32, None, "ns")
    assert (G.sample(8) - image).abs().mean().item() < first / 4


# ------------------------------------------------------------------------------------------------------ scores


def test_frechet_distance_of_known_gaussians():
    torch.manual_seed(0)
    a = torch.randn(200000, 3).double()
    assert utils.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # N(0, I) and N(m, diag s²): ‖m‖² + Σ (1 − s)².
    b = torch.randn(200000, 3).double() * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([1.0, 0.0, -2.0])
    assert utils.frechet_distance(a, b) == pytest.approx(5 + 0 + 1 + 0.25, rel=0.02)
    # Covariances that do not commute: by another road, the matrix square root of scipy's kind, from eigenvalues of AB.
    mix = torch.randn(2, 3, 3).double()
    c, d = a @ mix[0], b @ mix[1]
    A, B = torch.cov(c.T), torch.cov(d.T)
    expected = (c.mean(0) - d.mean(0)).square().sum() + (A + B).trace() - 2 * torch.linalg.eigvals(A @ B).real.sqrt().sum()
    assert utils.frechet_distance(c, d) == pytest.approx(expected.item(), rel=1e-6)
    assert utils.frechet_distance(c, d) == pytest.approx(utils.frechet_distance(d, c), rel=1e-6)


def test_precision_and_recall_of_constructed_clouds():
    torch.manual_seed(0)
    left, right = torch.randn(300, 2).double(), torch.randn(300, 2).double() + 100
    both = torch.cat([left, right])

    def precision_recall(draws, real):
        return utils.within_manifold(draws, real, 3), utils.within_manifold(real, draws, 3)

    assert precision_recall(both, both) == (1.0, 1.0)
    precision, recall = precision_recall(torch.randn(300, 2).double(), both)  # collapsed to the left cloud
    assert precision > 0.9 and recall < 0.55
    precision, recall = precision_recall(both + 1000, both)
    assert precision == recall == 0
    # By hand: balls around 0, 1, 2, 10 that reach to the second neighbour: 2, 1, 2, 9.
    support = torch.tensor([[0.0], [1], [2], [10]]).double()
    points = torch.tensor([[-2.0], [-2.1], [4], [19], [19.1]]).double()
    assert utils.within_manifold(points, support, 2) == pytest.approx(3 / 5)


@pytest.fixture(scope="module")
def digits():
    """The small set, and the judge."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(utils, "download_mnist", lambda data_dir: "tests are offline")
        return utils.load_mnist("nowhere"), utils.load_judge()


def test_the_judge_reads_digits_it_ships_with(digits):
    """The small set's test digits: of MNIST's training images, so this says that the file is whole, and no more."""
    data, judge = digits
    for x in (data.test, data.x_test):
        assert (utils.judged(judge, x)[1] == data.test_labels).double().mean() > 0.98
    features, _ = utils.judged(judge, data.test)
    assert features.shape == (500, 64) and features.dtype == torch.float64
    again = utils.judged(judge, data.test.float() / 255)[0]  # as grey levels or in [0, 1]: the same
    assert torch.allclose(features, again, atol=1e-5)


def test_scores_of_real_digits_of_one_class_and_of_noise(digits):
    data, judge = digits
    real = utils.scores(judge, data.train[:500], data.test)
    one = utils.scores(judge, data.train[data.train_labels == 3], data.test)
    noise = utils.scores(judge, torch.rand(500, 1, 28, 28), data.test)
    itself = utils.scores(judge, data.test, data.test)
    assert itself["frechet"] == pytest.approx(0, abs=1e-6) and itself["precision"] == itself["recall"] == 1
    assert real["frechet"] < 10 < 3 * real["frechet"] + 10 < one["frechet"] and real["precision"] > 0.6 and real["recall"] > 0.6
    assert one["recall"] < 0.3 and one["precision"] > 0.5 and one["shares"][3] > 0.97
    assert noise["frechet"] > 50 and noise["precision"] < 0.1
    assert sum(real["shares"]) == pytest.approx(1) and max(real["shares"]) < 0.15


def test_scores_of_unequal_heaps_take_a_random_part_of_the_larger(digits):
    """Real digits sorted by class: the first 100 are 0 and 1 only, and no nine lies among those."""
    data, judge = digits
    order = data.test_labels.sort(stable=True).indices
    nines = data.train[data.train_labels == 9][:100]
    assert utils.scores(judge, nines, data.test[order])["precision"] > 0.3
    assert utils.scores(judge, nines, data.test[order[:100]])["precision"] < 0.05  # control


def test_a_judge_can_be_trained_anew(digits):
    data, _ = digits
    judge = utils.train_judge(data, steps=150, batch_size=64)
    assert (utils.judged(judge, data.test)[1] == data.test_labels).double().mean() > 0.9
    assert not judge.training and not any(p.requires_grad for p in judge.parameters())


def test_compare_scores_files_beside_their_floor(digits, capsys):
    data, _ = digits
    np.save("grey.npy", data.val[:300, 0].numpy())
    np.save("bits.npy", data.x_val[:300, 0].float().numpy())
    compare.main(["--score", "grey.npy", "--json", "grey.json"])
    grey = json.loads(Path("grey.json").read_text())
    assert [(row["kind"], row["what"], row["n"]) for row in grey["rows"]] == [
        (kind, what, 300) for kind in ("grey", "binarized") for what in ("images", "real training digits")]
    compare.main(["--score", "bits.npy", "--json", "bits.json"])
    bits = json.loads(Path("bits.json").read_text())
    assert [row["kind"] for row in bits["rows"]] == ["binarized"] * 2 and bits["data"] == "mnist_5k"
    for row in grey["rows"] + bits["rows"]:
        assert 0 < row["frechet"] < 15 and row["precision"] > 0.5
    assert capsys.readouterr().out.count("real training digits") == 3


def test_compare_refuses_what_it_cannot_score(fails, monkeypatch):
    def bad(array, *words):
        np.save("bad.npy", array)
        fails(lambda: compare.main(["--score", "bad.npy"]), "bad.npy", *words)

    fails(lambda: compare.main([]), "no finished run")
    fails(lambda: compare.main(["--score", "no.npy"]), "no such file")
    fails(lambda: compare.main(["--score", "x.npy", "--train-judge"]), "one of the three")
    fails(lambda: compare.main(["--train-judge", "--json", "a.json"]), "--json")
    fails(lambda: compare.main(["--score", "x.npy", "--json", "."]), "--json", "cannot be written")
    fails(lambda: compare.main(["--score", "x.npy", "--json", ""]), "--json", "cannot be written")
    Path("text.npy").write_text("not an array")
    fails(lambda: compare.main(["--score", "text.npy"]), "not a readable")
    np.save("objects.npy", np.array([{}] * 3), allow_pickle=True)
    fails(lambda: compare.main(["--score", "objects.npy"]), "not a readable")
    np.savez("several.npz", a=np.zeros(3))
    fails(lambda: compare.main(["--score", "several.npz"]), "several arrays")
    bad(np.zeros((200, 32, 32)), "(200, 32, 32)", "(N, 28, 28)")
    bad(np.zeros((200, 3, 28, 28)), "(N, 28, 28)")
    bad(np.zeros((0, 28, 28)), "at least 100")
    bad(np.zeros((99, 28, 28)), "99 images")
    bad(np.full((200, 28, 28), np.nan), "not finite")
    bad(np.full((200, 28, 28), -1.0), "outside")
    bad(np.full((200, 28, 28), 1000), "outside")
    bad(np.full((200, 28, 28), 1.001), "outside", "clip")
    bad(np.full((200, 28, 28), "a"), "not numbers")
    np.save("good.npy", np.random.RandomState(0).rand(200, 28, 28))
    monkeypatch.setattr(utils, "JUDGE", Path("broken.pt"))
    Path("broken.pt").write_text("no weights")
    monkeypatch.setattr(utils.load_judge, "__defaults__", ("cpu", Path("broken.pt")))
    fails(lambda: compare.main(["--score", "good.npy"]), "broken.pt", "git checkout")


# -------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def small(monkeypatch):
    for name, value in (("CHANNELS", 4), ("EVAL_DRAWS", 80), ("TEST_DRAWS", 120)):
        monkeypatch.setattr(gan, name, value)


@pytest.mark.real_figures
def test_wgan_is_resumed_without_saying_so_and_has_no_likelihood(small):
    gan.main(["--loss", "wgan-gp", "--steps", "4", "--batch-size", "8", "--conditional"])
    folder = Path("runs/gan_wgan-gp_conditional")
    first = json.loads((folder / "metrics.json").read_text())
    assert first["likelihood"] == "none" and first["test_nats"] is None and first["bits_per_dim"] is None
    assert first["variant"] == "wgan-gp" and first["lr"] == gan.WGAN_LR and first["settings"]["CRITIC_STEPS"] == gan.CRITIC_STEPS
    assert 0 <= first["test_precision"] <= 1 and len(first["test_shares"]) == 10 and 0 <= first["test_label_agreement"] <= 1
    (folder / "metrics.json").unlink()
    gan.main(["--resume", "--out", str(folder)])
    assert json.loads((folder / "metrics.json").read_text())["test_frechet"] == first["test_frechet"]
    for picture in ("samples", "progress", "loss", "losses", "interpolation", "neighbours", "shares"):
        assert (folder / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"


def test_the_history_has_every_step(small):
    gan.main(["--steps", "6", "--batch-size", "8"])
    rows = torch.load("runs/gan/checkpoint.pt", weights_only=True)["parts"]["history"]["rows"]
    assert rows.shape == (6, 4) and (rows[:, :2] > 0).all() and ((rows[:, 2:] > 0) & (rows[:, 2:] < 1)).all()


def test_flags_that_do_not_exist(small, fails):
    fails(lambda: gan.main(["--loss", "hinge"]), "--loss")
    fails(lambda: gan.main(["--z-size", "0"]), "--z-size")
    gan.main(["--steps", "2", "--batch-size", "8"])
    fails(lambda: gan.main(["--resume", "--out", "runs/gan", "--loss", "wgan-gp"]), "--loss ns", "not wgan-gp")


# ----------------------------------------------------------------------------------------------------- claims


def works_every_time(rows):
    """What the chapter claims of five seeds."""
    distances = [row["test_frechet"] for row in rows]
    return (sorted(row["seed"] for row in rows) == [0, 1, 2, 3, 4] and max(distances) <= 1.5 * min(distances)
            and all(row["test_precision"] >= 0.7 and row["test_recall"] >= 0.7 for row in rows)
            and all(0.05 <= min(row["test_shares"]) and max(row["test_shares"]) <= 0.2 for row in rows))


def test_the_committed_runs_of_five_seeds_are_as_claimed():
    rows = json.loads((Path(gan.__file__).parent / "samples" / "gan" / "seeds.json").read_text())
    assert works_every_time(rows)
    default = json.loads((Path(gan.__file__).parent / "samples" / "gan" / "metrics.json").read_text())
    assert rows[0]["steps"] == default["steps"] == gan.STEPS
    assert not works_every_time(rows[:4])  # controls
    assert not works_every_time([{**row, "test_precision": 0.69} for row in rows])
    assert not works_every_time([{**row, "test_shares": [0.04] + [0.96 / 9] * 9} for row in rows])
