"""
TarFlow: a normalizing flow made of transformers
================================================
An autoregressive model of numbers, in which each number is Gaussian given those before it, is a
flow: subtract the mean, divide by the spread, and digits have become noise (MAF). One such map is
weak. TarFlow stacks a few of them, lets a causal transformer say the means and spreads, and turns
the order round from one to the next. What flow.py builds out of splines and many small networks is
here one plain network, as language models have it. Read transformer_ar.py first, and flow.py.

    z  =  f_K( … f_1(u) ),      log p(u)  =  log N(z; 0, I)  +  Σ_k log | det ∂f_k |           (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   a digit, grey levels in [0, 1]
    u          u             (B, 1, 28, 28)   the digit in [−1, 1] and Gaussian noise on it, (4)
    words      u_t           (B, T, D)        T words of 4×4 pixels, D = 16 numbers each
    z          z             (B, T, D)        the latent: words of noise
    shift      μ_t           (B, T, D)        what a block says of each number, from words before it
    log_scale  α_t           (B, T, D)        and of the logarithm of its spread
    noise      σ             ()               spread of the noise that is put on digits
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, K blocks (--depth) of L layers; in shapes n draws, N images

Papers    Zhai et al., Normalizing Flows are Capable Generative Models, 2024 (arXiv 2412.06329):
          TarFlow, its noise, (5), and its temperature
          Papamakarios, Pavlakou & Murray, Masked Autoregressive Flow, 2017 (1705.07057): (2)
          Kingma et al., Inverse Autoregressive Flow, 2016 (1606.04934): (3) as the fast direction
          Vaswani et al., Attention Is All You Need, 2017 (1706.03762)
          Efron, Tweedie's Formula and Selection Bias, 2011: (5), of Robbins 1956, Miyasawa 1961
          Jordan et al., Muon, 2024: the optimizer, which has a small chapter of its own, muon.py
Lecture   Berkeley CS294-158, lecture 3: flow models
Run       python tarflow.py                   train, draw, measure; writes runs/tarflow/
          python tarflow.py --conditional     with the class given: p(x|y)
          python tarflow.py --sample-only --temperature 0.9
Left out  on purpose: guidance (an exercise; diffusion.py has it), levels of 2 (a coin has no
          Gaussian: flow.py), and a deep first block with shallow ones behind it (STARFlow, 2025).
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
    "clip": Setting(1000.0, "longer gradients are scaled down to this length"),
    "width": Setting(64, "C, channels of the transformers", 4, 10000, word="width{}"),
    "depth": Setting(4, "K, blocks, each in the other order", word="depth{}"),
    "layers": Setting(2, "L, layers of a block", word="{}layers"),
    "noise": Setting(0.1, "σ, spread of the noise on digits in [−1, 1]"),
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
# An autoregressive model is a flow. Let each number be Gaussian, given those before it, with a mean
# and a spread that a network reads from them. Drawing is u = μ + e^α z with z ~ N(0, 1). Read it
# backwards, and for whole words at once:
#
#     z_t  =  ( u_t − μ_t(u_1 … u_{t−1}) ) · e^{−α_t(u_1 … u_{t−1})},     t = 1 … T              (2)
#
# Each z_t has its own u_t and earlier ones in it, no later one: the Jacobian is triangular (flow.py
# draws it), on its diagonal stands e^{−α}, and so log |det ∂f/∂u| = −Σ α, over all words and
# numbers. A causal transformer gives all μ_t and α_t in one pass: as in transformer_ar.py, but
# that its last layer says two numbers for each of the next word's, and no softmax. The first word
# has none before it: a learned vector, `start`, stands there. (2) needs nothing of the networks:
# they are never inverted.
#
# The way back has to go word by word, as μ_t is known only when the words before it are:
#
#     u_t  =  z_t · e^{α_t} + μ_t,     t = 1, then 2, …                                          (3)
#
# Training is one pass and drawing T of them, in each block. (IAF is the reverse: it would let the
# network read z, draw in one pass, and train in T.) As in transformer_ar.py a step needs only the
# newest word, if keys and values of earlier ones are kept: decode(). The obvious inverse, which
# runs the whole block for each word, has the same result.
#
# Why a stack? One block says: given what came before, the next word is Gaussian, number by number.
# A pixel is no Gaussian (it is black or it is not), and numbers of a word are not independent. But
# a second block need not find digits: it finds what the first has left, a cloud nearer to noise.
# (As two maps in a row can bend what one cannot: their composition is no Gaussian any more.) If all
# blocks went from left to right, the first word would be left as it is, but for one mean and one
# spread; so every second block reads the words backwards, and the last is first. blocks.png shows
# digits on their way to noise.
#
# Noise on digits. Black is exactly −1 in nearly all of a digit. A density can be as large as one
# likes there (flow.py, "From levels to numbers"), and the flow would spend itself on that. Uniform
# noise in a level's cell, 1/256 wide, makes it finite and leaves it steep. TarFlow takes much more:
#
#     u  =  2x − 1 + σ ε,     ε ~ N(0, I)                                                        (4)
#
# Then p is the density of digits *and* noise, smooth at the scale of σ: networks have gradients
# that mean something between digits, too. The price: what is drawn has noise on it. One can have it
# taken away, because of
#
#     E[ 2x − 1 | u ]  =  u + σ² ∇_u log p(u)                                                    (5)
#
# Why? p(u) = ∫ p(x) N(u; 2x − 1, σ²) dx, and the slope of N in u is (2x − 1 − u)/σ² times N. So
# ∇p(u) = ∫ p(x) N · (2x − 1 − u)/σ² dx, and divided by p(u) this is (E[2x − 1 | u] − u)/σ². A flow
# has p, hence its slope by backward(), hence the best guess of the clean digit: diffusion.py learns
# that guess for all σ, and no p. denoised.png shows what the step takes away: where a draw is
# grainy, and black is not black. It is a mean: where the model is unsure it is grey.
#
# What digits cost. (1) is the density of noisy digits, and no number of bits/dim. But (4) is an
# encoder, as in vae.py, x -> u, whose q(u|x) = N(2x − 1, σ²) needs no training; what is missing is
# a decoder P(x|u), and any will do:
#
#     −log P(x)  ≤  E_q[ −log p(u)  +  log q(u|x)  −  log P(x|u) ]                               (6)
#
# (Jensen.) Ours is a table: guess the pixel by (5), and look up how often each of the 256 levels
# occurred in training digits where the guess was this one. A product over pixels, by counting. It
# knows nothing of neighbours but what the guess does, so (6) is a bound with some slack; and σ
# divides the bits: with a large one the table pays for most of them, with a small one the flow.
#
# Labels. With --conditional a label adds a learned vector to what enters each block.
# --------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A layer of a transformer: h ← h + out(attention(norm(h))), then h ← h + down(GELU(up(
    norm(h)))). (B, T, C) -> (B, T, C); transformer_ar.py explains it."""

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
        """kept: a list, of keys and values of the words before h (B, 1, C), or empty: then h is the
        newest word alone, and the list gets its own. None: h is all words, each of which looks at
        itself and those before it."""
        q, k, v = (part(self.norm_1(h)).unflatten(2, (HEADS, -1)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        if kept is not None:
            if kept:
                k, v = torch.cat([kept[0], k], dim=2), torch.cat([kept[1], v], dim=2)
            kept[:] = k, v
        taken = F.scaled_dot_product_attention(q, k, v, is_causal=kept is None)
        h = h + self.out(taken.transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.norm_2(h))))


class Block(nn.Module):
    """One f_k: (2), and (3) back. words: T, numbers: D of each. backwards: the last word is first.
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
            nn.init.zeros_(self.label.weight)

    def says(self, h, y=None, place=slice(None), kept=None):
        """shift and log_scale of the words at these places. h (B, t, C): what enters for the words
        before them. kept: for each layer its list of keys and values."""
        h = h + self.position[place]
        h = h if y is None else h + self.label(y)[:, None]
        for i, layer in enumerate(self.layers):
            h = layer(h, kept and kept[i])
        return self.last(self.norm(h)).chunk(2, dim=2)

    def forward(self, words, y=None):
        """(2): words (B, T, D) -> the same, and log |det|, −Σ α, (B,)."""
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
        """(B, 1, H, W) -> (B, T, D), row by row."""
        return F.unfold(u, WORD, stride=WORD).transpose(1, 2)

    def to_image(self, words):
        """The way back."""
        return F.fold(words.transpose(1, 2), self.image_size, WORD, stride=WORD)

    def noisy(self, x, generator=None):
        """(4): x in [0, 1] -> u, of the same shape."""
        utils.check_pixels(x)
        return 2 * x - 1 + self.noise * torch.randn(x.shape, generator=generator).to(x)

    def encode(self, u, y=None, states=None):
        """f of (1): u (B, 1, H, W) -> z (B, T, D), and log |det|, (B,) nats. states: a list that
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
        """f⁻¹: z (B, T, D) -> u (B, 1, H, W), the last block first."""
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
    same: nats per image, of a density, and below 0 if it is large."""
    generator = torch.Generator().manual_seed(0)
    return -sum(model.log_density(model.noisy(xb / 255, generator), yb).sum().item()
                for xb, yb in utils.batches(x, y, 250)) / len(x)


def guesses(model, x, y, generator):
    """Of uint8 digits x: u, and (5) as whole levels, 0 … 255, both (B, 1, H, W)."""
    u = model.noisy(x / 255, generator)
    return u, (255 * (model.denoise(u, y) + 1) / 2).round().long()


def level_table(model, x, y):
    """P(x|u) of (6), by counting in digits x (N, 1, H, W) uint8: log probabilities (256, 256) of a
    level, given the guess. Each row has one count more than was seen, shared out as all pixels'
    levels are, and these evenly to a part: so no level is impossible."""
    generator, pairs = torch.Generator().manual_seed(0), torch.zeros(256 * 256)
    for xb, yb in utils.batches(x, y, 250):
        guess = guesses(model, xb, yb, generator)[1]
        pairs += torch.bincount((256 * guess + xb.long()).flatten().cpu(), minlength=256 * 256)
    counts = pairs.view(256, 256)
    usual = (counts.sum(dim=0) + 1) / (counts.sum() + 256)
    return ((counts + usual) / (counts.sum(dim=1, keepdim=True) + 1)).log()


def level_bound(model, x, y, table):
    """(6), one draw of noise an image: mean over digits x (N, 1, H, W) uint8, nats per image, a
    bound on −log P of the 256 levels in expectation."""
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
    judge = run.load_judge()  # for val_frechet; nats of noisy digits choose the weights
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
                  "completion": "no: each block has another order",
                  "steps a draw takes": "196: 49 words in four blocks",
                  "besides": "temperature"},
    "variants": {"tarflow": ""},
    "scored": 2000,  # validation images at each evaluation
    "small": "--width 8 --depth 2 --layers 1 --eval-draws 80 --test-draws 100",
    "pictures": {
        "blocks.png": "Four test digits; with noise on them, u; and after each block, from −2 "
                      "(black) to 2: after which can one no longer read the digit?",
        "denoised.png": "Draws as they leave the flow; after one step by the slope of the model's "
                        "own log p, which takes the noise away; and what it took (grey: nothing).",
        "temperatures.png": "The same noise at six temperatures: from 0, where all draws are the "
                            "same one, to above 1, where strokes break.",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# Nothing yet: this chapter is not published.
# --------------------------------------------------------------------------------------------------
# Exercises
# 1. Let no block read backwards (k % 2 == 1 -> False). What becomes of the first word, and of
#    draws?
# 2. --noise 0.02, then 0.3. How do the flow's share of (6) and the table's change, and which draws
#    better?
# 3. Draw with clean=False, save 5,000 as .npy, and score both heaps with judge.py.
# 4. Guidance: with --conditional, leave the label out in one batch of ten (a row more in `label`),
#    and in back() take shift and log_scale of (1 + w) times the label's minus w times those
#    without. At which w are digits clearest, and what becomes of recall?
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
