"""Layers of networks, written anew in loops over places, for tests that write down whole networks:
one image at a time, (C, H, W), in float64. A layer gives its weights here, and nothing else."""
import math

import torch


@torch.no_grad()
def enlivened(network, seed=0):
    """The network in float64, all of whose parameters are random: fresh ones begin with zeros and
    ones, which hide what is done with them."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.double().parameters():
        terms = max(p[0].numel(), 1) if p.dim() > 1 else 1
        p.copy_(torch.randn(p.shape, generator=generator).double() * terms**-0.5)
    return network


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def silu(u):
    return u / (1 + torch.exp(-u))


def normed(u):
    """Mean 0 and variance 1 over all numbers of u."""
    return (u - u.mean()) / math.sqrt((u - u.mean()).square().mean() + 1e-5)


def linear(layer, h):
    """(I,) -> (O,): a row of weights for each number that comes out."""
    return torch.stack([(row * h).sum() + b for row, b in zip(layer.weight, layer.bias)])


def in_groups(layer, h, groups=4):
    """GroupNorm: each group of channels is normed by itself; each channel then scaled, shifted."""
    size = len(h) // groups
    parts = [normed(h[i:i + size]) for i in range(0, len(h), size)]
    return torch.cat(parts) * layer.weight[:, None, None] + layer.bias[:, None, None]


def conv(layer, h, stride=1, padding=0):
    """(I, H, W) -> (O, H', W'): kernels are laid on a window around each place, 0 outside."""
    (channels, height, width), size = h.shape, layer.weight.shape[-1]
    framed = h.new_zeros(channels, height + 2 * padding, width + 2 * padding)
    framed[:, padding:padding + height, padding:padding + width] = h
    rows = [[(layer.weight * framed[:, i:i + size, j:j + size]).sum(dim=(1, 2, 3)) + layer.bias
             for j in range(0, width + 2 * padding - size + 1, stride)]
            for i in range(0, height + 2 * padding - size + 1, stride)]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def doubled(layer, h):
    """ConvTranspose2d(I, O, 2, 2): each place becomes four. (I, H, W) -> (O, 2H, 2W)."""
    out = h.new_zeros(layer.weight.shape[1], 2 * h.shape[1], 2 * h.shape[2])
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            at = h[:, i // 2, j // 2]
            out[:, i, j] = at @ layer.weight[:, :, i % 2, j % 2] + layer.bias
    return out


def differ(a, b):
    return (a - b).abs().max() > 1e-3
