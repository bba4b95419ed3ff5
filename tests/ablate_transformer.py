"""What each detail of transformer_ar.py is worth: the default with one thing changed, in a short run.

    python tests/ablate_transformer.py [--steps 200] [--data-dir data] [--only NAME ...]

Writes runs/ablate_transformer/ablations.json, a row a variant: nats on the first 1,000 validation images, gradient
norms, seconds. A script to run, not a test. The figures in the notes of the chapter come from the file that is
committed as samples/transformer_ar/ablations.json. Validation chooses; no test figure is read here.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from ablate_convolutions import after_init, frozen_at_zero, main, rates

import transformer_ar as chapter
from transformer_ar import Block, Transformer


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
def zero_branches(block):
    for part in (block.out, block.down):
        part.weight.zero_()
        part.bias.zero_()


def without_norms(model):
    for block in model.blocks:
        block.norm_1 = block.norm_2 = nn.Identity()
    model.norm = nn.Identity()


def post_norm_split(self, h):
    q, k, v = self.qkv(h).chunk(3, dim=2)
    return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)]


def post_norm_join(self, h, heads):
    h = self.norm_1(h + self.out(heads.transpose(1, 2).flatten(2)))
    return self.norm_2(h + self.down(F.relu(self.up(h))))


def gelu_join(self, h, heads):
    h = h + self.out(heads.transpose(1, 2).flatten(2))
    return h + self.down(F.gelu(self.up(self.norm_2(h))))


def no_mlp_join(self, h, heads):
    return h + self.out(heads.transpose(1, 2).flatten(2))


def peeking(q, k, v):
    """A mask that is off by one: s ≤ t + 1."""
    mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def unscaled(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


def attention(f):
    return [(chapter, "fast_attention", f)]


VARIANTS = {  # name: (chapter, flags, patches: (object, attribute, value))
    "default": (chapter, [], []),
    "seed 1": (chapter, ["--seed", "1"], []),
    "reach 0": (chapter, ["--reach", "0"], []),
    "reach 1": (chapter, ["--reach", "1"], []),
    "no attention": (chapter, [], attention(lambda q, k, v: torch.zeros_like(v))),
    "no MLP": (chapter, [], [(Block, "join", no_mlp_join)]),
    "no root": (chapter, [], attention(unscaled)),
    "no root, one head": (chapter, [], attention(unscaled) + [(chapter, "HEADS", 1)]),
    "one head": (chapter, [], [(chapter, "HEADS", 1)]),
    "8 heads": (chapter, [], [(chapter, "HEADS", 8)]),
    "post-norm": (chapter, [], [(Block, "split", post_norm_split), (Block, "join", post_norm_join)]),
    "no norm": (chapter, [], [after_init(Transformer, without_norms)]),
    "no position": (chapter, [], [frozen_at_zero(Transformer, "row", "column")]),
    "no position, reach 0": (chapter, ["--reach", "0"], [frozen_at_zero(Transformer, "row", "column")]),
    "neither position nor bias, reach 0": (chapter, ["--reach", "0"], [frozen_at_zero(Transformer, "row", "column", "bias"),
                                                                      (Transformer, "start_from_mean", lambda self, images: None)]),
    "positions of 0.02": (chapter, [], [after_init(Transformer, small_positions)]),
    "all weights of 0.02": (chapter, [], [after_init(Transformer, gpt_init)]),
    "branches start at 0": (chapter, [], [after_init(Block, zero_branches)]),
    "GELU": (chapter, [], [(Block, "join", gelu_join)]),
    "no warm-up": (chapter, [], [(chapter, "WARM_UP", 0.0)]),
    **{name.split(", ")[1]: variant for name, variant in rates(chapter, "default", chapter.LR).items()},
    "two layers": (chapter, [], [(chapter, "LAYERS", 2)]),
    "attention as written": (chapter, [], attention(lambda q, k, v: chapter.attention(q, k, v))),
    "mask off by one": (chapter, [], attention(peeking)),
    "patch 1": (chapter, ["--patch", "1"], []),
}

if __name__ == "__main__":
    main(VARIANTS, "ablate_transformer", 200, __doc__)
