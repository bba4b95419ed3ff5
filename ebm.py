"""
Energy-based models: a number for each picture, and nothing else
=================================================================
Take any network that gives a picture one number, its energy, and say that pictures of low energy
are probable. Little is asked of the network: no order of pixels, no bijection, no decoder. What one
pays comes later. exp(−E) is a probability only if it is divided by its sum over all pictures, Z,
and 2⁷⁸⁴ terms cannot be added up; and nobody says how to draw. The chapter shows two ways around Z:
chains that walk over pictures, and comparing with a model whose Z is known. A third, to learn
slopes of E alone, is left to diffusion.py (and exercise 5).

    p(x) = exp(−E(x)) / Z,      Z = Σ_x exp(−E(x))                                             (1)

    code          symbol      shape           meaning
    x             x           (B, 1, 28, 28)  a digit, 0 and 1; with --variant conv grey, and noisy
    energy        E(x)        (B,)            nats: −log p(x), up to log Z
    network       E(x)        (B,)            in (12) to (16), where energy() is −log q(x) + E(x)
    log_z         log Z       (1,) or (10,)   its estimate, for each label
    chains                    (N, …)          pictures that walk while the model is trained
    weight, b, c  W, b, c     (D, hidden) …   of the RBM (7)
    a             a           (D,)            logits of independent pixels, where chains begin
    a.sigmoid()   μ           (D,)            their means
    beta          β                           inverse temperature: 0 independent pixels, 1 p
    log_w         log w       (labels, n)     weights of chains or draws: (10), (14)
    base          q(x)                        of --variant residual: an exact model (12)
    c             C           ()              in (16) alone, a guess of log Z; elsewhere a bias (7)
    noise         σ                           of --variant conv: width of the noise (17)
    y             y           (B,)            class label 0..9, only with --conditional
    B batch size, D = 784 pixels

Papers    Smolensky 1986; Hinton, Training products of experts, 2002: RBM, contrastive divergence
          Montavon & Müller, 2012 (1203.3783); Melchior et al., 2013 (1311.1354): centring
          Tieleman, PCD, 2008; Salakhutdinov & Murray, 2008: annealed importance sampling for RBMs
          Neal, Annealed importance sampling, 1998 (physics/9803008)
          Burda, Grosse & Salakhutdinov, 2014 (1412.8566): in reverse, from test images; Grosse,
          Ghahramani & Adams, 2015 (1511.02543): from both sides, (11)
          Bennett, 1976 (J. Comput. Phys. 22, 245): Z from draws of both sides
          Gutmann & Hyvärinen, Noise-contrastive estimation, 2010; Deng et al., Residual EBMs, 2020
          (2004.11714): an energy on top of an exact model
          Du & Mordatch, 2019 (1903.08689); Nijkamp et al., 2019 (1903.12370): networks, Langevin
          Hyvärinen, Score matching, 2005; Vincent, 2011; Saremi & Hyvärinen, Neural empirical
          Bayes, 2019 (1903.02334): walk on noisy pictures, jump back
          Grathwohl et al., 2021 (2102.04509): Gibbs with gradients (exercise 7)
Lecture   Berkeley CS294-158, lecture 6: diffusion models (edition of 2024), heirs of energies
Sittings  two: energies, chains and part 1, the RBM (down to a line that says so), where every step
          is exact; then parts 2 and 3, measuring, training
Run       python ebm.py                         train, draw, measure; writes runs/ebm/
          python ebm.py --variant rbm           a restricted Boltzmann machine
          python ebm.py --variant conv          a network alone, on grey digits
          python ebm.py --conditional           the default with the class given: p(x|y)
          python ebm.py --width 64 --steps 16000 --out runs/ebm_long
          python ebm.py --sample-only --sampling-steps 200
Reached   82.29 nats, 0.1514 bits/dim, an estimate by 50,000 draws of the base, of which 13.8 %
          count, (15); 1,000 chains that begin at digits, (16), say 82.25 to 82.41 (two standard
          errors of log Z to both sides, no bound). Its base has 83.29, exact.
          6.4 minutes of training on 2 cores of a shared server (Intel Xeon), seed 0:
          samples/ebm/metrics.json. Fréchet distance of 5,000 draws 1.04.
          --conditional: 78.99 nats told the digit (78.76 to 79.20), 81.21 without; distance 0.24.
          --variant rbm: 85.11 nats, the middle of both sides (84.81 to 85.38), in 9.2 minutes;
          distance 1.58 (samples/ebm_rbm/metrics.json). --variant conv: grey, no likelihood;
          distance 3.66, after a coin a pixel 6.03, in 7.4 minutes (samples/ebm_conv/metrics.json).
          Five seeds of it: 2.15 to 4.39, each digit 5 to 17 % of the draws, on one thread
          (python experiments/seeds.py ebm --variant conv: results/seeds/ebm_conv.json).
Gallery   samples/ebm/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: a conv energy on bits (Gibbs with gradients: an exercise), tempered and
          parallel chains, deep Boltzmann machines.
"""
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from judge import coins, data_labels, frechet_distance, judged, measure, obeyed, sample_many, scores
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--variant rbm).
SETTINGS = {
    "variant": Setting("residual", "residual: an energy on top of an exact model; rbm: a "
                       "restricted Boltzmann machine; conv: a network alone, on grey digits",
                       choices=("residual", "rbm", "conv"), word="{}"),
    "steps": Setting(9000, "length of training"),
    "batch_size": Setting(64, "images a step, and chains"),
    # Three times as much is better in short runs ("Turning the knobs"). For E it would leave fewer
    # draws that count (rate()); for the base alone it was not tried.
    "lr": Setting(3e-3, "highest learning rate"),
    "warm_up": Setting(0.02, "part of the run in which the learning rate rises", 0, 1),
    # Some are thousands long; but without it short runs are no worse ("What was measured").
    "clip": Setting(100.0, "longer gradients are scaled down to this length"),
    "width": Setting(32, "channels of the energy; with rbm: hidden units", 4, 10000,
                     word="width{}"),
    "base_part": Setting(0.75, "part of the run that trains the base q", 0, 0.99,
                         only=("variant", "residual")),
    "z_steps": Setting(50000, "log Z, at the end: draws of q; with rbm: temperatures", 10,
                       only=("variant", "residual", "rbm")),
    "noise": Setting(0.25, "σ: noise on the digits whose energy is learned",
                     only=("variant", "conv")),
    "chain_steps": Setting(5, "K: how far a chain goes between two steps of training",
                           only=("variant", "conv")),
    "test_draws": Setting(5000, "draws scored at the end", 10),
    "sampling_steps": Setting(20, "length of the chain that draws", drawing=True),
}
VARIANTS = {
    ("variant", "rbm"): {"steps": 50000, "batch_size": 128, "width": 500, "z_steps": 10000,
                         "sampling_steps": 1000},
    ("variant", "conv"): {"steps": 7000, "lr": 5e-3, "sampling_steps": 300},
}

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# Energy. (1) is Boltzmann's formula, exp(−E/temperature)/Z, at temperature 1: twice as probable is
# log 2 nats lower. Only differences count, since a constant that is added to E is taken away again
# by log Z. (The smallest case: two pixels, so four pictures. With energies of 0, 1, 1 and 3 nats Z
# is 1 + 2/e + 1/e³, and the pictures have 56, 21, 21 and 3 % of the draws.) Energies that are added
# are probabilities that are multiplied, up to Z: exp(−E)·exp(−E′), a product where a mixture is a
# sum, high where *both* agree. (E_p[·], with brackets, is a mean over draws of p.)
#
# The gradient. log Z is out of reach, its gradient is not:
#
#     ∂ log Z/∂θ = 1/Z Σ_x ∂/∂θ exp(−E(x)) = −Σ_x p(x) ∂E(x)/∂θ = −E_p[∂E/∂θ],       so
#
#     ∂/∂θ mean of −log p = E_data[∂E/∂θ] − E_p[∂E/∂θ]                                          (2)
#
# Press down the energy of data, lift that of what the model itself draws. There is peace when both
# means are equal: as far as θ can tell, data and draws are alike. In code (2) is the gradient of
#
#     loss = mean of E(data) − mean of E(draws),    draws taken as constants                    (3)
#
#     E ╲      ╱╲       ╱      a valley that no datum lies in is found by the model's own draws,
#        ╲    ╱  ╲_____╱       and is filled up
#         ╲__╱     ▲
#          ▼     draws
#        data
#
# Its *value* says nothing: near 0 when all is well, and also when chains are stuck. Watch draws,
# and log Z. If chains are too short, draws are not p's, (3) does not follow (2), and energies may
# fall, unseen, where no chain ever comes.
#
# Chains. How can one draw from p without Z? By a walk whose steps know ratios p(x′)/p(x) only, in
# which Z is gone. Let T(x → x′) be the chance that a step from x ends at x′. If T leaves p
# unchanged, can reach everything and does not go in circles, then many steps end at a draw of p,
# wherever they began. T leaves p unchanged if
#
#     p(x) T(x → x′) = p(x′) T(x′ → x)                        detailed balance                  (4)
#
# as much traffic one way as the other: summed over x, what arrives at x′ is p(x′) again. Three
# kinds of step; part 2 takes the first (whose x stays if x′ is not accepted), part 1 the second,
# part 3 the third:
#
#     Metropolis–Hastings: draw x′ from r(x′|x), accept with min(1, p(x′)r(x|x′) / p(x)r(x′|x)) (5)
#     Gibbs: draw some pixels anew, given all others (of which p says how: see (8))
#     Langevin: x′ = x − ε²/2 ∇E(x) + ε·noise,   noise N(0, 1)                                  (6)
#
# (samples/ebm/chains.png: the same chains, ever longer. Do they stay digits, and do they become
# others? sampling.gif: how they get there.)
#
# What energies are good for: they add up (samples/ebm_conv/composition.png: E of a picture and E of
# the same picture turned round; nothing is trained for it), they judge (samples/ebm/outliers.png;
# AUROC is how often the stranger has the higher energy: independent pixels 1.00; digits mirrored
# top to bottom, where 0, 1, 3 and 8 are digits still, 0.69 to 0.78), they mend what is given in
# part (completion_top.png beside it: do strokes go on, and where the half leaves it open, as that
# of the 2, in different ways?).
#
# Labels. With --conditional E is told the digit, each label has a Z of its own, and all equations
# get "| y"; evaluate_without_label() takes it away again (made.py).
# --------------------------------------------------------------------------------------------------


def randu(shape, like, generator=None):
    """Uniform numbers from a generator on the CPU, so that a seed gives the same everywhere."""
    return torch.rand(shape, generator=generator).to(like)


# --------------------------------------------------------------------------------------------------
# 1. The restricted Boltzmann machine
#
# Hidden bits h beside the pixels v (x as one row), and no links within a side:
#
#     p(v, h) ∝ exp(b·v + c·h + (v − μ)ᵀW(h − ½))     h  ●   ●   ●      given v, hidden bits are
#                                                        │╲ ╱│╲ ╱│      independent coins; given
#     i_j = c_j + W_jᵀ(v − μ)                         v  ○   ○   ○      h, pixels are
#
#     E(v) = −b·v − Σ_j [ log(1 + e^(i_j)) − ½ (i_j − c_j) ]                                    (7)
#
#     P(h_j = 1|v) = sigmoid(i_j),   P(v_d = 1|h) = sigmoid(b_d + W_d·(h − ½))                  (8)
#
# (i_j is what unit j gets; W_j is column j of W, W_d row d.) (7), the free energy, is what is left
# when h is summed out: with s = i_j − c_j each unit is a factor of its own, Σ_h e^(c_j h + (h − ½)
# s) = e^(−s/2) (1 + e^(i_j)), so that p is a product of experts, one a hidden unit. Textbooks have
# vᵀWh. With μ, the mean of the pixels (2 % nearer to ½, lest a logarithm be of 0), and ½ taken away
# the family is the same, with other b and c; but a step in W no longer shifts all pixels and all
# hidden units at once, which b and c would have to repair (centring; what it is worth: "What was
# measured"). (8) are Gibbs steps that move half of everything at once. CD-1 (contrastive
# divergence, Hinton) begins each chain at data and takes one step: low variance, but it sees no
# valley far from data. PCD, persistent CD, keeps chains from one batch to the next: weights move
# slowly, chains follow. Parts 1 and 3 do so. (samples/ebm_rbm/filters.png: how large is the spot
# that most hidden units look at?)
#
# Nats after all: annealed importance sampling (AIS). From independent pixels (β = 0), whose Z is
# known, Z_0 = 2^hidden Π_d (1 + e^(a_d)), to p (β = 1) over a ladder of inverse temperatures β,
#
#     p_β(v) ∝ exp((1 − β) a·v + β b·v) Π_j (1 + e^(β i_j)) e^(−β/2 (i_j − c_j)),  β = 0 … 1    (9)
#
#     w = Π_k p*_{β_k}(v_k) / p*_{β_{k−1}}(v_k),   v_{k+1} by (8) at β_k;   Z = Z_0 E[w]        (10)
#
# where p* is p without its Z, v_1 a draw at β = 0, and (8) at β has sigmoid(β i_j), and for pixels
# sigmoid of (1 − β) a_d + β b_d + β W_d·(h − ½). Why? For one step of the ladder, from 0 to β_1,
# E[w] = Σ_v p_0 p*_{β_1}/p*_0 = Z_{β_1}/Z_0, and draws of p_0, weighted by w, stand for p_{β_1}.
# (8) leaves that as it is, so the next step brings Z_{β_2}/Z_{β_1}, and so on to Z/Z_0, however
# many steps there are. But w is skewed, and the mean of a few is mostly too low: log Z comes out
# low, and −log p *flatters*. Begin with draws of p and walk down instead, and
#
#     Z = Z_0 / E[w′],    w′ as w, with its ratios upside down                                 (11)
#
# is mostly too high. What lies between the two is what we know (samples/ebm_rbm/annealing.png). The
# reverse chains begin at draws that took long chains, not perfect ones, and a valley that no chain
# finds is on neither side: so this is an estimate, and no bound. The tables say "estimate" and give
# the interval.
# --------------------------------------------------------------------------------------------------


class RBM(nn.Module):
    """p(v, h) ∝ exp(b·v + c·h + (v − μ)ᵀW(h − ½)), v: bits of an image, h: hidden bits. With labels
    each digit has biases b and c of its own."""

    likelihood, quick = "estimate", 500  # temperatures of measure() while it is trained

    def __init__(self, image_size=28, hidden=500, classes=0, chains=128):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, d, k = classes, math.prod(self.image_size), classes or 1
        self.sampling_steps = VARIANTS["variant", "rbm"]["sampling_steps"]
        self.weight = nn.Parameter(0.01 * torch.randn(d, hidden))
        self.b, self.c = nn.Parameter(torch.zeros(k, d)), nn.Parameter(torch.zeros(k, hidden))
        self.register_buffer("a", torch.zeros(d))  # of independent pixels, where all chains begin
        self.register_buffer("log_z", torch.zeros(k))
        self.register_buffer("chains", torch.zeros(max(chains, k), d, dtype=torch.uint8))

    def start_from_mean(self, images):
        """Biases of independent pixels, from images (N, 1, H, W) uint8, grey; chains from them."""
        mean = images.float().mean(dim=(0, 1)).flatten() / 255
        self.a.copy_(torch.logit(0.01 + 0.98 * mean))
        self.b.data.copy_(self.a.expand_as(self.b))
        self.chains.copy_(torch.rand(self.chains.shape).to(self.a) < self.a.sigmoid())

    def label(self, y, n):
        """Which biases each of n images takes: (n,)."""
        utils.check_label(self, y)
        return self.b.new_zeros(n, dtype=torch.long) if y is None else y.to(self.b.device)

    def inputs(self, v, y):
        """What each hidden unit gets, c + Wᵀ(v − μ), v: (B, D) -> (B, hidden)."""
        return (v - self.a.sigmoid()) @ self.weight + self.c[y]

    def energy(self, x, y=None):
        """(7): −b·v − Σ_j [softplus(i_j) − ½(i_j − c_j)]. x (B, 1, H, W) bits -> (B,) nats."""
        utils.check_pixels(x)
        v, y = x.flatten(1).to(self.a), self.label(y, len(x))
        return -self.log_p_star(v, self.inputs(v, y), y, beta=1)

    def log_prob(self, x, y=None):
        """−energy − log Z, with log Z as measure() has estimated it. -> (B,) nats"""
        return -self.energy(x, y) - self.log_z[self.label(y, len(x))]

    def sweep(self, v, y, generator=None, beta=1.0, inputs=None):
        """One step of block Gibbs, (8): hidden bits by sigmoid(i_j) given v (B, D), then pixels by
        sigmoid(b_d + W_d·(h − ½)), both at β. It leaves p_β of (9) as it is."""
        inputs = self.inputs(v, y) if inputs is None else inputs
        h = (randu(inputs.shape, v, generator) < (beta * inputs).sigmoid()).to(v)
        bias = beta * self.b[y] + (1 - beta) * self.a
        logits = beta * ((h - 0.5) @ self.weight.T) + bias
        return (randu(v.shape, v, generator) < logits.sigmoid()).to(v)

    def loss(self, x, y=None, step=0):
        """(3): mean of E(data) − mean of E(chains). Its gradient is that of −log p, if the chains
        are draws of p; its value means nothing."""
        i = slice(None) if y is None else chains_of(y, len(self.chains), self.classes)
        with torch.no_grad():
            chains = self.chains[i].to(x)
            chains = self.sweep(chains, self.label(y, len(chains)))
        self.chains[i] = chains.to(self.chains)
        chains = chains.view(-1, 1, *self.image_size)
        return self.energy(x, y).mean() - self.energy(chains, y).mean()

    # ------------------------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None, watch=None):
        """n draws, (n, 1, H, W): chains of sampling_steps sweeps that begin with independent
        pixels. x (n, 1, H, W) and known (H, W) bool: pixels that are given, put in again after each
        sweep. watch(step, images): is told where the chains are after each step."""
        utils.check_given(x, known)
        y = self.label(y, n)
        v = (randu((n, len(self.a)), self.a, generator) < self.a.sigmoid()).to(self.a)
        for step in range(self.sampling_steps):
            v = self.sweep(v, y, generator)
            if x is not None:
                v = torch.where(known.flatten().to(v.device), x.flatten(1).to(v), v)
            if watch:
                watch(step + 1, v.view(n, 1, *self.image_size))
        return v.view(n, 1, *self.image_size)

    # ----------------------------------------------------------------------------------- measuring

    def log_p_star(self, v, inputs, y, beta):
        """log p*_β of (9): (1 − β) a·v + β b·v + Σ_j softplus(β i_j) − β/2 (i_j − c_j). -> (B,)"""
        bias, seen = beta * self.b[y] + (1 - beta) * self.a, inputs - self.c[y]
        return (v * bias).sum(dim=1) + (F.softplus(beta * inputs) - beta / 2 * seen).sum(dim=1)

    @torch.no_grad()
    def anneal(self, v, y, temperatures, generator, reverse=False):
        """(10): log w = Σ_k log p*_k/p*_{k−1}, (n,). v (n, D): draws of p_0 (reverse: p_1)."""
        betas = torch.linspace(0, 1, temperatures).tolist()
        log_w = v.new_zeros(len(v))
        for now, then in zip(betas, betas[1:]) if not reverse else zip(betas[:0:-1], betas[-2::-1]):
            if reverse:
                v = self.sweep(v, y, generator, now)
            inputs = self.inputs(v, y)
            log_w += self.log_p_star(v, inputs, y, then) - self.log_p_star(v, inputs, y, now)
            if not reverse:
                v = self.sweep(v, y, generator, then, inputs)
        return log_w

    @torch.no_grad()
    def measure(self, temperatures=None, n=100):
        """Estimate log Z from n chains a label, forward, (10), Z = Z_0 E[w], and in reverse, (11),
        Z = Z_0 / E[w′]. What lies in the middle is kept in log_z. -> its (low, high), each
        (labels,): two standard errors beyond the lower and the higher one."""
        generator, k = torch.Generator().manual_seed(0), len(self.log_z)
        temperatures = temperatures or self.quick
        y = torch.arange(k).repeat_interleave(n).to(self.a.device)
        log_z_0 = F.softplus(self.a).sum() + self.c.shape[1] * math.log(2)  # log Z_0
        v = (randu((n * k, len(self.a)), self.a, generator) < self.a.sigmoid()).to(self.a)
        forward, error = log_mean(self.anneal(v, y, temperatures, generator).view(k, n))
        v = self.sample(n * k, y if self.classes else None, generator).flatten(1)
        log_w = self.anneal(v, y, temperatures, generator, reverse=True)
        back, error_back = log_mean(log_w.view(k, n))
        log_z, errors = log_z_0 + torch.stack([forward, -back]), torch.stack([error, error_back])
        self.log_z.copy_(log_z.mean(dim=0))
        return (log_z - 2 * errors).amin(dim=0), (log_z + 2 * errors).amax(dim=0)


def chains_of(y, n, classes):
    """Of n chains, whose labels are 0, 1, … over and over: for each label of y (B,) one, by chance.
    Both means of (3) need the same labels, or (2) is wrong: ones are more frequent than fives."""
    return torch.randint(n // classes, y.shape, device=y.device) * classes + y


def log_mean(log_w):
    """log_w: (k, n) -> log of the mean of w over n, and the standard error of that, each (k,)."""
    top = log_w.amax(dim=1, keepdim=True)
    w = (log_w - top).exp()
    mean = w.mean(dim=1)
    return mean.log() + top[:, 0], w.std(dim=1) / log_w.shape[1] ** 0.5 / mean


# --------------------------------------------------------------------------------------------------
# Here the first sitting ends. The second needs randu(), chains_of() and log_mean() of it.
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Networks that say a number
# --------------------------------------------------------------------------------------------------


class Energy(nn.Module):
    """Images (B, 1, H, W) -> (B,): convolutions, smooth everywhere, since chains of --variant conv
    follow the slope (that of ReLU is constant in pieces, and jumps). H, W: multiples of 4."""

    def __init__(self, image_size, channels, classes):
        super().__init__()
        height, width = image_size
        if height % 4 or width % 4:
            raise ValueError(f"an image of {height}×{width} cannot be halved twice: choose "
                             "multiples of 4")
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(2 * channels * height * width // 16, 4 * channels))
        self.label = nn.Embedding(classes, 4 * channels) if classes else None
        self.last = nn.Linear(4 * channels, 1)
        nn.init.zeros_(self.last.weight)  # at first all images are alike
        nn.init.zeros_(self.last.bias)

    def forward(self, x, y=None):
        h = self.body(2 * x.to(self.last.weight) - 1)
        return self.last(F.silu(h if y is None else h + self.label(y)))[:, 0]


# --------------------------------------------------------------------------------------------------
# 2. An energy on top of an exact model
#
# Let q be autoregressive, and p what corrects it:
#
#     p(x) = q(x) exp(−E(x)) / Z                                                               (12)
#
# A causal model decides pixel by pixel and takes nothing back; E sees the whole picture. And draws
# of q are cheap and independent, so no chain is needed to train. Noise contrast: let E tell data
# from as many draws of q, as a classifier that says P(data|x) = sigmoid(−E(x)): its cross-entropy,
#
#     loss = mean of log(1 + e^E(data)) + mean of log(1 + e^−E(draws of q))                    (13)
#
# Its optimum over all functions is P = p_data/(p_data + q), so −E = log p_data/q, log Z = 0: the
# normaliser is learned along, as a bias. (A GAN's discriminator has the same loss: it is an energy
# on top of the generator, thrown away after training.) For nats one does not trust that bias, and
# counts:
#
#     log Z = log E_q[w],  w = exp(−E);   −log p = −log q + E + log Z                          (14)
#
#     effective sample size: (Σ w)² / Σ w², of n draws                                         (15)
#
# If E knows much that q does not, few draws carry all weight, and (14) is as noisy as those few: a
# gain of g nats leaves e^(−2g) of the draws, if log w is Gaussian and data are draws of p (then 2g
# is the variance of log w). So 50,000 draws can count a gain of two or three nats (e^−6 of them are
# 124), not of ten. To draw: (5), which accepts with min(1, p(x′)r(x|x′) / p(x)r(x′|x)), for r(x′|x)
# = q(x′): by (12) q(x) and q(x′) drop out, and min(1, e^(E(x) − E(x′))) is left.
#
# And if E has a valley where q never goes? Then no draw of q tells of it, (14) is too low, and
# flatters. So once more from the other side, with chains of p that begin at digits and stay near:
# each step keeps some upper rows, and q draws the lower ones anew (given the upper rows, so again q
# drops out of (5)). After 100 steps we take them for draws of p: an estimate again, no bound. From
# draws of both q and p (Bennett's acceptance ratio) comes, with any C (ours is log Z by (14)),
#
#     log Z = C + log E_q[sigmoid(−E − C)] − log E_p[sigmoid(E + C)]                           (16)
#
# since p · sigmoid(E + C) = q · sigmoid(−E − C) · e^C / Z, image by image: take the sum over all.
# No weight is above 1, so no draw rules. (With as many draws of p as of q, the best C is log Z.
# That C is what (13) learns as bias when all else of E is fixed and draws of p stand for data.)
# --------------------------------------------------------------------------------------------------


class Base(nn.Module):
    """q(x), exact: word after word of 2×2 pixels, as transformer_ar.py has them, each given the
    words before it in a window, `reach` rows up and as many columns to both sides."""

    def __init__(self, image_size, units, classes, reach=6):
        super().__init__()
        size, self.reach = (image_size[0] // 2, image_size[1] // 2), reach
        before = torch.ones(4, reach + 1, 2 * reach + 1)
        before[:, -1, reach:] = 0  # the word itself, and those to its right
        self.register_buffer("before", before.flatten().nonzero()[:, 0], persistent=False)
        self.see = nn.Linear(len(self.before), units)
        self.position = nn.Parameter(torch.zeros(*size, units))
        self.label = nn.Embedding(classes, units) if classes else None
        self.inner = nn.ModuleList(nn.Linear(units, units) for _ in range(2))
        self.last = nn.Linear(units, 16)
        patterns = (torch.arange(16)[:, None] >> torch.tensor([3, 2, 1, 0])) & 1
        self.register_buffer("patterns", patterns.float(), persistent=False)  # (16, 4)

    def logits(self, seen, position, y):
        """seen: (B, words, V), what is in their windows; position: (words, units) -> logits of the
        16 patterns of each, (B, words, 16)."""
        h = self.see(seen) + position
        if y is not None:
            h = h + self.label(y)[:, None]
        for layer in self.inner:
            h = h + F.layer_norm(F.silu(layer(F.silu(h))), h.shape[-1:])
        return self.last(F.silu(h))

    def log_prob(self, x, y=None):
        """log q(x): bits (B, 1, H, W) -> (B,) nats, exact."""
        words, r = F.pixel_unshuffle(x.to(self.position), 2), self.reach  # (B, 4, H/2, W/2)
        seen = F.unfold(F.pad(2 * words - 1, (r, r, r, 0)), (r + 1, 2 * r + 1))  # 0: outside
        logits = self.logits(seen[:, self.before].transpose(1, 2), self.position.flatten(0, 1), y)
        which = torch.einsum("bkhw,k->bhw", words, words.new_tensor([8, 4, 2, 1])).long()
        log_q = F.log_softmax(logits, dim=-1).gather(-1, which.flatten(1)[..., None])
        return log_q.flatten(1).sum(dim=1)

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """n draws of q, (n, 1, H, W). x (n, 1, H, W), known (H, W) bool: pixels that are given."""
        (height, width, _), r = self.position.shape, self.reach
        seen = self.position.new_zeros(n, 4, height + r, width + 2 * r)
        u = randu((n, height, width, 1), seen, generator)
        if x is not None:
            given = F.pixel_unshuffle(x.to(seen), 2)
            fixed = F.pixel_unshuffle(known[None, None].to(seen), 2)[0].bool()  # (4, H/2, W/2)
        for i in range(height):
            for j in range(width):
                window = seen[:, :, i:i + r + 1, j:j + 2 * r + 1].flatten(1)[:, None, self.before]
                q = self.logits(window, self.position[i, j], y)[:, 0].softmax(dim=-1)
                if x is not None:  # patterns that have other pixels where they are given: no
                    other = self.patterns != given[:, None, :, i, j]  # (n, 16, 4)
                    q = q * ~(other & fixed[:, i, j]).any(dim=-1)
                    q = q / q.sum(dim=-1, keepdim=True)
                pick = (q.cumsum(dim=-1) <= u[:, i, j]).sum(dim=-1).clamp(max=15)
                seen[:, :, i + r, j + r] = 2 * self.patterns[pick] - 1
        return F.pixel_shuffle((seen[:, :, r:, r:r + width] + 1) / 2, 2)


class Residual(nn.Module):
    """p(x) = q(x) exp(−E(x)) / Z: (12)."""

    likelihood, quick = "estimate", 5000  # draws in measure() while it is trained
    every = 16  # steps between two lots of new draws of q

    def __init__(self, image_size=28, channels=32, classes=0, base_steps=0, pool=2048):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, self.base_steps = classes, base_steps
        self.sampling_steps = SETTINGS["sampling_steps"].default
        self.network = Energy(self.image_size, channels, classes)
        self.base = Base(self.image_size, 4 * channels, classes)
        self.register_buffer("log_z", torch.zeros(classes or 1))
        self.register_buffer("pool", torch.zeros(pool, 1, *self.image_size, dtype=torch.uint8))

    def energy(self, x, y=None):
        """−log q(x) + E(x): x (B, 1, H, W), 0 or 1 -> (B,) nats."""
        utils.check_label(self, y)
        utils.check_pixels(x)
        return self.network(x, y) - self.base.log_prob(x, y)

    def log_prob(self, x, y=None):
        """−energy − log Z, with log Z as measure() has estimated it. -> (B,) nats"""
        return -self.energy(x, y) - self.log_z[0 if y is None else y]

    def labels(self, n):
        """As many of each digit: (n,), or None."""
        return torch.arange(n, device=self.log_z.device) % self.classes if self.classes else None

    def loss(self, x, y=None, step=0):
        """−log q(x) as long as q is trained; then (13): means of log(1 + e^E(data)) and of
        log(1 + e^−E(draws of q))."""
        utils.check_label(self, y)
        if step < self.base_steps:
            return -self.base.log_prob(x, y).mean()
        self.refill(step - self.base_steps)
        i = torch.randint(len(self.pool), (len(x),), device=x.device)
        labels = None if y is None else self.labels(len(self.pool))[i]
        real, drawn = self.network(x, y), self.network(self.pool[i], labels)
        return F.softplus(real).mean() + F.softplus(-drawn).mean()

    def refill(self, step):
        """New draws of q take the place of the oldest quarter of the pool (at first of all)."""
        if step % self.every:
            return
        lot, labels = len(self.pool) // 4, self.labels(len(self.pool))
        for part in range(4) if step == 0 else [step // self.every % 4]:
            y = None if labels is None else labels[part * lot:(part + 1) * lot]
            self.pool[part * lot:(part + 1) * lot] = self.base.sample(lot, y).to(torch.uint8)

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None, watch=None):
        """n draws, (n, 1, H, W): Metropolis chains of sampling_steps steps (5), whose proposals x′
        are draws of q, accepted with min(1, e^(E(x) − E(x′))). x, known: as in Base.sample(); right
        only if nothing that is given comes after something that is not. watch(step, images): is
        told where the chains are."""
        utils.check_label(self, y)
        utils.check_given(x, known)
        device, heaps = self.log_z.device, self.sampling_steps + 1  # the beginning, and proposals
        y = None if y is None else y.to(device).repeat(heaps)
        x = None if x is None else x.repeat(heaps, 1, 1, 1)
        drawn = self.base.sample(n * heaps, y, generator, x, known)
        energies = torch.cat([self.network(xb, yb) for xb, yb in utils.batches(drawn, y, 500)])
        drawn, energies = drawn.view(heaps, n, *drawn.shape[1:]), energies.view(heaps, n)
        log_u = randu((heaps, n), energies, generator).log()
        now, energy = drawn[0].clone(), energies[0].clone()
        for step in range(1, heaps):
            move = log_u[step] < energy - energies[step]
            now[move], energy[move] = drawn[step, move], energies[step, move]
            if watch:
                watch(step, now.clone())
        return now

    @torch.no_grad()
    def measure(self, draws=None):
        """Estimate log Z = log E_q[exp(−E)] from draws of q, and keep it in log_z. -> its (low,
        high), each (labels,): two standard errors to both sides; and the effective sample size,
        (Σ w)² / Σ w² (15), as a part of the draws."""
        generator, draws, log_w = torch.Generator().manual_seed(0), draws or self.quick, []
        y = self.labels(draws)
        for i in range(0, draws, 2000):
            yb = None if y is None else y[i:i + 2000]
            x = self.base.sample(min(2000, draws - i), yb, generator)
            log_w.append(-self.network(x, yb))
        k = len(self.log_z)
        log_w = torch.cat(log_w)[:draws // k * k].view(-1, k).T
        log_z, error = log_mean(log_w)
        self.log_z.copy_(log_z)
        w = log_w.softmax(dim=1)
        effective = (1 / w.square().sum(dim=1) / log_w.shape[1]).mean().item()
        return (log_z - 2 * error, log_z + 2 * error), effective

    @torch.no_grad()
    def measure_from_digits(self, x, y=None, steps=100):
        """(16): C + log E_q[sigmoid(−E − C)] − log E_p[sigmoid(E + C)], p: Metropolis chains that
        begin at digits x (N, 1, H, W) of labels y (N,). -> (low, high) of log Z, each (labels,):
        two standard errors to both sides."""
        generator, x = torch.Generator().manual_seed(1), x.to(self.base.position)
        drawn = self.base.sample(len(x), y, generator)
        for _ in range(steps):
            known = torch.zeros(self.image_size, dtype=torch.bool)
            known[:2 * torch.randint(self.image_size[0] // 2, (), generator=generator)] = True
            other = self.base.sample(len(x), y, generator, x, known)
            fall = self.network(x, y) - self.network(other, y)
            move = randu((len(x),), x, generator).log() < fall
            x = torch.where(move[:, None, None, None], other, x)
        ends = []
        for label, c in enumerate(self.log_z):  # c: C of (16)
            of_label = slice(None) if y is None else y == label
            if y is not None and of_label.sum() < 2:  # of others' images: too few to say anything
                ends.append(c.repeat(2))
                continue
            of_q, error_q = log_mean(F.logsigmoid(-self.network(drawn, y) - c)[None, of_label])
            of_p, error_p = log_mean(F.logsigmoid(self.network(x, y) + c)[None, of_label])
            log_z, error = c + of_q - of_p, torch.hypot(error_q, error_p)
            ends.append(torch.cat([log_z - 2 * error, log_z + 2 * error]))
        return torch.stack(ends, dim=1)


# --------------------------------------------------------------------------------------------------
# 3. A network alone, on grey digits with noise
#
# A chain by (6), x′ = x − ε²/2 ∇E(x) + ε·noise, is a ball that rolls downhill in the dark, kicked
# about. It leaves p unchanged only for ε → 0. Step and noise belong together, ε²/2 and ε. *The
# classic mistake* is a step of 10 with noise of 0.005. That is (6) at a temperature of 0.005²/20 ≈
# 10⁻⁶, in practice gradient descent on E: its pictures, good or not, are on their way to minima and
# no draws, and (3) no longer follows (2).
#
# Grey digits lie on thin sheets in 784 dimensions. There E has to have walls as steep as the sheets
# are thin, and (6) needs tiny steps. Thicken them: learn the energy of digits with noise of width
# σ. Such an E nowhere bends up more than a bowl of that width (E″ ≤ 1/σ²), so that steps of σ/2 are
# safe. (In such a bowl they end with a variance that is 1/15 too large; an E that is trained by
# them makes up for this by being too steep, and (18) goes too far by as much.) We take
#
#     E(x) = Σ (x_d − mean_d)²/(2 var_d) + network(x),   of x = digit + σ·noise                (17)
#
# on top of independent pixels, so that E rises outside of all data and no chain is lost; and come
# back by what Gaussian noise allows (Miyasawa, Tweedie; diffusion.py does it 50 times):
#
#     E[digit | x] = x − σ² ∇E(x)                                                              (18)
#
# "Walk and jump." Why: p(x) is the mean of N(x; digit, σ²) over digits, so ∇ log p(x) = E[digit − x
# | x]/σ². (What is drawn is such a mean, a little soft.) So ∇E can also be learned without any
# chain, by making (18) a good guess of the digit: denoising score matching. But slopes that are
# learned near digits alone do not tell which of two far valleys is deeper. Diffusion (diffusion.py)
# need not know, as its σ goes from large to small. Diffusion is what energies lost to.
# --------------------------------------------------------------------------------------------------


class Smoothed(nn.Module):
    """p(x) ∝ exp(−E(x)) of grey digits to which noise of width σ was added: (17)."""

    likelihood = "none"
    anew = 0.01  # part of the chains in use that begin anew at each visit

    def __init__(self, image_size=28, channels=32, classes=0, noise=0.25, chain_steps=5,
                 chains=2048):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, self.noise, self.chain_steps = classes, noise, chain_steps
        self.sampling_steps = VARIANTS["variant", "conv"]["sampling_steps"]
        self.network = Energy(self.image_size, channels, classes)
        self.register_buffer("mean", torch.zeros(1, *self.image_size))
        self.register_buffer("var", torch.ones(1, *self.image_size))
        self.register_buffer("chains", torch.zeros(chains, 1, *self.image_size))

    def start_from_mean(self, images):
        """Mean and variance of each pixel with its noise, from images (N, 1, H, W) uint8."""
        images = images.float() / 255
        self.mean.copy_(images.mean(dim=0))
        self.var.copy_(images.var(dim=0, correction=0) + self.noise**2)
        self.chains.copy_(self.begin(len(self.chains)))

    def begin(self, n, generator=None):
        """Independent pixels, where all chains begin: (n, 1, H, W)."""
        noise = torch.randn(n, 1, *self.image_size, generator=generator).to(self.mean)
        return self.mean + self.var.sqrt() * noise

    def energy(self, x, y=None):
        """(17): Σ (x_d − mean_d)²/(2 var_d) + network(x). -> (B,)."""
        utils.check_label(self, y)
        return ((x - self.mean) ** 2 / (2 * self.var)).flatten(1).sum(dim=1) + self.network(x, y)

    def score(self, x, y=None):
        """−∇E, the direction in which p rises: (B, 1, H, W), as x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x, y).sum(), x)[0]

    def walk(self, x, y=None, generator=None, temperature=1.0):
        """(6): x − ε²/2 ∇E(x) + ε·noise, one step of Langevin dynamics, of size ε = σ/2."""
        eps = self.noise / 2
        noise = torch.randn(x.shape, generator=generator).to(x)
        return x + eps**2 / 2 * self.score(x, y) + eps * temperature**0.5 * noise

    def jump(self, x, y=None):
        """(18): x − σ² ∇E(x), the mean of the digits that x may have been before its noise."""
        return (x + self.noise**2 * self.score(x, y)).clamp(0, 1)

    def labels(self, n):
        return torch.arange(n, device=self.mean.device) % self.classes if self.classes else None

    def loss(self, x, y=None, step=0):
        """(3): mean of E(data) − mean of E(chains), which walk on from where they stood last."""
        i = torch.randperm(len(self.chains), device=x.device)[:len(x)] if y is None else \
            chains_of(y, len(self.chains), self.classes)
        chains = self.chains[i]
        fresh = torch.rand(len(i)).to(x) < self.anew
        chains[fresh] = self.begin(len(i))[fresh]
        for _ in range(self.chain_steps):
            chains = self.walk(chains, y)
        self.chains[i] = chains
        noisy = x + self.noise * torch.randn_like(x)
        return self.energy(noisy, y).mean() - self.energy(chains, y).mean()

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None, watch=None):
        """n draws, (n, 1, H, W) in [0, 1]: sampling_steps of (6) from independent pixels, then
        (18). x, known: pixels that are given; they are put in, with noise, after each step
        (near p of the rest, not it). watch(step, images): is told where the chains are, noise and
        all."""
        utils.check_label(self, y)
        utils.check_given(x, known)
        y, now = None if y is None else y.to(self.mean.device), self.begin(n, generator)
        for step in range(self.sampling_steps):
            now = self.walk(now, y, generator)
            if x is not None:
                noisy = x.to(now) + self.noise * torch.randn(x.shape, generator=generator).to(now)
                now = torch.where(known.to(now.device), noisy, now)
            if watch:
                watch(step + 1, now)
        now = self.jump(now, y)
        return now if x is None else torch.where(known.to(now.device), x.to(now), now)


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


def estimate_z(model, s):
    """log Z as well as we can -> an interval, (low, high), each (labels,), and further figures."""
    if s.variant == "rbm":
        return model.measure(s.z_steps), {}
    ends, effective = model.measure(s.z_steps)
    return ends, {"effective_sample_size": effective}


@torch.no_grad()
def evaluate(model, x, y):
    """Mean of −log p(x) over bits x (N, 1, H, W), nats per image, with log Z as it was measured
    last: an estimate."""
    return -sum(model.log_prob(xb, yb).sum().item() for xb, yb in utils.batches(x, y, 250)) / len(x)


@torch.no_grad()
def evaluate_without_label(model, x, y):
    """Scores of a conditional model that is not told the label: p(x) = ⅒ Σ_k p(x|k). x: bits
    (N, 1, H, W), y: labels (N,) -> mean of −log p(x), nats per image, and the part of images for
    which the most probable k is y (Bayes' rule)."""
    total, right = 0.0, 0
    for xb, yb in utils.batches(x, y, 250):
        by_label = torch.stack([model.log_prob(xb, torch.full_like(yb, k))
                                for k in range(model.classes)])
        right += (by_label.argmax(dim=0) == yb).sum().item()
        total -= (by_label.logsumexp(dim=0) - math.log(model.classes)).sum().item()
    return total / len(x), right / len(x)


def auroc(low, high):
    """How often a number of `high` is above one of `low`, ties half: the area under the ROC curve
    of a detector that calls high numbers outliers. (N,), (M,) -> 0 … 1."""
    low = low.sort().values
    below, up_to = torch.searchsorted(low, high), torch.searchsorted(low, high, right=True)
    return ((below + up_to).double().mean() / 2 / len(low)).item()


@torch.no_grad()
def energies(model, x, y):
    """(N,): of images x (N, 1, H, W) as the model knows them (with noise, if it was trained so)."""
    generator, parts = torch.Generator().manual_seed(0), []
    for xb, yb in utils.batches(x, y, 250):
        if model.likelihood == "none":
            noise = torch.randn(xb.shape, generator=generator).to(xb)
            xb = xb + model.noise * noise
        parts.append(model.energy(xb, yb).cpu())
    return torch.cat(parts)


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
# --------------------------------------------------------------------------------------------------


def watched(model, n, steps, at, seed=3):
    """Where n chains of `steps` steps are after those steps that are in `at`: a dict."""
    usual, seen = model.sampling_steps, {}
    model.sampling_steps = steps

    def watch(step, images):
        if step in at:
            clean = images if model.likelihood != "none" else model.jump(images, labels)
            seen[step] = clean.cpu().clone()

    labels = utils.row_labels(model, n)
    model.sample(n, labels, torch.Generator().manual_seed(seed), watch=watch)
    model.sampling_steps = usual
    return seen


def plot_chains(path, model):
    """The same chains from their first few steps to ten times the usual length."""
    most = 10 * model.sampling_steps
    at = sorted({max(1, round(most * 10 ** -(k / 2))) for k in range(8)})
    pictures.labelled_rows(path, [(f"{step} step" + "s" * (step > 1), images) for step, images in
                                  watched(model, 12, most, at).items()])


def plot_walk(path, model):
    """Sixteen chains on their way, as an animation."""
    most = model.sampling_steps
    at = sorted({max(1, round(most * (k / 40) ** 2)) for k in range(1, 41)})
    pictures.save_animation(path, list(watched(model, 16, most, at).values()))


def plot_outliers(path, model, x, y):
    """Energies of test digits x (N, 1, H, W), of the same mirrored top to bottom ("upside down"),
    and of independent pixels -> the AUROC of both against the digits, a dict."""
    mean = x.float().mean(dim=0, keepdim=True).expand_as(x)
    noise = coins(mean.cpu().contiguous(), 1).to(x.device)
    heaps = {"test digits": x, "upside down": x.flip(2), "independent pixels": noise}
    values = {name: energies(model, images, y) for name, images in heaps.items()}
    figure, ax = plt.subplots(figsize=(7, 3))
    low = min(e.min().item() for e in values.values())
    high = max(e.quantile(0.99).item() for e in values.values())
    areas = {name: auroc(values["test digits"], e) for name, e in list(values.items())[1:]}
    for name, e in values.items():
        area = f", AUROC {areas[name]:.3f}" if name in areas else ""
        ax.hist(e.clamp(max=high).numpy(), bins=80, range=(low, high), alpha=0.6, label=name + area)
    ax.set(xlabel="energy (nats, up to log Z)", ylabel="images")
    ax.legend(fontsize=8)
    pictures.save_figure(path, figure)
    return areas


def both_ways(model):
    """A model of the same weights whose energy is that of x and that of x turned round."""
    both = copy.copy(model)
    both.energy = lambda x, y=None: model.energy(x, y) + model.energy(x.flip(2, 3), y)
    return both


def plot_composition(path, model):
    """What chains of both_ways(model) end at, as it is and turned round."""
    last, labels = {}, utils.row_labels(model, 16)
    both_ways(model).sample(16, labels, torch.Generator().manual_seed(3),
                            watch=lambda step, images: last.update(images=images))
    digits = model.jump(last["images"], labels).cpu()
    pictures.labelled_rows(path, [("draws", digits), ("turned round", digits.flip(2, 3))])


def plot_filters(path, model):
    """The 64 hidden units of an RBM with the strongest weights. White: pixels that turn them on."""
    w = model.weight.detach().T
    w = w[w.norm(dim=1).argsort(descending=True)[:64]]
    w = w / w.abs().amax(dim=1, keepdim=True) / 2 + 0.5
    pictures.save_grid(path, w.view(-1, 1, *model.image_size))


def plot_annealing(path, model, energy, lengths):
    """−log p of bits whose mean energy (nats) is given, from AIS of several lengths, from both
    sides -> a dict of its (low, high) by length."""
    log_z, intervals = model.log_z.clone(), {}
    for temperatures in lengths:
        low, high = model.measure(temperatures)
        intervals[temperatures] = [energy + end.mean().item() for end in (low, high)]
    model.log_z.copy_(log_z)
    figure, ax = plt.subplots(figsize=(5, 3.2))
    for i, name in enumerate(("lower", "upper")):
        ax.plot(list(intervals), [ends[i] for ends in intervals.values()], "o-",
                label=f"{name} end, two standard errors out")
    ax.set(xscale="log", xlabel="temperatures", ylabel="nats per image")
    ax.set_xticks(list(intervals), [str(length) for length in intervals])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="lower right")
    ax.grid(alpha=0.3)
    pictures.save_figure(path, figure)
    return intervals


def plot_pictures(model, folder, x, y, s):
    """All of the chapter's own pictures, of test images x (N, 1, H, W) -> figures in them."""
    figures = {"auroc": plot_outliers(folder / "outliers.png", model, *utils.first(2000, x, y))}
    plot_walk(folder / "sampling.gif", model)
    plot_chains(folder / "chains.png", model)
    if isinstance(model, Smoothed):
        plot_composition(folder / "composition.png", model)
    if isinstance(model, RBM):
        plot_filters(folder / "filters.png", model)
        energy = energies(model, *utils.first(2000, x, y)).mean().item()
        lengths = [s.z_steps // k for k in (50, 15, 5, 2) if s.z_steps >= 2 * k]
        figures["nats_by_temperatures"] = plot_annealing(folder / "annealing.png", model, energy,
                                                         lengths)
    pictures.plot_halves(folder, model, x[:8].float(), y, ["top"])
    return figures


# --------------------------------------------------------------------------------------------------
# Training
#
# In samples/ebm/progress.png most digits change at once after row 6502. Up to step 6,750 only q is
# trained; E is 0 and each proposal accepted, so a chain of 20 steps ends at its last one. Then E
# chooses. (loss.png: "Training, in all chapters" in made.py says what to look for.)
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for."""
    if s.variant == "rbm":
        model = RBM(image_size, s.width, s.classes, s.batch_size)
    elif s.variant == "conv":
        model = Smoothed(image_size, s.width, s.classes, s.noise, s.chain_steps)
    else:
        model = Residual(image_size, s.width, s.classes, int(s.base_part * s.steps))
    model.sampling_steps = s.sampling_steps
    return model


def rate(step, s):
    """As in all chapters the rate rises over the first part of the run, and falls to 0, here as a
    square: in a long and quiet end chains can catch up with weights. With an energy on top of a
    base no chains serve training; the rate falls as a line, twice, the second time from a fifth: a
    higher one gains more nats, and leaves fewer draws that count ("What was measured")."""
    middle = int(s.base_part * s.steps) if s.variant == "residual" else 0
    begin, end = (0, middle) if step < middle else (middle, s.steps)
    warm, left = (step - begin + 1) / ((end - begin) * s.warm_up + 1), (end - step) / (end - begin)
    if s.variant != "residual":
        return s.lr * min(warm, left**2)
    return s.lr * min(warm, left) * (1 if step < middle else 0.2)


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Adam on the model's own loss. Chains and pools are in the model."""
    s, grey = run.settings, model.likelihood == "none"
    # With an RBM no momentum: weights that run on would leave its chains behind (we think).
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr, fused=True,
                                 betas=(0.0 if s.variant == "rbm" else 0.9, 0.999))
    judge = run.load_judge() if grey else None
    real = judged(judge, data.val)[0] if grey else None
    if s.variant == "residual":  # once more: load_data() shortens a run of few images
        model.base_steps = int(s.base_part * s.steps)
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            optimizer.param_groups[0]["lr"] = rate(run.step, s)
            x, y = utils.random_batch(data, s.batch_size, grey=grey)
            loss = model.loss(x, y, run.step)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            run.check_finite(loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            if run.tick(loss.item()):
                same_noise = torch.Generator().manual_seed(1)
                digits = model.sample(10, utils.row_labels(model, 10), same_noise)
                if grey:
                    draws = model.jump(model.chains, model.labels(len(model.chains)))
                    distance = frechet_distance(judged(judge, draws)[0], real)
                    run.record(None, None, model, digits, score=distance, val_frechet=distance)
                else:
                    model.measure()
                    sets = (data.x_train, data.y_train), (data.x_val, data.y_val)
                    run.record(*[evaluate(model, *utils.first(2000, *xy)) for xy in sets], model,
                               digits)


def figures_in_the_end(model, data, judge, s):
    """What is measured at the end, on the test set -> (nats or None, a dict)."""
    labels, grey = data_labels(data, s.test_draws), model.likelihood == "none"
    draws = sample_many(model, s.test_draws, labels)
    figures = {f"test_{name}": value for name, value in (
        measure(judge, draws, (data.test, data.x_test)) if grey else
        scores(judge, draws, data.x_test)).items()}
    if grey:
        nats = None
        figures["binarization"] = ("none: trained on grey levels; draws are scored grey, and "
                                   "(…_binary) after one coin a pixel")
    else:
        ends, more = estimate_z(model, s)
        nats, figures = evaluate(model, data.x_test, data.y_test), {**figures, **more}
        label = torch.zeros_like(data.test_labels) if data.y_test is None else data.y_test
        if s.variant == "residual":
            low, high = model.measure_from_digits(
                *utils.first(1000, data.x_val, data.y_val), s.z_steps // 500)
            ends = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
            log_z = (low + high) / 2
            figures["nats_from_digits"] = nats + (log_z - model.log_z)[label].mean().item()
            figures["base_nats"] = -torch.cat([model.base.log_prob(*b) for b in utils.batches(
                data.x_test, data.y_test, 250)]).mean().item()
        figures["nats_interval"] = [nats + (end - model.log_z)[label].mean().item() for end in ends]
        if model.classes:
            figures["marginal_nats"], figures["bayes_accuracy"] = evaluate_without_label(
                model, data.x_test, data.y_test)
    return nats, figures | obeyed(judge, draws, labels)


def main(argv=None):
    run = Run(__file__, "Train an energy-based model on MNIST, sample from it, measure it.",
              SETTINGS, VARIANTS, argv)
    s, model = run.settings, run.build(build)
    if run.sample_only:  # no data, no training
        return run.write_samples(run.load_best(model))
    if run.finished:
        return
    data = run.load_data()
    if hasattr(model, "start_from_mean"):
        model.start_from_mean(data.train)
    train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    run.load_best(model)
    print("scoring the test set ...")
    with torch.no_grad():
        nats, figures = figures_in_the_end(model, data, run.load_judge(), s)
    x = data.test / 255 if nats is None else data.x_test
    figures |= plot_pictures(model, run.folder, x, data.y_test, s)
    run.write_samples(model)
    # Chains and pool serve training alone: weights.pt, which is to draw with, is left without them.
    run.finish(model, test_nats=nats, likelihood=model.likelihood, test_images=len(data.x_test),
               test_draws=s.test_draws, left_out=["chains", "pool"], **figures)


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 10,
    "killed": ["--variant rbm", "--variant conv"],  # their chains are kept, too
    "title": lambda s: {"residual": "energy on a base", "rbm": "RBM",
                        "conv": "energy, smoothed"}[s.variant],
    "published": {
        "residual": ("79.6 to 80.5, by forward AIS", "ResNet energies with ACS, Gibbs with "
                     "gradients, DMALA (ACS paper, table 1)"),
        "rbm": ("none that we could check", ""),
        "conv": ("none found on this scale", ""),
    },
    "abilities": {"likelihood": "estimate (conv: none)", "latent space": "no",
                  "interpolation": "no", "completion": "any part (residual: the lower one)",
                  "steps a draw takes": "20 proposals (rbm 1000, conv 300)",
                  "besides": "outliers; sums of energies; corrects another model"},
    "variants": {"energy": "", "energy, RBM": "--variant rbm", "energy, conv": "--variant conv"},
    "robust": ["energy"],
    "scored": 2000,  # validation images at each evaluation
    "small": "--width 4 --test-draws 100",
    "pictures": {
        "sampling.gif": "Sixteen chains on their way. They begin with noise; the default's with "
                        "draws of its base, and jump when a proposal is accepted.",
        "chains.png": "The same chains, ever longer, to ten times their usual length: do they stay "
                      "digits, and do they become others?",
        "outliers.png": "Energies of test digits, of the same mirrored top to bottom, and of "
                        "independent pixels: what does the model think is odd? (AUROC: how often "
                        "the stranger has the higher energy, ½ by chance. The last bar holds all "
                        "that is beyond it.)",
        "composition.png": "Two energies added: that of a picture and that of the same picture "
                           "turned round. Which digits are digits both ways?",
        "filters.png": "The 64 hidden units of the RBM with the strongest weights, each on a scale "
                       "of its own: white pixels turn it on, black ones off, grey ones (0) do not "
                       "count. How large is the spot that most of them look at?",
        "annealing.png": "The nats of the first 2,000 test digits, estimated from both sides, "
                         "against the number of temperatures: what lies between the lines is what "
                         "one knows, and the lower one, the usual side, flatters most where "
                         "temperatures are few. (The table: 10,000 temperatures, all test digits.)",
        "completion_top.png": "A test digit, its upper half, and eight draws of the rest.",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# How much may an energy know? The steps of a run can go to the base, or to the energy. 1,800 steps
# in all, nats of 1,000 validation images, log Z from 20,000 draws (experiments/ablate_ebm.py; the
# file is results/ablations/ebm.json):
#
#     for the base              base    with E   gained   effective sample size   e^−2·gained
#     nine tenths               85.95   85.95     0.00      98 %                   100 %
#     three quarters            86.34   85.78     0.57      28 %                    32 %
#       seed 1                  86.28   85.76     0.53      22 %                    35 %
#       twice the width         85.00   84.17     0.83      29 %                    19 %
#     half                      87.22   85.67     1.55       7 %                     5 %
#
# As part 2 says: what is gained is paid for in draws that count. With half of the steps E gains
# most, but what it gains is what its base has not learned: the sum is hardly better (by 0.1; three
# seeds of the next table span 0.08), and a third as many draws count, or fewer. In the last tenth,
# 180 steps, E gains nothing. So most of the time goes to the base. (A higher rate pays in the same
# coin: energies on a base of 84.91 nats, 2,000 steps each, gained 0.84 at 3e-4, with 23 % of the
# draws, and 1.36 at 1e-3, with 5 %: single runs, no file is kept. The default: 6e-4.)
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (1,800), seed 0 where the row names no other; estimates on 1,000 validation
# images, log Z from 5,000 draws (experiments/robustness.py; the files are in results/robustness/).
# Each should end within 3 nats of the first line:
#
#                             energy
#     as it is                85.74
#     seed 1, seed 2          85.73, 85.66
#     lr / 3, lr · 3          87.92, 85.03
#     batch / 2, batch · 2    86.87, 85.05
#     width / 2, width · 2    88.02, 84.13
#
# All do, the furthest by 2.3. A fifth of the steps is short for the base: what learns more a step
# is better, what learns less is worse. (Twice the batch or the width takes nearly twice as long.)
#
# Given an afternoon. More of the same, and twice as wide:
#
#     python ebm.py --width 64 --steps 16000 --out runs/ebm_long
#
# reaches 80.60 nats on the test set (an estimate; 80.55 to 80.74 by (16)) in 25.0 minutes; its base
# has 81.90, exact; 8.0 % of 50,000 draws count; distance 0.50. Published of energies on top of
# independent pixels (so their code has it): 79.63 (ACS), 80.12 (DMALA), 80.51 (Gibbs with
# gradients), ResNets on dynamic bits, a GPU, by AIS from one side, the one that flatters (Pynadath
# et al., 2024, 2402.17699, table 1). Validation images cost 1.7 nats more than training images,
# after the default run 1.2 (2,000 of each, ± 0.6; both score the same images). About 1.0 of it may
# be the two sets, and not memory: both runs had that within 360 steps, half a pass over the data. A
# better base might do more: a transformer alone has 80.48 nats in seven minutes, less than base and
# energy here, and 79.29 in twenty-six (transformer_ar.py; samples/transformer_ar_long/); an energy
# on top of it has not been tried.
#
# Chains that are left behind. --variant rbm as it was first written (no centring, rate 1e-3, Adam's
# usual momentum, 60,000 steps; one run, of which no file is kept): by forward AIS with 1,000
# temperatures its best weights cost validation digits 76.9 nats, better than any model here; but
# their draws are eights and threes (Fréchet distance 70), and with 10,000 temperatures the sides
# lie at 96.1 and 112.6 nats. (*So an RBM can get into a table*: one side of AIS, too few steps, and
# nobody looks at draws.) What cures it? 10,000 steps of 128, one and a half minutes on one
# thread; nats of validation digits by AIS with 3,000 temperatures, from both sides, and Fréchet
# distance of 500 draws by 1,000 sweeps; the rate falls as a line where "square" does not stand.
# (Single runs of a sketch, of which no file is kept.)
#
#     (Adam: without momentum)      forward   reverse   distance
#     Adam 1e-3, not centred          90.6      94.4      10.8
#     the same, centred               93.0      93.3       5.0     both sides agree: chains follow
#     Adam 3e-4, centred             103.3     103.6       9.8     too slow
#     Adam 2e-3, centred              89.9      90.2       6.8
#     SGD 0.1, centred, square        92.3      92.1       4.8
#     Adam 3e-3, centred, square      87.4      87.8       3.3     20,000 steps
#     Adam 2e-3, centred              87.0      87.4      12.0     30,000 steps
#
# In these single runs centring closes the gap between the sides. (In "What each detail is worth to
# an RBM" it does not; but there h − ½ stays.) The last row has no worse nats, but a third of its
# draws are fours: chains were not where the model was when training ended, we think. Hence the
# square, though the rows differ in rate and steps, too. The network alone, 1,600 steps (single
# runs, no file is kept; five seeds of a whole run differ by a factor of 2, so that only the first
# row and the last can be told apart), distance to grey validation digits of 1,000 draws by 500 and
# by 1,000 steps (longer chains draw worse, not better):
#
#     rate 3e-3, falls as a line     11.9   14.5
#     rate 2e-3, as a square          6.7    7.9
#     rate 5e-3, as a square          5.1
#
# While the rate is high, valleys come and go: in samples/ebm_rbm/progress.png many rows up to step
# 32,000 have draws that are negatives, white with a black blot, and none after it. (loss.png has
# humps: 119.2 nats at step 6,125 and, at step 21,125, 113.8 nats. Whether those are valleys, or bad
# estimates by 500 temperatures, we have not looked.) In samples/ebm_conv/progress.png the digits of
# row 1,750 are fat, and row 2,958 has thin ones and sevens. loss.png beside it shows nothing at the
# first and a dip at the second, as if all were well: it scores the chains of training, not draws.
# (By the same chains the best weights are chosen.)
#
# What each detail is worth to an RBM. 5,000 steps, a tenth of the default's: nats of 1,000
# validation images by AIS with 2,000 temperatures from both sides, and distance of 1,000 draws to
# validation bits (experiments/ablate_ebm.py, this table and the next; the file is
# results/ablations/ebm.json):
#
#     as it is                        92.9 to 93.8        5.7
#       seed 1                        93.1 to 94.7        8.0
#       W meets v − ½, not v − μ      94.9 to 96.0        8.0
#       250 hidden units              97.8 to 98.5        7.9
#       a third of the rate          101.6 to 102.7       9.1
#       CD-1                         120.6 to 120.9      65.4
#
# Chains that begin at digits see only the valleys that digits lie in: CD-1 is far behind, and
# chains that come from elsewhere end elsewhere (specks, and white: results/ablations/ebm.png).
# Between the two seeds nats differ by half a nat, distances by 2. With ½ in place of μ the one run
# is a nat or two behind; its distance, and how wide its interval is, cannot be told from theirs.
#
# What each detail is worth to a network alone. --variant conv, 1,000 steps: distance of 500 draws
# by 200 steps to grey validation digits, and the largest gradient, before it is clipped:
#
#     as it is                                             8.3        2,067
#       seed 1                                            11.0        5,479
#       draws by an average of the weights                 7.7        2,067
#       gradients not clipped                             10.6        1,168
#       σ = 0.15                                          14.3        8,285
#       one chain in five begins anew at each visit       17.0        1,998
#       ReLU in place of SiLU                             22.4          915
#       no chains: score matching, half the time          58.6          174
#       a hundredth of the noise                         194.9        2,039
#       squares of the network's energies in the loss    389.8          924
#       no independent pixels below the network          764.7     2 · 10¹⁸
#
# Two seeds differ by 2.7: what is less than twice that from 9.6, their mean, cannot be told apart
# (average, clipping, σ). Without independent pixels below it the network's energies run off where
# no digit is, and gradients explode. A hundredth of the noise, a temperature of 10⁻⁴ and so a mild
# form of the classic mistake, trains without a complaint, and draws ghosts. If one chain in five
# begins anew each time it is used, chains walk 25 steps in the mean, and few walk 100. Squares in
# the loss, by which others keep energies small, forbid what is asked for here, we think: energies
# in nats, on top of independent pixels, are large. (results/ablations/ebm.png has these, too.)
#
# How long a chain? K = 10, 900 steps, and K = 5, 1,600 steps, as long in minutes, cannot be told
# apart: 12.4, 12.3. Denoising score matching, 1,500 steps of it and then 500 of (3): 16.0, alone
# 116 (1,000 draws by 500 steps; single runs of a sketch, of which no file is kept). Slopes near
# digits are not enough, we think, if chains come from afar (exercise 5).
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: results/ablations/ebm.json, the tables above.)
# 1. The classic mistake, mildly: in Smoothed.walk() let temperature be 1e-4, a hundredth of the
#    noise. What do chains look like, and what does the loss say? (Ghosts of digits in noise: 195
#    where 8.3 is usual; the largest gradient is as always.)
# 2. CD-1: in RBM.loss() begin the chain at x instead of self.chains. Compare filters.png, samples,
#    and nats_by_temperatures in metrics.json. (120.6 nats where 92.9 is usual,
#    and specks for digits.)
# 3. How many nats does a short ladder flatter by? (By two at most, roughly. Lower ends, two
#    standard errors out, on 2,000 test digits: 82.5 with 200 temperatures, 84.9 with 5,000; but
#    errors shrink, too: nats_by_temperatures in samples/ebm_rbm/metrics.json.)
# 4. --base-part 0.5, 0.9: which nats, and which effective_sample_size? Which of the two would you
#    publish? (--steps 1800: 85.67 and 7 %, 85.95 and 98 %, on validation; the table above. The
#    former: by (15) 7 % of 20,000 draws still leave log Z known to a twentieth of a nat.)
# 5. Put denoising score matching in place of Smoothed.loss(): the squared distance of jump(noisy)
#    and x. (Without clamp, with create_graph=True in score().) Begin the chains of sample() at
#    independent pixels, then at digits with noise: which draws are bad, and why? (The former:
#    pieces of strokes, 58.6. From digits 11.7 in 200 steps, but 75.3 in 1,000: slopes are right
#    near digits alone, and chains that have once left find no way back; these two are of one run,
#    no file is kept.)
# 6. Composition: with --variant conv --conditional let a chain walk by E(x|3) + E(x|8), as in
#    plot_composition(), and jump by either: (18) is not of a sum. What is both? (By argument: −σ²∇
#    of the sum is digit₃ + digit₈ − 2x: a jump to digit₃ + digit₈ − x, the noise turned round.)
# 7. A conv energy on bits: draw the pixel to flip from softmax(½ · what each flip lowers E by), as
#    one gradient guesses it (Gibbs with gradients), and accept by (5): r does not cancel. Begin:
#        lowers = ((1 - 2 * x) * model.score(x)).flatten(1)  # what each flip lowers E by, nearly
#        d = (lowers / 2).softmax(dim=1).multinomial(1)
#    (By argument: if guesses are exact, S(x)/S(x′) is left of (5), S = Σ exp(½ · what a flip lowers
#    E by).)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
