"""
Diffusion: from noise to digits, step by step
=============================================
Add a little noise to a digit, a thousand times over, until nothing is left but noise. That is easy,
and its reverse would be a generative model: begin with noise, take a little away, a thousand times
over. One small step back *can* be learned, by least squares: a network is shown a noisy image and
guesses the clean one. There is no game as in a GAN, no decoder that blurs as in a VAE, and no order
of the pixels; the price is one pass of the network for each step.

    x_t  =  α_t x + σ_t ε,    ε ~ N(0, I),    t = 0 … T;    loss  =  E ‖ x̂(x_t, t) − x ‖²      (1)

    code       symbol        shape            meaning
    x          x, x_0        (B, 1, 28, 28)   a digit: grey levels in [−1, 1] (outside in [0, 1])
    z          x_t           (B, 1, 28, 28)   the digit with noise; x_T is noise alone
    t, s       t, s          (B,) or ()       how much noise, 0 … T = 1,000; s < t: a step's end
    alpha      α_t           (B,)             how much is left of the digit: 1 … 0 (DDPM: √ᾱ_t)
    sigma      σ_t           (B,)             how much noise: 0 … 1
    snr        α_t²/σ_t²     (K + 1,)         signal-to-noise ratio, at the times of K steps
    eps        ε             (B, 1, 28, 28)   the noise
    x_hat      x̂             (B, 1, 28, 28)   what the network thinks x is; eps_hat: the same of ε
    w          w             ()               guidance: how loudly the label speaks
    known                    (B, 1, 28, 28)   pixels that are given, bool; (28, 28) in sample()
    y          y             (B,)             class label 0..9, only with --conditional; or none: 10
    B batch size, C channels, D = 784 pixels, E the mean over what is random, K steps in which
    digits are drawn; s of build(), train() and main() are the settings

Papers    Sohl-Dickstein et al., Deep Unsupervised Learning using Nonequilibrium Thermodynamics,
          2015 (arXiv 1503.03585): the idea and the bound (16)
          Ho, Jain & Abbeel, Denoising Diffusion Probabilistic Models (DDPM), 2020 (2006.11239)
          Nichol & Dhariwal, Improved DDPM, 2021 (2102.09672): the schedule (3) but for its ends
          Song, Meng & Ermon, DDIM, 2020 (2010.02502): (10); Karras et al., 2022 (2206.00364): (11)
          Song et al., Score-Based Generative Modeling through SDEs, 2020 (2011.13456): the ODE
          Kingma et al., Variational Diffusion Models, 2021 (2107.00630): (17)
          Salimans & Ho, Progressive Distillation, 2022 (2202.00512): v of (6)
          Lipman et al., Flow Matching, 2022 (2210.02747); Liu et al., Rectified Flow, 2022
          (2209.03003): (7)
          Ho & Salimans, Classifier-Free Diffusion Guidance, 2022 (2207.12598): (12)
          Uria, Murray & Larochelle, A Deep and Tractable Density Estimator, 2013 (1310.1757);
          Hoogeboom et al., Autoregressive Diffusion Models, 2021 (2110.02037): (13)–(15)
          Austin et al., D3PM, 2021 (2107.03006): a mask as the noise of discrete data
Sittings  two: noise, to the mark "Here the first sitting ends"; then masks, and measuring
Lecture   Berkeley CS294-158, lecture 6: diffusion models (edition of 2024)
Run       python diffusion.py                           train, draw, measure: runs/diffusion/
          python diffusion.py --conditional             the same with the class given
          python diffusion.py --variant flow-matching   straight lines from noise to digits
          python diffusion.py --variant masked          bits that are hidden: a bound in nats
          python diffusion.py --sample-only --sampler ddim --sampling-steps 10
          python diffusion.py --conditional --sample-only --guidance 2
Reached   Fréchet distance 0.47, precision 0.80, recall 0.83 of 5,000 draws beside the grey test
          digits (of 5,000 training digits 0.17, 0.85, 0.88: judge.py), 0.41 after a coin a pixel
          (white as often as it is bright), in 50 steps: no likelihood of bits; of grey levels
          ≤ 1.46 bits/dim, a bound of a chain of 10 steps, not quite the one that draws
          (grey_bound(); in 50, on validation: ≤ 5.49). 8.3 minutes of training, and six of scoring
          draws, on 2 cores of a shared server (Intel Xeon), seed 0:
          samples/diffusion/metrics.json. With --conditional, guided (w = 1.25): 0.46,
          precision 0.92, recall 0.73, and the judge reads the right digit in 99.2 %.
          --variant masked: −log p(x) ≤ 81.93 nats, a bound (784 steps), in 10.6 minutes
          (samples/diffusion_masked/metrics.json). Longer: 0.32 and 0.28 in 27.9 minutes
          (samples/diffusion_long/, "Given an afternoon").
Gallery   samples/diffusion/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: a learned variance of the reverse steps, distillation into fewer of them,
          diffusion in the latent space of an autoencoder (28×28 is small enough without).
"""
import copy
import math
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from judge import data_labels, frechet_distance, judged, measure, obeyed, sample_many, scores
from pictures import plt  # matplotlib.pyplot
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--variant masked).
SETTINGS = {
    "variant": Setting("gaussian", "gaussian: noise on grey levels, (3); flow-matching: the same "
                       "on straight lines, (7); masked: bits that are hidden",
                       choices=("gaussian", "flow-matching", "masked"), word="{}"),
    "predict": Setting("x", "what the network is asked for: x, the noise eps, or v, (5), (6)",
                       choices=("x", "eps", "v"), word="{}",
                       only=("variant", "gaussian", "flow-matching")),
    "steps": Setting(11000, "length of training"),
    "batch_size": Setting(64, "images a step"),
    # Neither a third nor three times as much is better ("Turning the knobs").
    "lr": Setting(2e-3, "highest learning rate"),
    "warm_up": Setting(0.02, "part of the run in which the learning rate rises", 0, 1),
    # Half of the gradients of 1,000 steps are longer than 71 (results/ablations/diffusion.json);
    # how many are longer than this is not kept.
    "clip": Setting(100.0, "longer gradients are scaled down to this length"),
    "width": Setting(32, "C, channels of the network at 14×14", 4, 10000, word="width{}"),
    "average": Setting(0.999, "decay of the average of weights: what draws in the end", 0, 1),
    "eval_draws": Setting(1000, "draws scored at each evaluation during training", 10),
    "test_draws": Setting(5000, "draws scored at the end", 10),
    "bound_draws": Setting(8, "choices of known pixels for each test image in the bound (14)",
                           only=("variant", "masked")),
    "sampler": Setting("ddpm", "how to step back: ddpm (9), ddim (10) or heun (11)",
                       choices=("ddpm", "ddim", "heun"), drawing=True,
                       only=("variant", "gaussian", "flow-matching")),
    "sampling_steps": Setting(50, "K, steps from noise to digits", 1, 1000, drawing=True),
    "guidance": Setting(1.0, "w of (12): how loudly the label speaks; 1: as it was trained", 0, 100,
                        drawing=True),
}
VARIANTS = {("variant", "masked"): {"sampling_steps": 98},
            ("conditional", True): {"guidance": 1.25}}
T = 1000  # steps of noise
FEWER_STEPS = (1, 10, 25, 49, 98, 196)  # in which a masked model may be drawn: its bounds (15)
WITHHELD = 0.1  # part of the labels that a conditional model is not told: "Guidance"

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# Noise. Equation (1) says what a digit looks like after t steps, and takes no loop: one draw of ε.
# x_t is also the end of a chain, each of whose links takes away a little of the digit and adds a
# little noise. For s < t
#
#     x_t = (α_t/α_s) x_s + σ_ts ε′,        σ_ts² = σ_t² − (α_t/α_s)² σ_s²                      (2)
#
# Put x_s = α_s x + σ_s ε into it: x is multiplied by α_t, and the variances of the two independent
# noises add up to (α_t/α_s)² σ_s² + σ_ts² = σ_t². So the chain and (1) are the same, and a network
# can be shown any t without the steps before it. What is left to choose is α and σ, the schedule:
#
#     α_t = cos(π/2 · t/T),    σ_t = sin(π/2 · t/T)                                             (3)
#
#     σ 1 ●──────___           t = T: noise, and nothing else
#       │           ‾‾●        the mean square of a pixel stays near 1 (α² + σ² = 1):
#       │      x_t ↗   \       the network's input never changes its scale
#       │               \
#       └────────────────● α   t = 0: the digit
#
# At t = T the signal has to be gone: drawing begins with N(0, I), and a network that was trained on
# images with a trace of a digit in them has never seen that. *The classic mistake*: a schedule made
# for 1,000 steps, used with fewer. Ho et al.'s has α_T² = 0.00004 with T = 1,000; with T = 50 and
# the same range of β = 1 − α_t²/α_{t−1}², 0.6 of the variance would still be the digit's. The
# symptom: strokes are too fat. The mean of an image survives noise best (noise averages out over
# 784 pixels), and N(0, I), whose mean is mid grey, looks like a digit with too much white. (Drawn
# so, images of our weights have a mean grey of 0.20 in place of 0.12: 24 draws, no file is kept.
# Lin et al. 2023, 2305.08891, saw medium brightness only.) With (3) α_T is 0, whatever T.
#
# What is learned. On the way back the digit is not known. So a network is shown x_t, told t, and
# asked for the digit, by least squares:
#
#     loss  =  E_t ‖ x̂(x_t, t) − x ‖²,       σ_t⁴ uniform in [0, 1]                             (4)
#
# For each t by itself the best x̂ is the mean of x given x_t, and a network that could do everything
# would not care how often it sees which t. Ours cannot, and to draw a t twice as often is to weigh
# its error twice, in the mean: what noise_level() draws says which t the network is for. Half are
# so large that noise has more than 70 % of the variance: there the digit and its shape are decided
# (samples/diffusion/noise.png: at which t is x̂ no longer a 7?). The price: t ≤ 100 gets 0.06 % of
# the draws. (A likelihood asks for other weights: "The bound", in front of grey_bound().)
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# The network
#
# It gets a noisy image and gives one of the same size, so it has to see strokes, which are large,
# and to place pixels, which are small. A U-Net (Ronneberger et al. 2015) does the one below and the
# other above: halve the image, work there, double it, and add what was there before (the skip;
# theirs is stacked, not added), so that nothing fine is lost. Convolutions at 28×28 are dear on a
# CPU and see little. So four neighbouring pixels become one place of four channels ("words of
# 2×2"), as in transformer_ar.py, and all work is done at 14×14 and 7×7.
#
#     Hub        49 places, each told what all others have, by three dense layers with 83 % of all
#                weights. Digits are centred, so places may have weights of their own, and a matrix
#                product is what a processor does best. (Larger images have attention here.)
#     GroupNorm  the scale of activations does not depend on the image or on the batch
#     tell       noise level and label become a scale and a shift of each channel (FiLM): where
#                there is little noise, the network has other work than where there is nothing else
#     sin, cos   of level · frequencies, 1 to 100: one number, written so that near levels can be
#                told apart
#     position   a learned image that is added at the entrance: where in the picture? (pixelcnn.py)
# --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions, told how much noise there is, and added to what was there before.

    (B, C, H, W), (B, hints) -> (B, C, H, W). hints: so many numbers say what is known of the noise
    level, and of the label.
    """

    def __init__(self, channels, hints):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.tell = nn.Linear(hints, 2 * channels)
        nn.init.zeros_(self.conv_2.weight)  # at first a block adds a constant

    def forward(self, h, e):
        scale, shift = self.tell(e)[:, :, None, None].chunk(2, dim=1)
        u = self.conv_1(F.silu(self.norm_1(h)))
        return h + self.conv_2(F.silu(self.norm_2(u) * (1 + scale) + shift))


class Hub(nn.Module):
    """Where all places meet: the small image as one vector, through two layers of `wide` units.

    (B, C, H, W), (B, hints) -> (B, C, H, W).
    """

    def __init__(self, size, hints, wide):
        super().__init__()
        self.norm = nn.GroupNorm(4, size[0])
        self.first, self.second = nn.Linear(math.prod(size), wide), nn.Linear(wide, wide)
        self.tell, self.last = nn.Linear(hints, 2 * wide), nn.Linear(wide, math.prod(size))
        nn.init.zeros_(self.last.weight)

    def forward(self, h, e):
        scale, shift = self.tell(e).chunk(2, dim=1)
        u = F.layer_norm(self.first(self.norm(h).flatten(1)), (len(self.second.weight),))
        u = F.silu(u * (1 + scale) + shift)
        u = F.layer_norm(self.second(u), (len(self.second.weight),))
        return h + self.last(F.silu(u)).view_as(h)


class UNet(nn.Module):
    """What all variants ask: images (B, I, H, W) of I channels, and how much noise is in them, (B,)
    in [0, 1] -> (B, 1, H, W).

        words of 2×2 ─► C × 14×14 ─► Block ──────────────── skip ────────────────(+)─► Block ─► out
                                       └─► shrink ─► 2C × 7×7 ─► Block, Hub, Block ─► grow ───┘

    image_size: height and width, or (height, width), multiples of 4. classes: of labels, 0
    if it is told none; one more vector a label, and one for "no label".
    """

    def __init__(self, image_size, inputs, channels, classes):
        super().__init__()
        height, width = image_size
        if height % 4 or width % 4:
            raise ValueError(f"an image of {height}×{width} cannot be halved twice: choose "
                             "multiples of 4")
        if channels % 4:
            raise ValueError(f"--width {channels} cannot be divided into 4 groups of channels: "
                             "choose a multiple of 4")
        c, wide = channels, 4 * channels
        self.register_buffer("frequencies", torch.logspace(0, 2, 16), persistent=False)
        self.level = nn.Sequential(nn.Linear(32, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.label = nn.Embedding(classes + 1, wide) if classes else None
        self.first = nn.Conv2d(4 * inputs, c, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(c, height // 2, width // 2))
        self.down, self.up = Block(c, wide), Block(c, wide)
        self.shrink = nn.Conv2d(c, 2 * c, 2, stride=2)
        self.before, self.after = Block(2 * c, wide), Block(2 * c, wide)
        self.hub = Hub((2 * c, height // 4, width // 4), wide, 8 * c)
        self.grow = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.norm, self.last = nn.GroupNorm(4, c), nn.Conv2d(c, 4, 3, padding=1)

    def forward(self, z, level, y=None):
        """z: (B, I, H, W); level: (B,); y: (B,) labels, `classes` for "no label", or None."""
        angles = level[:, None] * self.frequencies
        e = self.level(torch.cat([angles.sin(), angles.cos()], dim=1))
        e = F.silu(e if y is None else e + self.label(y))
        h = self.first(F.pixel_unshuffle(z, 2)) + self.position  # (B, C, H/2, W/2)
        h = skip = self.down(h, e)
        h = self.after(self.hub(self.before(self.shrink(h), e), e), e)  # (B, 2C, H/4, W/4)
        h = self.up(skip + self.grow(h), e)
        return F.pixel_shuffle(self.last(F.silu(self.norm(h))), 2)


# --------------------------------------------------------------------------------------------------
# Gaussian diffusion of grey levels
#
# x, ε or v. A network that knows x_t may as well be asked for the noise, or for anything else that
# with x_t gives x:
#
#     x̂ = ( x_t − σ_t ε̂ ) / α_t                                                                 (5)
#     v = ∂x_t/∂φ = α_t ε − σ_t x  with φ = π/2 · t/T,    and back:  x̂ = α_t x_t − σ_t v̂        (6)
#
# (v is how x_t moves along the arc above: at t = 0 it is the noise, at t = T minus the digit.) One
# guess can be read in three ways, but they do not learn alike. An error in ε̂ is multiplied by
# σ_t/α_t: at large t, where the shape is decided, it is blown up without limit (at t = T ε̂ says
# nothing of x at all: α = 0). And x is easy to say in a way that ε is not: digits are few among all
# images and have black corners, noise has 784 dimensions and all of them have to be told. (Li & He
# 2025, 2511.13720, say so of networks on large patches.) Ho et al. found x worse than ε, "early in
# our experiments"; here, with the t of (4), x is better than either ("What was measured"). But each
# loss weighs noise levels in its own way, and how much is owed to that is not measured.
#
# Straight lines. Of all this only (6), noise_level() and inputs of one scale need the arc. On
#
#     α_t = 1 − t/T,    σ_t = t/T                                                               (7)
#
# x_t moves from x to ε in a straight line, ∂x_t/∂(t/T) = ε − x. That is the path of flow matching,
# or rectified flow: --variant flow-matching. (Their t runs the other way, and their networks are
# asked for the direction, here v = ε − x with x̂ = x_t − σ_t v̂, at all t alike. Ours keeps network,
# loss and draws of t; σ_t⁴ is then not uniform. Divided by √(α_t² + σ_t²), x_t is that of the arc
# at the same α/σ: other times and scales, no other question.) Lipman et al. came from continuous
# flows, where each step of training had to solve a differential equation, and found that least
# squares, one t at a time, does as well: what diffusion, (4), had done before.
# --------------------------------------------------------------------------------------------------


def spread(values, images):
    """A number for each image: (B,) -> (B, 1, 1, 1), to multiply images (B, 1, H, W) with."""
    return values.view(-1, *[1] * (images.dim() - 1))


def withheld(y, classes):
    """Labels (B,) for training, some replaced by `classes`, "no label"; None stays None."""
    hidden = None if y is None else torch.rand(y.shape, device=y.device) < WITHHELD
    return y if y is None else y.masked_fill(hidden, classes)


def noise_level(u):
    """(4): t = T · 2/π · arcsin (1 − u)^¼, rounded up, so that on the arc σ_t⁴ is uniform. u: (B,),
    uniform in [0, 1) -> (B,), integers 1 … T."""
    return ((1 - u).pow(0.25).asin() * 2 / math.pi * T).ceil().long().clamp(1, T)


class Diffusion(nn.Module):
    """Noise to digits, on either path. Images are in [0, 1] outside and in [−1, 1] inside.

    straight: the path (7) instead of (3). predict: what the network is asked for, "x", "eps" or
    "v".
    """

    likelihood = "none"  # of bits; for a bound on grey levels see grey_bound()
    noise_level = staticmethod(noise_level)  # here, so that an experiment can take another

    def __init__(self, image_size=28, channels=32, straight=False, predict="x", classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.straight, self.predict, self.classes = straight, predict, classes
        self.network = UNet(self.image_size, 1, channels, classes)
        self.sampler, self.sampling_steps, self.guidance = (
            SETTINGS[name].default for name in ("sampler", "sampling_steps", "guidance"))

    def path(self, t):
        """α_t, σ_t of (1): cos, sin of π/2 · t/T (3), or 1 − t/T, t/T (7). t: integers 0 … T."""
        u = t.to(self.network.position.dtype) / T
        if self.straight:
            return 1 - u, u
        return torch.cos(u * math.pi / 2), torch.sin(u * math.pi / 2)

    def noised(self, x, t, eps):
        """(1): x_t = α_t x + σ_t ε. x, eps: (B, 1, H, W); t: (B,)."""
        alpha, sigma = self.path(t)
        return spread(alpha, x) * x + spread(sigma, x) * eps

    def target(self, x, eps, alpha, sigma):
        """What the network is asked for: x, ε, or v = α_t ε − σ_t x (6), on straight lines ε − x.
        All (B, 1, H, W) or (B, 1, 1, 1)."""
        if self.predict == "v":
            return eps - x if self.straight else alpha * eps - sigma * x
        return x if self.predict == "x" else eps

    def guess(self, z, t, y=None):
        """x̂(x_t, t), what the network's numbers say of the clean image: themselves, or by (5)
        (x_t − σ_t ε̂)/α_t, or by (6) α_t x_t − σ_t v̂ (straight lines: x_t − σ_t v̂).
        z: x_t (B, 1, H, W); t: (B,)."""
        out = self.network(z, t / T, y)
        alpha, sigma = (spread(a, z) for a in self.path(t))
        if self.predict == "x":
            return out
        if self.predict == "eps":  # (5); at t = T, where α is 0, it says nothing
            return (z - sigma * out) / alpha.clamp(min=0.001)
        return z - sigma * out if self.straight else alpha * z - sigma * out

    def loss(self, x, y=None, step=0):
        """What training minimises, (4): ‖x̂(x_t, t) − x‖², σ_t⁴ uniform (of ε, v likewise), a mean
        over the batch of x (B, 1, H, W) in [0, 1]. -> ()"""
        utils.check_label(self, y)
        x, t = 2 * x - 1, self.noise_level(torch.rand(len(x), device=x.device))
        eps, (alpha, sigma) = torch.randn_like(x), (spread(a, x) for a in self.path(t))
        out = self.network(alpha * x + sigma * eps, t / T, withheld(y, self.classes))
        return (out - self.target(x, eps, alpha, sigma)).square().sum(dim=(1, 2, 3)).mean()

    # ------------------------------------------------------------------------------------ sampling
    #
    # The way back. Let q be the density that (2) makes of digits, and N(x; m, v) a Gaussian's. A
    # step back draws from q(x_s|x_t), which nobody knows: it depends on all digits at once. But
    # q(x_s|x_t, x), *given the digit*, is known by Bayes' rule:
    #
    #     q(x_s | x_t, x)  ∝  N( x_s; α_s x, σ_s² ) · N( x_t; (α_t/α_s) x_s, σ_ts² )            (8)
    #
    # Both are Gaussians in x_s, so is their product, and one completes the square: inverse
    # variances add up, 1/σ_s² + (α_t/α_s)²/σ_ts² = σ_t²/(σ_s² σ_ts²). That gives the variance, κ²,
    # and then the mean, which reads most easily if x_t is taken apart into x and ε =
    # (x_t − α_t x)/σ_t once more:
    #
    #     x_s = α_s x + √(σ_s² − κ²) ε + κ ε″,        κ² = σ_s² σ_ts² / σ_t²                    (9)
    #
    # That is (1) at time s, with a noise that is partly the old one and partly fresh. The model is
    # this with the network's guess x̂ in the place of x. At s = 0 σ_s = 0, and so is κ: the last
    # step adds no noise, by itself: sample() does not even draw any. (Code that gets it
    # wrong leaves grain on its digits.)
    #
    # Drawing. Begin with x_T = noise, guess x̂, step back to s by (9), guess again. With x itself
    # (9) would be exact for any s < t, and one step would do. But what makes (4) smallest is the
    # *mean* of all digits that x_t may have been, and at t = T these are all digits: a blur
    # (samples/diffusion/steps.png, one step). (The smallest case: a single pixel, −1 or 1 as often.
    # By Bayes' rule x̂ = tanh(α_t x_t/σ_t²): at t = T 0, the mean of both; with little noise nearly
    # ±1.) Short steps choose among digits little by little (samples/diffusion/sampling.gif: when is
    # it decided which digit it will be?). This is Algorithm 2 of Ho et al. with s in place of
    # t − 1, and x̂ cut to [−1, 1], where all means of digits are: --sampler ddpm.
    #
    # Without fresh noise. κ in (9) came from Bayes' rule, but x_s would have the right distribution
    # (1) for *any* κ between 0 and σ_s, were x̂ the digit itself. (Ho et al. also drew with
    # κ = σ_ts, which hardly differs in short steps.) But x̂ is a mean: only short steps come near
    # that, and only if κ² shrinks with them, as that of Bayes' rule does, or is 0. With κ = 0
    #
    #     x_s = α_s x̂ + σ_s ε̂                                                                  (10)
    #
    # each noise has its digit: a map, --sampler ddim. Run the other way (encode(), from t = T/10,
    # with a little noise drawn anew, as at t = 0 there is none to be guessed) it gives a digit a
    # noise, not always the same: a latent space, in which one can interpolate
    # (samples/diffusion/interpolation.png). (10) is x_t + (α_s − α_t) x̂ + (σ_s − σ_t) ε̂: Euler's
    # step for the ordinary differential equation dx_t = x̂ dα_t + ε̂ dσ_t ("probability flow"; with
    # the exact means x̂, ε̂ all x_t have the right distribution). One may do better than Euler: look
    # where the step ends, guess there again, and step along the mean of both directions,
    #
    #     x_s = x_t + (α_s − α_t) (x̂ + x̂′)/2 + (σ_s − σ_t) (ε̂ + ε̂′)/2                          (11)
    #
    # where x̂′, ε̂′ are guessed at the end of (10): Heun, two passes a step, an error of K⁻² instead
    # of K⁻¹, if x̂ is smooth. Here that gains nothing, and in the default run steps with fresh
    # noise, (9), end nearer than both (samples/diffusion/speed.png, "Samplers"). One reason may be
    # that fresh noise drowns errors of the first steps, which (10) carries to the end (Karras et
    # al.). On straight lines, (7), Euler's step is (10) again. Straight is the line of one pair:
    # the ODE follows the mean of all pairs that meet in x_t, and bends. (Liu et al. straighten it,
    # by training once more on noises and the digits drawn from them.)
    #
    # Scores. ∇ log q(x_t) = −E[ε|x_t]/σ_t (differentiate q(x_t) = E_x N(x_t; α_t x, σ_t²)): a guess
    # of the noise is a guess of the slope of the log density of noisy images (denoising score
    # matching, Vincent 2011). One can also draw by walking uphill with a little noise, at each
    # level (Langevin; Song & Ermon 2019, 1907.05600). A short step (9) does both: it is (10), and
    # κ²/2 times that slope, and κ ε″.
    #
    # Guidance. With --conditional the label is added to what the network is told of the noise. For
    # one image in ten it is withheld (label 10), so one network knows p(x|y) and p(x). It draws by
    #
    #     x̂  =  x̂_none + w ( x̂_y − x̂_none )                                                    (12)
    #
    # w = 1 is the model as it was trained, w = 0 has no label, w > 1 goes on in the direction of
    # the label, towards images of which a classifier would be sure: x̂_y − x̂_none is σ_t²/α_t times
    # the slope of log p(y|x_t), by Bayes' rule, so the slope is that of log p(x_t) p(y|x_t)^w. (Not
    # that of p(x) p(y|x)^w with noise on it: draws are not from there, Bradley & Nakkiran 2024,
    # 2408.09000.) Digits get plainer and more alike (samples/diffusion_conditional/guidance.png,
    # "Samplers"). A guess takes two passes. Ho & Salimans's w is our w − 1.
    #
    # Completion. Given pixels are put in, with noise as (1) has it at that time, after each step.
    # That is simple, and no draw from p(rest|given): guesses see what is given under noise, the
    # first guesses hardly at all. (Lugmayr et al. 2022, RePaint, go back and forth to mend it. The
    # masked model sees given pixels as they are: one pixel at a time it draws exactly, by orders
    # that begin with them.) In samples/diffusion/completion_left.png look for ones whose halves do
    # not fit (completion_top.png: the upper half is given).

    def guided(self, z, t, y, guidance):
        """(12): x̂_none + w (x̂_y − x̂_none), cut to [−1, 1]. t: one number."""
        t = torch.full((len(z),), t, device=z.device)
        if y is None:
            return self.guess(z, t).clamp(-1, 1)
        x_hat = self.guess(z, t, y)
        if guidance != 1:
            without = self.guess(z, t, torch.full_like(y, self.classes))
            x_hat = without + guidance * (x_hat - without)
        return x_hat.clamp(-1, 1)

    def step_back(self, z, x_hat, t, s, noise=None):
        """(9): α_s x̂ + √(σ_s² − κ²) ε̂ + κ ε″ if there is fresh noise (s < t); without, κ = 0,
        (10), also forwards (s > t: encode()). t, s: one number each."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (self.path(torch.tensor(i)) for i in (t, s))
        eps_hat, kappa_2 = (z - alpha_t * x_hat) / sigma_t, torch.zeros(())
        if noise is not None:  # κ² of (9): by (2), σ_ts²/σ_t² = 1 − (α_t σ_s / α_s σ_t)²
            kappa_2 = sigma_s**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
        back = alpha_s * x_hat + (sigma_s**2 - kappa_2).sqrt() * eps_hat
        return back if noise is None else back + kappa_2.sqrt() * noise

    def heun(self, z, x_hat, t, s, y, guidance):
        """(11): x_t + (α_s − α_t) (x̂ + x̂′)/2 + (σ_s − σ_t) (ε̂ + ε̂′)/2, with second guesses at the
        end of DDIM's step."""
        end = self.step_back(z, x_hat, t, s)
        if s == 0:  # no noise is left there, and nothing to be guessed
            return end
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (self.path(torch.tensor(i)) for i in (t, s))
        x_end = self.guided(end, s, y, guidance)
        eps = (z - alpha_t * x_hat) / sigma_t + (end - alpha_s * x_end) / sigma_s
        return z + (alpha_s - alpha_t) * (x_hat + x_end) / 2 + (sigma_s - sigma_t) * eps / 2

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None, sampler=None, steps=None,
               guidance=None, z=None, frames=None):
        """n draws, grey, (n, 1, H, W) in [0, 1]: Algorithm 2 of Ho et al., with fewer steps, or
        with those of another sampler.

        x (n, 1, H, W) in [0, 1] and known (H, W) bool: pixels that are given ("Completion").
        z: x_T, if it is not to be drawn. frames: a list that gets all x_t."""
        utils.check_label(self, y)
        utils.check_given(x, known)
        sampler, steps = sampler or self.sampler, steps or self.sampling_steps
        guidance = self.guidance if guidance is None else guidance
        weight = self.network.position
        y = None if y is None else y.to(weight.device)

        def randn():  # always on the CPU, so that a seed gives the same digits everywhere
            return torch.randn(n, 1, *self.image_size, generator=generator).to(weight)

        z = randn() if z is None else z
        times = torch.linspace(T, 0, steps + 1).round().int().tolist()
        for t, s in zip(times, times[1:]):
            x_hat = self.guided(z, t, y, guidance)
            if sampler == "heun":
                z = self.heun(z, x_hat, t, s, y, guidance)
            else:
                z = self.step_back(z, x_hat, t, s, randn() if sampler == "ddpm" and s else None)
            if known is not None:
                alpha, sigma = self.path(torch.tensor(s))
                given = alpha * (2 * x.to(weight) - 1) + sigma * randn()
                z = torch.where(known.to(weight.device), given, z)
            if frames is not None:
                frames.append(((z + 1) / 2).clamp(0, 1))
        return ((z + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def encode(self, x, y=None, generator=None, steps=50):
        """x_T of images x (B, 1, H, W) in [0, 1]: DDIM's steps (10), the other way. They begin with
        a little noise, at t = T/10: nearer to 0 any error of x̂, divided by a small σ_t, is a large
        one of ε̂, and what comes out at T is no noise that the network knows."""
        z, start = 2 * x - 1, T // 10
        eps = torch.randn(z.shape, generator=generator).to(z)
        z = self.noised(z, torch.full((len(z),), start, device=z.device), eps)
        times = torch.linspace(start, T, steps + 1).round().int().tolist()
        for t, s in zip(times, times[1:]):
            z = self.step_back(z, self.guided(z, t, y, 1), t, s)
        return z


# --------------------------------------------------------------------------------------------------
# Here the first sitting ends. The second has masks, and how all of it is measured and trained.
# --------------------------------------------------------------------------------------------------

# --------------------------------------------------------------------------------------------------
# Masked diffusion of bits
#
# Masks instead of noise. For bits there is another way to lose a digit: pixels vanish one by one,
# in random order (Austin et al.). The reverse guesses a hidden pixel from those that are left. In
# one order o that is autoregression (made.py), and p(x) is the mean over all D! orders:
#
#     −log p(x) = −log E_o[ Π_d p(x_{o_d} | x_{o_<d}) ] ≤ E_o[ Σ_d −log p(x_{o_d} | x_{o_<d}) ]
#                                                                                              (13)
#
# (Jensen.) The network is asked for all hidden pixels at once. With d pixels known, each of the
# D − d hidden ones is as likely to be the next, so
#
#     bound (13)  =  Σ_{d=0}^{D−1} c_d,    c_d = E[ mean over hidden i of −log p(x_i | known) ] (14)
#
# and one d, drawn evenly, with one choice of d known pixels, gives D times that mean: an estimate
# of (14) without bias, and the loss. The model is made.py's order-agnostic one, with any network:
# what is to be guessed is not in its input, so no weights need masks. (Sahoo et al. 2024,
# 2406.07524, and Shi et al. 2024, 2406.04329: the same in continuous time.) To draw, one pixel
# after the other takes D passes. In K < D steps several pixels are tossed at once, as if they did
# not depend on each other. That is another model, with a worse bound: all pixels of a step cost
# what its first one costs,
#
#     K steps from d_0 = 0 to d_K = D known pixels:    Σ_k ( d_{k+1} − d_k ) · c_{d_k}         (15)
#
# so a bound without its number of steps says nothing. (81.93 is of D = 784 steps; the draws take
# 98, and of 98 steps it is 82.45.)
# --------------------------------------------------------------------------------------------------


def spaced(n, most, generator=None):
    """n integers of 0 … most − 1, evenly spread, in random order: each is uniform, and their mean
    is steadier than that of n independent ones. -> (n,)"""
    places = (torch.arange(n) + torch.rand(n, generator=generator)) * most / n
    return places.long().clamp(max=most - 1)[torch.randperm(n, generator=generator)]


def some_known(counts, image_size, generator=None):
    """For each image that many pixels, chosen at random: (B,) -> (B, 1, H, W) bool."""
    dice = torch.rand(len(counts), math.prod(image_size), generator=generator)
    place = dice.argsort(dim=1).argsort(dim=1)  # each pixel's place in the order of its dice
    return (place < counts[:, None]).view(-1, 1, *image_size)


class MaskedDiffusion(nn.Module):
    """Pixels are hidden instead of noised, and guessed from those that are left: (13)–(15)."""

    likelihood = "bound"

    def __init__(self, image_size=28, channels=32, classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, self.guidance = classes, 1.0
        self.sampling_steps = self.pixels = math.prod(self.image_size)
        self.network = UNet(self.image_size, 2, channels, classes)
        self.register_buffer("bias", torch.zeros(1, *self.image_size))

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start each pixel's logit at its log-odds. images: (N, 1, H, W) uint8, grey."""
        mean = images.float().mean(dim=(0, 1)) / 255
        self.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def logits(self, x, known, y=None):
        """Log-odds of each pixel, given those that are known. x: (B, 1, H, W) in {0, 1}; known:
        as many bools -> (B, 1, H, W)."""
        seen = known.to(x)
        hidden = 1 - seen.mean(dim=(1, 2, 3))
        return self.bias + self.network(torch.cat([(2 * x - 1) * seen, seen], dim=1), hidden, y)

    def cost(self, x, known, y=None):
        """c_d of (14): the mean over hidden i of −log p(x_i | known). -> (B,) nats."""
        utils.check_pixels(x)
        nll = F.binary_cross_entropy_with_logits(self.logits(x, known, y), x, reduction="none")
        hidden = ~known
        return (nll * hidden).sum(dim=(1, 2, 3)) / hidden.sum(dim=(1, 2, 3))

    def loss(self, x, y=None, step=0):
        """What training minimises: D · c_d (14), of one choice of d known pixels for each image."""
        utils.check_label(self, y)
        known = some_known(spaced(len(x), self.pixels), self.image_size).to(x.device)
        return self.pixels * self.cost(x, known, withheld(y, self.classes)).mean()

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None, steps=None, guidance=None,
               frames=None):
        """n draws of bits, (n, 1, H, W): the pixels in random order, in `steps` groups, all of a
        group at once. x (n, 1, H, W) and known (H, W) bool: pixels that are given. With guidance,
        (12) of log-odds: what (14) bounds is w = 1. frames: a list that gets what is drawn so far,
        after each step."""
        utils.check_label(self, y)
        utils.check_given(x, known)
        steps = min(steps or self.sampling_steps, self.pixels)
        guidance = self.guidance if guidance is None else guidance
        weight = self.network.position
        y = None if y is None else y.to(weight.device)
        order = torch.rand(n, self.pixels, generator=generator)
        u = torch.rand(n, 1, *self.image_size, generator=generator).to(weight)
        if known is not None:
            order = order.masked_fill(known.flatten().cpu(), -1)  # they come first
        first = 0 if known is None else int(known.sum())
        # As in some_known(): the second argsort gives each pixel its place in the order.
        place = order.argsort(dim=1).argsort(dim=1).view(n, 1, *self.image_size).to(weight.device)
        image = torch.zeros_like(u) if x is None else x.to(weight) * known.to(weight)
        counts = torch.linspace(first, self.pixels, steps + 1).round().int().tolist()
        for here, after in zip(counts, counts[1:]):
            logits = self.logits(image, place < here, y)
            if y is not None and guidance != 1:
                without = self.logits(image, place < here, torch.full_like(y, self.classes))
                logits = without + guidance * (logits - without)
            now = (place >= here) & (place < after)
            image = torch.where(now, (u < torch.sigmoid(logits)).to(weight), image)
            if frames is not None:
                frames.append(torch.where(place < after, image, 0.5))
        return image


class Learner(nn.Module):
    """The model that learns, and the average of its weights, which is the one that draws."""

    def __init__(self, model):
        super().__init__()
        self.model, self.average = model, copy.deepcopy(model).requires_grad_(False)
        self.image_size, self.classes = model.image_size, model.classes
        self.likelihood = model.likelihood

    def start_from_mean(self, images):
        """Of both, if they guess bits: a network that guesses grey levels begins at grey."""
        for model in (self.model, self.average):
            if self.likelihood == "bound":
                model.start_from_mean(images)

    def sample(self, n, y=None, generator=None):
        """n draws of the average."""
        return self.average.sample(n, y, generator)


@torch.no_grad()
def follow(average, model, decay):
    """Move the average of the weights towards the present ones."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values()):
        old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, x, y, draws=1):
    """The bound (14), D · mean of c_d, of a masked model on bits x (N, 1, H, W), nats per image: of
    each image `draws` choices of what is known, always the same ones."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for xb, yb in utils.batches(x, y, 500):
        for _ in range(draws):
            counts = spaced(len(xb), model.pixels, generator)
            known = some_known(counts, model.image_size, generator).to(xb.device)
            total += model.pixels * model.cost(xb, known, yb).sum().item() / draws
    return total / len(x)


@torch.no_grad()
def bounds_by_steps(model, x, y, all_steps, points=50):
    """(15): Σ_k (d_{k+1} − d_k) c_{d_k}, the bound with fewer steps, nats per image, for each of
    all_steps, on bits x (N, 1, H, W). c_d is measured at `points` numbers of known pixels."""
    generator, costs = torch.Generator().manual_seed(0), []
    numbers = np.linspace(0, model.pixels - 1, points).round()
    for number in numbers:
        counts, total = torch.full((len(x),), int(number)), 0.0
        known = some_known(counts, model.image_size, generator).to(x.device)
        for (xb, yb), part in zip(utils.batches(x, y, 500), known.split(500)):
            total += model.cost(xb, part, yb).sum().item()
        costs.append(total / len(x))
    bounds = []
    for steps in all_steps:
        here = np.linspace(0, model.pixels, steps + 1).round()
        bounds.append(float((np.diff(here) * np.interp(here[:-1], numbers, costs)).sum()))
    return bounds


# The bound. p(x_0 … x_T), noise and steps (9) with x̂, is a latent variable model like the VAE's;
# its encoder is (2), which has nothing to be learned. By Bayes' rule q(x_t|x_{t−1}) is
# q(x_{t−1}|x_t, x) q(x_t|x)/q(x_{t−1}|x), and in the product over t the last two cancel, but for
# q(x_T|x). So the ELBO (vae.py) falls apart into steps; in them KL(q ‖ p) = E_q[log q − log p],
# which is 0 if q = p:
#
#     −log p(x) ≤ KL( q(x_T|x) ‖ N(0, I) ) + Σ_{t=2}^{T} E KL( q(x_{t−1}|x_t, x) ‖ p(x_{t−1}|x_t))
#                 + E[ −log p(x|x_1) ]                                                         (16)
#
# The first is 0 by (3). The last is small: x_1 is x with noise of a fifth of a grey level, and x is
# the level that is nearest. Each KL in the middle is one of two Gaussians with the same variance
# κ²: ‖difference of their means‖²/2κ². Put ε = (x_t − α_t x)/σ_t into (9). By (2) √(σ_s² − κ²) is
# (α_t/α_s) σ_s²/σ_t, so x turns out to be multiplied by α_s − (α_t²/α_s) σ_s²/σ_t² = α_s
# σ_ts²/σ_t²; the means differ by that, times x̂ − x. So the KL is
#
#     ( α_s σ_ts²/σ_t² )² / 2κ² · ‖x̂ − x‖²  =  ½ ( α_s²/σ_s² − α_t²/σ_t² ) · ‖x̂ − x‖²          (17)
#
# half of how much the signal-to-noise ratio falls, times the squared error of the guess. (In K < T
# steps (16) has s for t − 1, and K terms.) So the bound is least squares, too, with a weight for
# each t. That weight is enormous where there is hardly any noise (α²/σ² is 400,000 at t = 1): there
# are the last bits of the grey levels, which nobody sees. (More than half of all bits, say Ho et
# al. of CIFAR-10.) They dropped the weights of the error of ε, which is α_t²/σ_t² times that of x
# ("L_simple"); (4) drops these as well. At t = 26 x̂ errs by 5.2 (samples/diffusion/errors.png,
# validation) where x_t/α_t would err by 784 σ_t²/α_t² = 1.3, and such t weigh most in (17). More
# steps tighten the bound if less noise always means less error (Kingma et al.). Here it does not:
# 1.46 bits/dim in 10 steps, 5.49 in the 50 in which we draw (validation). Of the 1.46 about 1.1 are
# the last term of (16): ten steps end at x_100, and grey_bound() goes on from there without the
# network. flow.py has 0.96 bits/dim, exact.
@torch.no_grad()
def grey_bound(model, x, y, frequencies, steps, draws=4):
    """The bound (16) on −log₂ p of grey levels x (N, 1, H, W), uint8, in bits per pixel, if digits
    are drawn in so many steps: of each image `draws` choices of a step, always the same ones; it
    costs ½ (α_s²/σ_s² − α_t²/σ_t²) ‖x̂ − x‖² (17).

    From the last x_t to levels: p(level|x_t) by Bayes' rule, for each pixel alone, given how
    frequent the 256 levels are. (A draw takes x̂ itself there, which has no probability, and cuts
    each x̂ to [−1, 1]: the bound is of a sibling of what draws.)"""
    generator, nats = torch.Generator().manual_seed(0), 0.0
    times = torch.linspace(T, 0, steps + 1).round().long().to(x.device)
    (alpha, sigma), (last_alpha, last_sigma) = model.path(times), model.path(times[-2])
    snr = (alpha / sigma) ** 2
    levels = last_alpha * (torch.arange(256, device=x.device) / 127.5 - 1)
    for grey, yb in utils.batches(x, y):
        clean = grey / 127.5 - 1

        def randn():
            return torch.randn(grey.shape, generator=generator).to(clean)

        for _ in range(draws):
            k = spaced(len(grey), steps - 1, generator).to(x.device)  # from times[k] to [k + 1]
            error = model.guess(model.noised(clean, times[k], randn()), times[k], yb) - clean
            weight = (steps - 1) / 2 * (snr[k + 1] - snr[k])
            nats += (weight * error.square().sum(dim=(1, 2, 3))).sum().item() / draws
        z = last_alpha * clean + last_sigma * randn()
        log_p = frequencies.log() - (z[..., None] - levels) ** 2 / (2 * last_sigma ** 2)
        nats -= log_p.log_softmax(dim=-1).gather(-1, grey.long()[..., None]).sum().item()
    return nats / len(x) / (x[0].numel() * math.log(2))


@torch.no_grad()
def errors_by_noise(model, x, y, times):
    """Mean of ‖x̂ − x‖² over images x (N, 1, H, W) uint8, for each t of `times`."""
    generator, clean, errors = torch.Generator().manual_seed(0), x / 127.5 - 1, []
    for time_ in times:
        t = torch.full((len(x),), time_, device=x.device)
        eps = torch.randn(x.shape, generator=generator).to(clean)
        error = model.guess(model.noised(clean, t, eps), t, y) - clean
        errors.append(error.square().sum(dim=(1, 2, 3)).mean().item())
    return errors


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
# --------------------------------------------------------------------------------------------------


def sphere(a, b, t):
    """From a to b (Z,) along an arc, t (K,) from 0 to 1 -> (K, Z): spherical interpolation. The
    length goes from a's to b's."""
    angle = torch.acos(F.cosine_similarity(a, b, dim=0).clamp(-1, 1))
    if torch.sin(angle) < 1e-3:  # the same direction, or opposite ones: no arc is the shortest
        return (1 - t)[:, None] * a + t[:, None] * b
    weight_a, weight_b = torch.sin((1 - t) * angle), torch.sin(t * angle)
    return (weight_a[:, None] * a + weight_b[:, None] * b) / torch.sin(angle)


@torch.no_grad()
def plot_noise(path, model, x, y):
    """Digits x (n, 1, H, W) in [0, 1] on their way to noise, and what the network sees in each."""
    rows, times = [], torch.linspace(T // 10, T, 10).long().to(x.device)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    for i in range(len(x)):
        z = model.noised(2 * x[i:i + 1] - 1, times, eps[i:i + 1])
        x_hat = model.guess(z, times, None if y is None else y[i].repeat(len(z)))
        for name, images in ((f"digit, then x_t, t = {T // 10} … {T}", z),
                             ("digit, then x̂ for each", x_hat)):
            rows.append((name, ((torch.cat([2 * x[i:i + 1] - 1, images]) + 1) / 2).clamp(0, 1)))
    pictures.labelled_rows(path, rows)


def plot_errors(path, errors):
    """‖x̂ − x‖² against t. errors: {name: a list, at times evenly apart from 1 to T}."""
    figure, ax = plt.subplots(figsize=(6, 3))
    for name, values in errors.items():
        ax.plot(np.linspace(1, T, len(values)), values, ".-", label=name)
    ax.set(xlabel="t, of 1,000", ylabel="‖x̂ − x‖², sum over pixels", yscale="log")
    ax.grid(alpha=0.3)
    ax.legend()
    pictures.save_figure(path, figure)


def plot_steps(path, model, all_steps, **options):
    """The same random numbers, in few steps and in many."""
    pictures.plot_same_noise(path, model, [
        (f"{k} step" + "s" * (k > 1), {"steps": k, **options}) for k in all_steps])


def plot_speed(path, curves):
    """Quality against cost. curves: {name: rows of (guesses, seconds for 64 digits, distance)}."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for name, rows in curves.items():
        guesses, seconds, distances = zip(*rows)
        for ax, values in zip(axes, (guesses, seconds)):
            ax.plot(values, distances, ".-", label=name)
    for ax, label in zip(axes, ("guesses of the network", "seconds for 64 digits")):
        ax.set(xlabel=label, xscale="log", yscale="log")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("Fréchet distance to validation digits")
    axes[0].legend()
    pictures.save_figure(path, figure)


def plot_between(path, model, x, y):
    """From one digit to the next of x (n, 1, H, W) in [0, 1], between their noises (encode())."""
    z = model.encode(x, y, torch.Generator().manual_seed(0)).flatten(1)
    t = torch.linspace(0, 1, 10).to(x)
    between = [sphere(z[i], z[i + 1], t) for i in range(0, len(x), 2)]
    labels = None if y is None else y[::2].repeat_interleave(10)
    images = model.sample(len(between) * 10, labels, sampler="ddim", steps=50, guidance=1,
                          z=torch.cat(between).view(-1, *x.shape[1:])).split(10)
    pictures.labelled_rows(path, [
        ("a test digit … another" * (i == 0), torch.cat([x[2 * i][None], row, x[2 * i + 1][None]]))
        for i, row in enumerate(images)])


def plot_sampling(path, model):
    """Sixteen digits appearing, as an endless GIF."""
    frames = []
    model.sample(16, utils.row_labels(model, 16), torch.Generator().manual_seed(2), frames=frames)
    pictures.save_animation(path, frames[::max(1, len(frames) // 25)] + frames[-1:])


def speeds(model, judge, data, plans, n):
    """How good n draws are, for each plan. plans: {name: list of (guesses, options)}. ->
    {name: rows of (guesses, seconds for 64 digits, Fréchet distance to validation)}."""
    bits = model.likelihood == "bound"
    real, rows = judged(judge, data.x_val if bits else data.val)[0], {}
    for name, plan in plans.items():
        rows[name] = []
        for guesses, options in plan:
            start = time.perf_counter()
            draws = sample_many(model, n, data_labels(data, n), **options)
            seconds = (time.perf_counter() - start) * 64 / n
            distance = frechet_distance(judged(judge, draws)[0], real)
            rows[name].append((guesses, round(seconds, 4), distance))
    return rows


def guidances(model, judge, data, weights, n):
    """What guidance w does to n draws: rows of (w, Fréchet distance to validation, precision,
    recall, how often the judge finds the digit that was asked for)."""
    rows, labels = [], data_labels(data, n)
    for w in weights:
        draws = sample_many(model, n, labels, guidance=w)
        quality = scores(judge, draws, data.x_val if model.likelihood == "bound" else data.val)
        agree = obeyed(judge, draws, labels)["label_agreement"]
        rows.append((w, quality["frechet"], quality["precision"], quality["recall"], agree))
    return rows


def plot_guidance(path, model, rows):
    """The same noise with more and more guidance; rows: as guidances() has them."""
    pictures.plot_same_noise(path, model, [
        (f"w = {w:g}: distance {distance:.2f}, {100 * agree:.1f} % right", {"guidance": w})
        for w, distance, _, _, agree in rows], n=10, seed=4)


def plot_pictures(model, folder, data, judge, n):
    """All of the chapter's own pictures -> a dict of the figures in them. n: draws to be scored."""
    bits, figures, x = model.likelihood == "bound", {}, data.x_test
    plot_sampling(folder / "sampling.gif", model)
    all_steps = (1, 2, 5, 10, 25, 50, 100)
    if bits:
        plans = {"masked": [(k, {"steps": k}) for k in (*all_steps, 196)]}
        plot_steps(folder / "steps.png", model, (*all_steps, 196, model.pixels))
    else:
        x = data.test / 255
        plans = {name: [(k, {"steps": k, "sampler": name}) for k in all_steps]
                 for name in ("ddpm", "ddim")}
        plans["heun"] = [(2 * k - 1, {"steps": k, "sampler": "heun"}) for k in (1, 3, 5, 13, 25)]
        plot_steps(folder / "steps.png", model, all_steps, sampler="ddim")
        plot_noise(folder / "noise.png", model, *utils.first(2, x, data.y_test))
        plot_between(folder / "interpolation.png", model, *utils.first(8, x, data.y_test))
        times = torch.linspace(1, T, 41).round().int().tolist()
        figures["errors_by_noise"] = {
            name: errors_by_noise(model, *utils.first(n, grey, y), times)
            for name, grey, y in (("training images", data.train, data.y_train),
                                  ("validation images", data.val, data.y_val))}
        plot_errors(folder / "errors.png", figures["errors_by_noise"])
    if judge:
        figures["speed"] = speeds(model, judge, data, plans, n)
        plot_speed(folder / "speed.png", figures["speed"])
    if judge and model.classes:
        figures["guidance_scores"] = guidances(model, judge, data, (0, 1, 1.25, 1.5, 2, 3), n)
        plot_guidance(folder / "guidance.png", model, figures["guidance_scores"])
    pictures.plot_halves(folder, model, x, data.y_test)
    return figures


# --------------------------------------------------------------------------------------------------
# Training
#
# samples/diffusion/loss.png has the distance of 1,000 draws to validation digits, which chooses the
# weights (masked: nats): does it still fall at the end? progress.png beside it has draws from the
# same noise each time: which columns still change their digit at the end?
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for, and the average of its weights beside it."""
    if s.guidance != 1 and not s.conditional:
        raise ValueError(f"--guidance {s.guidance:g} is for models trained with --conditional")
    if s.variant == "masked":
        learner = Learner(MaskedDiffusion(image_size, s.width, s.classes))
    else:
        learner = Learner(Diffusion(image_size, s.width, s.variant == "flow-matching", s.predict,
                                    s.classes))
        learner.average.sampler = s.sampler
    learner.average.sampling_steps, learner.average.guidance = s.sampling_steps, s.guidance
    return learner


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Adam on (4), or on (14). model: a Learner."""
    s, learner, average = run.settings, model.model, model.average
    bits = learner.likelihood == "bound"
    optimizer = torch.optim.Adam(learner.parameters(), lr=s.lr, fused=True)
    judge = run.load_judge()
    real = judged(judge, data.val)[0]
    with run.training(model=learner, average=average, optimizer=optimizer):
        while run.step < s.steps:
            # As in all chapters: the rate rises over the first part of the run, and falls to 0.
            warm, left = (run.step + 1) / (s.steps * s.warm_up + 1), 1 - run.step / s.steps
            optimizer.param_groups[0]["lr"] = s.lr * min(warm, left)
            x, y = utils.random_batch(data, s.batch_size, grey=not bits)
            loss = learner.loss(x, y, run.step)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(learner.parameters(), s.clip)
            run.check_finite(loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            # At first a short average, of a ninth of the steps so far (gan.py).
            follow(average, learner, min(s.average, (run.step + 1) / (run.step + 10)))
            if run.tick(loss.item(), "nats" if bits else "squared error"):
                same_noise = torch.Generator().manual_seed(1)
                digits = average.sample(10, utils.row_labels(average, 10), same_noise, steps=25)
                if bits:
                    sets = (data.x_train, data.y_train), (data.x_val, data.y_val)
                    run.record(*[evaluate(average, *utils.first(2000, *xy)) for xy in sets],
                               average, digits)
                else:
                    # So few draws choose which weights are kept: a noisy choice.
                    draws = sample_many(average, s.eval_draws, data_labels(data, s.eval_draws),
                                     steps=25)
                    distance = frechet_distance(judged(judge, draws)[0], real)
                    run.record(None, None, average, digits, score=distance, val_frechet=distance)


def final_figures(model, data, judge, s, bound=grey_bound):
    """What is measured at the end, on the test set -> (nats or None, a dict). bound: of grey
    levels, by how many steps."""
    labels = data_labels(data, s.test_draws)
    draws = sample_many(model, s.test_draws, labels)
    if s.variant == "masked":
        nats = evaluate(model, data.x_test, data.y_test, s.bound_draws)
        figures = {f"test_{name}": value for name, value in
                   scores(judge, draws, data.x_test).items()}
        bounds = bounds_by_steps(model, data.x_test, data.y_test, FEWER_STEPS)
        figures |= {"bound_steps": model.pixels, "bounds_by_steps": dict(zip(FEWER_STEPS, bounds))}
        if model.classes:  # "no label" is one of the labels
            nobody = torch.full_like(data.y_test, model.classes)
            figures["marginal_nats"] = evaluate(model, data.x_test, nobody, s.bound_draws)
    else:
        nats, figures = None, {f"test_{name}": value for name, value in
                               measure(judge, draws, (data.test, data.x_test)).items()}
        counts = torch.bincount(data.train.flatten().cpu().int(), minlength=256) + 1.0
        frequencies = (counts / counts.sum()).to(data.test.device)
        by_steps = {steps: bound(model, *utils.first(1000, data.val, data.y_val), frequencies,
                                 steps) for steps in (5, 10, 25, 50)}
        steps = min(by_steps, key=by_steps.get)  # of these, validation chooses
        figures |= {"grey_bound_steps": steps, "validation_grey_bits_per_dim_by_steps": by_steps,
                    "grey_bits_per_dim": bound(model, data.test, data.y_test, frequencies, steps)}
        figures["binarization"] = ("none: trained on grey levels; draws are scored grey, and "
                                   "(…_binary) after one coin a pixel")
    return nats, figures | obeyed(judge, draws, labels)


def main(argv=None):
    run = Run(__file__, "Train a diffusion model on MNIST, sample from it, measure it.",
              SETTINGS, VARIANTS, argv)
    s, model = run.settings, run.build(build)
    if run.sample_only:  # no data, no training
        return run.write_samples(run.load_best(model.average))
    if run.finished:
        return
    data = run.load_data()
    model.start_from_mean(data.train)
    train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    average, judge = run.load_best(model.average), run.load_judge()
    print("scoring draws against the test set ...")
    nats, figures = final_figures(average, data, judge, s)
    print("painting ...")
    figures |= plot_pictures(average, run.folder, data, judge, s.eval_draws)
    run.write_samples(average)
    run.finish(average, test_nats=nats, likelihood=average.likelihood,
               test_images=len(data.x_test), test_draws=s.test_draws, **figures)


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 9,
    "title": lambda s: {"gaussian": "diffusion", "flow-matching": "flow matching",
                        "masked": "masked diffusion"}[s.variant] + (
        f", asked for {s.predict}" * (s.predict != "x")),
    "published": {
        "gaussian": ("none found on this scale", ""),
        "flow-matching": ("none found on this scale", ""),
        "masked": ("79.46 with 100 steps, 77.87 at best", "Bayesian flow networks (Graves et al. "
                   "2023); its test bits are drawn anew each time"),
    },
    "abilities": {"likelihood": "none; masked: a bound", "latent space": "yes, of 784 dimensions",
                  "interpolation": "yes, between real digits (ddim)",
                  "completion": "any part (masked: exact in orders that begin with it)",
                  "steps a draw takes": "50 (masked: 98), or as many as one likes",
                  "besides": "guidance"},
    "variants": {"diffusion": "", "diffusion, flow matching": "--variant flow-matching",
                 "diffusion, masked": "--variant masked"},
    "robust": ["diffusion"],
    "scored": 2000,  # validation images at each evaluation
    "small": "--width 4 --eval-draws 80 --test-draws 100",
    "pictures": {
        "sampling.gif": "Sixteen digits coming out of noise, all pixels at each step (a masked "
                        "model: a few pixels at each, in random order).",
        "noise.png": "Two test digits (first column) on their way to noise, at t = 100, 200, …, "
                     "1000, and below what the network guesses of each: when does it no longer "
                     "know which digit it was?",
        "errors.png": "How far the guess is from the digit, for each amount of noise. Why does the "
                      "error rise again at the left, where there is hardly any? (In training "
                      "such t are hardly ever drawn.)",
        "steps.png": "The same noise in 1, 2, 5, … steps (grey digits: by ddim, so that each noise "
                     "has its digit): how many are enough?",
        "speed.png": "Fréchet distance (of 1,000 draws beside validation digits: larger than the "
                     "table's) against guesses of the network (a guided one takes two passes) and "
                     "seconds, by sampler: where does it stop to pay?",
        "interpolation.png": "Between the noises that two real digits came from: are all drawings "
                             "in between digits?",
        "guidance.png": "The same noise with more and more guidance: plainer digits, fewer kinds.",
        "completion_top.png": "A test digit, its upper half, and eight draws of the rest: given "
                              "pixels are put in again after each step, with noise (masked: they "
                              "stay).",
        "completion_left.png": "The same with the left half given, as any part may be: do the "
                               "halves fit? (Look at the ones: masked they do, as what is given "
                               "is seen from the first step on; with noise on it not always.)",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. One thing changed, 1,000 steps: Fréchet distance of 2,000 draws (25
# steps of ddpm) to grey validation digits, means of seeds 0, 1 and 2, in brackets how far the worst
# is above the best; their precision and recall; and seconds of training a seed, one thread beside
# other jobs, so that they tell little (experiments/ablate_diffusion.py; the file is
# results/ablations/diffusion.json; results/ablations/diffusion.png has draws):
#
#                                        distance   precision  recall   training
#     default                           3.5 (0.3)     0.70      0.78     119 s
#       t uniform                       6.1 (0.5)     0.60      0.76     138 s
#       σ_t² uniform                    4.6 (0.5)     0.64      0.81     152 s
#       asked for v                     9.2 (1.4)     0.59      0.49     159 s
#       asked for ε                    11.1 (2.1)     0.55      0.40     119 s
#       no hub                          5.9 (1.0)     0.61      0.74     126 s
#       not told t                      3.3 (0.4)     0.75      0.71     136 s
#       the chain ends at 0.8 T        10.2 (0.7)     0.51      0.89     127 s
#       no average                      3.7 (0.4)     0.71      0.76     117 s
#       learning rate · 3               4.1 (0.3)     0.68      0.79      98 s
#
# Read nothing into less than twice what three seeds span. What counts is *which noise levels
# count*, what is asked for (which weighs noise levels, too, if the loss is not in x: ‖v̂ − v‖² is
# ‖x̂ − x‖²/σ_t²), and the hub, or only the 83 % of all weights that go with it: the row cannot tell
# which. A chain that ends too early draws too white, and the rarest digit in 1.6 % of draws
# (least_share; by default 7.5 %). Not told t, recall is 0.71 for 0.78 and precision 0.75 for 0.70,
# but how far seeds spread in these is not known (exercise 3). Its distance, the average and three
# times the rate are undecided; an average has little to do where the rate falls to 0.
#
# One can overdo (4). In 1,500 steps (single runs while tuning, no file is kept):
#
#     the default                                             2.1     121 s
#       hub of 512 units, of 128                         2.2, 2.4     143 s, 110 s
#       learning rate · 2                                     2.2
#       learning rate · 2, clip at 20                         2.3
#       σ_t⁸ uniform                                          3.7     precision 0.79, recall 0.50
#
# The last draws good digits of few kinds (in the default's 11,000 steps (4) has 0.80 and 0.83,
# samples/diffusion/): it was hardly shown images in which half of a digit can be seen. The other
# rows lie no further apart than seeds do.
#
# Other grids of 25 steps (after 1,500 of training, 1,000 draws; no file is kept): even in t 2.6;
# more steps where noise is strong 2.8, where it is weak 3.1; even in σ² 4.3. Half of κ 3.0, 1.2
# times κ 2.7. (Single heaps: 2.6 to 2.8 may be the same.)
#
# Samplers. 1,000 draws beside validation digits (speed.png of each run; fewer draws have a larger
# distance, judge.py): Heun's (11) has a distance of 1.36 in 25 passes, by (10) it is 1.39. In 50
# steps (9) reaches 0.83 and (10) 1.27, in the long run 0.62 and 0.98; in 100 steps the default has
# 0.77. (Draws of (9) in 25 steps, beside these validation digits, choose the weights: that favours
# (9).) With --conditional, guided, (9) has 0.77 and (10) 0.68, and ten steps (0.54, 0.55) are
# better than a hundred (0.82, 0.77; one heap each). On straight lines in ten steps (10) has 2.57,
# and 2.53 on the arc; by (9), on grey test digits, the run ends at 0.60, the arc's at 0.47 (one
# seed each: no order is claimed). With guidance precision rises from 0.87 to 0.92 and recall falls
# from 0.80 to 0.69 from w = 1 to 1.5, then to 0.53 at w = 3. The distance hardly tells w = 1
# (0.81), 1.25 (0.77) and 1.5 (0.87) apart.
#
# The masked model in fewer steps. Bounds (15) of `python diffusion.py --variant masked` on the test
# set, nats, and the Fréchet distance of 1,000 draws to validation digits
# (samples/diffusion_masked/metrics.json):
#
#     steps          1       10      25      49/50   98/100  196     784
#     bound        205.95    90.12   84.76   83.20   82.45   82.08   81.93
#     distance     197.8     16.0     6.25    2.76    1.64    1.45
#
# (Bounds with 49 and 98 steps, draws with 50 and 100; draws in 784 were not scored. Bounds of fewer
# than 784 steps know c_d at 50 values of d, and interpolate.) An eighth of the steps costs 0.5
# nats, ten steps cost 8. In one step all pixels are tossed apart: 784 independent coins. made.py's
# order-agnostic model stands at 93.95 (samples/made_agnostic_8masks/, exact, a mixture of eight
# orders, 5.0 minutes of training). Published: 95.21 in 10 steps, 79.46 in 100, 77.87 at best
# (Bayesian flow networks, Graves et al. 2023: a million steps of 512, test bits drawn anew); 77.56
# for eight orders (LMConv, Jain et al. 2020).
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (2,200), seed 0 where the row names no other; Fréchet distance of 5,000 draws
# to validation digits, and in brackets the smallest share of a digit among them
# (experiments/robustness.py; the file is in results/robustness/). Each should end within twice the
# distance of the first line:
#
#                             diffusion
#     as it is                2.04 (8.5 %)
#     seed 1, seed 2          1.87 (8.9 %), 1.67 (8.8 %)
#     lr / 3, lr · 3          2.40 (8.4 %), 2.21 (8.3 %)
#     batch / 2, batch · 2    2.82 (8.6 %), 1.40 (8.9 %)
#     width / 2, width · 2    2.37 (8.2 %), 1.82 (8.1 %)
#
# All do, the furthest (batch / 2) by a factor of 1.4, and no digit disappears. The three seeds span
# 0.37; from their mean, 1.86, only batch / 2 is further away than twice that.
#
# Given an afternoon. Twice the images is the one row that ends below all three seeds, if by less
# than twice what they span: a hint, no more. Twice the width, at nearly twice the time of that,
# does not. So the long run gets more images, by more steps
#
#     python diffusion.py --steps 30000 --out runs/diffusion_long
#
# and reaches a Fréchet distance of 0.32 on the test set, 0.28 after a coin a pixel, precision 0.82,
# recall 0.85, in 27.9 minutes (2 cores, seed 0; 38 passes over the training set;
# samples/diffusion_long/), where the default has 0.47, 0.41, 0.80 and 0.83 in 8.3 minutes (one seed
# each). Other 5,000 draws of the same weights have 0.30 and 0.25, the default's 0.47 and 0.40
# (scores.json of both); training digits, 0.17 and 0.16 (samples/comparison_floors.json). From step
# 14,700 on the distance to validation digits (1,000 draws) hardly falls, 0.87 there and 0.82 at
# 24,300, whose weights are kept: more draws would have to be scored at each evaluation to see more.
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: results/ablations/diffusion.json, of 1,000 steps, the table above; and
# samples/diffusion/.)
# 1. --predict eps, --predict v. Which noise levels are to blame? (errors.png. ‖x̂ − x‖² is
#    σ_t²/α_t² times ‖ε̂ − ε‖²: once at t = 500, 40 times at t = 900, without limit towards T.
#    Distances after 1,000 steps: x 3.5, v 9.2, ε 11.1, above.)
# 2. In noise_level() return (1 + u * T).long(), all t alike, then .pow(0.125) in place of
#    .pow(0.25). What happens to precision, what to recall? (The second: 0.79 and 0.50, above, in
#    1,500 steps; the default, in all of its own, has 0.80 and 0.83. The first, in 1,000 steps: 0.60
#    and 0.76, where the default has 0.70 and 0.78.)
# 3. In UNet.forward() put 0 * level for level: the network is not told how much noise there is. Can
#    it see that by itself? (Yes: corners of digits are black, so x_t has −α_t + σ_t ε there, whose
#    mean and spread tell t. A distance of 3.3, where 3.5 is usual; for the rest see above.)
# 4. In path() put 0.8 * u for u: the chain ends before the digit is gone. What becomes of draws?
#    Which test fails? (Too white: α_T is 0.31, so in training x_T is darker than the noise that
#    draws begin with; 10.2. test_a_chain_of_small_steps_is_one_draw, and others.)
# 5. In step_back() take kappa_2 = sigma_s**2 and no old noise at all. (It would be right if x̂ were
#    x: "Without fresh noise".) Is it better or worse in 10 steps, in 100? (Worse, and the more
#    steps the more so: distances of 2.3, 3.9 and 9.6 in 10, 25 and 100 steps, where (9) has 2.0,
#    1.0 and 0.8, and in 100 a precision of 0.975 and a recall of 0.484; weights that ship, 2,000
#    draws beside validation digits, no file is kept. Pixels N(m, v), with exact guesses, keep half
#    of v at most: a mean varies less than what it is a mean of. By (9), in more steps, their
#    variance comes as near to v as one likes.)
# 6. --sample-only --sampler ddim --sampling-steps 1. Why do all draws look alike, and what is it
#    that they look like? (The mean of all digits; at a distance of 351.)
# 7. --conditional, and then --sample-only --guidance 0, 1, 3, 10. Score each with judge.py: what
#    falls first, precision or recall? (Recall: 0.87, 0.80, 0.53 for w = 0, 1, 3, where precision
#    has 0.75, 0.87, 0.91, says guidance_scores in metrics.json. At w = 10 both fall: in a run of
#    2,000 steps a recall of 0.11, a precision of 0.39, a distance of 15.2, and draws twice as white
#    as digits are, of which no file is kept.)
# 8. --variant masked: in sample() let `order` be torch.arange(self.pixels).expand(n, -1): pixels in
#    reading order, in groups. Are draws better or worse than in random order? Why does (15) say
#    nothing of that? (Its c_d is a mean over random choices of d pixels, not the first d. And eight
#    neighbours in a row are tossed as if they had nothing to do with each other. Worse, by far:
#    distances of 35.6, 34.0 and 27.8 in 50, 98 and 196 steps, in random order 5.0, 4.2 and 3.7;
#    2,000 steps of training, 1,000 draws beside grey validation digits, no file is kept.)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
