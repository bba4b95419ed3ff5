"""flow.py: slopes and determinants against autograd, inverses, everything summed on 4×4 bits, the
bound and its gap. Each with a control: the classic mistakes, made."""
import functools
import math

import bench_inverse
import fit
import pytest
import torch
from by_hand import conv, differ, doubled, enlivened, in_groups, linear, noise, normed, silu

import flow
import judge
import utils
from flow import Flow

KINDS = ("spline", "affine", "additive")


def lively(levels=2, formula="spline", size=4, conditional=False, scale=0.5):
    """A flow with weights that say something, in float64; black is 0.7 of all pixels."""
    torch.manual_seed(0)
    model = Flow(size, levels, 4, formula, 10 * conditional)
    model.counts.copy_(torch.tensor([7 * (levels - 1), *[3] * (levels - 1)]))
    with torch.no_grad():
        for p in model.parameters():
            last = 2 if p.dim() == 3 else 1  # 3: one matrix a pixel, told of rows
            p += scale * torch.randn_like(p) * (p.shape[-last] if p.dim() > 1 else 1) ** -0.5
    return model.to(torch.float64)


def all_images():
    bits = (torch.arange(2**16)[:, None] >> torch.arange(16)) & 1
    return bits.to(torch.float64).view(-1, 1, 4, 4)


# --------------------------------------------------------------- the networks, once more, by hand
#
# left_out: a part that a control does without.


def block_by_hand(block, h, left_out):
    u = conv(block.conv_1, silu(in_groups(block.norm_1, h)), padding=1)
    u = conv(block.conv_2, silu(in_groups(block.norm_2, u)), padding=1)
    return u if left_out == "residual" else h + u


def dense_by_hand(net, h, label, left_out):
    u = linear(net.first, h.flatten())
    if label is not None and left_out != "hub's label":
        u = u + net.label.weight[label]
    u = normed(silu(u))
    inner = normed(silu(linear(net.hidden, u)))
    return linear(net.last, inner if left_out == "hub's residual" else u + inner).view(h.shape)


def conv_net_by_hand(net, seen, label, left_out=None):
    """seen: (I, H, W, E), what is told of one image -> (O, H, W)."""
    h = torch.stack([channel[:, :, e] for channel in seen for e in range(seen.shape[3])])
    h = conv(net.first, h, padding=1)
    if left_out != "position":
        h = h + net.position
    if label is not None and left_out != "label":
        h = h + net.label.weight[label][:, None, None]
    h = block_by_hand(net.down, h, left_out)
    small = conv(net.shrink, h, stride=2)
    hub = dense_by_hand(net.hub, small, label, left_out)
    grown = doubled(net.grow, small if left_out == "hub" else hub if left_out == "around the hub"
                    else small + hub)
    h = block_by_hand(net.up, grown if left_out == "skip" else h + grown, left_out)
    out = conv(net.last, silu(in_groups(net.norm, h)))
    return out if left_out == "bias" else out + net.bias


def pixel_net_by_hand(nets, seen, label, d, left_out=None):
    """What the network of pixel d says, of one image. seen: (m, E), what is told of each pixel."""
    earlier = range(d + 1) if left_out == "order" else range(d)  # those before it
    h = nets.biases[0][d, 0]
    for i in earlier:
        h = h + seen[i, 0] * nets.first[d, i]
    if d and left_out != "mean":
        for e in range(seen.shape[1]):
            h = h + sum(seen[i, e] for i in earlier) / len(earlier) * nets.mean[d, e]
    if label is not None and left_out != "label":
        h = h + nets.label.weight[label].view(-1, len(h))[d]
    h = normed(silu(h))
    inner = normed(silu(nets.biases[1][d, 0] + sum(u * row for u, row in zip(h, nets.hidden[d]))))
    h = inner if left_out == "residual" else h + inner
    return nets.biases[2][d, 0] + sum(u * row for u, row in zip(h, nets.last[d]))


@pytest.mark.parametrize("label", [None, 7])
@torch.no_grad()
def test_the_networks_of_fine_pixels_are_what_is_written(label):
    """DenseNet inside of ConvNet, on an image that is not square."""
    net, seen = enlivened(flow.ConvNet(2, 3, (4, 8), 4, 10)), noise(2, 2, 4, 8, flow.SEEN)
    out = net(seen, None if label is None else torch.tensor([label, label]))
    assert out.shape == (2, 3, 4, 8)
    for numbers, image in zip(out, seen):
        assert torch.allclose(numbers, conv_net_by_hand(net, image, label), atol=1e-9)
    left_out = ["position", "residual", "skip", "hub", "around the hub", "hub's residual", "bias"]
    for part in left_out + ["label", "hub's label"] * (label is not None):  # controls
        assert differ(out[1], conv_net_by_hand(net, seen[1], label, part)), part


@pytest.mark.parametrize("label", [None, 7])
@torch.no_grad()
def test_the_networks_of_coarse_pixels_are_what_is_written(label):
    """All of them at once, and some of them, told of no pixel that comes later."""
    nets, seen = enlivened(flow.PixelNets(6, 3, 5, 10)), noise(2, 6, flow.SEEN)
    y = None if label is None else torch.tensor([label, label])
    out = nets(seen, y)
    assert out.shape == (2, 6, 3)
    for k in range(2):
        by_hand = torch.stack([pixel_net_by_hand(nets, seen[k], label, d) for d in range(6)])
        assert torch.allclose(out[k], by_hand, atol=1e-9)
    for part in [slice(i, i + 1) for i in range(6)] + [slice(2, 5)]:
        assert torch.allclose(nets(seen[:, :part.stop], y, part), out[:, part], atol=1e-9)
    for part in ["order", "mean", "residual"] + ["label"] * (label is not None):  # controls
        for d in range(1, 6):
            assert differ(out[1, d], pixel_net_by_hand(nets, seen[1], label, d, part)), (part, d)


# -------------------------------------------------------------------------------------- maps of u


@pytest.mark.parametrize("formula", KINDS)
def test_slopes_are_those_of_autograd_and_the_way_back_is_one(formula):
    torch.manual_seed(0)
    edges = torch.tensor([0, 0.3, 0.301, 0.7, 1], dtype=torch.float64)
    says = 0.5 * torch.randn(500, 4 if formula == "spline" else 2, dtype=torch.float64)
    u = (0.01 + 0.98 * torch.rand(500, dtype=torch.float64)).requires_grad_()

    def there(u):
        return flow.spline(u, says, edges) if formula == "spline" else flow.affine(
            u, says, formula == "additive")

    z, log_slope = there(u)
    slope, = torch.autograd.grad(z.sum(), u)
    assert torch.allclose(slope.log(), log_slope, atol=1e-9)
    back = flow.spline_back(z, says, edges) if formula == "spline" else flow.affine_back(
        z, says, formula == "additive")
    assert torch.allclose(back, u, atol=1e-9) and (z - u).abs().max() > 0.1
    # From 0 to 1, rising: a distribution function.
    for end in (0, 1):
        assert torch.allclose(there(torch.full_like(u, end))[0], torch.full_like(u, end))
    grid = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    one = says[:1].expand(500, -1)
    z, log_slope = flow.spline(grid, one, edges) if formula == "spline" else flow.affine(
        grid, one, formula == "additive")
    assert (z.diff() > 0).all()
    # The area under the slope is what z rises by.
    area = torch.trapezoid(log_slope.exp(), grid)
    assert area.item() == pytest.approx((z[-1] - z[0]).item(), abs=2e-3)


@pytest.mark.parametrize("formula", KINDS)
@pytest.mark.parametrize("levels", [2, 256])
def test_the_determinant_is_that_of_the_jacobian(formula, levels):
    model = lively(levels, formula, scale=0.5 if formula == "spline" else 0.15)
    x = torch.randint(levels, (1, 1, 4, 4))
    u, _ = model.dequantize(x, torch.Generator().manual_seed(1))
    z, log_det = model.encode(u)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: model.encode(v.view(1, 1, 4, 4))[0].flatten(), u.flatten())
    sign, log_abs_det = torch.linalg.slogdet(jacobian)
    assert sign > 0 and log_abs_det.item() == pytest.approx(log_det.item(), abs=1e-8)
    assert log_det.abs() > 0.1

    def one_coupling(v, coupling, noise=0.0):
        """v (1, 16) -> what it makes of v, and its log |det|. noise: how much its network looks at
        places within cells (control)."""
        says = coupling.says(model.look(model.quantize(v)), None) * (1 + noise * v.mean())
        new, log_slope = coupling.map(v[:, coupling.moved], says, model.edges)
        return v.index_copy(1, coupling.moved.flatten(), new.flatten(1)), log_slope.sum()

    def difference(coupling, noise=0.0):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: one_coupling(v[None], coupling, noise)[0][0], u.flatten())
        told = one_coupling(u.flatten(1), coupling, noise)[1]
        return abs(torch.linalg.slogdet(jacobian)[1] - told).item()

    assert all(difference(coupling) < 1e-8 for coupling in model.couplings)
    assert max(difference(coupling, noise=3.0) for coupling in model.couplings) > 1e-4  # control
    # One coupling at a time, too: determinants multiply.
    logs = sum(one_coupling(u.flatten(1), coupling)[1] for coupling in model.couplings)
    assert logs.item() == pytest.approx(log_det.item(), abs=1e-8)
    states = [u]
    model.encode(u, states=states)
    moved = [(a != b).sum().item() for a, b in zip(states, states[1:])]
    assert moved == [c.moved.numel() for c in model.couplings] and sum(moved) == 16


@pytest.mark.parametrize("formula", KINDS)
@pytest.mark.parametrize("levels", [2, 256])
def test_reconstruction_is_exact(formula, levels):
    model = lively(levels, formula, 8, scale=0.5 if formula == "spline" else 0.1)
    x = torch.randint(levels, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    u, _ = model.dequantize(x)
    back = model.decode(model.encode(u)[0])
    assert torch.allclose(back, u, atol=1e-8)
    assert torch.equal(model.quantize(back), x)
    error, same = flow.round_trip(model, x.to(torch.float64), None)
    assert error < 1e-8 and same == 1
    z, _ = model.encode(u)
    with torch.no_grad():
        model.couplings[0].network.last.bias += 0.5 * torch.randn_like(
            model.couplings[0].network.last.bias)
    assert not torch.allclose(model.decode(z), u, atol=1e-3)  # control: other networks


@pytest.mark.parametrize("formula", KINDS)
@pytest.mark.parametrize("levels", [2, 256])
@torch.no_grad()
def test_the_inverse_is_the_obvious_one(formula, levels):
    """Which asks all of a coupling's networks in each step, of which one pixel is used."""
    model = lively(levels, formula, 8, conditional=True, scale=0.5 if formula == "spline" else 0.1)
    z = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(10)
    u = model.decode(z, y)
    assert torch.allclose(u, bench_inverse.decode_obvious(model, z, y), atol=1e-9)
    assert torch.equal(model.quantize(u),
                       model.quantize(bench_inverse.decode_obvious(model, z, y)))
    model.couplings[-1].parts.reverse()  # control: another order of drawing
    assert not torch.allclose(u, bench_inverse.decode_obvious(model, z, y), atol=1e-6)


@functools.cache
@torch.no_grad()
def probabilities(formula):
    """Of all images: (65,536,)."""
    return lively(formula=formula).log_prob(all_images()).exp()


@pytest.mark.slow
@pytest.mark.parametrize("formula", KINDS)
@torch.no_grad()
def test_the_probabilities_of_all_images_sum_to_1(formula):
    model, x, p = lively(formula=formula), all_images(), probabilities(formula)
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    assert p.max() > 4 * p.median()
    if formula == "spline":
        one = model.couplings[0]
        one.known = torch.cat([one.moved, one.known[1:]])  # control: it looks at what it moves
        assert abs(model.log_prob(x).exp().sum().item() - 1) > 0.01


def test_each_pixel_depends_on_coarser_ones_alone():
    """Flip a pixel: what it costs, and what those cost that look at it, changes; nothing else."""
    model = lively(size=8)
    x = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.float64)
    before = model.log_probs(x).flatten()
    may = {d: {d} for d in range(64)}
    for coupling in model.couplings:
        moved = coupling.moved.flatten().tolist()
        for i, d in enumerate(coupling.known.flatten().tolist()):  # one by one: those that follow
            may[d] |= set(moved[i + 1:] if coupling.one_by_one else moved)
    for d in range(64):
        other = x.clone()
        other.view(-1)[d] = 1 - other.view(-1)[d]
        changed = set((model.log_probs(other).flatten() - before).abs().gt(1e-12).nonzero()
                      .flatten().tolist())
        assert changed <= may[d] and d in changed
        if len(may[d]) > 1:
            assert len(changed) > 1
    coarse, other = model.couplings[-1], x.clone()
    coarse.network.before.fill_(1)  # control: each coarse pixel is told of all
    last = coarse.moved[-1].item()
    other.view(-1)[last] = 1 - other.view(-1)[last]
    costs = (model.log_probs(other) - model.log_probs(x)).flatten()
    assert not set(costs.abs().gt(1e-12).nonzero().flatten().tolist()) <= may[last]


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (28, 28)])
def test_each_pixel_is_moved_once_after_those_that_look_at_it(size):
    couplings, rest = flow.plan(*size)
    plan = couplings + [(rest[:i], rest[i:i + 1]) for i in range(len(rest) - 1, -1, -1)]
    moved = torch.cat([m.flatten() for _, m in plan])
    assert sorted(moved.tolist()) == list(range(size[0] * size[1]))
    gone = set()
    for known, here in plan:
        assert not gone & set(known.flatten().tolist()) and not set(
            known.flatten().tolist()) & set(here.flatten().tolist())
        gone |= set(here.flatten().tolist())
    if size == (28, 28):
        here = torch.cat([here.flatten() for _, here in plan[:2]])  # a checkerboard, in two
        assert len(here) == 392 and ((here // 28 + here % 28) % 2 == 1).all()
        assert [len(here.flatten()) for _, here in plan[:4]] == [196, 196, 196, 1]


@pytest.mark.parametrize("formula", KINDS)
@torch.no_grad()
def test_at_its_start_it_is_the_identity(formula):
    """So its density is that of the noise, 1 in all of the cube."""
    torch.manual_seed(0)
    model = Flow(8, 256, 4, formula).to(torch.float64)
    u = 0.01 + 0.98 * torch.rand(5, 1, 8, 8, dtype=torch.float64)
    z, log_det = model.encode(u)
    assert torch.allclose(z, u, atol=1e-9) and log_det.abs().max() < 1e-9
    z, log_det = lively(256, formula, 8, scale=0.1).encode(u)  # control
    assert (z - u).abs().max() > 0.01 and log_det.abs().max() > 0.01


def test_at_its_start_it_knows_how_frequent_levels_are():
    torch.manual_seed(0)
    model, bits = Flow(28, 256, 4), Flow(28, 2, 4)
    grey = (torch.rand(50, 1, 28, 28) ** 4 * 255).to(torch.uint8)
    for m in (model, bits):
        m.start_from_mean(grey)
    counts = torch.bincount(grey.flatten().int(), minlength=256) + 1.0
    p = counts / counts.sum()
    entropy = -(p.log()[grey.long()]).sum().item() / 50
    assert flow.evaluate(model, grey, None) == pytest.approx(entropy, rel=1e-4)
    assert model.loss(grey / 255).item() == pytest.approx(entropy, rel=1e-4)
    assert bits.cdf.tolist() == pytest.approx([0, 1 - grey.float().mean().item() / 255, 1],
                                             abs=0.001)
    widths = model.edges.diff()
    assert model.edges[1] == model.cdf[1] and len(widths) == 32
    assert bits.begins.tolist() == [0, 1, 2]
    assert (widths > 0).all() and widths.sum().item() == pytest.approx(1, abs=1e-6)
    alone = model.begins.diff() == 1  # what is frequent has a bin of its own, what is rare none
    assert widths[1:][~alone[1:]].max() < 3 * (1 - model.cdf[1]) / 31
    ranks = (model.cdf[1:] - model.cdf[1]) / (1 - model.cdf[1])
    assert torch.allclose(model.look.weight[1:, 0], ranks[1:])
    assert torch.allclose(model.look.weight[1:, 2], torch.cos(2 * math.pi * ranks[1:]), atol=1e-5)
    assert model.look.weight[0].tolist() == [-1, 0, 0, 0, 0, 0]


def test_frequent_levels_are_alone_and_rare_ones_have_cells():
    grey = (torch.rand(50, 1, 28, 28) ** 4 * 200).to(torch.uint8)
    grey[:, :, :, :6] = 253
    model = Flow(28, 256, 4)
    model.start_from_mean(grey)
    assert {0, 253, 254} <= set(model.begins.tolist())
    # 43 million pixels, and some levels that none of them has: no cell is empty in float32.
    model.counts.copy_(torch.tensor([43_000_000, *[1] * 100, *[10_000] * 155]))
    assert (model.cdf.diff() > 0).sum() < 256  # control
    huge = grey[:1, :, :14, :14].expand(43_000_000 // 196, -1, -1, -1)
    model.start_from_mean(huge)
    assert (model.cdf.diff() > 0).all()


def test_coarse_pixels_are_told_what_levels_came_before_and_the_look_is_learned():
    model = lively(256, size=8)
    x = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    coarse, seen = model.couplings[-1], model.look(x.flatten(1))
    says, other = coarse.says(seen, None), seen.clone()
    other[:, coarse.moved[0], 1:] += 1  # of the first one: not the number that is told by place
    changed = (coarse.says(other, None) - says).abs().amax(dim=(0, 2)) > 1e-9
    assert changed.tolist() == [False] + [True] * 15
    model.loss(x / 255).backward()
    assert (model.look.weight.grad.abs().amax(dim=0) > 0).all()


def test_the_lightest_neighbours_share_a_bin():
    counts = torch.tensor([1, 9, 2, 1, 4, 8, 1])  # black, the lightest, stays alone
    assert flow.begins_of_bins(counts, 7).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert flow.begins_of_bins(counts, 6).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert flow.begins_of_bins(counts, 4).tolist() == [0, 1, 2, 5, 7]
    assert flow.begins_of_bins(counts, 2).tolist() == [0, 1, 7]


@pytest.mark.parametrize("levels", [2, 256])
def test_levels_survive_any_noise(levels):
    model = Flow(28, levels, 4)
    model.start_from_mean((torch.rand(20, 1, 28, 28) ** 9 * 255).to(torch.uint8))
    x = torch.arange(784).view(1, 1, 28, 28) % levels
    start, end = model.cdf[x], model.cdf[x + 1]
    for r in (0.0, 1 - 2**-24):
        u, log_volume = model.dequantize(x, r=torch.full(x.shape, r))
        assert torch.equal(model.quantize(u), x) and u.min() > 0
    assert log_volume.item() == pytest.approx((end - start).log().sum().item())
    u, _ = model.dequantize(x, r=torch.full(x.shape, 0.5))
    assert torch.allclose(u, (start + end) / 2)
    plain = start + (end - start) * (1 - 2**-24)  # control: (7) and no more, in float32
    assert start.min() == 0 and (levels == 2 or not torch.equal(model.quantize(plain), x))


class TooGood(Flow):
    """Its bound is better than it should be by `off` nats."""

    off = 0.0

    def bound(self, x, y=None, generator=None):
        return super().bound(x, y, generator) + self.off


class EqualBins(Flow):
    edges = property(lambda self: torch.linspace(0, 1, len(self.begins)).to(self.cdf))


@pytest.mark.slow
@pytest.mark.parametrize("formula", KINDS)
def test_the_bound_is_a_bound_and_its_mean_is_exact(formula):
    """E[exp(bound)] = P(x): on 4×4 bits, over many draws of the noise. (With noise of half
    the width it is not: next test.)"""
    model = lively(formula=formula, scale=0.4 if formula == "spline" else 0.15)
    n = 500 if formula == "spline" else 20000  # of a spline all draws of the noise say the same
    x = all_images()[[3, 777, 40000]].repeat_interleave(n, 0)
    bounds = model.bound(x, generator=torch.Generator().manual_seed(0)).view(3, -1)
    exact = model.log_prob(x[::n])
    mean, error = bounds.exp().mean(1), bounds.exp().std(1) / n**0.5
    assert ((mean - exact.exp()).abs() < 5 * error + 2e-3 * exact.exp()).all()
    assert (bounds.mean(1) < exact + 1e-6).all()
    gap = (exact[:, None] - bounds).abs().max().item()
    if formula == "spline":  # its slope is the same all over a cell: nothing is lost
        assert gap < 1e-6
        grey = lively(256, size=8)
        grey.counts.copy_(torch.arange(256).flip(0) ** 3 + 1)
        grey.begins.copy_(flow.begins_of_bins(grey.counts, 32))
        x = torch.randint(256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        assert torch.allclose(grey.bound(x), grey.log_prob(x), atol=1e-4)
        grey.__class__ = EqualBins  # control: bins that end within cells
        assert (grey.bound(x) - grey.log_prob(x)).abs().max() > 0.1
        return
    assert gap > 0.1


@pytest.mark.slow
@torch.no_grad()
def test_with_noise_of_half_the_width_it_is_no_bound():
    """All densities fall within each cell ((4), t = 2). Of each image the bound's mean is below
    log P; with noise in the lower half of cells, and V as before, it is above."""
    model = Flow(4, 2, 4, "additive").to(torch.float64)
    model.counts.copy_(torch.tensor([7, 3]))
    for coupling in model.couplings:  # at first they say this and nothing else
        net = coupling.network
        (net.biases[2] if coupling.one_by_one else net.bias).fill_(2)
    x, n = all_images()[::1000], 200
    exact, many = model.log_prob(x), x.repeat_interleave(n, 0)
    bounds = model.bound(many, generator=torch.Generator().manual_seed(0)).view(-1, n)
    assert (bounds.mean(1) < exact).all()
    start, end = model.cdf[many.long()], model.cdf[many.long() + 1]
    r = torch.rand(many.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    narrow = model.encode(start + (end - start) * r / 2)[1] + (
        end - start).log().flatten(1).sum(1)
    assert (narrow.view(-1, n).mean(1) > exact).all()


@pytest.mark.slow
def test_a_bound_below_the_exact_figure_is_noticed():
    model, x = lively(formula="affine"), all_images()[::100]
    one, ten = flow.evaluate_noise(model, x, None, 10)
    exact = flow.evaluate(model, x, None)
    assert exact < ten < one
    generator, bounds = torch.Generator().manual_seed(0), []
    for part in x.split(250):
        draws = torch.stack([model.bound(part, None, generator) for _ in range(10)])
        bounds.append(torch.stack([draws[0], draws.logsumexp(dim=0) - math.log(10)]))
    gaps = (model.log_prob(x) - torch.cat(bounds, dim=1)).detach()
    limit = (gaps.mean(dim=1) + 0.01 + 5 * gaps.std(dim=1) / len(x) ** 0.5).min().item()
    model.__class__ = TooGood
    model.off = limit - 1e-3
    flow.evaluate_noise(model, x, None, 10)  # control
    model.off = limit + 1e-3
    with pytest.raises(AssertionError, match="below the exact figure"):
        flow.evaluate_noise(model, x, None, 10)


@pytest.mark.slow
@pytest.mark.parametrize("formula", KINDS)
def test_draws_have_the_probabilities_that_it_says(formula):
    """χ² of 20,000 draws: patterns of the four pixels that are drawn first, summed exactly."""
    model, n = lively(formula=formula), 20000
    model.couplings.to(torch.float64)
    drawn = model.sample(n, generator=torch.Generator().manual_seed(0))
    first = [int(d) for c in list(model.couplings)[-4:] for d in c.moved.flatten()][-4:]
    weights = torch.tensor([1, 2, 4, 8], dtype=torch.float64)
    pattern = (all_images().flatten(1)[:, first] @ weights).long()
    expected = torch.zeros(16, dtype=torch.float64).index_add(0, pattern, probabilities(formula))
    counts = torch.bincount((drawn.flatten(1)[:, first].to(torch.float64) @ weights).long(),
                            minlength=16)
    chi = ((counts - n * expected) ** 2 / (n * expected).clamp(min=1)).sum()
    assert chi < 45  # 15 degrees of freedom: one time in 10,000
    wrong = expected.roll(1)  # control
    assert ((counts - n * wrong) ** 2 / (n * wrong).clamp(min=1)).sum() > 100


@pytest.mark.slow
@pytest.mark.parametrize("formula", KINDS)
@torch.no_grad()
def test_grey_draws_have_the_probabilities_that_it_says(formula):
    """χ² of 20,000 draws on 32 bins of levels: of the pixel that is drawn first."""
    model, n = lively(256, formula, scale=0.5 if formula == "spline" else 0.15), 20000
    first = model.couplings[-1].moved[0].item()
    x = torch.zeros(256, 1, 4, 4, dtype=torch.float64)
    x.view(256, 16)[:, first] = torch.arange(256, dtype=torch.float64)
    p = model.log_probs(x).flatten(1)[:, first].exp()
    assert p.sum().item() == pytest.approx(1)
    drawn = model.sample(n, generator=torch.Generator().manual_seed(0)).flatten(1)[:, first]
    inner = model.begins[1:-1]
    counts = torch.bincount(torch.bucketize((255 * drawn).round().long(), inner, right=True),
                            minlength=32)
    expected = n * torch.zeros(32, dtype=torch.float64).index_add(
        0, torch.bucketize(torch.arange(256), inner, right=True), p)
    assert ((counts - expected) ** 2 / expected.clamp(min=1)).sum() < 70  # 31 degrees: 1 in 10,000
    wrong = expected.roll(1)  # control
    assert ((counts - wrong) ** 2 / wrong.clamp(min=1)).sum() > 100


@pytest.mark.parametrize("formula", KINDS)
def test_the_density_integrates_to_1_on_a_grid(formula):
    """Two pixels: the second given the first's level; the mean of the density over the square."""
    side = 400
    model = lively(levels=2)
    edges = model.edges
    says_first = torch.randn(2, dtype=torch.float64)
    says_second = torch.randn(2, 2, dtype=torch.float64)  # what a network would say of two levels
    if formula != "spline":  # s < 0 has a pole at 0 and at 1, of which a grid sees too little
        says_first, says_second = says_first.abs(), says_second.abs()

    def log_slope(u, says):
        return flow.spline(u, says, edges)[1] if formula == "spline" else flow.affine(
            u, says, formula == "additive")[1]

    grid = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    seen = (grid > model.cdf[1]).long()
    first = log_slope(grid, says_first.expand(side, 2))
    second = log_slope(grid.repeat(side), says_second[seen].repeat_interleave(side, 0))
    density = (first.repeat_interleave(side) + second).exp()
    assert density.mean().item() == pytest.approx(1, abs=2e-3) and density.std() > 0.1
    # Controls: the area is not divided out; the logit's own slope is forgotten.
    wrong = flow.at(says_first.expand(side, 2), flow.bin_of(grid, edges)) \
        if formula == "spline" else first - flow.logit(grid)[1]
    assert abs(wrong.exp().mean() - 1) > 0.1


def test_what_is_given_comes_out_and_the_rest_fits_it():
    model = lively(size=8, scale=1.0)
    known = torch.zeros(8, 8, dtype=torch.bool)
    known[::4, ::4] = True
    x = torch.ones(400, 1, 8, 8, dtype=torch.float64)
    drawn = [model.sample(400, generator=torch.Generator().manual_seed(0), x=v, known=known)
             for v in (x, 1 - x)]
    assert (drawn[0][:, 0, known] == 1).all() and (drawn[1][:, 0, known] == 0).all()
    assert not torch.equal(drawn[0][:, 0, ~known], drawn[1][:, 0, ~known])
    # Their own coarse pixels given back to draws of the model change nothing.
    plain = model.sample(50, generator=torch.Generator().manual_seed(3))
    again = model.sample(50, generator=torch.Generator().manual_seed(3), x=plain, known=known)
    assert torch.equal(plain, again)


def test_temperature_0_is_the_middle_of_each_distribution():
    model = lively()
    drawn = model.sample(5, temperature=0)
    assert (drawn == drawn[:1]).all()
    z = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    assert torch.equal(drawn[:1], model.quantize(model.decode(z)).to(torch.float64))
    cold, warm = (model.sample(2000, generator=torch.Generator().manual_seed(0),
                               temperature=t).std(0).mean() for t in (0.5, 1))
    assert cold < warm


def test_temperature_multiplies_gaussian_noise():
    """A fresh flow is the identity: a pixel is on where noise is above F(1) = 0.7."""
    model, normal = Flow(4, 2, 4), torch.distributions.Normal(0.0, 1.0)
    model.counts.copy_(torch.tensor([7, 3]))
    for tau in (0.5, 1, 2):
        drawn = model.sample(20000, generator=torch.Generator().manual_seed(0), temperature=tau)
        on = 1 - normal.cdf(normal.icdf(torch.tensor(0.7)) / tau).item()
        assert drawn.mean().item() == pytest.approx(on, abs=0.005)


@pytest.mark.parametrize("formula", KINDS)
def test_nothing_a_network_says_makes_nan(formula):
    edges = torch.tensor([0, 0.8, 0.8002, 1])
    says = torch.tensor([[1e4, -1e4, 1e4], [-1e4] * 3, [1e4] * 3, [0, 1e4, 0]])
    says = says if formula == "spline" else says[:, :2]
    for u in (1e-7, 0.5, 1 - 6e-8):
        u = torch.full((4,), u)
        z, log_slope = flow.spline(u, says, edges) if formula == "spline" else flow.affine(
            u, says, formula == "additive")
        assert z.isfinite().all() and log_slope.isfinite().all()
        back = flow.spline_back(z, says, edges) if formula == "spline" else flow.affine_back(
            z, says, formula == "additive")
        assert back.isfinite().all() and (back >= 0).all() and (back <= 1).all()
    if formula == "affine":  # control: s as it was said, not squashed
        assert not (says[:, 1].exp() * flow.logit(u)[0] + says[:, 0]).isfinite().all()


def test_the_label_is_heard_by_every_coupling():
    model = lively(size=8, conditional=True)
    x = (torch.rand(1, 1, 8, 8) < 0.4).to(torch.float64)
    a, b = (model.log_probs(x, torch.tensor([k])).flatten() for k in (0, 1))
    for coupling in model.couplings:
        at = coupling.moved.flatten()
        assert (a[at] != b[at]).any()
    marginal, right = flow.evaluate_without_label(model, x.repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    by_label = torch.stack([model.log_prob(x, torch.tensor([k])) for k in range(10)])
    assert marginal == pytest.approx(-(by_label.exp().mean().log().item()))
    assert right == (0.5 if by_label.argmax() in (0, 1) else 0)
    with pytest.raises(ValueError, match="conditional"):
        model.log_prob(x)


@pytest.mark.slow
@pytest.mark.parametrize("levels, conditional", [(256, False), (256, True), (2, True)])
def test_what_is_published_is_of_the_test_digits_with_their_labels(few_images, levels, conditional):
    """Nats, bounds, and what is left without the label; of validation digits, or by the labels of
    others, they are others."""
    data, words = fit.told(utils.load_mnist(), conditional), " --conditional" * conditional
    s = fit.values(flow, f"--width 4 --levels {levels} --test-draws 10 --noise-draws 2{words}")
    torch.manual_seed(0)
    model = flow.build(s)
    model.start_from_mean(data.train)
    with torch.no_grad():  # a fresh one does not hear the label
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p) * (p.shape[-1] if p.dim() > 1 else 1) ** -0.5

    def figures(grey, bits, y):
        x = grey if levels > 2 else bits
        more = flow.evaluate_without_label(model, x, y) if levels == 2 else ()
        return [flow.evaluate(model, x, y), *flow.evaluate_noise(model, x, y, 2), *more]

    nats, metrics = flow.figures_at_the_end(model, data, judge.load_judge(), s)
    without_label = [metrics["marginal_nats"], metrics["bayes_accuracy"]] if levels == 2 else []
    published = [metrics["grey_nats"] if nats is None else nats]
    published += [*metrics["bounds_by_draws"].values(), *without_label]
    assert published == pytest.approx(figures(data.test, data.x_test, data.y_test), rel=1e-6)
    others = [figures(data.val, data.x_val, data.y_val)]  # controls
    others += [figures(data.test, data.x_test, data.y_test.flip(0))] if conditional else []
    assert all(other[0] != pytest.approx(published[0], rel=1e-5) for other in others)


def test_sizes_that_cannot_be_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match="halved twice"):
        Flow(30)
    with pytest.raises(ValueError, match="multiple of 4"):
        Flow(28, channels=6)
    assert Flow((8, 12), 2, 4).sample(2).shape == (2, 1, 8, 12)
    assert math.isclose(Flow(8, 2, 4).sample(64).mean().item(), 0.5, abs_tol=0.05)


def test_half_precision_moves_no_cell():
    """Weights that ship are rounded; the histogram must not be: draws keep their levels."""
    model = Flow(28, 256, 4)
    model.start_from_mean((torch.rand(200, 1, 28, 28) ** 9 * 255).to(torch.uint8))
    state = {k: v.half().float() if v.is_floating_point() else v
             for k, v in model.state_dict().items()}
    other = Flow(28, 256, 4)
    other.load_state_dict(state)
    assert torch.equal(other.cdf, model.cdf) and torch.equal(other.edges, model.edges)
    assert not torch.equal(model.cdf.half().float(), model.cdf)  # control


def test_a_nudge_moves_this_part_of_the_digits_by_a_pixel():
    torch.manual_seed(0)
    digits = torch.zeros(9000, 1, 4, 4)
    digits[:, 0, 1, 1] = 1
    state = torch.get_rng_state()
    assert torch.equal(flow.nudge(digits.clone(), 0), digits)  # and costs no random number:
    assert torch.equal(torch.get_rng_state(), state)  # earlier runs stay what they were
    share = flow.nudge(digits.clone(), 0.9).mean(dim=(0, 1))
    wanted = torch.zeros(4, 4)
    wanted[:3, :3] = 0.1  # nine places are equally frequent, and in one of them it was before:
    wanted[1, 1] = 0.2  # a tenth was not touched
    assert torch.allclose(share, wanted, atol=0.015)
    assert not torch.allclose(flow.nudge(digits.clone(), 0.5).mean(dim=(0, 1)), wanted, atol=0.015)


def test_brightness_is_not_taken_for_levels():
    """An image in [0, 1] as levels would be nearly black, and have a splendid probability."""
    model = lively(levels=256)
    levels = torch.randint(256, (2, 1, 4, 4))
    for ask in (model.log_prob, model.bound, model.dequantize):
        with pytest.raises(ValueError, match="whole numbers, 0 … 255"):
            ask(levels / 255)
        with pytest.raises(ValueError, match="pixels have to lie in 0 … 255"):
            ask(levels - 300)
        ask(levels)  # control


@torch.no_grad()
def test_the_label_is_heard_on_the_way_to_noise_and_back():
    """Where training looks (the bound of splines is exact, label by label), and where draws come
    from: back with the right label is where it began, and with another one it is not."""
    model, y = lively(size=8, conditional=True), torch.arange(20) % 10
    x = (torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    other = (y + 1) % 10
    assert torch.allclose(model.bound(x, y), model.log_prob(x, y), atol=1e-6)
    assert (model.bound(x, y) - model.bound(x, other)).abs().min() > 1e-3
    u, _ = model.dequantize(x, torch.Generator().manual_seed(1))
    z, _ = model.encode(u, y)
    assert torch.allclose(model.decode(z, y), u, atol=1e-8)
    assert not torch.allclose(model.decode(z, other), u, atol=1e-3)
