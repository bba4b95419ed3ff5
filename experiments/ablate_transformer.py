"""What each detail of transformer_ar.py is worth: one thing changed, in a short run.

    python experiments/ablate_transformer.py [--steps 400] [--data-dir data] [--only NAME ...]

Writes runs/ablations/transformer_ar.json, a row a variant: nats on the first 1,000 validation
images, gradient norms, seconds. A script to run, not a test. The figures in the notes of the
chapter come from the file that is committed as results/ablations/transformer_ar.json. Validation
chooses; no test figure is read here.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from ablate import changed, frozen, likelihood_figures, main, rates, with_adam

import transformer_ar as chapter
from transformer_ar import Block


@torch.no_grad()
def gpt_init(model):
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Embedding, nn.Conv2d)):
            part.weight.normal_(0, 0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            part.bias.zero_()
    model.row.normal_(0, 0.02)
    model.column.normal_(0, 0.02)


@torch.no_grad()
def small_positions(model):
    model.row.mul_(0.04)
    model.column.mul_(0.04)


@torch.no_grad()
def zero_branches(model):
    for block in model.blocks:
        for part in (block.out, block.down):
            part.weight.zero_()
            part.bias.zero_()


def without_norms(model):
    for block in model.blocks:
        block.norm_1 = block.norm_2 = nn.Identity()
    model.norm = nn.Identity()


class PostNorm(Block):
    def split(self, h):
        q, k, v = self.qkv(h).chunk(3, dim=2)
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)]

    def join(self, h, taken):
        h = self.norm_1(h + self.out(taken.transpose(1, 2).flatten(2)))
        return self.norm_2(h + self.down(F.relu(self.up(h))))


class Gelu(Block):
    def join(self, h, taken):
        h = h + self.out(taken.transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.norm_2(h))))


class NoMLP(Block):
    def join(self, h, taken):
        return h + self.out(taken.transpose(1, 2).flatten(2))


class Peeking(Block):
    """A mask that is off by one: s ≤ t + 1."""

    def forward(self, h):
        q, k, v = self.split(h)
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril(1)
        return self.join(h, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class Unscaled(Block):
    def forward(self, h):
        q, k, v = self.split(h)
        return self.join(h, F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0))


class NoAttention(Block):
    def forward(self, h):
        return self.join(h, torch.zeros_like(self.split(h)[2]))


class AsWritten(Block):
    def forward(self, h):
        return self.join(h, chapter.attention(*self.split(h)))


def blocks(methods):
    """A build(): all blocks are of a subclass of Block."""
    def change(model):
        for block in model.blocks:
            block.__class__ = methods

    return changed(chapter, change)


VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (chapter, "", None),
    "seed 1": (chapter, "--seed 1", None),
    "seed 2": (chapter, "--seed 2", None),
    "Adam": (chapter, "", with_adam(chapter)),
    "Adam, rate 4e-3": (chapter, "--lr 4e-3", with_adam(chapter)),
    "reach 0": (chapter, "--reach 0", None),
    "reach 1": (chapter, "--reach 1", None),
    "reach 5": (chapter, "--reach 5", None),
    "reach 0, Adam": (chapter, "--reach 0", with_adam(chapter)),
    "no attention": (chapter, "", blocks(NoAttention)),
    "no MLP": (chapter, "", blocks(NoMLP)),
    "no root": (chapter, "", blocks(Unscaled)),
    "no root, one head": (chapter, "--heads 1", blocks(Unscaled)),
    "one head": (chapter, "--heads 1", None),
    "8 heads": (chapter, "--heads 8", None),
    "post-norm": (chapter, "", blocks(PostNorm)),
    "8 layers": (chapter, "--depth 8", None),
    "post-norm, 8 layers": (chapter, "--depth 8", blocks(PostNorm)),
    "no norm": (chapter, "", changed(chapter, without_norms)),
    "no position": (chapter, "", frozen(chapter, "row", "column")),
    "no position, reach 0": (chapter, "--reach 0", frozen(chapter, "row", "column")),
    "neither position nor bias, reach 0": (
        chapter, "--reach 0", frozen(chapter, "row", "column", "bias")),
    "positions of 0.02": (chapter, "", changed(chapter, small_positions)),
    "all weights of 0.02": (chapter, "", changed(chapter, gpt_init)),
    "branches start at 0": (chapter, "", changed(chapter, zero_branches)),
    "GELU": (chapter, "", blocks(Gelu)),
    "no warm-up": (chapter, "--warm-up 0", None),
    **rates(chapter, ""),
    "two layers": (chapter, "--depth 2", None),
    "attention as written": (chapter, "", blocks(AsWritten)),
    "mask off by one": (chapter, "", blocks(Peeking)),
    "patch 1": (chapter, "--patch 1", None),
}


def figures(name, model, data, norms):
    return likelihood_figures(chapter, model, data, norms)


if __name__ == "__main__":
    main(VARIANTS, "transformer_ar", 400, __doc__, figures, {"val_nats": None})
