"""The mathematics of gan.py, each with a control: a version that is wrong on purpose and fails."""
import contextlib
import copy
import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import checkpoint, values

import gan
import judge
import utils


def players(seed=0, norm=True, size=8, channels=4, **flags):
    torch.manual_seed(seed)
    G = gan.Generator(size, 3, channels, **flags)
    return G, gan.Discriminator(size, channels, norm, **flags)


def optimizers(G, D, lr=1e-2):
    return [torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999)) for network in (G, D)]


def weights(network):
    return [p.detach().clone() for p in network.parameters()]


def moved(network, before):
    return [not torch.equal(p, q) for p, q in zip(network.parameters(), before)]


# ------------------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("objective", ["ns", "wgan-gp"])
@pytest.mark.parametrize("conditional", [False, True])
def test_each_step_changes_its_own_network_only(objective, conditional):
    G, D = players(norm=objective == "ns", classes=10 * conditional)
    opt_G, opt_D = optimizers(G, D)
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10 if conditional else None
    for _ in range(3):
        g, d = weights(G), weights(D)
        gan.discriminator_step(G, D, opt_D, x, y, objective, 10.0)
        # A bias in front of a batch norm, and the last one of a critic, have no gradient.
        assert not any(moved(G, g)) and sum(moved(D, d)) > len(d) / 2
        d = weights(D)
        gan.generator_step(G, D, opt_G, 16, y, objective)
        assert not any(moved(D, d)) and all(moved(G, g))


def test_the_step_of_D_leaves_no_gradient_on_G():
    """Else G's own step would add to it (if it did not set it to zero first)."""
    G, D = players()
    opt_G, opt_D = optimizers(G, D)
    gan.discriminator_step(G, D, opt_D, torch.rand(16, 1, 8, 8), None, "ns", 0.0)
    assert all(p.grad is None for p in G.parameters())
    real, fake = D(torch.rand(16, 1, 8, 8)), D(G(G.noise(16)))
    gan.discriminator_loss(real, fake).backward()  # control: without no_grad()
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
    for objective in ("ns", "wgan-gp"):
        G, D = players(norm=False)
        opt_G, opt_D = optimizers(G, D, lr=1e-3)
        x, z = torch.rand(64, 1, 8, 8), G.noise(64, torch.Generator().manual_seed(0))

        def gap():
            with torch.no_grad():
                return D(x).mean().item(), D(G(z)).mean().item()

        real, fake = gap()
        for _ in range(5):
            gan.discriminator_step(G, D, opt_D, x, None, objective, 0.0)
        assert gap()[0] - gap()[1] > real - fake
        fake = gap()[1]
        for _ in range(5):
            gan.generator_step(G, D, opt_G, 64, None, objective)
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
        assert abs(x.mean()) < 0.05 and x.std().item() == pytest.approx(0.5, rel=0.05)
        assert x.abs().max() > 1 and torch.equal(label, y)
    assert all(torch.equal(label, y) for label in G.labels) and len(G.labels) == 2
    D.shown.clear()
    gan.discriminator_step(G, D, opt_D, torch.zeros(50, 1, 8, 8), y, "ns", 0.0)  # control: without
    assert all(x.std() < 1e-6 for x, _ in D.shown)


def test_the_penalty_is_weighed_and_added():
    """A critic of slope 3 everywhere: its penalty is (3 − 1)², and the gradient of λ times it with
    respect to the slope is 2·λ·(3 − 1); that of (6) itself is known as well."""
    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(3.0))

        def forward(self, x, y=None):
            return self.slope * x.flatten(1)[:, 0]

    G, critic, x = Black(), Critic(), torch.ones(16, 1, 8, 8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-9)
    for penalty in (7.0, 0.0):
        loss, real, fake, _ = gan.discriminator_step(G, critic, optimizer, x, None, "wgan-gp",
                                                     penalty)
        assert (loss, real, fake) == pytest.approx((-3.0, 3.0, 0.0), abs=1e-5)
        assert critic.slope.grad.item() == pytest.approx(-1 + 2 * penalty * 2, abs=1e-4)


def test_the_penalty_is_taken_at_a_place_of_its_own_for_each_image():
    """Real images are white and drawings black: what the critic is shown is the mix itself."""
    torch.manual_seed(0)
    G, critic, y = Black(), Noting(), torch.arange(16) % 10
    critic.p.data.fill_(1.0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-9)
    gan.discriminator_step(G, critic, optimizer, torch.ones(16, 1, 8, 8), y, "wgan-gp", 7.0)
    (real, _), (drawn, _), (between, labels) = critic.shown
    assert real.unique().tolist() == [1] and drawn.unique().tolist() == [0]
    mixes = between.flatten(1)
    assert torch.equal(labels, y) and torch.equal(mixes, mixes[:, :1].expand(16, 64))
    assert len(mixes.unique()) == 16 and 0 <= mixes.min() and mixes.max() < 1
    assert mixes.max() - mixes.min() > 0.5


def toy_digits(conditional=False):
    """A data set of which training sees one half, and whose test half may not be looked at."""
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError("training looked at the test set")

        __getitem__ = __len__ = lambda self, *args: self.__getattr__("…")

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (120, 1, 28, 28), generator=generator).to(torch.uint8)
    labels = torch.arange(120) % 10
    return SimpleNamespace(train=images[:60], val=images[60:], train_labels=labels[:60],
                           y_train=labels[:60] if conditional else None, test=Untouchable(),
                           x_test=Untouchable(), test_labels=Untouchable())


class Note:
    """In place of a Run: when it is asked to record, it keeps what it is given."""

    def __init__(self, flags, evaluate_at=()):
        self.settings, self.step = values(gan, f"--width 4 --eval-draws 80 {flags}"), 0
        self.device, self.evaluate_at, self.records = torch.device("cpu"), evaluate_at, []

    def load_judge(self):
        return judge.load_judge()

    def training(self, **parts):
        self.parts = parts
        return contextlib.nullcontext()

    def check_finite(self, **numbers):
        self.last = numbers

    def tick(self, loss, unit):
        self.step += 1
        return self.step in self.evaluate_at

    def record(self, train_nats, val_nats, model, picture, score, val_frechet):
        self.records.append((train_nats, val_nats, copy.deepcopy(model), score, val_frechet))
        self.picture = picture


def noted(flags, conditional=False, evaluate_at=()):
    """Train under a Note whose model's steps note what they are given -> note, model, calls."""
    note, calls = Note(flags, evaluate_at), []
    note.settings.conditional, note.settings.classes = conditional, 10 * conditional
    torch.manual_seed(0)
    model = gan.build(note.settings)

    def noting(name, step, network, noise):
        def noted_step(*args):
            owned = {id(p) for group in args[2].param_groups for p in group["params"]}
            assert owned == {id(p) for p in args[network].parameters()}  # its own optimizer
            figures = step(*args)
            calls.append(SimpleNamespace(name=name, args=args, noise=args[noise], found=figures,
                                         state=copy.deepcopy(args[network].state_dict())))
            return figures
        return noted_step

    model.discriminator_step = noting("D", gan.discriminator_step, 1, 7)
    model.generator_step = noting("G", gan.generator_step, 0, 6)
    history = gan.train(model, toy_digits(conditional), note)
    return note, model, calls, history


@pytest.mark.parametrize("loss", ["ns", "wgan-gp"])
def test_the_loop_gives_each_step_its_own_optimizer(loss):
    """Who is trained by what, how often, with how much noise, on what, and by which rate."""
    note, model, calls, _ = noted(
        f"--steps 4 --batch-size 8 --lr 0.01 --beta-1 0.3 --loss {loss}"
        + " --penalty 7" * (loss == "wgan-gp"), True)
    s = note.settings
    assert "".join(call.name for call in calls) == 4 * ("D" * s.critic_steps + "G")
    assert s.critic_steps == (1 if loss == "ns" else 2)
    assert all(call.noise == s.noise for call in calls) and (s.noise > 0) == (loss == "ns")
    images, train = [], toy_digits(True)
    for call in calls:
        if call.name == "D":
            x, y, objective, penalty = call.args[3:7]
            assert (objective, penalty) == (loss, s.penalty) and len(x) == 8
            images.append((x, y))
        else:  # as many drawings, with the labels of D's last batch, for the same game
            assert call.args[3] == 8 and torch.equal(call.args[4], images[-1][1])
            assert call.args[5] == loss
    assert s.penalty == (10 if loss == "ns" else 7)
    grey = train.train / 255
    for x, y in images:  # grey, from the training half, each with its label
        where = [(grey == image).flatten(1).all(dim=1).nonzero()[0, 0].item() for image in x]
        assert train.train_labels[where].tolist() == y.tolist()
    assert len({tuple(y.tolist()) for _, y in images}) > 1
    for name in ("opt_G", "opt_D"):
        group = note.parts[name].param_groups[0]
        assert group["lr"] == pytest.approx(0.01 / 4)  # at step 4
        assert group["betas"] == (0.3, 0.999)


def test_the_average_is_short_at_first_and_long_in_the_end():
    """The decay of step k is (k + 1) / (k + 10), and no more than --average."""
    for flags, decays in (("", [1 / 10, 2 / 11, 3 / 12]), ("--average 0.15", [0.1, 0.15, 0.15])):
        note, model, calls, _ = noted(f"--steps 3 --batch-size 8 --lr 0.05 {flags}")
        torch.manual_seed(0)
        start = mean = gan.build(note.settings).G.state_dict()
        for decay, new in zip(decays, [call.state for call in calls if call.name == "G"]):
            mean = {name: decay * mean[name] + (1 - decay) * new[name] for name in mean}
        for name in ("first.weight", "norm_1.running_var", "last.bias"):
            assert torch.allclose(model.average.state_dict()[name], mean[name], atol=1e-6)
            assert not torch.allclose(mean[name], start[name], atol=1e-3)  # control
            assert not torch.allclose(mean[name], model.G.state_dict()[name], atol=1e-4)


def test_the_history_tells_real_from_drawn_and_D_from_G():
    note, _, calls, history = noted("--steps 5 --batch-size 8")
    steps_of_D = [call.found for call in calls if call.name == "D"]
    steps_of_G = [call.found for call in calls if call.name == "G"]
    rows = [[d[0], g[0], d[1], d[2]] for d, g in zip(steps_of_D, steps_of_G)]
    assert torch.allclose(history, torch.tensor(rows))
    long, rows = gan.History(500), torch.rand(500, 4)  # of more steps: means, and no more of them
    for step, row in enumerate(rows.tolist()):
        long.add(step, row)
    parts = [rows[torch.arange(500) * 200 // 500 == k].mean(dim=0) for k in range(200)]
    assert torch.allclose(long.means(), torch.stack(parts))
    assert len(gan.History(10**9).sums) == 200
    assert (history[:, :2] > 0).all() and ((history[:, 2:] > 0) & (history[:, 2:] < 1)).all()
    assert set(note.last) == {"loss_of_D", "loss_of_G", "gradient_of_D", "gradient_of_G"}
    assert note.last["gradient_of_D"] == steps_of_D[-1][3]
    assert note.last["gradient_of_G"] == steps_of_G[-1][1]


@pytest.mark.parametrize("conditional", [False, True])
def test_what_chooses_the_weights_is_the_distance_of_the_average_to_validation(conditional):
    note, model, _, _ = noted("--steps 2 --batch-size 8", conditional, evaluate_at=(2,))
    (train_nats, val_nats, recorded, score, frechet), = note.records
    assert train_nats is None and val_nats is None and score == frechet
    network, data = judge.load_judge(), toy_digits(conditional)
    labels = data.train_labels[torch.arange(80) % 60] if conditional else None
    draws = model.average.sample(80, labels, torch.Generator().manual_seed(0))
    real = judge.judged(network, data.val)[0]
    expected = judge.frechet_distance(judge.judged(network, draws)[0], real)
    assert score == pytest.approx(expected, rel=1e-6)
    assert torch.equal(recorded.first.weight, model.average.first.weight)
    y = torch.arange(10) if conditional else None  # a row of progress.png: the average's, too
    digits = model.average.sample(10, y, torch.Generator().manual_seed(1))
    assert torch.equal(note.picture, digits)
    assert not torch.equal(digits, model.G.sample(10, y, torch.Generator().manual_seed(1)))
    other = judge.judged(network, data.train)[0]  # control: another heap, another distance
    assert judge.frechet_distance(judge.judged(network, draws)[0], other) != pytest.approx(score)


def test_labels_to_draw_by_are_as_frequent_as_in_training():
    data = SimpleNamespace(y_train=torch.tensor([3, 3, 3, 7]))
    assert gan.data_labels(data, 8).tolist() == [3, 3, 3, 7, 3, 3, 3, 7]
    data.y_train = None
    assert gan.data_labels(data, 8) is None


@pytest.mark.slow
def test_measure_compares_grey_with_grey_and_coins_with_bits():
    """Planted heaps: draws that are the real digits, grey; their coins are near to real bits."""
    network = judge.load_judge()
    data = utils.load_mnist("nowhere")
    scores = gan.measure(network, data.test / 255, (data.test, data.x_test))
    assert scores["frechet"] == pytest.approx(0, abs=1e-6) and scores["precision"] == 1
    assert 0 < scores["frechet_binary"] < 0.2 and scores["precision_binary"] > 0.9
    swapped = gan.measure(network, data.test / 255, (data.x_test, data.test))  # control
    assert swapped["frechet"] > 0.1 and swapped["frechet_binary"] > 0.2
    inverted = gan.measure(network, 1 - data.test / 255, (data.test, data.x_test))
    assert inverted["frechet_binary"] > 50


@pytest.mark.slow
@pytest.mark.usefixtures("sketches")
@pytest.mark.parametrize("conditional", [False, True])
def test_figures_of_a_run_are_of_its_best_weights_and_the_test_digits(conditional):
    """All of them, recomputed from the checkpoint."""
    flags = "--width 4 --eval-draws 200 --test-draws 300 --steps 6 --batch-size 8 --lr 0.1 --seed 2"
    gan.main(f"{flags} --out run".split() + ["--conditional"] * conditional)
    metrics = json.loads(Path("run/metrics.json").read_text(encoding="utf-8"))
    best, s = checkpoint("run")["best"], values(gan, flags)
    assert best["step"] < 6  # at such a rate the last weights are not the best ones
    s.conditional, s.classes = conditional, 10 * conditional
    network, data, average = judge.load_judge(), utils.load_mnist(), gan.build(s).average
    y = data.train_labels[:300] if conditional else None

    def draws(weights):
        average.load_state_dict(weights)
        return average.sample(300, y, torch.Generator().manual_seed(0))

    def scores(x, grey, bits):
        tossed = judge.coins(x, 1)
        grey, binary = judge.scores(network, x, grey), judge.scores(network, tossed, bits)
        return [heap[name] for heap in (grey, binary) for name in ("frechet", "precision",
                                                                   "recall")]

    x = draws(best["weights"])
    kept = [metrics[f"test_{name}{ending}"] for ending in ("", "_binary")
            for name in ("frechet", "precision", "recall")]
    assert kept == pytest.approx(scores(x, data.test, data.x_test), rel=1e-5)
    classes = judge.judged(network, x)[1]
    assert metrics["test_shares"] == [(classes == k).double().mean().item() for k in range(10)]
    if conditional:
        agreement = (classes == y).double().mean().item()
        assert metrics["test_label_agreement"] == pytest.approx(agreement)
    train = data.train.flatten(1) / 255
    for name, heap in (("draws", x), ("test_digits", data.test / 255)):
        distances = torch.cdist(heap.flatten(1), train).min(dim=1).values
        assert metrics[f"nearest_of_{name}"] == pytest.approx(distances.median().item(), rel=1e-4)
    assert metrics["test_draws"] == 300 and metrics["test_images"] == 500
    # Controls: beside validation digits, or of the last weights, they are others.
    last = draws(checkpoint("run")["parts"]["average"])
    for other in (scores(x, data.val, data.x_val), scores(last, data.test, data.x_test)):
        assert kept[0] != pytest.approx(other[0], rel=1e-4)
        assert kept[3] != pytest.approx(other[3], rel=1e-4)


def test_neighbours_are_the_nearest_in_pixels_and_in_features():
    """The draws themselves are planted among the training digits: each finds itself, twice."""
    asked = []

    class Indexed(torch.Tensor):
        """Notes which images are taken out."""

        def __getitem__(self, i):
            if isinstance(i, torch.Tensor):
                asked.append(torch.Tensor.tolist(i))
            return super().__getitem__(i)

    class Drawn:
        """Draws real digits."""
        classes = 0

        def sample(self, n, y, generator):
            return digits[20:20 + n] / 255

    digits = utils.load_mnist().train[:32]
    train = torch.cat([digits[:20], digits[20:].flip(0)]).as_subclass(Indexed)
    gan.plot_neighbours(Path("neighbours.png"), Drawn(), train, judge.load_judge())
    assert asked[-2:] == [list(range(31, 19, -1))] * 2


def test_interpolation_goes_along_the_sphere_and_straight_from_one_noise_to_another():
    shown = []

    class Noted(gan.Generator):
        """Notes what it is asked to draw."""

        def forward(self, z, y=None):
            shown.append((z, y))
            return super().forward(z, y)

    model = Noted(8, 5, 4, classes=10)
    gan.plot_interpolation(Path("interpolation.png"), model)
    ends = model.noise(8, torch.Generator().manual_seed(3)).view(4, 2, 5)
    assert len(shown) == 8 and not model.training
    for k, (z, y) in enumerate(shown):
        a, b = ends[k // 2]
        assert torch.allclose(z[[0, -1]], torch.stack([a, b]), atol=1e-5)
        assert y.tolist() == [2 * (k // 2) + 1] * 12  # 1, 3, 5, 7
        straight = torch.allclose(z[1:] - z[:-1], ((b - a) / 11).expand(11, 5), atol=1e-5)
        assert straight == bool(k % 2)


def test_the_nearest_of_three_points():
    train = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    train[1], train[2, 0, 0, 0] = 255, 51
    images = torch.tensor([[[[0.9, 1], [1, 1]]], [[[0.0, 0], [0, 0.1]]], [[[0.3, 0], [0, 0]]]])
    distances, indices = gan.nearest(images, train)
    assert indices.tolist() == [1, 0, 2]
    assert distances.tolist() == pytest.approx([0.1] * 3, abs=1e-5)


def test_losses_of_a_discriminator_that_tosses_coins():
    half = torch.zeros(7)  # logits: D = ½
    assert gan.discriminator_loss(half, half).item() == pytest.approx(2 * math.log(2))
    assert gan.generator_loss(half).item() == pytest.approx(math.log(2))
    real, fake = torch.randn(2, 50).double()
    p, q = real.sigmoid(), fake.sigmoid()
    for loss, expected in (
            (gan.discriminator_loss(real, fake), -(p.log().mean() + (1 - q).log().mean())),
            (gan.generator_loss(fake), -q.log().mean()),
            (gan.discriminator_loss(real, fake, "wgan-gp"), fake.mean() - real.mean()),
            (gan.generator_loss(fake, "wgan-gp"), -fake.mean())):
        assert loss.item() == pytest.approx(expected.item())
    assert torch.isfinite(gan.discriminator_loss(-torch.full((1,), 1e4), torch.full((1,), 1e4)))


def test_the_best_discriminator_is_a_ratio_and_its_value_a_divergence():
    """(2) and (3) on three points: gradient descent on the loss finds p / (p + p_G), and its loss
    is 2 log 2 − 2 JSD."""
    real, drawn = torch.tensor([0] * 5 + [1] * 3 + [2] * 2), torch.tensor([0] + [1] * 3 + [2] * 6)
    p, q = (torch.bincount(points).double() / 10 for points in (real, drawn))
    s = torch.zeros(3).double().requires_grad_()
    optimizer = torch.optim.Adam([s], lr=0.05)
    for _ in range(1000):
        loss = gan.discriminator_loss(s[real], s[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(s.sigmoid(), p / (p + q), atol=1e-3)
    m = (p + q) / 2
    jsd = ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2
    assert loss.item() == pytest.approx(2 * math.log(2) - 2 * jsd.item(), abs=1e-5)


def test_gradients_of_both_generator_losses():
    """(4) and (5), at D(G(z)) = p."""
    p = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    s = torch.logit(p).requires_grad_()
    assert torch.allclose(torch.autograd.grad(-F.softplus(s).sum(), s)[0], -p)
    assert torch.allclose(len(p) * torch.autograd.grad(gan.generator_loss(s), s)[0], p - 1)
    s = torch.tensor([-4.0]).requires_grad_()
    # Going down the loss raises s: D is to say "real".
    assert torch.autograd.grad(gan.generator_loss(s), s)[0].item() < 0


# ------------------------------------------------------------------------------------- transcribed


def convolved(layer, x, stride=1):
    """Each output is a weighed sum of the inputs around it; beyond the edge there are zeros."""
    w, channels, height, width = layer.weight.tolist(), *x.shape
    bias = [0.0] * len(w) if layer.bias is None else layer.bias.tolist()
    out = np.zeros((len(w), height // stride, width // stride))
    for o, i, j in np.ndindex(out.shape):
        out[o, i, j] = bias[o]
        for c, u, v in product(range(channels), range(len(w[0][0])), range(len(w[0][0]))):
            row, column = stride * i + u - 1, stride * j + v - 1
            if 0 <= row < height and 0 <= column < width:
                out[o, i, j] += w[o][c][u][v] * x[c, row, column]
    return out


def doubled(layer, x):
    """Each input is spread over 4×4 outputs, two outputs further for the next one."""
    w, (channels, height, width) = layer.weight.tolist(), x.shape
    out = np.zeros((len(w[0]), 2 * height, 2 * width))
    for c, i, j, o, u, v in product(range(channels), range(height), range(width),
                                    range(len(w[0])), range(4), range(4)):
        row, column = 2 * i + u - 1, 2 * j + v - 1
        if 0 <= row < 2 * height and 0 <= column < 2 * width:
            out[o, row, column] += w[c][o][u][v] * x[c, i, j]
    return out


def normed(layer, batch):
    """From each channel its mean, divided by its standard deviation: of the batch in training, else
    the running ones; then a scale and a shift."""
    out = np.zeros_like(batch)
    for c in range(batch.shape[1]):
        mean, var = layer.running_mean[c].item(), layer.running_var[c].item()
        if layer.training:
            mean = sum(batch[:, c].flat) / batch[:, c].size
            var = sum((v - mean) ** 2 for v in batch[:, c].flat) / batch[:, c].size
        scale, shift = layer.weight[c].item(), layer.bias[c].item()
        out[:, c] = scale * (batch[:, c] - mean) / math.sqrt(var + 1e-5) + shift
    return out


def each(f, layer, batch, *more):
    return np.stack([f(layer, x, *more) for x in batch])


def lively(network, training):
    """In float64, and nothing in it is 0 or 1 or what a fresh network has."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in network.double().parameters():
            p.copy_(torch.randn(p.shape))
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif buffer.is_floating_point():
                buffer.normal_()
    return network.train(training)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_generator_is_what_the_notes_say(conditional, training):
    """Linear, double, convolve, double, convolve, in plain loops: batch norm and ReLU behind each
    but the last, a sigmoid behind that; a label is ten more inputs behind z."""
    G = lively(gan.Generator((8, 4), 3, 2, 10 * conditional), training)
    z, y = torch.randn(3, 3).double(), torch.tensor([7, 0, 7])
    u = [row + [float(k == label) for k in range(10)] * conditional
         for row, label in zip(z.tolist(), y.tolist())]
    h = np.array([[sum(w * v for w, v in zip(row, image)) for row in G.first.weight.tolist()]
                  for image in u]).reshape(3, 8, 2, 1)
    h = np.maximum(normed(G.norm_1, h), 0)
    h = np.maximum(normed(G.norm_2, each(doubled, G.up_1, h)), 0)
    h = np.maximum(normed(G.norm_3, each(convolved, G.refine, h)), 0)
    h = np.maximum(normed(G.norm_4, each(doubled, G.up_2, h)), 0)
    expected = 1 / (1 + np.exp(-each(convolved, G.last, h)))
    assert expected.shape == (3, 1, 8, 4) and expected.std() > 0.04
    images = G(z, y if conditional else None).detach().numpy()
    assert np.allclose(images, expected, atol=1e-10)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("norm, training", [(False, True), (True, False), (True, True)])
def test_the_discriminator_is_what_the_notes_say(conditional, norm, training):
    """Halve, halve, convolve, linear, in plain loops: leaky by 0.2, batch norm in the middle or
    none; a label adds a read-out of its own; what is 0 … 1 is first made −1 … 1."""
    D = lively(gan.Discriminator((8, 4), 2, norm, 10 * conditional), training)
    x, y = torch.rand(3, 1, 8, 4).double(), torch.tensor([7, 0, 7])

    def leaky(h):
        return np.where(h > 0, h, 0.2 * h)

    h = leaky(each(convolved, D.down_1, 2 * x.numpy() - 1, 2))
    for layer, norm_layer, stride in ((D.down_2, D.norm_2, 2), (D.wide, D.norm_3, 1)):
        h = each(convolved, layer, h, stride)
        h = leaky(normed(norm_layer, h) if norm else h)
    h, weight = h.reshape(3, -1).tolist(), D.last.weight[0].tolist()
    expected = [D.last.bias.item() + sum(w * v for w, v in zip(weight, row)) for row in h]
    if conditional:
        read_outs = [D.label.weight[label].tolist() for label in y.tolist()]
        expected = [s + sum(w * v for w, v in zip(read_out, row))
                    for s, read_out, row in zip(expected, read_outs, h)]
    assert D(x, y if conditional else None).tolist() == pytest.approx(expected, rel=1e-9)


def test_a_fresh_discriminator_does_not_care_for_labels():
    """Their read-outs begin at 0."""
    _, D = players(classes=10)
    assert not D.label.weight.any()
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    assert torch.equal(D.eval()(x, y), D(x, y + 1))


# ------------------------------------------------------------------------------------ Wasserstein


def test_gradient_penalty_of_known_slopes():
    """0 for a critic whose slope is 1 everywhere, 1 for slope 2, 1 for slope 0."""
    direction = F.normalize(torch.randn(64), dim=0)
    real, fake, mix = torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8), torch.rand(5, 1, 1, 1)
    for slope, expected in ((1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (3.0, 4.0)):
        penalty = gan.gradient_penalty(lambda x: slope * x.flatten(1) @ direction, real, fake, mix)
        assert penalty.item() == pytest.approx(expected, abs=1e-5)


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
    assert (torch.autograd.grad(penalty, critic.w)[0] > 0).all()  # a smaller slope, a smaller one


def test_the_critic_has_no_batch_norm():
    """With it the gradient at one image would depend on the others: no slope at all."""
    built = [gan.build(values(gan, f"--width 4 --loss {loss}")).D for loss in ("ns", "wgan-gp")]
    kinds = [any(isinstance(m, nn.BatchNorm2d) for m in D.modules()) for D in built]
    assert kinds == [True, False]

    def slope_of_first(D, others):
        x = torch.cat([torch.zeros(1, 1, 8, 8), others]).requires_grad_()
        return torch.autograd.grad(D(x)[0], x)[0][0]

    a, b = torch.rand(2, 3, 1, 8, 8)
    for norm, same in ((False, True), (True, False)):
        _, D = players(norm=norm)
        assert torch.allclose(slope_of_first(D, a), slope_of_first(D, b)) == same


# --------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("conditional", [False, True])
def test_an_image_depends_on_its_own_noise_only(conditional):
    G, _ = players(classes=10 * conditional)
    for _ in range(3):  # batch norm has seen something
        G(torch.randn(20, 3), torch.arange(20) % 10 if conditional else None)
    z, y = torch.randn(6, 3), torch.arange(6) if conditional else None
    other = torch.cat([z[:3], torch.randn(3, 3)])
    G.eval()
    assert torch.allclose(G(z, y)[:3], G(other, y)[:3], atol=1e-6)
    assert not torch.allclose(G(z, y)[3:], G(other, y)[3:], atol=1e-3)
    G.train()  # control: in training mode neighbours matter
    assert not torch.allclose(G(z, y)[:3], G(other, y)[:3], atol=1e-3)
    # sample() sees to it by itself, and leaves the mode as it was.
    drawn = G.sample(6, y, torch.Generator().manual_seed(0))
    z = G.noise(6, torch.Generator().manual_seed(0))
    assert G.training
    G.eval()
    assert torch.allclose(drawn[:3], G(z[:3], None if y is None else y[:3]), atol=1e-6)
    assert drawn.min() >= 0 and drawn.max() <= 1 and not drawn.requires_grad


def test_labels_are_asked_for_and_refused():
    G, D = players(classes=10)
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
        if value.is_floating_point():
            assert torch.allclose(value, 0.9 * before[name] + 0.1 * new)
        else:
            assert torch.equal(value, new)
    for name in ("first.weight", "norm_1.running_mean"):
        assert not torch.equal(average.state_dict()[name], before[name])


def test_the_sphere_keeps_the_length_and_the_straight_line_does_not():
    a, b = torch.tensor([3.0, 0, 0]), torch.tensor([0, 3.0, 0])
    t = torch.linspace(0, 1, 5)
    z = gan.sphere(a, b, t)
    assert torch.allclose(z[0], a, atol=1e-5) and torch.allclose(z[-1], b, atol=1e-5)
    assert torch.allclose(z.norm(dim=1), torch.full((5,), 3.0))
    assert torch.allclose(z[2], torch.tensor([1.0, 1, 0]) * 3 / math.sqrt(2))
    assert ((a + b) / 2).norm().item() == pytest.approx(3 / math.sqrt(2))
    assert torch.allclose(gan.sphere(a, a, t), a.expand(5, 3), atol=1e-3)
    through = gan.sphere(a, -a, t)
    assert torch.isfinite(through).all() and through.norm(dim=1).max() < 3.01


# --------------------------------------------------------------------------------------- coverage


class Plane(nn.Sequential):
    """A generator or a discriminator for points of the plane, called as those for images are."""

    def __init__(self, n_in, n_out):
        super().__init__(nn.Linear(n_in, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64),
                         nn.LeakyReLU(0.2), nn.Linear(64, n_out))
        self.n_in = n_in

    def noise(self, n, generator=None):
        return torch.randn(n, self.n_in, generator=generator)

    def forward(self, u, y=None):
        out = super().forward(u)
        return out if out.shape[1] == 2 else out[:, 0]


def modes_covered(steps=1500, steps_of_G=1, seed=0):
    """How many of eight Gaussians on a circle get at least 3 % of the draws, after a game with the
    chapter's own steps."""
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


@pytest.mark.slow
def test_a_mixture_of_eight_is_covered():
    assert modes_covered() == 8


@pytest.mark.slow
def test_a_generator_that_runs_ahead_collapses():
    """Control: twenty steps of G for each of D, and it sits on what D believes at the moment."""
    assert modes_covered(steps=300, steps_of_G=20) < 5


@pytest.mark.slow
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


def test_the_variant_has_defaults_of_its_own(fails):
    plain, wasserstein = values(gan, ""), values(gan, "--loss wgan-gp")
    assert (plain.noise, plain.critic_steps) == (0.1, 1)
    assert (wasserstein.noise, wasserstein.critic_steps, wasserstein.steps) == (0.0, 2, 5000)
    for flags in ("--loss hinge", "--z-size 0", "--average 1.5", "--noise -1"):
        fails(lambda flags=flags: gan.main(flags.split()), flags.split()[0])
