"""Muon against singular value decompositions."""
import fit
import pytest
import torch
import torch.nn as nn
from conftest import same

import settings
from muon import Muon, orthogonal


def matrices(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 6, 2), (4, 2, 6)])
def test_the_directions_stay_and_become_equally_long(shape):
    x = matrices(*shape) * torch.linspace(1, 0.2, shape[-1])
    step, (u, s, vh) = orthogonal(x), torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ step @ vh.mT  # in the directions of x: a diagonal
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(inside, torch.diag_embed(values), atol=1e-12)
    large = s / x.norm(dim=(-2, -1))[..., None] > 0.003
    assert (values[large] > 0.68).all() and (values < 1.21).all()
    assert torch.allclose(orthogonal(100 * x), step, atol=1e-4)  # lengths do not count
    assert (s.amax(-1) / s.amin(-1)).max() > 2  # control: they were not equally long


@pytest.mark.parametrize("shape", [(5, 5), (5, 9), (9, 5)])
def test_singular_values_go_through_the_polynomial_five_times(shape):
    s = torch.tensor([1, 0.1, 0.003, 0.0016, 0.0008], dtype=torch.float64)
    u, v = (torch.linalg.qr(matrices(n, 5, seed=n))[0] for n in shape)
    values, rounds = (u.mT @ orthogonal(u * s @ v.mT) @ v).diagonal(), [s / s.norm()]
    for _ in range(6):
        t = rounds[-1]
        rounds.append(3.4445 * t - 4.7750 * t**3 + 2.0315 * t**5)
    assert torch.allclose(values, rounds[5], atol=1e-5)
    assert not any(torch.allclose(values, rounds[k], atol=0.1) for k in (4, 6))  # controls
    assert (values[:4] > 0.68).all() and values[4] < 0.68


def test_many_matrices_are_as_one_after_the_other():
    x = matrices(3, 4, 6)
    assert torch.allclose(orthogonal(x), torch.stack([orthogonal(part) for part in x]), atol=1e-12)


def test_rows_that_are_zero_stay_zero():
    """Those of pixels that a network is not told of (flow.py), up to a whole matrix."""
    x = matrices(2, 6, 4)
    x[0, 2:], x[1] = 0, 0
    step = orthogonal(x)
    assert (step[0, 2:] == 0).all() and (step[1] == 0).all() and (step[0, :2] != 0).all()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3, 5))
        self.conv, self.conv_2 = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)
        self.many = nn.Parameter(torch.zeros(3, 5, 7))
        self.last = nn.Linear(4, 2)


def with_gradients(lr=0.01):
    torch.manual_seed(0)
    net = Net()
    optimizer = Muon(net, lr, adam=("position", "last"))
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    return net, optimizer


def test_what_is_a_matrix_gets_an_orthogonal_step_and_all_else_adams():
    net, optimizer = with_gradients()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert [p.shape for p in optimizer.matrices] == [(3, 5, 7), (4, 2, 3, 3), (4, 2, 3, 3)]
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    optimizer.step()
    step = {name: before[name] - p for name, p in net.named_parameters()}
    for name in ("position", "conv.bias", "last.weight", "last.bias"):
        assert torch.allclose(step[name], 0.01 * gradients[name].sign(), rtol=1e-3)  # Adam's first
    # Two of one shape go through orthogonal() together, and each gets its own.
    for name, flat in (("conv.weight", (4, 18)), ("conv_2.weight", (4, 18)), ("many", (3, 5, 7))):
        expected = 0.01 * 0.2 * max(flat[-2:])**0.5 * orthogonal(gradients[name].view(flat))
        assert torch.allclose(step[name].view(flat), expected, atol=1e-6)
        assert 0.7 * 0.002 < step[name].square().mean()**0.5 < 1.2 * 0.002  # about 0.2 lr
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_what_has_no_gradient_stays_and_those_of_its_shape_move():
    net, optimizer = with_gradients()
    net.conv.weight.grad, before = None, net.conv.weight.detach().clone()
    gradient, other = net.conv_2.weight.grad.clone(), net.conv_2.weight.detach().clone()
    optimizer.step()
    assert torch.equal(net.conv.weight, before)
    step = 0.01 * 0.2 * 18**0.5 * orthogonal(gradient.flatten(1)).view(other.shape)
    assert torch.allclose(other - net.conv_2.weight, step, atol=1e-6)


def test_the_rate_is_one_for_both():
    net, optimizer = with_gradients()
    optimizer.param_groups[0]["lr"] = 0
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before))


def test_momentum_remembers():
    """A gradient once, and then none: the step goes on in its direction, by 0.95 a step less."""
    net, optimizer = with_gradients()
    first = net.many.grad.clone()
    optimizer.step()
    before = net.many.detach().clone()
    net.many.grad = torch.zeros_like(net.many)
    optimizer.step()
    assert torch.allclose(before - net.many, 0.01 * 0.2 * 7**0.5 * orthogonal(first), atol=1e-5)
    assert torch.allclose(optimizer.means[0], 0.05 * 0.95 * first, rtol=1e-5)


def test_a_saved_state_goes_on_as_if_nothing_had_happened():
    def steps(net, optimizer, n, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(n):
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()

    (whole, whole_optimizer), (net, optimizer) = with_gradients(), with_gradients()
    steps(whole, whole_optimizer, 3, 1)
    steps(whole, whole_optimizer, 3, 2)
    steps(net, optimizer, 3, 1)
    other = Net()
    other.load_state_dict(net.state_dict())
    resumed = Muon(other, 0.5, adam=("position", "last"))
    resumed.load_state_dict(optimizer.state_dict())
    steps(other, resumed, 3, 2)
    assert same(other.state_dict(), whole.state_dict())
    assert same(resumed.state_dict(), whole_optimizer.state_dict())
    fresh = Muon(net, 0.01, adam=("position", "last"))  # control: without its memory
    steps(net, fresh, 3, 2)
    assert not same(net.state_dict(), whole.state_dict())


# What the chapters leave to Adam: a part of each name. All else with more than one dimension is a
# matrix from one layer to the next.
TO_ADAM = {
    "transformer_ar": ("", {"word", "row", "column", "last", "bias"}),
    "transformer_ar --conditional --levels 4": (
        "--conditional --levels 4", {"word", "row", "column", "last", "bias", "label", "look"}),
    "wavenet --conditional": ("--conditional", {"last", "label_to_gates"}),
    "flow --conditional": (
        "--conditional", {"position", "label", "look", "bias", "biases", "last"}),
}


@pytest.mark.parametrize("case", TO_ADAM)
def test_what_chapters_leave_to_adam_is_what_their_notes_say(case):
    flags, expected = TO_ADAM[case]
    chapter = settings.chapters()[case.split()[0]]
    model = chapter.build(fit.values(chapter, flags))
    left = {id(p) for p in Muon(model, 0.1, adam=chapter.ADAM).adam.param_groups[0]["params"]}
    wide = {name for name, p in model.named_parameters() if id(p) in left and p.dim() > 1}
    for word in expected:
        assert any(word in name.split(".") for name in wide), word
    for name in wide:  # and nothing by a chance likeness of letters
        assert expected & set(name.split(".")), name


def test_the_newest_gradient_counts_once_more():
    """(1) with two gradients that differ: the step is along (1 − β) G + β M, not along M."""
    net, optimizer = with_gradients()
    first = net.many.grad.clone()
    optimizer.step()
    before, second = net.many.detach().clone(), matrices(3, 5, 7, seed=5).float()
    net.many.grad = second.clone()
    optimizer.step()
    mean = 0.95 * 0.05 * first + 0.05 * second
    step, size = before - net.many, 0.01 * 0.2 * 7**0.5
    assert torch.allclose(optimizer.means[0], mean, atol=1e-6)
    assert torch.allclose(step, size * orthogonal(0.05 * second + 0.95 * mean), atol=1e-6)
    assert not torch.allclose(step, size * orthogonal(mean), atol=1e-4)  # control
