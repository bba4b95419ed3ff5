"""
TarFlow: a normalizing flow made of transformers
================================================
An autoregressive model of numbers, in which each number is Gaussian given those before it, is a
flow: subtract the mean, divide by the spread (standard deviation), and if the model is right the
rest is noise (MAF). One such map can only say "Gaussian". TarFlow stacks a few, lets a causal
transformer say means and spreads in each, and turns the order of the words round from one to the
next: that makes the stack more than one map. Read transformer_ar.py first, and flow.py.

    z  =  f_K( … f_1(u) ),      log p(u)  =  log N(z; 0, I)  +  Σ_k log | det ∂f_k |           (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   a digit, grey levels in [0, 1]
    u          u             (B, 1, 28, 28)   the digit in [−1, 1] and Gaussian noise on it, (4)
    words      u_t           (B, T, P)        T = 49 words of P = 16 pixels, 4×4; also what a block
                                              makes of them
    z          z             (B, T, P)        the latent: words of noise
    shift      μ_t           (B, T, P)        mean of each number, said from words before it
    log_scale  α_t           (B, T, P)        logarithm of its spread, said likewise
    noise      σ             ()               spread of the noise that is put on digits
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, K blocks (--depth) of L layers (of a bound: K draws of noise); in
    shapes n draws, N images. In (1) each determinant is taken at what its block is given

Papers    Zhai et al., Normalizing Flows are Capable Generative Models, 2024 (arXiv 2412.06329):
          TarFlow, its noise, (5)
          Papamakarios, Pavlakou & Murray, Masked Autoregressive Flow, 2017 (1705.07057): (2)
          Kingma et al., Inverse Autoregressive Flow, 2016 (1606.04934): networks that read z
          Kingma & Dhariwal, Glow, 2018 (1807.03039): temperature
          Vaswani et al., Attention Is All You Need, 2017 (1706.03762)
          Efron, Tweedie's Formula and Selection Bias, 2011: (5); so Robbins 1956, Miyasawa 1961
          Jordan et al., Muon, 2024: the optimizer, which has a small chapter of its own, muon.py
Lecture   Berkeley CS294-158, lecture 3: flow models
Run       python tarflow.py                   train, draw, measure; writes runs/tarflow/
          python tarflow.py --conditional     with the class given: p(x|y)
          python tarflow.py --sample-only --temperature 0.9
Reached   Fréchet distance 5.10, precision 0.60, recall 0.84 of 5,000 draws beside the grey test
          digits (5,000 training digits: 0.17, 0.85, 0.88: judge.py), after one coin a pixel 4.67; a
          bound on grey levels of ≤ 1.205 bits/dim (654.9 nats, K = 1); no likelihood of bits. 10.1
          minutes, 8,000 steps, 2 cores of an Intel Xeon, seed 0 (samples/tarflow/metrics.json).
          --conditional: distance 1.33, after a coin 1.42, 93.2 % read as asked, and ≤ 1.197
          bits/dim told the digit (on one thread: samples/tarflow_conditional/metrics.json).
Gallery   samples/tarflow/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: guidance (exercise 4; diffusion.py has it), bits (flow.py --levels 2), and
          one deep block at the noise's end, shallow ones at the pixels' (Gu et al., STARFlow, 2025)
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from judge import data_labels, frechet_distance, judged, measure, obeyed, sample_many
from muon import Muon
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--depth 6).
SETTINGS = {
    "steps": Setting(8000, "length of training"),
    "batch_size": Setting(32, "images a step"),
    "lr": Setting(1e-2, "highest learning rate"),
    "warm_up": Setting(0.02, "part of the run in which the learning rate rises", 0, 1),
    # Below most gradients of a short run (the median is 1,465: results/ablations/tarflow.json).
    "clip": Setting(1000.0, "longer gradients are scaled down to this length"),
    "width": Setting(64, "C, channels of the transformers", 4, 10000, word="width{}"),
    "depth": Setting(4, "K, blocks, each in the other order than the last", word="depth{}"),
    "layers": Setting(2, "L, layers of a block", word="{}layers"),
    "noise": Setting(0.1, "σ, spread of the noise on digits in [−1, 1]", word="noise{}"),
    "eval_draws": Setting(1000, "draws scored at each evaluation during training", 10),
    "test_draws": Setting(5000, "draws scored at the end", 10),
    "temperature": Setting(1.0, "spread of the noise that is drawn from", 0, 10, drawing=True),
}
VARIANTS = {}  # no setting changes the defaults of others
ADAM = ("position", "start", "label", "first", "last")  # weights so named are left to Adam

WORD, HEADS = 4, 4  # a word is 4×4 pixels; heads of attention

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# An autoregressive model is a flow. Let each number be Gaussian, given those before it: a network
# reads from them its mean μ and α, the logarithm of its spread. Drawing is u = μ + e^α z with
# z ~ N(0, 1); solved for z, it is a map from digits to noise. We take numbers 16 at a time, the
# words of 4×4 pixels: they are told the words before, not each other. So a block makes of words u_t
# (digits, or what the block before it has left) the words
#
#     z_t  =  ( u_t − μ_t(u_1 … u_{t−1}) ) · e^{−α_t(u_1 … u_{t−1})},     t = 1 … T              (2)
#
# Each number of z_t depends on its own number of u_t and on earlier words; on no other number of
# its word, and on no later word. So the Jacobian is triangular, as in (3) of flow.py; on its
# diagonal stands e^{−α}, and log |det| = −Σ α, over all words and their numbers. A causal
# transformer says all μ_t and α_t in one pass. Its layers are those of transformer_ar.py, but with
# GELU; its ends are not: a word enters by one matrix, with a vector for its place and no look at
# neighbours, and a mean and an α for each of its numbers come out, in place of logits. Before the
# first word stands a learned vector, `start`. (TarFlow leaves the first word as it is.) The
# networks are never inverted.
#
# *The classic mistake*: word t is among the words that say μ_t (no `start`, nothing shifted). Then
# μ_t may be u_t, z_t = 0, and α may fall for ever; so does the loss, and nothing can be drawn: the
# word that says μ_t is not there yet. The wrong sign at Σ α has the same symptom.
#
# The way back has to go word by word, as μ_t is known only when the words before it are:
#
#     u_t  =  z_t · e^{α_t} + μ_t,     t = 1, then 2, …                                          (3)
#
# Training takes one pass of each block, drawing T. (IAF turns it round: its networks read z_1 …
# z_{t−1}. It draws in one pass, and takes T to find the z of a digit that it did not draw itself.)
# As in transformer_ar.py, a step needs only the newest word if keys and values of earlier ones are
# kept: Block.back(). The obvious inverse runs the whole block for each word, has the same result,
# takes eleven times as long for 64 digits (results/inverse.json), and stands in
# experiments/bench_inverse.py.
#
# Why a stack, and why turned round? One block says: given the words before it, a word is Gaussian,
# number by number. A pixel is no Gaussian (it is black or it is not), and the numbers of a word
# are not independent. A second block in the same order would not help. It reads words before t of
# what the first has left; they are known if u_1 … u_{t−1} are. So its z_t is u_t, shifted and
# scaled once more by what earlier words say: any number of blocks in one order is one block with a
# larger network. Hence every second block reads the words backwards. There shift and scale of word
# 1 are functions of all other words, the last one among them. Now u_T moves every z_t, by networks,
# as crookedly as they like: p(u_T | before) is no Gaussian any more, and no product over the
# numbers of the word. samples/tarflow/blocks.png shows digits on their way to noise.
#
# Why only a shift and a scale? flow.py needs splines, as it moves each pixel once. Here each number
# is moved K times, and what one block cannot bend is left to the next. And α is not squashed, as s
# is in flow.py: in the first block the noise, next, keeps it above about log σ.
#
# Noise on digits. Four pixels of five are black, exactly −1. There a density can be as large as
# one likes (flow.py, "From levels to numbers"), and the loss would fall without end while nothing
# is learned of strokes. Uniform noise as wide as a level, 2/256, sets an end, but leaves steep
# walls. For its bits/dim TarFlow takes that; for its pictures Gaussian noise of σ = 0.05 to 0.15,
# up to twenty levels:
#
#     u  =  2x − 1 + σ ε,     ε ~ N(0, I)                                                        (4)
#
# Then p is the density of digits *and* noise, smooth over distances of σ: its slope has a meaning
# between digits, too. The price: what is drawn has noise on it. It can be taken away, because of
#
#     E[ 2x − 1 | u ]  =  u + σ² ∇_u log p(u)                                                    (5)
#
# Why? p(u) = Σ_x P(x) N(u; 2x − 1, σ²), over all digits, and the slope of N in u is N times (2x − 1
# − u)/σ². Divide the slope of the sum by p(u): on the left that is ∇ log p(u); on the right each
# digit gets the weight P(x) N / p(u) = P(x|u), Bayes' rule: (E[2x − 1 | u] − u)/σ². This is exact
# for the true density of noisy digits. Ours is learned, and nothing makes it a density of digits
# with noise on them: its guess can leave [−1, 1] (denoise() cuts it). A flow has p, hence its slope
# by backward(), hence a guess of the clean digit: diffusion.py learns that guess for all σ, and
# never writes down p. samples/tarflow/denoised.png shows what the step takes away: grain, and the
# grey in what should be black. It is a mean: where the model is unsure the guess is grey.
#
# Is this loss normal? It is the nats of a density, and may be negative. The flow begins as N(0, I):
# 1,087 nats for an MNIST digit. Noise alone sets a floor: −log p(u) is in the mean at least the
# entropy of σ ε, 784 · ½ log(2πe σ²) = −693 nats at σ = 0.1. Another σ has another floor: losses
# of two σ cannot be compared. What comes next can.
#
# What digits cost. (1) is a density of noisy digits, which says nothing yet of bits/dim of digits.
# But (4) is an encoder, as in vae.py, x -> u: q(u|x) = N(2x − 1, σ²), which needs no training.
# What is missing is a decoder P(x|u). Any will do whose probabilities sum to 1 over x, for each
# u, and which is fixed before it sees the digit. The model is then P(x) = ∫ p(u) P(x|u) du, and
#
#     −log P(x)  ≤  E_q[ −log p(u)  +  log q(u|x)  −  log P(x|u) ]                               (6)
#
# (Write P(x) = E_q[ p(u) P(x|u) / q(u|x) ]; Jensen.) The first term is the loss. The mean of the
# second is a constant, +693 nats at σ = 0.1. For the third we take a table: guess each pixel by
# (5), and look up how often each of the 256 levels occurred in training digits where the guess was
# this one; pixels are multiplied. If the model knew its training digits by heart, the table would
# be too sure, and (6) larger: but still a bound. It loses twice: the table sees neighbours only
# through the guess, which makes P(x) worse; on top comes Jensen's gap, KL(q(u|x) ‖ p(u|x)). σ
# divides the bits: if it is large the table pays for most of them, if it is small the flow.
#
# Temperature (samples/tarflow/temperatures.png). sample() multiplies z by τ, as flow.py does
# (Glow). Below 1 all words stay nearer to their means: fewer accidents, fewer kinds; at 0 there is
# one draw, or one a label. Such draws are not from p, nor is their noise as wide as σ; (5) treats
# them as if both were so. (TarFlow itself has a temperature of attention, for guidance without
# labels: another thing.) At 0.9 draws of the default run are a little nearer, 4.66 for 5.10, with
# precision 0.65 for 0.60 and recall 0.82 for 0.84; at 0.8 it is 5.08, 0.69 and 0.79 (one heap each,
# grey; no file is kept).
#
# Labels. With --conditional a label adds a learned vector to what enters each block; (6) is then
# of P(x|y).
# --------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A layer of a transformer: h ← h + out(attention(norm(h))), then h ← h + down(GELU(up(
    norm(h)))). (B, T, C) -> (B, T, C); transformer_ar.py explains it. (GELU: a ReLU whose corner
    is round.)"""

    def __init__(self, channels):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        nn.init.zeros_(self.out.weight)  # at first a layer adds nothing
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h, kept=None):
        """h: all words (B, T, C), each looks at itself and those before it (kept: None); or the
        newest word alone, (B, 1, C): then kept is a list with keys and values of those before it,
        or empty, to which its own are added."""
        seen = self.norm_1(h)
        q, k, v = (part(seen).unflatten(2, (HEADS, -1)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        if kept is not None:
            if kept:
                k, v = torch.cat([kept[0], k], dim=2), torch.cat([kept[1], v], dim=2)
            kept[:] = k, v
        taken = F.scaled_dot_product_attention(q, k, v, is_causal=kept is None)
        h = h + self.out(taken.transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.norm_2(h))))


class Block(nn.Module):
    """One f_k: (2), and (3) back. words: T, numbers: P of each. backwards: the last word is first.
    At first it is the identity."""

    def __init__(self, words, numbers, channels, layers, backwards, classes):
        super().__init__()
        self.order = [1] if backwards else []  # dimensions to flip
        self.first, self.last = nn.Linear(numbers, channels), nn.Linear(channels, 2 * numbers)
        self.start = nn.Parameter(torch.zeros(channels))  # stands before the first word
        self.position = nn.Parameter(0.02 * torch.randn(words, channels))
        self.label = nn.Embedding(classes, channels) if classes else None
        self.layers = nn.ModuleList(Layer(channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if classes:
            nn.init.zeros_(self.label.weight)  # all labels alike, as in flow.py

    def says(self, h, y=None, place=slice(None), kept=None):
        """shift and log_scale, (B, t, P) each, of the words at these places. h (B, t, C): for each
        of them the word before it, as first() or `start` has it. kept: a list for each layer."""
        h = h + self.position[place]
        h = h if y is None else h + self.label(y)[:, None]
        for i, layer in enumerate(self.layers):
            h = layer(h, None if kept is None else kept[i])
        return self.last(self.norm(h)).chunk(2, dim=2)

    def forward(self, words, y=None):
        """(2): words (B, T, P) -> the same, and log |det|, −Σ α, (B,)."""
        words = words.flip(self.order)
        start = self.start.expand(len(words), 1, -1)
        shift, log_scale = self.says(torch.cat([start, self.first(words[:, :-1])], dim=1), y)
        words = (words - shift) * (-log_scale).exp()
        return words.flip(self.order), -log_scale.sum(dim=(1, 2))

    def back(self, words, y=None):
        """(3): what forward() maps to these words, word by word."""
        z, kept, drawn = words.flip(self.order), [[] for _ in self.layers], []
        h = self.start.expand(len(z), 1, -1)
        for t in range(z.shape[1]):
            shift, log_scale = self.says(h, y, slice(t, t + 1), kept)
            drawn.append(z[:, t:t + 1] * log_scale.exp() + shift)
            h = self.first(drawn[-1])
        return torch.cat(drawn, dim=1).flip(self.order)


class TarFlow(nn.Module):
    """p(u) of noisy digits, by a stack of blocks, (1).

    image_size: height and width, or (height, width), multiples of 4, else ValueError; channels: C,
    a multiple of 4, else ValueError; blocks: K, of `layers` layers; noise: σ; classes: of labels, 0
    if it is told none. loss() and sample() have images in [0, 1], as all chapters do.
    """

    def __init__(self, image_size=28, channels=64, blocks=4, layers=2, noise=0.1, classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        height, width = self.image_size
        if height % WORD or width % WORD:
            raise ValueError(f"an image of {height}×{width} cannot be cut into words of "
                             f"{WORD}×{WORD}: choose multiples of {WORD}")
        if channels % HEADS:
            raise ValueError(f"--width {channels} cannot be divided into {HEADS} heads: choose a "
                             f"multiple of {HEADS}")
        self.noise, self.classes, self.temperature = noise, classes, 1.0
        self.likelihood = "none"  # of bits
        words = height * width // WORD**2
        self.blocks = nn.ModuleList(Block(words, WORD**2, channels, layers, k % 2 == 1, classes)
                                    for k in range(blocks))

    def to_words(self, u):
        """(B, 1, H, W) -> (B, T, P), row by row."""
        return F.unfold(u, WORD, stride=WORD).transpose(1, 2)

    def to_image(self, words):
        """The way back."""
        return F.fold(words.transpose(1, 2), self.image_size, WORD, stride=WORD)

    def noisy(self, x, generator=None):
        """(4): x in [0, 1] -> u, of the same shape."""
        utils.check_pixels(x)
        return 2 * x - 1 + self.noise * torch.randn(x.shape, generator=generator).to(x)

    def encode(self, u, y=None, states=None):
        """f of (1): u (B, 1, H, W) -> z (B, T, P), and log |det|, (B,) nats. states: a list that
        gets the words after each block."""
        utils.check_label(self, y)
        words, log_det = self.to_words(u), 0.0
        for block in self.blocks:
            words, more = block(words, y)
            log_det = log_det + more
            if states is not None:
                states.append(words)
        return words, log_det

    @torch.no_grad()
    def decode(self, z, y=None):
        """f⁻¹: z (B, T, P) -> u (B, 1, H, W), the last block first."""
        for block in reversed(self.blocks):
            z = block.back(z, y)
        return self.to_image(z)

    def log_density(self, u, y=None):
        """(1): log p(u), (B,) nats, of noisy digits."""
        z, log_det = self.encode(u, y)
        return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=(1, 2))

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(u), mean over x (B, 1, H, W) in [0, 1]. -> () nats"""
        return -self.log_density(self.noisy(x), y).mean()

    def denoise(self, u, y=None):
        """(5): E[2x − 1 | u] = u + σ² ∇ log p(u), cut to [−1, 1]. (B, 1, H, W), without a graph."""
        if len(u) > 100:  # a slope needs what all layers have computed: memory
            return torch.cat([self.denoise(*part) for part in utils.batches(u, y)])
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            slope, = torch.autograd.grad(self.log_density(u, y).sum(), u)
        return (u + self.noise**2 * slope).detach().clamp(-1, 1)

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, temperature=None, clean=True):
        """n draws, (n, 1, H, W) in [0, 1]: noise, bent back, (3), and the noise of (4) taken away,
        (5), if `clean`; else cut to [0, 1] as they are."""
        utils.check_label(self, y)
        weight = self.blocks[0].start  # for its device and dtype
        temperature = self.temperature if temperature is None else temperature
        noise = torch.randn(n, 1, *self.image_size, generator=generator, dtype=weight.dtype)
        y = None if y is None else y.to(weight.device)
        u = self.decode(temperature * self.to_words(noise).to(weight.device), y)
        return ((self.denoise(u, y) if clean else u.clamp(-1, 1)) + 1) / 2


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, x, y):
    """Mean of −log p(u), (1), over grey digits x (N, 1, H, W) uint8 with noise on them, always the
    same: nats per image, of a density, and below 0 where that is above 1."""
    generator = torch.Generator().manual_seed(0)
    return -sum(model.log_density(model.noisy(xb / 255, generator), yb).sum().item()
                for xb, yb in utils.batches(x, y, 250)) / len(x)


def guesses(model, x, y, generator):
    """Of uint8 digits x: u, and (5) as whole levels, 0 … 255, both (B, 1, H, W)."""
    u = model.noisy(x / 255, generator)
    return u, (255 * (model.denoise(u, y) + 1) / 2).round().long()


def level_table(model, x, y):
    """P(x|u) of (6): log probabilities (256, 256) of a level (column), given the guess (row), by
    counting in digits x (N, 1, H, W) uint8. To each row one more pixel is added, spread over the
    levels as all pixels are (each level counted once more): so no level is impossible."""
    generator, pairs = torch.Generator().manual_seed(0), torch.zeros(256 * 256)
    for xb, yb in utils.batches(x, y, 250):
        guess = guesses(model, xb, yb, generator)[1]
        pairs += torch.bincount((256 * guess + xb.long()).flatten().cpu(), minlength=256 * 256)
    counts = pairs.view(256, 256)
    usual = (counts.sum(dim=0) + 1) / (counts.sum() + 256)
    return ((counts + usual) / (counts.sum(dim=1, keepdim=True) + 1)).log()


def level_bound(model, x, y, table):
    """(6), in the mean a bound on −log P of the 256 levels, with one draw of noise an image: mean
    over digits x (N, 1, H, W) uint8, nats per image."""
    generator, total = torch.Generator().manual_seed(1), 0.0
    for xb, yb in utils.batches(x, y, 250):
        u, guess = guesses(model, xb, yb, generator)
        eps = (u - (2 * xb / 255 - 1)) / model.noise
        log_q = -0.5 * (eps**2 + math.log(2 * math.pi * model.noise**2)).flatten(1).sum(dim=1)
        log_p = table[guess.cpu(), xb.long().cpu()].flatten(1).sum(dim=1)
        with torch.no_grad():
            total += (log_q - model.log_density(u, yb)).sum().item() - log_p.sum().item()
    return total / len(x)


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def plot_blocks(path, model, x, y):
    """Digits x (n, 1, H, W) in [0, 1] on their way to noise: u, and after each block."""
    u, states = model.noisy(x, torch.Generator().manual_seed(0)), []
    model.encode(u, y, states)
    images = [x, *((part.clamp(-2, 2) + 2) / 4 for part in (
        u, *(model.to_image(words) for words in states)))]
    pictures.labelled_rows(path, [("", torch.stack([part[i] for part in images]))
                                  for i in range(len(x))], size=0.9,
                           above=("digit", "u", *(f"after {k + 1}" for k in range(len(states)))))


def plot_denoised(path, model, n=12):
    """The same draws as they come out of the flow, and with the noise taken away."""
    y = utils.row_labels(model, n)
    rows = [model.sample(n, y, torch.Generator().manual_seed(3), clean=clean)
            for clean in (False, True)]
    taken = (rows[0] - rows[1] + 1) / 2
    pictures.labelled_rows(path, list(zip(("as drawn", "clean, (5)", "what was taken"),
                                          (*rows, taken))))


def plot_pictures(model, folder, x, y):
    """All of the chapter's own pictures. x: grey test digits (N, 1, H, W), uint8."""
    few, labels = utils.first(4, x, y)
    plot_blocks(folder / "blocks.png", model, few / 255, labels)
    plot_denoised(folder / "denoised.png", model)
    pictures.plot_same_noise(folder / "temperatures.png", model, [
        (f"τ = {tau:g}", {"temperature": tau}) for tau in (0, 0.5, 0.8, 0.9, 1, 1.1)])


# --------------------------------------------------------------------------------------------------
# Training
#
# In samples/tarflow/loss.png the distance of 1,000 draws to validation digits still falls at the
# end. progress.png beside it has draws from the same noise: which columns still change their digit?
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for."""
    model = TarFlow(image_size, s.width, s.depth, s.layers, s.noise, s.classes)
    model.temperature = s.temperature
    return model


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Maximum likelihood by Muon: of the mean gradient of each matrix inside the layers it keeps
    the directions and makes them equally long (muon.py); what ADAM names is left to Adam."""
    s = run.settings
    optimizer = Muon(model, s.lr, adam=ADAM)
    judge = run.load_judge()  # for val_frechet; nats of noisy digits decide what is kept
    real = judged(judge, data.val)[0]
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            # As in all chapters: the rate rises over the first part of the run, and falls to 0.
            warm, left = (run.step + 1) / (s.steps * s.warm_up + 1), 1 - run.step / s.steps
            optimizer.param_groups[0]["lr"] = s.lr * min(warm, left)
            loss = model.loss(*utils.random_batch(data, s.batch_size, grey=True))
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            run.check_finite(loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            if run.tick(loss.item()):
                nats = evaluate(model, *utils.first(2000, data.val, data.y_val))
                draws = sample_many(model, s.eval_draws, data_labels(data, s.eval_draws))
                distance = frechet_distance(judged(judge, draws)[0], real)
                same_noise = torch.Generator().manual_seed(1)
                digits = model.sample(10, utils.row_labels(model, 10), same_noise)
                run.record(None, None, model, digits, score=nats, val_frechet=distance,
                           val_noisy_nats=nats)


def main(argv=None):
    run = Run(__file__, "Train a flow of transformers on MNIST, sample from it, measure it.",
              SETTINGS, VARIANTS, argv)
    s, model = run.settings, run.build(build)
    if run.sample_only:  # no data, no training
        return run.write_samples(run.load_best(model))
    if run.finished:
        return
    data = run.load_data()
    train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    run.load_best(model)
    judge = run.load_judge()
    print("scoring the test set ...")
    labels = data_labels(data, s.test_draws)
    draws = sample_many(model, s.test_draws, labels)
    figures = {f"test_{name}": value for name, value in
               measure(judge, draws, (data.test, data.x_test)).items()} if judge else {}
    table = level_table(model, *utils.first(5000, data.train, data.y_train))
    grey = level_bound(model, data.test, data.y_test, table)
    run.check_finite(bound=grey)
    plot_pictures(model, run.folder, data.test, data.y_test)
    run.write_samples(model)
    run.finish(model, test_nats=None, likelihood="none", test_images=len(data.x_test),
               test_draws=s.test_draws, grey_nats=grey, grey_bound_draws=1,
               grey_bits_per_dim=utils.bits_per_dim(grey, data.test[0].numel()),
               noisy_nats=evaluate(model, data.test, data.y_test),
               binarization="none: trained on grey levels; draws are scored grey, and (…_binary) "
                            "after one coin a pixel",
               **figures, **obeyed(judge, draws, labels))


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 8,
    "title": lambda s: "TarFlow",
    "published": {"": ("none found on this scale", "")},
    "abilities": {"likelihood": "bound on grey levels",
                  "latent space": "yes, of 784 dimensions, and exact",
                  "interpolation": "not shown",
                  "completion": "no: blocks read in two orders",
                  "steps a draw takes": "196: 49 words in four blocks; and one slope",
                  "besides": "temperature"},
    "variants": {"tarflow": ""},
    "scored": 2000,  # validation images at each evaluation
    "small": "--width 8 --depth 2 --layers 1 --eval-draws 80 --test-draws 100",
    "pictures": {
        "blocks.png": "Four test digits; with noise on them, u; and after each block (u and these "
                      "from −2, black, to 2): after which can one no longer read the digit?",
        "denoised.png": "Draws as they leave the flow, cut to [0, 1]; after one step by the slope "
                        "of the model's own log p, which takes the noise away; and the difference "
                        "(grey: nothing): faint grain, and no strokes.",
        "temperatures.png": "The same noise at six temperatures: at 0 all draws (of one label) are "
                            "the same one; where do strokes begin to break?",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. Runs of 400 steps, a twentieth of the default's, means of seeds 0, 1
# and 2: Fréchet distance of 2,000 draws to grey validation digits, in brackets how far the worst
# seed is above the best; the same of draws that keep their noise; the bound (6) on 1,000 validation
# images, in bits/dim; and seconds a seed, on one thread beside another job
# (experiments/ablate_tarflow.py; the file is results/ablations/tarflow.json; tarflow.png beside it
# has draws):
#
#                                    distance   as drawn  bits/dim   training
#     default                        28.9 (3.1)      36.4      1.39       44 s
#       one order                   115.5 (27.8)    136.7      1.93       43 s
#       one block of 8 layers        87.3 (7.7)     106.8      1.89       43 s
#       σ of 0.03                    32.5 (1.5)      33.7      1.56       50 s
#       σ of 0.2                     24.8 (5.6)      55.6      1.37       42 s
#       Adam for all                 38.1 (1.5)      45.4      1.53       43 s
#
# What counts is that the order turns. Four blocks in one order are one block, say the notes, and so
# it is: 1.93 bits/dim, where one block of as many layers has 1.89, and what either draws is dust.
# With every second block backwards the same layers have 1.39. Muon is 9 nearer than Adam at the
# same rate; other rates of Adam's were not tried. Read nothing into less than twice what three
# seeds span: with either σ the distance is undecided, and by how much seeds move the bound is not
# known. (In longer runs σ of 0.1, 0.15 and 0.2 were alike: 11.3, 10.6 and 11.0 after 1,200 steps;
# one each, no file is kept.)
#
# What (6) is made of. In the default run, over the test digits, −log p(u) is −531.7 nats and log
# q(u|x) 692.8: the flow pays 161.1 of the 654.9 nats, and the table 493.8. So three quarters of
# this bound are levels that a guess by (5) leaves open, as that 253 and 254 are two levels
# (flow.py, "What networks see"): better decoders than a table would win most.
#
# Where the work is done. In samples/tarflow/blocks.png digits can be read after three of four
# blocks; the last one does nearly all that one can see. (STARFlow gives that block most of the
# layers.) With layers 1, 1, 1, 5 in place of 2, 2, 2, 2 draws were no nearer (11.9 for 11.3, after
# 1,200 steps), nor with eight blocks of one layer or two of four (19.3 and 19.4 for 16.1, 600 steps
# of 64 images). Batches of 32 and twice the steps were nearer than 64 (11.3 for 16.1). (Single
# runs, no file is kept.)
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (1,600), seed 0 where the row names no other; Fréchet distance of 5,000 draws
# to grey validation digits, and in brackets the smallest share of a digit among them
# (experiments/robustness.py; the file is in results/robustness/). Each should end within twice the
# distance of the first line:
#
#                             tarflow
#     as it is                9.84 (6.0 %)
#     seed 1, seed 2          9.78 (6.2 %), 8.72 (7.2 %)
#     lr / 3, lr · 3          11.32 (5.5 %), 10.33 (5.9 %)
#     batch / 2, batch · 2    11.96 (5.4 %), 7.87 (5.8 %)
#     width / 2, width · 2    14.97 (4.7 %), 8.29 (6.1 %)
#
# All do, the furthest (half the width) by a factor of 1.5, and no digit disappears: each has 4.7 %
# of the draws or more. A fifth of the steps is short, and what learns less in it is worse.
# --------------------------------------------------------------------------------------------------
# Exercises
# 1. Let no block read backwards (k % 2 == 1 -> False). Why is the stack now worth one block? What
#    becomes of draws? (1.93 bits/dim for 1.39, and dust: results/ablations/tarflow.json, after 400
#    steps.)
# 2. --depth 1 --layers 8, then --depth 2 --layers 4: what can p(u_T | before) be in either? (One
#    block has 1.89 bits/dim after 400 steps: results/ablations/tarflow.json.)
# 3. --noise 0.02, then 0.3. How do the three terms of (6) change, and which draws better?
# 4. Guidance: with --conditional, leave the label out in one batch of ten (a row more in `label`),
#    and in back() take shift and log_scale of (1 + w) times the label's minus w times those
#    without, with two lists `kept`. (Our w is diffusion.py's less 1; TarFlow lets it grow from word
#    to word.) At which w are digits clearest, and what becomes of recall?
# 5. How much does the last step win? (A distance of 5.10 for 10.11, and recall is 0.84 for 0.46:
#    one heap of each, no file is kept.) Score both with judge.py:
#        import judge, numpy, tarflow
#        for clean in (False, True):
#            draws = judge.sample_many(tarflow.load("runs/tarflow"), 5000, clean=clean)
#            numpy.save(f"clean_{clean}.npy", draws[:, 0].numpy())
# 6. In level_bound() take K draws of noise under the logarithm, as (10) of vae.py does: how much of
#    (6) is Jensen's gap? (With K = 10 643.2 nats for 655.8, on 500 validation images; no file is
#    kept.)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
