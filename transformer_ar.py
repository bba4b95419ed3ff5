"""
Autoregression by attention: an image as a language
===================================================
Cut the image into words of 2×2 pixels and read it, word by word, as one reads a sentence. At each
step a transformer says how probable each of the 16 words is as the next one. Where a convolution
has fixed places to look at and an RNN has only its memory, attention asks: each step says what it
is looking for, each earlier step says what it has, and what fits is taken, wherever it stands. All
steps are trained at once, as in WaveNet, and each sees all of the past in a single layer.

    log p(x)  =  Σ_t log p( w_t | w_1, ..., w_{t−1} )               nats per image, exact        (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   binary image, 0 or 1; D = 784 pixels
    words      w_t           (B, T)           the same image as T = 196 numbers 0 … V − 1
    h          h_t           (B, T, C)        what step t knows: C numbers that layers add to
    q, k, v    q_t, k_t, v_t (B, heads, T, d) queries, keys, values of each head; d = C / heads
    attention_weights  A_ts  (B, heads, T, T) how much step t takes from step s; 0 for s > t
    logits     ℓ             (B, T, V)        p(w_t = · | before) = softmax(ℓ_t)
    u          u             (n, D)           uniform noise, as elsewhere; one number a word is used
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, L layers, T words in an image, V = 16 words in the language; in p(x|k)
    k is a digit

Papers    Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser & Polosukhin, Attention Is All
          You Need, 2017 (arXiv 1706.03762): (2) and (3) are its equation 1
          Parmar et al., Image Transformer, 2018 (1802.05751): pixels as words
          Chen et al., Generative Pretraining from Pixels, 2020 (ImageGPT)
          Radford et al., Language Models are Unsupervised Multitask Learners, 2019: GPT-2, pre-norm
          Jordan et al., Muon, 2024: the optimizer, which has a small chapter of its own, muon.py
Lecture   Berkeley CS294-158, lecture 2: autoregressive models
Run       python transformer_ar.py                 train, draw, measure; writes runs/transformer_ar/
          python transformer_ar.py --conditional   the same with the class given: p(x|y)
          python transformer_ar.py --patch 1       a word is one pixel: runs/transformer_ar_patch1/
          python transformer_ar.py --sample-only --temperature 0.8   draw, a little safer
Reached   −log p(x) = 80.48 nats, 0.1481 bits/dim on all 10,000 test images, exact:
          7.0 minutes of training on 2 cores of a shared server (Intel Xeon), seed 0:
          samples/transformer_ar/metrics.json. Published with attention, by others than the papers:
          ImageGPT 79.17, PixelSNAIL 78.61 (EugenHotaj/pytorch-generative), after up to 457 epochs
          where this is 1.9 (what differs: "Given an afternoon").
Gallery   samples/transformer_ar/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: dropout (a run sees each training image about twice: too seldom to learn
          it by heart); rotary and relative positions; sparse and linear attention, which a
          line of 196 words does not need.
"""
import math

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from judge import figures_of_levels
from muon import Muon
from runner import Run, load_trained
from settings import Setting, defaults

# Settings to turn, here or as flags (--reach 1).
SETTINGS = {
    "patch": Setting(2, "pixels along each side of a word: 2, or 1 for single pixels",
                     word="patch{}"),
    "reach": Setting(3, "words up and to both sides that the entrance sees; 0: only the last one",
                     0, 13, word="reach{}"),
    "steps": Setting(6000, "length of training"),
    # Small: at equal time more steps did better (single runs, no file is kept).
    "batch_size": Setting(16, "images a step"),
    "lr": Setting(8e-3, "highest learning rate"),
    "warm_up": Setting(0.05, "part of the run in which the learning rate rises", 0, 1),
    # Below nearly every gradient, so that all batches count alike (wavenet.py).
    "clip": Setting(1.0, "longer gradients are scaled down to this length"),
    "width": Setting(64, "C, channels of the residual stream", 1, 10000, word="width{}"),
    "depth": Setting(3, "L, layers", 1, 100, word="depth{}"),
    "heads": Setting(4, "heads of a layer, of C / heads numbers each"),
    "levels": Setting(2, "2: black and white; 4, or with --patch 1 up to 256: grey", 2, 256,
                      word="{}levels"),
    "eval_images": Setting(500, "training and validation images scored at each evaluation"),
    "temperature": Setting(1.0, "divide logits by this; below 1 digits get safer", most=100,
                           drawing=True),
}
# Single pixels: a step takes several times as long, and twice the words reach as many pixels.
VARIANTS = {("patch", 1): {"steps": 2000, "reach": 6}}
SEEN = 6  # E: of more than two levels, the entrance sees each as so many learned numbers
ADAM = ("word", "row", "column", "look", "label", "bias", "last")  # weights so named are Adam's

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# The chain rule (1), why any order is right, what a nat costs in a file, and why nothing here is a
# bound: made.py. Causal shifts: wavenet.py. Here the factors are not coins but dice, with 16 sides.
#
# An image as a sentence. A word is a patch of 2×2 pixels, so there are 2⁴ = 16 words, and an image
# is a sentence of 14·14 = 196 words, read in rows. To spell: the pixels of a word are the binary
# digits of its number (top left counts 1, top right 2, bottom left 4, bottom right 8). Every image
# is exactly one sentence and every sentence one image, so p(image) = p(sentence): the nats are the
# same quantity as in the other chapters, the exact −log p of the same 784 bits. What differs is
# only how the chain rule is cut:
#
#     log p(w_t | before) = log softmax(ℓ_t)[w_t]          one factor for four pixels
#                         = Σ log p(pixel | before, pixels of its word so far)  (chain rule again)
#
# The four pixels of a word do not wait for each other, and are not independent either: a die with
# 16 sides can say "all on or all off". So words give up nothing that four coins in turn could say,
# and the line is a quarter as long; what that saves is (6). But words must not get large: patches
# of 3×3 would have 512 (and do not tile 28), of 4×4, 65,536, most of which never occur in training.
#
# Is this loss normal? A uniform guess costs 196 · log 16 = 784 · log 2 = 543 nats, as with pixels.
# Independent pixels cost 206. The biases begin there: each place has one for each word, and
# start_from_mean() makes it the sum of log p̄/(1 − p̄) over the word's pixels that are on (p̄: how
# often that pixel is). With independent pixels this is log p(w), but for a constant, which a
# softmax does not see. The loss begins higher, since `last` is random at first and adds noise;
# after 60 steps that is forgotten (138 nats on validation: samples/transformer_ar/metrics.json).
#
# A word (papers: a token) enters as a vector of C numbers, its row in a learned table (embedding).
#
# Attention. Each step t makes three vectors of its h_t: a query q_t (what am I looking for?), a key
# k_t (what do I have?), a value v_t (what do I say to those who look for it?). Each is a matrix
# times h_t (behind a norm, see (5); one linear layer, `qkv`, makes all three and is cut in three).
# All three come from one sequence: *self*-attention. Step t takes
#
#     a_t  =  Σ_s A_ts v_s                                                                       (2)
#     A_ts =  softmax over s ≤ t of   q_t · k_s / √d                                             (3)
#
# an average of values, weighted by how well key and query fit. A convolution's weights belong to
# places; these are made anew for each image. Apart from s ≤ t, nothing in (2) and (3) knows where s
# and t are. If h_t were made of w_{t−1} alone, two words before w_{t−1} could change places, and
# a_t of the first layer would be the same. So places have to be told. (The mask tells a little:
# only the first step has no word before it, and its share of an even average over t steps is 1/t,
# which the next layer can read. Language models that are told no positions do learn them: Haviv et
# al. 2022.)
#
# Why √d. If the entries of q and k are independent, of mean 0 and variance 1, q · k has a standard
# deviation of √d: 4 for our d = 16, 32 for d = 1,024. Without the root the softmax gets logits that
# are √d times as far apart. If d is large, it puts nearly all weight on one step, and a softmax
# that is sure passes hardly any gradient back to q and k. Measured in the default's first layer,
# trained with the root (attention_spread(), 100 validation images; no file is kept):
#
#                                       at the start       after training
#     standard deviation of q · k        1.56              7.99
#     … of q · k / √d                    0.39              2.00
#     largest weight without the root    0.19              0.64         (mean over steps)
#     … with it                          0.04              0.20
#
# (At the start entries of q and k have a variance of 1/3, as torch starts linear layers. Were they
# independent, q · k would have a deviation of 4/3; but steps share places and neighbours.) With
# heads as small as ours the root is worth little: without it 87.9 nats instead of 87.5 (validation,
# 400 steps, as in all that follows; three seeds span 0.2); with one head, d = 64, 89.3, not 87.8.
#
# The mask. (3) sums over s ≤ t. Step t is told word t − 1 and has to guess word t:
#
#     step s          1   2   3   4               takes from s    1   2   3   4
#     is told         ·   w₁  w₂  w₃              step t = 1      █   ·   ·   ·
#     guesses         w₁  w₂  w₃  w₄                       2      █   █   ·   ·
#                                                          3      █   █   █   ·
#                                                          4      █   █   █   █                  (4)
#
# (Formulas count steps from 1, code and pictures from 0.) Off by one to the right (s ≤ t + 1),
# step t may look at the step that was told w_t, the very word it has to guess. *The classic
# mistake*: the loss falls to 0.05 "nats" within 400 steps, better than any model there is; but when
# one draws, the word that the model learned to copy is not there yet. Off by one to the left (s <
# t), nothing leaks, but step 1 has nothing to look at: a softmax over nothing is 0/0, and the first
# loss is nan. Some libraries give 0 for 0/0, and then nobody notices. Nor does a test of what
# depends on what: word t − 1 still arrives, along the residual stream. So one test looks at the
# weights themselves: 0 for s > t, *and above 0 for all s ≤ t*.
#
# Heads. One softmax makes one average. With several heads, each of them smaller (d = C / heads),
# step t can look at several things for different reasons. The number of multiplications is the
# same. One head: 87.8 nats; eight: 87.6; the default, four: 87.5. Look at single heads on a digit
# in samples/transformer_ar/attention.png: in the first layer most take from stretches of the
# stroke, later some from a word or two. Above each map stand its layer and its largest weight: is
# that weight near 1 (a single word), or small (many words)?
#
# Residual stream. As in WaveNet each layer adds to h, never replaces it:
#
#     h ← h + out(attention(norm(h))),      h ← h + down(ReLU(up(norm(h))))                      (5)
#
# Attention moves things between steps. The second branch, the MLP, works on each step by itself: it
# widens its C numbers to 4C and back, and holds two thirds of a block's weights. Without the MLP
# 90.0 nats; without attention 89.9, since the entrance still sees the neighbours (below). What
# either is worth in a whole run so few steps do not say.
#
# Norm, and where. LayerNorm subtracts the mean of the C numbers of a step and divides by their
# standard deviation (then a learned scale and shift for each). In (5) it stands in front of each
# branch (pre-norm, GPT-2), so from the embedding to the last norm the stream is only added to, and
# the gradient has a free way back. In the first paper it stood behind the sum (post-norm), across
# the stream: 87.3 nats here instead of 87.5, and 87.3 without any norm! Three layers do not need
# one, not for 400 steps; whole runs and deep networks without norms we have not tried. With norms
# behind the sum a warm-up is needed, with norms in front hardly (Xiong et al. 2020). (In MADE
# a norm over the units leaks, since they have different pasts. Here it runs over the C numbers of
# one step, which all have the same past. Across steps it would leak, too.)
#
# (Places, neighbours, training and cost: in front of the model. How to sample: there.)
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------


def attention_weights(q, k):
    """How much of v_s step t takes, for all t and s: softmax over s ≤ t of q_t · k_s / √d (3).
    q, k: (…, T, d) -> (…, T, T)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)  # s > t (4)
    # −∞ in front of the softmax, not 0 behind it: with 0 behind it rows would not sum to 1, and the
    # softmax's denominator would have seen the future.
    return scores.masked_fill(future, -math.inf).softmax(dim=-1)


def attention(q, k, v):
    """(2): a_t = Σ_s A_ts v_s, causal. q, k, v: (B, heads, T, d) -> the same shape."""
    return attention_weights(q, k) @ v


def fast_attention(q, k, v):
    """The same from the library, which need not write the T × T weights into memory. Training uses
    this one."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    """One layer, (5): h ← h + out(attention(norm(h))), a look at other steps; then h ← h +
    down(ReLU(up(norm(h)))), each step by itself. (B, T, C) -> (B, T, C).

        h ──┬────────────────────────────(+)──┬──────────────────────────────(+)──►
            └─► norm ─► attention ─► out ─┘   └─► norm ─► up ─► ReLU ─► down ─┘
    """

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def split(self, h):
        """Queries, keys and values of all heads: (B, T, C) -> three of (B, heads, T, d),
        d = C / heads."""
        q, k, v = self.qkv(self.norm_1(h)).chunk(3, dim=2)
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)]

    def join(self, h, taken):
        """The rest of the layer, from what each head has taken, a_t of (2): (B, heads, T, d)."""
        h = h + self.out(taken.transpose(1, 2).flatten(2))
        return h + self.down(F.relu(self.up(self.norm_2(h))))

    def forward(self, h):
        return self.join(h, fast_attention(*self.split(h)))


def word_log_probs(logits, words):
    """(1): log softmax(ℓ_t)[w_t]. logits (B, T, V), words (B, T) -> (B, T) nats."""
    nats = F.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="none")
    return -nats.view(words.shape)


def toss_word(u, logits, allowed):
    """A word for each row, by inverting the distribution function: the first w with
    u < p(0) + … + p(w).

    u (n,) in [0, 1), logits (n, V); allowed: bool (n, V), words that agree with the pixels that are
    given, or None.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -math.inf)
    sums = logits.softmax(dim=1).cumsum(dim=1)  # (n, V)
    # searchsorted: how many sums are ≤ u. Rounding leaves the last sum a little off 1, and u times
    # it may round up to it: then the last word that is possible.
    words = torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)[:, 0]
    return words.minimum((sums < sums[:, -1:]).sum(dim=1))


def start_of_sample(model, n, y, generator, x, known):
    """Noise u (n, D), the given pixels (n, D) and which they are (D bools), labels y, and room for
    what is drawn (n, 1, H, W), all on the model's device.

    One number of noise for each pixel of each image, drawn before the loop: so two samplers, or two
    devices, can be compared pixel by pixel.
    """
    utils.check_label(model, y)
    utils.check_given(x, known)
    weight = model.last.weight  # for its device and dtype
    u = torch.rand(n, math.prod(model.image_size), generator=generator, dtype=weight.dtype)
    room = torch.zeros(n, 1, *model.image_size).to(weight)
    known = [False] * u.shape[1] if known is None else known.flatten().tolist()
    x = room if x is None else x.to(weight)
    return u.to(weight), x.flatten(1), known, None if y is None else y.to(weight.device), room


# --------------------------------------------------------------------------------------------------
# Model
#
# With (1) to (5) one can read all of Block. What follows is what an image adds to a sentence:
# places and neighbours; then what it all costs.
#
# Where am I? Each place has a row and a column, and a learned vector for each of the two is added
# at the entrance: 28 vectors instead of 196. Step t gets those of word t, the one it has to guess.
# Without them nats are 90.6; with --reach 0 as well 119.6, where --reach 0 alone has 90.7; without
# the biases of places, too, 124.0. With neighbours (below) the zeros outside of the image give its
# edges away; without neighbours and biases a line of words has hardly any marks.
#
# A look at the neighbours. A language model starts step t from word t − 1 alone, and lets attention
# find the rest. In an image we know where one should look first: at the words around. So a masked
# convolution (mask A of pixelcnn.py: what is not read yet has weight 0) shows each step the pixels
# of the words up to three rows above and three columns away, at the cost of 3 % more products:
#
#           n n n n n n n
#           n n n n n n n         n: seen at the entrance
#           n n n n n n n
#           n n n ?               ?: the word to guess
#
# Pixels enter as ±1, so that 0 can mean: outside of the image. With no look at the neighbours
# (--reach 0) 90.7 nats, with one word up and one to each side (--reach 1) 88.6, with three 87.5.
# Attention can learn to look there, but first it has to find out that there is a plane: in a
# sentence the word above is fourteen words ago. So at the entrance, and behind the last layer:
#
#     h_t  =  word(w_{t−1}) + row_t + column_t + neighbours_t  (+ label_y, if it is told one)
#     ℓ_t  =  last · norm(h_t) + bias_t                                                         (5a)
#
# Training. Muon moves the entrance's convolution and all matrices from there on: of each gradient
# it keeps the directions, and makes them equally long (muon.py). Adam moves what is no matrix in
# that sense, tables, biases and norms, and the last layer. With Adam alone: 89.9 nats.
#
# Labels. With --conditional a learned vector for each label is added at the entrance of every step,
# and the residual stream carries it to all layers. So that nats may stand beside those of p(x),
# evaluate_without_label() takes the label away again: p(x) = ⅒ Σ_k p(x|k) ≥ ⅒ p(x|y), as all terms
# are positive, so at most log 10 = 2.3 nats more: 77.63 with the label, 79.88 without it, and 80.48
# for the default, which was never told (samples/transformer_ar_conditional/).
#
# The cost. A block has 12 C² weights (4 C² in q, k, v and out, 8 C² in up and down), each used once
# a step; (2) and (3) have 2 C products for each step that is looked at. With multiplications and
# additions, for one image forwards,
#
#     L · ( 24 C² T  +  4 C T² )      =  87 million for T = 196, 703 million for T = 784         (6)
#
# (entrance and last layer not counted; a library that skips the future halves the second term.)
# Backwards takes twice as much again. So pixels as words (--patch 1) cost four times as much in the
# first term and 16 times in the second, eight times in all: measured, a pass of 64 images takes
# 0.697 s instead of 0.093 (results/sampling.json). Step by step they do better, 86.1 nats after 400
# steps instead of 87.5; but those take 260 s, in which a run of 1,200 steps of words ends, at 83.7
# ("Given an afternoon"; both beside other runs).
# --------------------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """A transformer with a causal mask (papers say: decoder-only) over words of patch × patch
    pixels, in reading order.

    image_size: height and width, or (height, width). reach: how many words up and to both sides the
    entrance sees (0: the last word only). classes: of labels, 0 if it is told none; a learned
    vector for each is added to every step. Raises ValueError if patch does not divide the image, or
    heads the channels.
    """

    def __init__(self, image_size=28, channels=64, layers=3, heads=4, patch=2, reach=3,
                 classes=0, levels=2):
        super().__init__()
        self.image_size = utils.pair(image_size)
        height, width = self.image_size
        if height % patch or width % patch:
            raise ValueError(f"patches of {patch}×{patch} pixels do not tile an image of "
                             f"{height}×{width}: choose a patch size that divides both")
        if channels % heads:
            raise ValueError(
                f"{channels} channels cannot be split among {heads} heads: choose a divisor")
        self.patch, self.reach, self.classes, self.temperature = patch, reach, classes, 1.0
        # For tables of nats of bits: nats of more levels are exact, too, but on another scale.
        self.levels, self.likelihood = levels, "exact" if levels == 2 else "none"
        self.rows, self.columns, letters = height // patch, width // patch, patch**2
        words = levels**letters  # letters: the pixels of a word
        # One more than there are: nothing before, the start of the sentence.
        self.word = nn.Embedding(words + 1, channels)
        self.row = nn.Parameter(0.5 * torch.randn(self.rows, 1, channels))
        self.column = nn.Parameter(0.5 * torch.randn(1, self.columns, channels))
        self.label = nn.Embedding(classes, channels) if classes else None
        window = reach + 1, 2 * reach + 1
        inputs = letters * (SEEN if levels > 2 else 1)
        self.neighbours = nn.Conv2d(inputs, channels, window, bias=False) if reach else None
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, words, bias=False)
        # Of each word at each place.
        self.bias = nn.Parameter(torch.zeros(self.rows * self.columns, words))
        # The pixels of word w: its digits, of which there are as many as levels. (V, letters)
        self.register_buffer("spelling", torch.arange(words)[:, None]
                             // levels**torch.arange(letters) % levels)
        if levels > 2:
            self.look = nn.Embedding(levels, SEEN)
            self.start_looking(torch.ones(levels))
        mask = torch.ones(window)  # mask A of pixelcnn.py: rows above, and left of here
        mask[-1, reach:] = 0
        self.register_buffer("mask", mask)

    @torch.no_grad()
    def start_looking(self, counts):
        """What is seen of a level at first: its rank (which part of all pixels that are not black
        is no brighter) and waves of it, cos(πk · rank), since of a rank alone a linear layer cannot
        single out a level in the middle. Of black −1 and 0s. counts: (levels,), how frequent each
        is."""
        ranks = counts[1:].cumsum(dim=0) / counts[1:].sum()
        waves = [torch.cos(math.pi * k * ranks) for k in range(1, SEEN)]
        self.look.weight[1:] = torch.stack([ranks, *waves], dim=1).to(self.look.weight)
        self.look.weight[0] = torch.tensor([-1] + [0] * (SEEN - 1))

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start the bias of each word at log p(word), but for a constant, if pixels were
        independent (notes); of more than two levels at its log frequency in all places.
        images: (N, 1, H, W) uint8, grey."""
        if self.levels == 2:
            mean = self.patches(images.float().mean(dim=0) / 255).flatten(1).T  # (T, letters)
            self.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)) @ self.spelling.T.float())
        else:
            x = utils.to_levels(images, self.levels)
            self.start_looking(torch.bincount((x * (self.levels - 1)).round().int().flatten().cpu(),
                                              minlength=self.levels) + 1)
            words = self.words(x)
            counts = torch.bincount(words.flatten(), minlength=len(self.spelling)) + 1
            self.bias.copy_((counts / counts.sum()).log().expand_as(self.bias))

    def seen(self, x):
        """What the entrance looks at: ±1; of more levels E learned numbers each (flow.py, "What
        networks see"). They are linear between two levels, for those who take a gradient in x.
        x: (B, c, …) -> (B, E · c, …)."""
        if self.levels == 2:
            return 2 * x - 1
        place = x * (self.levels - 1)
        low = place.detach().round().long().clamp(max=self.levels - 2)
        start, end = self.look.weight[low], self.look.weight[low + 1]
        numbers = start + (place - low)[..., None] * (end - start)
        return numbers.movedim(-1, 1).flatten(1, 2)

    def patches(self, x):
        """(…, 1, H, W) -> (…, letters, rows, columns): the pixels of a word, its letters, become
        channels at its place."""
        return F.pixel_unshuffle(x, self.patch)

    def words(self, x):
        """Spell an image as a sentence: (B, 1, H, W) in [0, 1] -> (B, T) numbers of words."""
        letters = (self.patches(x) * (self.levels - 1)).round().long()
        places = torch.arange(letters.shape[1], device=x.device)[:, None, None]
        return (letters * self.levels**places).sum(dim=1).flatten(1)

    def images(self, words):
        """The reverse of words()."""
        letters = self.spelling[words].transpose(1, 2).unflatten(2, (self.rows, self.columns))
        return F.pixel_shuffle(letters.to(self.bias) / (self.levels - 1), self.patch)

    def embed(self, x, y=None):
        """(5a): h_t = word(w_{t−1}) + row_t + column_t + neighbours_t, and label_y if there is one:
        what step t starts with. -> (B, T, C)."""
        # Shifted: step t is told word t − 1.
        before = F.pad(self.words(x)[:, :-1], (1, 0), value=len(self.spelling))
        h = self.word(before) + (self.row + self.column).flatten(0, 1)
        if self.reach:
            signs = F.pad(self.patches(self.seen(x)), (self.reach, self.reach, self.reach, 0))
            seen = F.conv2d(signs, self.neighbours.weight * self.mask)
            h = h + seen.flatten(2).transpose(1, 2)
        return h if y is None else h + self.label(y)[:, None]

    def logits(self, x, y=None):
        """All logits of (1) in one pass: ℓ_t = last · norm(h_t) + bias_t (5a). x: (B, 1, H, W) in
        {0, 1} -> (B, T, V)."""
        utils.check_label(self, y)
        h = self.embed(x, y)
        for block in self.blocks:
            h = block(h)
        return self.last(self.norm(h)) + self.bias

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) of levels in [0, 1], of two: bits -> (B,) nats."""
        utils.check_pixels(x)
        return word_log_probs(self.logits(x, y), self.words(x)).sum(dim=1)

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    @torch.no_grad()
    def attention_maps(self, x, y=None):
        """What each head looks at. x: (B, 1, H, W) -> a list, for each layer (B, heads, T, T)."""
        h, maps = self.embed(x.to(self.bias), y), []
        for block in self.blocks:
            q, k, _ = block.split(h)
            maps.append(attention_weights(q, k))
            h = block(h)
        return maps

    # ------------------------------------------------------------------------------------ sampling
    #
    # Sampling fast. The obvious loop runs all steps for each word: T passes. But a new word changes
    # nothing before it (that is what causal means): keys and values of earlier steps stay, so keep
    # them; old queries nobody asks again. Step t then costs its own matrices, and t products of (2)
    # and (3). This is the KV cache; all steps together cost one forward pass. They still take
    # longer than one, since they are 196 small calls, one after the other. The price is memory, 2 ·
    # L · T · C numbers a sentence, 75,264 for us: in a language model with long texts it can be
    # more than its weights.
    #
    # Completion. If some pixels are given, words that disagree with them get −∞, and the softmax
    # shares out the rest: that is p(word | before, its own given pixels). With the upper half given
    # this is exact, since all that is given comes first (completion_top.png: do strokes go on?).
    # With the left half (completion_left.png: look at the ones) it is not: a word is drawn before
    # what is given further down has been seen (made.py says what it would take).
    #
    # Temperature. Divide the logits by τ before the softmax: τ < 1 prefers what is probable anyway:
    # strokes get smoother, and at 0.5 some stop short, we think since the likeliest next word is
    # mostly an empty one; τ > 1 gives crumbs (temperatures.png). The samples that stand beside the
    # nats have τ = 1: only those are draws from p. (Word by word: this is not p(x)^(1/τ), and the
    # best word each time need not make the best image.) Language models also cut: to the k
    # likeliest words (top-k), or to the fewest that hold a given share of the probability (nucleus,
    # top-p: Holtzman et al. 2020). What is cut off then has −log p = ∞.

    def allowed(self, pixels, known):
        """Which words agree with the pixels (n, D) that are given, known: D bools -> for each step
        (n, V) bool; T times None if none is given."""
        if not any(known):
            return [None] * (self.rows * self.columns)
        given, letters = (
            self.patches(part.view(-1, 1, *self.image_size)).flatten(2).transpose(1, 2)[:, :, None]
            for part in (torch.tensor(known).to(pixels), pixels))  # (1 or n, T, 1, letters)
        fits = (letters * (self.levels - 1)).round() == self.spelling
        return (fits | (given == 0)).all(dim=3).unbind(1)

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None, temperature=None):
        """n draws from p(x), or p(x|y), as anybody would write it: T forward passes, each used for
        a single word. x (n, 1, H, W) and known (H, W) bool: pixels that are given. (known becomes a
        list of D bools.) -> (n, 1, H, W)."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        allowed, words = self.allowed(pixels, known), self.words(room)
        temperature = self.temperature if temperature is None else temperature
        for t in range(words.shape[1]):
            logits = self.logits(self.images(words), y)[:, t]
            words[:, t] = toss_word(u[:, t], logits / temperature, allowed[t])
        return self.images(words)

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None, temperature=None):
        """The pixels of sample_obvious, for the arithmetic of one forward pass: keys and values of
        earlier steps do not change when a word is added, so they are kept (the KV cache), and only
        step t itself is computed."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        allowed, words = self.allowed(pixels, known), self.words(room)
        temperature = self.temperature if temperature is None else temperature
        position = self.row + self.column  # (rows, columns, C)
        if y is not None:
            label = self.label(y)
        if reach := self.reach:
            kernel = (self.neighbours.weight * self.mask).flatten(1).T
            signs = torch.zeros(n, self.neighbours.in_channels, self.rows + reach,
                                self.columns + 2 * reach).to(u)
        heads, d = self.blocks[0].heads, self.row.shape[2] // self.blocks[0].heads
        cache = torch.zeros(len(self.blocks), 2, n, heads, words.shape[1], d).to(u)
        before = torch.full((n,), len(self.spelling), device=u.device)
        for t in range(words.shape[1]):
            i, j = divmod(t, self.columns)
            h = self.word(before) + position[i, j]  # (n, C)
            if reach:
                h = h + signs[:, :, i:i + reach + 1, j:j + 2 * reach + 1].flatten(1) @ kernel
            h = (h if y is None else h + label)[:, None]  # (n, 1, C): a sentence of one step
            for block, (keys, values) in zip(self.blocks, cache):
                # keys and values are views: this writes into the cache.
                q, keys[:, :, t:t + 1], values[:, :, t:t + 1] = block.split(h)
                # All that is kept is past, so there is nothing to mask.
                scores = q @ keys[:, :, :t + 1].transpose(2, 3) / math.sqrt(d)
                weights = scores.softmax(dim=3)  # (n, heads, 1, t + 1)
                h = block.join(h, weights @ values[:, :, :t + 1])
            logits = self.last(self.norm(h))[:, 0] + self.bias[t]
            words[:, t] = before = toss_word(u[:, t], logits / temperature, allowed[t])
            if reach:
                drawn = self.spelling[before].to(u) / (self.levels - 1)
                signs[:, :, i + reach, j + reach] = self.seen(drawn)
        return self.images(words)


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, x, y):
    """Mean of −log p over a set of bits x (N, 1, H, W): nats per image, exact."""
    return sum(-model.log_prob(*batch).sum().item() for batch in utils.batches(x, y)) / len(x)


@torch.no_grad()
def evaluate_without_label(model, x, y):
    """Scores of a conditional model that is not told the label: p(x) = ⅒ Σ_k p(x|k), all ten digits
    equally probable. x: bits (N, 1, H, W), y: labels (N,) -> two numbers:

    the mean of −log p(x), nats per image, exact, which may stand beside an unconditional model's;
    and the part of images for which the most probable k is y (Bayes' rule: the largest p(x|k)).
    """
    total, right = 0.0, 0
    for xb, yb in utils.batches(x, y):
        by_label = torch.stack([model.log_prob(xb, torch.full_like(yb, k))
                                for k in range(model.classes)])
        total -= (by_label.logsumexp(dim=0) - math.log(model.classes)).sum().item()
        right += (by_label.argmax(dim=0) == yb).sum().item()
    return total / len(x), right / len(x)


@torch.no_grad()
def surprise(model, x, y):
    """Where the nats are: −log₂ of each factor of (1). x: binary (N, 1, H, W) ->
    (N, 1, rows, columns), bits a word."""
    parts = []
    for xb, yb in utils.batches(x, y):
        utils.check_pixels(xb)
        parts.append(-word_log_probs(model.logits(xb, yb), model.words(xb)) / math.log(2))
    return torch.cat(parts).unflatten(1, (1, model.rows, model.columns))


@torch.no_grad()
def attention_spread(model, x, y=None):
    """What √d does in the first layer: standard deviation of the logits of (3), and the mean over
    steps of the largest weight, without the root ("plain_…") and with it ("scaled_…").
    x: (B, 1, H, W)."""
    q, k, _ = model.blocks[0].split(model.embed(x, y))
    root = math.sqrt(q.shape[-1])
    past = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    plain = (q @ k.transpose(2, 3))[..., past]
    spread = {"plain_std": plain.std().item(), "scaled_std": (plain / root).std().item()}
    for name, scale in (("plain_max", root), ("scaled_max", 1.0)):
        weights = attention_weights(q * scale, k)[:, :, 1:]  # not step 1: it has no choice
        spread[name] = weights.max(dim=3).values.mean().item()
    return spread


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
#
# More to look at, in samples/transformer_ar/ or in a run of yours. surprise.png: what each throw of
# the dice costs, in bits; words at the edge of a stroke are dear. sampling.gif: four pixels appear
# at a time. progress.png: when do draws from the same noise become digits? loss.png: do training
# and validation part, and do they still fall at the end?
# --------------------------------------------------------------------------------------------------


def plot_attention(path, model, x, y, steps):
    """What each head of each layer takes from where, at some steps of one digit x (1, 1, H, W). A
    row a step.

    First the digit as far as step t knows it (grey: the future; red: the word to be guessed), then
    a map a head: each word in the brightness of its weight, as a part of the largest. Above: the
    layer, and that largest weight.
    """
    maps = torch.stack([layer[0] for layer in model.attention_maps(x, y)]).cpu()  # (L, heads, T, T)
    layers, heads = maps.shape[:2]
    columns = 1 + layers * heads
    figure, axes = plt.subplots(len(steps), columns, squeeze=False,
                                figsize=(1.1 * columns, 1.35 * len(steps)))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for t, line in zip(steps, axes):
        past = (torch.arange(model.rows * model.columns) < t).view(model.rows, model.columns)
        past = past.repeat_interleave(model.patch, 0).repeat_interleave(model.patch, 1)
        seen = torch.where(past, x[0, 0].float().cpu(), 0.5)
        line[0].imshow(seen.numpy(), cmap="gray", vmin=0, vmax=1)
        i, j = divmod(t, model.columns)
        corner = 0.5 * model.patch - 0.5  # from a word's first pixel to its middle
        line[0].plot(j * model.patch + corner, i * model.patch + corner, "rs", markersize=3)
        line[0].set_title(f"step {t}", fontsize=7)
        for k, ax in enumerate(line[1:]):
            weights = maps[k // heads, k % heads, t]
            ax.imshow(weights.view(model.rows, model.columns).numpy(), cmap="magma", vmin=0)
            # A word takes from steps s ≤ t, and step s was told word s − 1: the red square marks
            # step t.
            ax.plot(j, i, "rs", markersize=2)
            ax.set_title(f"{k // heads + 1}: {weights.max():.2f}", fontsize=7)
    pictures.save_figure(path, figure)


def plot_pictures(model, folder, x, y):
    """All of the chapter's own pictures. x: bits (N, 1, H, W) of the test set; y: labels, or
    None."""
    rows, columns, patch = model.rows, model.columns, model.patch
    places = ((8, 14), (12, 18), (16, 14), (20, 10))  # in an image of 28×28
    steps = [(rows * i // 28) * columns + columns * j // 28 for i, j in places]
    plot_attention(folder / "attention.png", model, *utils.first(1, x, y), steps)
    pictures.plot_same_noise(folder / "temperatures.png", model, [
        (f"temperature {t}", {"temperature": t}) for t in (0.5, 0.7, 0.85, 1.0, 1.2)], n=10, seed=1)
    # The pixels of a word appear together: at the step of the last of them, if steps were pixels.
    last = (torch.arange(rows * columns) + 1).view(rows, columns) * patch**2
    place = last.repeat_interleave(patch, 0).repeat_interleave(patch, 1).flatten()
    pictures.plot_autoregressive(folder, model, x, y, surprise(model, x, y), place)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for. ValueError, in words for whoever typed them, if there is
    none."""
    if s.patch > 2:
        words = "65,536" if s.patch == 4 else f"2^{s.patch**2}"
        height, width = utils.pair(image_size)
        why = (f"patches of {s.patch}×{s.patch} pixels do not tile an image of {height}×{width}"
               if height % s.patch or width % s.patch else
               f"there are {words} such words, most of which never occur in training")
        raise ValueError(f"--patch {s.patch}: {why}; use 1 or 2.")
    if s.width % s.heads:
        raise ValueError(f"--width {s.width} cannot be split among {s.heads} heads; choose a "
                         f"multiple of {s.heads}.")
    if s.levels**s.patch**2 > 256:
        raise ValueError(f"--levels {s.levels}: there are {s.levels}^{s.patch**2} words of "
                         f"{s.patch}×{s.patch} pixels; use --patch 1, or at most 4 levels.")
    return Transformer(image_size, s.width, s.depth, s.heads, s.patch, s.reach, s.classes, s.levels)


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Maximum likelihood by Muon: of the mean gradient of each matrix it keeps the directions and
    makes them equally long (muon.py). Tables, biases, norms and the last layer are left to Adam.
    All that a resumed run needs is in model, optimizer and run."""
    s = run.settings
    optimizer = Muon(model, s.lr, adam=ADAM)
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            # The rate falls linearly to 0: at a constant rate the weights would jitter around the
            # optimum to the end. Before that it rises over the first part of the run, to 0.95 lr:
            # the first steps are taken before the means of gradients know much.
            warm, left = (run.step + 1) / (s.steps * s.warm_up + 1), 1 - run.step / s.steps
            optimizer.param_groups[0]["lr"] = s.lr * min(warm, left)
            x, y = utils.random_batch(data, s.batch_size)
            loss = model.loss(x, y, run.step)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            run.check_finite(loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            if run.tick(loss.item()):
                sets = (data.x_train, data.y_train), (data.x_val, data.y_val)
                nats = [evaluate(model, *utils.first(s.eval_images, x, y)) for x, y in sets]
                same_noise = torch.Generator().manual_seed(1)
                digits = model.sample(10, utils.row_labels(model, 10), same_noise)
                run.record(*nats, model, digits)


def main(argv=None):
    run = Run(__file__, "Train an autoregressive transformer on binarized MNIST, sample from it, "
              "measure it.", SETTINGS, VARIANTS, argv)
    model = run.build(build)
    if run.sample_only:  # no data, no training
        model.temperature = run.settings.temperature
        return run.write_samples(run.load_best(model))
    if run.finished:
        return
    data = utils.in_levels(run.load_data(), model.levels)
    model.start_from_mean(data.train)
    train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    run.load_best(model)
    print("scoring the test set ...")
    nats = evaluate(model, data.x_test, data.y_test)
    figures = {"test_nats": nats} if model.levels == 2 else {
        "test_nats": None, **figures_of_levels(run.load_judge(), model, data, nats)}
    if model.classes and model.levels == 2:  # and if nobody tells it the digit ("Labels")
        figures["marginal_nats"], figures["bayes_accuracy"] = evaluate_without_label(
            model, data.x_test, data.y_test)
    plot_pictures(model, run.folder, data.x_test, data.y_test)
    run.write_samples(model)
    run.finish(model, likelihood=model.likelihood, test_images=len(data.x_test), **figures)


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 4,
    "title": lambda s: ("transformer, "
                        + ("single pixels" if s.patch == 1 else "words of 2×2 pixels")
                        + f", reach {s.reach}" * (
                            s.reach != defaults(SETTINGS, VARIANTS, vars(s))["reach"])
                        + f", {s.levels} levels" * (s.levels > 2)),
    "published": {"": ("79.17, 78.61", "ImageGPT, PixelSNAIL, README of "
                       "EugenHotaj/pytorch-generative, dynamic binarization, 60,000 images, up to "
                       "457 epochs on a GPU")},
    "abilities": {"likelihood": "exact", "latent space": "no", "interpolation": "no",
                  "completion": "what comes later in reading order",
                  "steps a draw takes": "196, one a word; --patch 1: 784",
                  "besides": "temperature"},
    "variants": {"transformer_ar": "", "transformer_ar, patch 1": "--patch 1"},
    "robust": ["transformer_ar"],  # single pixels take several times as long
    "small": "--width 8 --depth 1 --heads 2 --eval-images 10",
    "cases": ["--depth 2", "--reach 0", "--patch 1 --reach 0", "--heads 1"],
    "pictures": {
        "attention.png": "Where each head looks at four steps of one digit (red: the word to be "
                         "guessed): in the first layer most look at stretches of the stroke so "
                         "far, later some at a word or two of it. Above each map: its layer, and "
                         "its largest weight.",
        "temperatures.png": "The same noise at five temperatures: smoother strokes below 1, some "
                            "of which stop short, and crumbs above it.",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. One thing changed, 400 steps, seed 0, nats on 1,000 validation images,
# and seconds of training on one thread, beside one to three other runs, so roughly
# (experiments/ablate_transformer.py; the file is results/ablations/transformer_ar.json):
#
#     default                                             87.5     58 s
#       seed 1                                            87.6     52 s
#       seed 2                                            87.4     64 s
#       Adam                                              89.9     61 s
#       Adam, half the rate                               90.4     53 s
#       --reach 0: the last word alone at the entrance    90.7     48 s
#       --reach 1                                         88.6     50 s
#       no attention (a_t = 0)                            89.9     46 s
#       no MLP                                            90.0     71 s
#       no root in (3)                                    87.9     50 s
#       no root, one head                                 89.3     47 s
#       one head                                          87.8     48 s
#       eight heads                                       87.6     72 s
#       norm behind the sum                               87.3     53 s
#       no norm                                           87.3     36 s
#       no row, no column                                 90.6     40 s
#       no row, no column, --reach 0                     119.6     38 s
#       no row, column, nor biases, --reach 0            124.0     41 s
#       rows and columns start at 0.02                    88.5     35 s
#       all start at 0.02 (GPT-2)                         87.9     33 s
#       `out` and `down` start at 0                       87.5     35 s
#       GELU (u·Φ(u), smooth) instead of ReLU             87.3     74 s
#       no warm-up                                        87.3     61 s
#       learning rate a third                             90.5     58 s
#       learning rate three times                         87.7     53 s
#       two layers                                        87.9     45 s
#       attention as written (2), (3)                     87.5    117 s
#       mask off by one: a leak                            0.0     56 s
#       --patch 1: words of one pixel                     86.1    260 s
#
# Three seeds span 0.2 nats: differences under 0.4 say nothing (norms, the number of heads, `out`
# and `down`, all of 0.02, GELU, warm-up, three times the rate). The largest effect is that of the
# plane: without places, or without neighbours, 3 nats are lost, without both 32. (With a_t = 0
# 50,112 of 164,288 weights lie idle, without the MLP 99,648.) Adam at the same rate is 2.4 behind,
# at half of it 2.9; a higher one, and a whole run by Adam, were not tried. Linear layers start as
# torch has them, words with a standard deviation of 1, rows and columns with 0.5, so that they are
# heard beside the words: 1.0 better than with 0.02. (GPT-2 also divides the weights of `out` and
# `down` at the start by the root of the number of branches, here 6, lest their sum grow with the
# depth. The row "GPT-2" does not; and as 0 in their place changes nothing here, three layers do not
# seem to need it.)
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (1,200), seed 0 where the row names no other; nats on 1,000 validation images
# (experiments/robustness.py; the files are in results/robustness/). Each should end within 3 nats
# of the first line:
#
#                             transformer_ar
#     as it is                83.71
#     seed 1, seed 2          84.07, 83.81
#     lr / 3, lr · 3          84.87, 84.34
#     batch / 2, batch · 2    85.32, 82.49
#     width / 2, width · 2    85.92, 83.07
#
# All do, the furthest by 2.2; three seeds span 0.4. Half the batch or half the width takes less
# time and is worse, twice of either takes more and is better. In a run this short a learning rate
# that is too high costs less (0.6 nats) than one that is too low (1.2).
#
# Grey levels. With --levels 4 words of 2×2 pixels have 256 spellings, the last layer as many
# logits, and the entrance sees each level as six learned numbers (flow.py, "What networks see").
# After the default's 6,000 steps: 105.79 nats of levels, exact, 0.195 bits/dim; the distance of
# 5,000 draws to test digits of four levels is 1.42; 6.5 minutes (2 cores, seed 0;
# samples/transformer_ar_4levels/). Another scale than nats of bits, and than that of 256 levels.
#
# Given an afternoon. Which width and depth would serve a run of half an hour? One cannot read it
# off the middle of one long run: as long as the rate is high, such a run looks worse than one that
# ends there. So each row is two complete runs, of 1,200, 550 or 360 steps and of thrice as many
# (experiments/afternoon.py; the file is results/afternoon/transformer_ar.json, with a picture
# beside it). Nats on 1,000 validation images, seed 0, and minutes on one thread, which other runs
# stretched, now one, now three. Alone a step takes 83, 173 and 251 ms (no file is kept), so that
# the runs of a column take about equally long, under two minutes and about five:
#
#                                      short            three times the steps
#     64 channels, 3 layers            83.71 (2.9)      81.72 (8.9)
#     96 channels, 4 layers            85.16 (2.6)      82.45 (6.3)
#     128 channels, 4 layers           86.36 (1.9)      83.11 (10.1)
#
# The small network wins in either column, in the second only just: there it leads 96 channels by
# 0.7 nats, where three seeds of its short run span 0.4. But three times the steps are worth 2.0
# nats to it, 2.7 to the one of 96 channels and 3.2 to the largest: first to last, more than seeds
# explain; each step between, perhaps not. If that goes on, 96 channels have caught up when steps
# are tripled once more. It is a bet on single runs: nobody has run the small network for as long.
#
#     python transformer_ar.py --width 96 --depth 4 --steps 12500 --out runs/transformer_ar_long
#
# reaches 79.29 nats on the test set, exact, in 25.9 minutes (2 cores, seed 0; 467,296 weights, four
# passes over the training set; samples/transformer_ar_long/), where the default has 80.48 in 7.0
# minutes. Published: 79.17 (ImageGPT; its code has single pixels, a masked convolution of 3×3 at
# the entrance, eight blocks of 64 channels) and 78.61 (PixelSNAIL, attention between convolutions:
# the lowest exact figure with attention that we found; a bound that diffusion.py quotes is lower),
# in the README of EugenHotaj/pytorch-generative. That code trains on all 60,000 images, by default
# for 457 epochs on a GPU, and scores the test set after each, on bits tossed anew; of which epoch
# the figures are, the README does not say.
#
# Does it learn by heart? Of 10,000 images each, those of validation cost 0.8 nats more than those
# of training in this run, and 0.6 in the default's, those of the test set 0.1 more and 0.0 less.
# Each difference has a standard error of 0.3 (experiments/gaps.py; results/gaps.json). So hardly:
# test images, which no run has seen, cost what training images do, and what limits the runs is, we
# think, time or size. (Validation images cost more, in this run by nearly three standard errors.
# That they are the harder ones one cannot say: for independent pixels they are easier, by more than
# a nat.)
#
# From here to ImageGPT and to language models. Put one table of positions in the place of row,
# column and neighbours, drop the biases of places, and take GELU for ReLU. With 512 colours as
# words, 1,024 to 4,096 of them an image, and up to 6.8 billion weights this is nearly ImageGPT.
# With some 50,000 words (pieces of text), and a tokenizer in the place of words(), it is nearly
# GPT-2. Later language models have other positions (many turn q and k in (3) by an angle that grows
# with the step), norms and MLPs; (2) and the softmax of (3) are the same.
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: validation nats after --steps 400, seed 0;
# results/ablations/transformer_ar.json. The default: 87.5.)
# 1. triu(2) in attention_weights(), and attention() in place of fast_attention() in
#    Block.forward(). What does the loss do (0.05 nats), which test says why (first of all
#    test_probabilities_of_all_images_sum_to_one), and why do draws of sample_obvious() differ from
#    those of sample()? (The first tells step t + 1 the word 0, black, as nothing is drawn yet, and
#    the leak copies it: draws should be black. In the second the cache holds only the past, and the
#    leak has nothing to copy. Neither was tried.) Then triu(0): where does nan begin? To draw:
#        import pictures, transformer_ar as ar
#        pictures.save_grid("draws.png", ar.load("runs/transformer_ar").sample_obvious(16))
# 2. Leave out the root in (3). (87.9; with --heads 1, where d is 64, 89.3.)
# 3. --heads 1, 8. (87.8, 87.6.) Are any two heads of attention.png alike?
# 4. --reach 0, 1, 5. (90.7, 88.6, 87.7.) Does --reach 0 find the plane? Look at its attention.png.
#    And with torch.optim.Adam in train()? (95.2.)
# 5. Leave out the places, `self.row + self.column`, in embed() and in sample(). (90.6.) How can the
#    model still know where a row begins? (The entrance sees zeros outside of the image, where
#    inside it sees ±1.) And with --reach 0? (119.6, where --reach 0 with places has 90.7.)
# 6. Norm behind the sum: h = norm(h + …) twice in join(), and none in split(). (87.3.) With
#    --depth 8? (87.1; with eight layers and the norm in front of the sum 86.9.)
# 7. Classifier-free guidance (Ho & Salimans 2022): with --conditional, replace a tenth of the
#    labels in loss() by an eleventh one, "not said"; when sampling, use ℓ = ℓ(not said) + s·(ℓ(y) −
#    ℓ(not said)) with s = 1, 2, 4. To begin: nn.Embedding(classes + 1, channels) in __init__() has
#    a row 10 for "not said" (check_label() lets it pass); and sample_obvious() can call logits()
#    twice, with y and with torch.full_like(y, 10). What do digits gain, and what do they lose? Is
#    the result still a draw from p(x|y)? (For s = 1 alone: each word is drawn by p(w|y)^s ·
#    p(w)^(1−s), scaled to sum to 1. What digits gain and lose was not tried here; diffusion.py has
#    guidance built in, and figures.)
# 8. Time sample() against sample_obvious() for n = 1 and 64; of single pixels for n = 1 alone (64
#    take nine minutes: docs/results.md). Why does the ratio grow with T, and why does one digit
#    take a fifth of the time of 64? (T passes over T words, and T over one each; and most of a
#    small call is no arithmetic.)
#        import time, transformer_ar
#        model = transformer_ar.load()  # or, of pixels, untrained: .Transformer(patch=1, reach=6)
#        start = time.time()
#        model.sample(64)
#        print(time.time() - start)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
