"""
The variational autoencoder (VAE)
=================================
A latent variable model: draw a short random vector z, and let a network, the decoder, turn it into
a digit. We would like to train it by maximum likelihood, but that takes an integral over all z that
nobody can do. The VAE's idea is to train a second network, the encoder, that looks at x and says
which z may have made it, and to maximise a lower bound on log p(x) that both networks share:

    log p(x)  ≥  E_q[ log p(x|z) ]  −  KL( q(z|x) ‖ p(z) )      the ELBO, nats per image         (1)
                 how well z explains x   how much q tells beyond the prior

ELBO: evidence lower bound. E_q: the mean over z drawn from q(z|x). KL(q ‖ p) = E_q[log q − log p],
a distance of sorts: never below 0, and 0 only if q = p. Nats: logarithms are natural (nats / ln 2
= bits).

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   binary image, 0 or 1; D = 784 pixels
    z          z             (B, Z)           latent vector; prior p(z) = N(0, I)
    mu         μ(x)          (B, Z)           mean of q(z|x) = N(μ, diag σ²), what the encoder says
    log_var    log σ²(x)     (B, Z)           its log-variance, at most 10: σ = e^(log_var/2)
    eps        ε             (B, Z)           N(0, I) noise, of which z = μ + σ·ε is made
    logits     ℓ(z)          (B, 1, 28, 28)   log-odds, log p/(1 − p): p(x_d=1|z) = sigmoid(ℓ_d)
    log_w      log w         (B,)             log p(x, z) − log q(z|x): log of an importance weight
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, Z latent size, K number of z drawn for one image

Papers    Kingma & Welling, Auto-Encoding Variational Bayes, 2013 (arXiv 1312.6114): (3) is our (1)
          Rezende, Mohamed & Wierstra, Stochastic Backpropagation, 2014 (1401.4082): found it too
          Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2015 (1509.00519)
          Higgins et al., beta-VAE, ICLR 2017
Lecture   Berkeley CS294-158, lecture 4: latent variable models
Run       python vae.py                                  train, draw, measure; writes runs/vae/
          python vae.py --conditional                    the same with the class given: p(x|y)
          python vae.py --z-size 2                       a latent space that fits on paper
          python vae.py --sample-only --num-samples 1000 draw from the checkpoint of a run
Reached   −log p(x) ≤ 85.69 nats, 0.1577 bits/dim on all 10,000 test images: a bound,
          importance-weighted, K = 200. −ELBO 89.28 nats. 4.6 minutes of training on 2 cores
          of a shared server (Intel Xeon), seed 0: samples/vae/metrics.json. Published for one
          layer of latents: MLPs ≤ 86.35 (trained on (10) in place of (1): 84.78), a ResNet
          ≤ 81.08: "Given an afternoon".
Gallery   samples/vae/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: convolutions (whether they pay is open: "What was measured"); and, not
          tried here, several layers of latents, and flows in q or in the prior.
"""
import math

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--z-size 2).
SETTINGS = {
    # The model decides how many it uses (kl.png).
    "z_size": Setting(40, "Z, latent dimensions on offer", 1, 1000, word="z{}"),
    # 1 gives the bound (1) itself.
    "beta": Setting(1.0, "weight of the KL in the training loss", 0, 10**4, word="beta{}"),
    "steps": Setting(15000, "length of training"),
    "batch_size": Setting(256, "images a step"),
    "lr": Setting(4e-3, "highest learning rate"),
    "warm_up": Setting(0.05, "part of the run in which the learning rate rises", 0, 1),
    "clip": Setting(100.0, "longer gradients (norm over all weights) are scaled down to this"),
    "width": Setting(400, "hidden units in each layer of encoder and decoder", 1, 10000,
                     word="width{}"),
    "depth": Setting(3, "hidden layers in each", 1, 100, word="depth{}"),
    "iw_samples": Setting(200, "K of the bound (10) that is reported as test_nats"),
    "naive_samples": Setting(500, "K of naive Monte Carlo (3), on 100 test images", 1, 10**5),
}
VARIANTS = {}  # no setting changes the defaults of others

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# Why latent variables. A digit is the outcome of few decisions (which digit, how slanted, how bold)
# and of much detail. Let z be the decisions and let a network draw the picture:
#
#     z ~ N(0, I),    x_d ~ Bernoulli( sigmoid(ℓ_d(z)) ),    p(x) = ∫ p(x|z) p(z) dz             (2)
#
# Given z the pixels are independent: all that ties them together has to go through z. Sampling is
# easy, one pass, all pixels at once. Training is not: maximum likelihood wants log p(x), and the
# integral runs over Z dimensions through a network.
#
# Naive Monte Carlo. The integral is an expectation, so average p(x|z) over z from the prior:
#
#     p(x) ≈ 1/K Σ_k p(x|z_k),   z_k ~ p(z)                                                      (3)
#
# Unbiased and useless: almost no z from the prior draws *this* image, so the average is carried by
# a hit that never comes (measured: bounds_by_samples() below).
#
# Importance sampling. Draw z where it matters, from some q(z|x), and weigh by how wrong that was:
#
#     p(x) = ∫ q(z|x) · p(x|z) p(z) / q(z|x) dz = E_q[ w ],    w = p(x|z) p(z) / q(z|x)          (4)
#
# True for each q that is above 0 wherever p(x|z) p(z) is. The best q is the true posterior, by
# Bayes p(z|x) = p(x|z) p(z) / p(x): with it w = p(x) for each z, and one draw would do. But it
# takes the very integral that we cannot do. So q is a diagonal Gaussian (independent dimensions)
# that the encoder proposes: an approximation.
#
# The ELBO, first derivation (Jensen). The logarithm is concave, so log E[w] ≥ E[log w]:
#
#     log p(x) = log E_q[w] ≥ E_q[ log p(x|z) + log p(z) − log q(z|x) ] = ELBO                   (5)
#
# and the last two terms make −KL( q(z|x) ‖ p(z) ), which gives (1). The reconstruction is minus the
# first term. (samples/vae/elbo_terms.png: early in the run the KL rises, as z begins to say
# something of x; then it stays, and the reconstruction goes on falling.)
#
# The ELBO, second derivation (what is lost). As p(x|z) p(z) = p(x, z) = p(x) p(z|x), in (5)
# log w = log p(x) + log p(z|x) − log q(z|x). In the mean over q:
#
#     ELBO = log p(x) − KL( q(z|x) ‖ p(z|x) )                                                    (6)
#
# So the gap is exactly how far q is from the true posterior. Raising the ELBO in the decoder's
# weights raises log p(x), or shrinks the gap, or trades one for the other; raising it in the
# encoder's weights can only close the gap, since log p(x) knows nothing of the encoder.
#
# Amortised inference. A q of its own for every image would need an optimisation per image. Instead
# one network, the encoder, maps x to μ and σ: the cost is shared, and new images come for free.
# (samples/vae_z2/latent_scatter.png, two latents: where does it put the test set, and which digits
# overlap? manifold.png beside it: what does the decoder draw at each place of that plane?) The
# price: a second part of the gap in (6). The first is there for any Gaussian: the true posterior is
# no diagonal one (approximation gap). Now the encoder's Gaussian is not the best one either
# (amortisation gap; Cremer et al. 2018).
#
# The smallest case. z of one dimension, images of two pixels, a decoder ℓ(z) = (z log 3, −z log 3),
# the image x = (1, 0), of which the encoder says μ = ½ and σ = 1. By (7) below KL = ½ μ² = 0.125.
# Draw ε = ½: z = 1, the pixels are on with ¾ and ¼, log p(x|z) = 2 log ¾ = −0.575, and this draw of
# the ELBO is −0.575 − 0.125 = −0.700. The mean over ε is −1.165 − 0.125 = −1.290. (2), summed on a
# fine grid of z, is log p(x) = −1.206: one draw may lie above it, the mean may not, and 0.084 nats
# are the gap in (6).
#
# Posterior collapse. A latent dimension costs KL nats and must earn them in the first term. One
# that does not is switched off: q = prior, KL = 0. That is the right answer for superfluous
# dimensions (samples/vae/kl.png: 21 of the default's 40 live, with a KL above 0.01 nats, averaged
# over the images scored), and a failure if the decoder is so strong that it needs no z. Two cures,
# not tried here: β, the weight of the KL, rises from 0 to 1 early in a run (KL warm-up: Bowman et
# al. 2015), or the first λ nats of a dimension cost nothing (free bits: Kingma et al. 2016).
#
# Labels. With --conditional both networks are told the digit, as ten more inputs of which one is 1,
# and all equations get "| y", but for the prior: p(z|y) = p(z) is assumed. z is then free for how a
# digit is written. evaluate_without_label() takes the label away; its nats are a bound, too.
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------


# Bernoulli on binary pixels. Binary cross-entropy (BCE) is −log p(x|z) if x is 0 or 1. It is linear
# in x. So on a grey image it is the mean of −log p(x|z) over all its binarizations, with one z for
# them all. One can train on that. But BCE scores no grey image: e^−BCE over grey images sums to
# nothing in particular. On bits BCE may fall to 0. On grey images it cannot: however much z tells,
# its mean over q stays above 45.5 nats an image (test set), the entropy of coins whose grey levels
# are known. Trained on grey, the loss reads 100.9 after 900 steps where the default's reads 98.3;
# on the validation *bits* the same weights reach 98.6 nats, the default's 98.5. So: two models that
# are equally good, two numbers, of which only one may stand beside published ones. We binarize anew
# in every batch (a pixel is on with probability grey/255): augmentation for free.
def bernoulli_log_prob(logits, x):
    """log p(x|z) of independent pixels. logits, x: (B, 1, H, W) -> (B,) nats, summed over pixels.
    x·ℓ − softplus(ℓ): safe where sigmoid(ℓ) would round to 0 or 1 (made.py)."""
    utils.check_pixels(x)
    return (x * logits - F.softplus(logits)).sum(dim=(1, 2, 3))


# The KL in closed form. For one dimension, with p = N(0, 1), q = N(μ, σ²), write out the logs:
#
#     KL = E_q[ log q − log p ] = E_q[ −½ log σ² − (z−μ)²/(2σ²) + z²/2 ]      (½ log 2π cancels)
#
# and use E_q[(z−μ)²] = σ² and E_q[z²] = μ² + σ²:
#
#     KL = ½ ( μ² + σ² − 1 − log σ² )      per dimension; summed over dimensions                 (7)
#
# (appendix B of the paper). Exact, so only the first term of (1) is estimated, from one ε.
def kl_to_prior(mu, log_var):
    """(7): ½ (μ² + σ² − 1 − log σ²), the KL of each dimension. (B, Z), (B, Z) -> (B, Z), ≥ 0."""
    return 0.5 * (mu**2 + log_var.exp() - 1 - log_var)


def gaussian_log_prob(eps, log_var):
    """log N(z; μ, diag σ²) at z = μ + σ·ε, summed over dimensions. (B, Z) each -> (B,) nats.

    Of ε itself, not of (z − μ)/σ: where σ is tiny beside μ, rounding z to float32 loses the digits
    that are ε, and −L_K (10) came out above −ELBO."""
    return -0.5 * (math.log(2 * math.pi) + log_var + eps**2).sum(dim=1)


def randn_like(t, generator=None):
    """N(0, 1) of t's shape. A generator is always on the CPU: the same noise on all devices."""
    if generator is None:
        return torch.randn_like(t)
    return torch.randn(t.shape, dtype=t.dtype, generator=generator).to(t.device)


class MLP(nn.Module):
    """(B, n_in) -> (B, n_out) through `depth` hidden layers of `width` units.

    Two details earned their place (their worth: "What was measured"): SiLU, u·sigmoid(u), which is
    smooth, instead of ReLU; and hidden layers that add to their input instead of replacing it, so
    that the gradient has a straight way back.
    """

    def __init__(self, n_in, width, depth, n_out):
        super().__init__()
        self.first = nn.Linear(n_in, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, n_out)

    def forward(self, u):
        h = F.silu(self.first(u))
        for layer in self.hidden:
            h = h + F.silu(layer(h))
        return self.last(h)


# --------------------------------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------------------------------


class VAE(nn.Module):
    """p(z) = N(0, I), p(x|z) Bernoulli (decoder), q(z|x) diagonal Gaussian (encoder).

    image_size: height and width, or (height, width). classes: of labels, 0 if it is told
    none; both networks are told the label y, as so many more inputs of which one is 1. Then
    everything here is about p(x|y): the latents no longer need to say which digit it is, and are
    free for how it is written.
    """

    def __init__(self, image_size=28, z_size=40, width=400, depth=3, classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.z_size, self.classes = z_size, classes
        pixels = math.prod(self.image_size)
        self.encoder = MLP(pixels + classes, width, depth, 2 * z_size)
        self.decoder = MLP(z_size + classes, width, depth, pixels)

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start the decoder's last bias at each pixel's log-odds. images: (N, 1, H, W) uint8, grey.

        Else the first steps go into learning that corners are black ("What was measured")."""
        p = images.float().mean(dim=(0, 1)).flatten() / 255
        # Off in 50,000 images is not off for ever.
        self.decoder.last.bias.copy_(torch.logit(p.clamp(0.001, 0.999)))

    def with_label(self, u, y):
        """(B, n) -> (B, n + classes), with y as one-hot, if the model is told it; else (B, n)."""
        utils.check_label(self, y)
        return u if y is None else torch.cat([u, F.one_hot(y, self.classes).to(u)], dim=1)

    def encode(self, x, y=None):
        """Parameters of q(z|x). x: (B, 1, H, W) -> mu, log_var, each (B, Z)."""
        utils.check_pixels(x)
        mu, log_var = self.encoder(self.with_label(x.flatten(1), y)).chunk(2, dim=1)
        # Once (--z-size 2) a step threw the log variance of a single image to 55. Then e^55 is in
        # its gradient, the square overflows, and the run is over. So it is cut at 10, where σ is
        # 148; what is cut off is a constant: the slope still pulls it back.
        return mu, log_var - (log_var - 10).clamp(min=0).detach()

    def decode(self, z, y=None):
        """Logits of p(x|z). z: (B, Z) -> (B, 1, H, W)."""
        return self.decoder(self.with_label(z, y)).view(-1, 1, *self.image_size)

    # ------------------------------------------------------------------------- the two terms of (1)
    #
    # Reparameterization. We need the gradient ∇ of E_q[f(z)], f = log p(x|z), with respect to the
    # encoder's weights, which reach f only through the z that are drawn. Two ways:
    #
    #     score function     ∇ E_q[f] = E_q[ f(z) ∇ log q(z) ]     needs values of f only        (8)
    #     reparameterized    ∇ E_q[f] = E_ε[ ∇ f(μ + σ·ε) ]        needs f to be differentiable  (9)
    #
    # ((8) is ∇q = q·∇log q under the integral; (9) needs a z that can be written as μ + σ·ε.) Both
    # are unbiased. But (8) only learns that f was high or low at z, (9) is told in which direction
    # it rises. gradient_variances() below measures both for f(z) = −½ Σ_i (z_i − 1)² in 40
    # dimensions, at μ = 0 and σ = 1: the variance of a single draw of ∂/∂μ₁ is 1735 with (8), 62
    # with (8) once the mean of f is subtracted from f (a "baseline": the mean of the gradient
    # stays, most of the noise goes), and 1.0 with (9). (20,000 draws, seed 0: python -c "import
    # vae; print(vae.gradient_variances())")
    #
    #     x ──► encoder ──► μ, log σ² ──► z = μ + σ·ε ──► decoder ──► ℓ ──► log p(x|z)
    #                          │                 ▲
    #                          └──► KL (7)       └── ε ~ N(0, I): chance enters here, from the side,
    #                                                so gradients flow back from ℓ to the encoder
    #
    # With neither (8) nor (9) (cut z from the graph, `z.detach()`) nothing tells the encoder how
    # good the picture is: the KL alone trains it, and is smallest if q = prior for every image.
    # After 900 steps 0 of 40 latents live and −ELBO is 205 nats, that of independent pixels (on
    # validation; 206 on the test set).

    def elbo_terms(self, x, y=None, generator=None):
        """The two terms of (1): E_q[log p(x|z)], by one z, and KL(q ‖ p). (B,) and (B, Z) nats.

        The decoder sees a z that was *drawn*. Hand it mu instead, and noise costs nothing: σ goes
        to 1, μ can shrink while the decoder's weights grow, so the KL falls and the sum bounds
        nothing. Reconstructions look crisp, samples are rubbish.
        """
        mu, log_var = self.encode(x, y)
        # (9): chance is in eps, gradients go through mu and log_var.
        z = mu + (0.5 * log_var).exp() * randn_like(mu, generator)
        return bernoulli_log_prob(self.decode(z, y), x), kl_to_prior(mu, log_var)

    def elbo(self, x, y=None, generator=None):
        """(1): log p(x|z) − KL(q ‖ p), of one z ~ q. x: (B, 1, H, W) in {0, 1} -> (B,) nats.

        In the mean −ELBO is the length of a code: send z (−log p(z) nats), then x (−log p(x|z)).
        The choice of z among all of q(z|x) can carry −log q(z|x) nats of another message, which
        whoever has decoded x reads off ("bits back"): these are not lost. (z is sent rounded: each
        digit more costs in −log p(z) what it gives back in −log q(z|x).)
        """
        log_px_z, kl = self.elbo_terms(x, y, generator)
        return log_px_z - kl.sum(dim=1)

    # ------------------------------------------------------------------------------------- the loss
    #
    # Sums and means: *the classic mistake*. log p(x|z) is a sum over 784 pixels, and KL a sum over
    # Z latents; average over the *batch*, never over pixels. With a mean over pixels (the default
    # of F.binary_cross_entropy) and a sum over latents, the KL weighs 784 times too much: a hidden
    # β. With a mean over both it is still 784/40 ≈ 20 times. Symptom: all of sample_means.png is
    # one blurred average digit, and most or all bars of kl.png are gone. After 900 steps: 0 of 40
    # dimensions live and −ELBO 205 nats with β = 784; 2 and 193 with 19.6; 32 and 98 with 1.
    #
    # β-VAE. Weigh the KL by β (--beta). Above 1 fewer dimensions live (Higgins et al. report that
    # they are easier to name), and the objective is still a bound, a looser one. Below 1
    # reconstructions sharpen, samples break up, as z from the prior falls where q never was, and
    # the objective bounds nothing. Each evaluation, and metrics.json, has the figures of (1), with
    # β = 1; the progress bar shows the loss with β, and by it the best weights are chosen.

    def loss(self, x, y=None, beta=1.0):
        """What training minimises: −ELBO, its KL weighed by beta, mean over the batch. -> () nats.

        The mean is over images only. Pixels and latents are summed: "Sums and means", above.
        One more hidden β: with a Gaussian p(x|z) of fixed variance s² one minimises
        ‖x − x̂‖²/(2s²) + KL, or ‖x − x̂‖² + 2s²·KL, with x̂ the decoder's mean. The bare squared
        error has chosen s² = ½.
        """
        log_px_z, kl = self.elbo_terms(x, y)
        return (beta * kl.sum(dim=1) - log_px_z).mean()

    # ------------------------------------------------------------------------------ a tighter bound
    #
    # IWAE. Put K draws under the logarithm:
    #
    #     L_K = E[ log 1/K Σ_k w_k ],   z_1 … z_K ~ q(z|x),   w_k as in (4)                     (10)
    #     ELBO = L_1 ≤ L_2 ≤ … ≤ log p(x), and L_K → log p(x), since the mean of |log w| is finite
    #
    # Jensen again, but of an average, which strays less from its mean: so less is lost (theorem 1
    # of Burda et al., who for the limit ask for more, a bounded w). We report −L_K of the test set:
    # in expectation an upper bound on −log p(x). Its slack shrinks with K, but not surely as 1/K:
    # E_q[w²] = ∫ (p(x|z) p(z))²/q dz, and in each dimension p(z)²/q(z|x) goes as e^(−z² + z²/(2σ²))
    # far out. If σ² < ½ that grows without end, and p(x|z), which falls no faster than e^(−c‖z‖),
    # cannot stop it: w has no finite variance. A measure of that is the effective sample size, (Σ
    # w)² / Σ w²: of so many draws of equal weight would the mean be worth as much. Of 200 it is 11,
    # of 5,000 67 (1,000 validation images: results/encoder.json): a few draws carry the sum. And
    # −L_5000 is 86.1 nats there, −L_200 86.4: at least so much slack is left.

    def log_weight(self, x, y, mu, log_var, generator=None):
        """(4): log w = log p(x|z) + log p(z) − log q(z|x), of one z ~ q an image. -> (B,) nats."""
        eps = randn_like(mu, generator)
        z = mu + (0.5 * log_var).exp() * eps
        log_pz = gaussian_log_prob(z, torch.zeros_like(z))  # N(0, I): there ε is z itself
        log_qz = gaussian_log_prob(eps, log_var)
        return bernoulli_log_prob(self.decode(z, y), x) + log_pz - log_qz

    def log_prob_bound(self, x, num_samples, y=None, generator=None):
        """(10): log 1/K Σ_k w_k, K = num_samples. x: (B, 1, H, W) in {0, 1} -> (B,) nats."""
        mu, log_var = self.encode(x, y)
        log_sum = torch.full_like(mu[:, 0], -math.inf)
        for _ in range(num_samples):  # one by one: without gradients, memory does not grow with K
            log_w = self.log_weight(x, y, mu, log_var, generator)
            log_sum = torch.logaddexp(log_sum, log_w)  # in float32 e^−104 would round to 0
        return log_sum - math.log(num_samples)

    # ------------------------------------------------------------------------------------ sampling
    # Sampling is (2) and needs no loop over pixels: given z they are independent. So the obvious
    # way is also the fast one. (The autoregressive chapters paid for their exact likelihood here.)
    #
    # Why VAE samples blur. Whatever z does not say about an image is averaged: where digits of one
    # z differ, the mean is grey. In samples/vae/reconstructions.png slant and boldness of a digit
    # survive; where a mean is grey, z says nothing of that pixel. (Some grey is honest: the bits
    # themselves were tossed with probability grey/255, mostly at edges.) The means in
    # samples/vae/sample_means.png look smooth, and better than the model is: its draws are the
    # speckled ones in samples.png, where each grey pixel tosses a coin of its own and knows nothing
    # of its neighbour's. Many published pictures show means; ours do in progress.png, manifold.png
    # and samples/vae/interpolation.png, where one wants to see what changes: on a straight line
    # between the z of two digits one shape bends into the next, in a cross-fade of pixels two
    # digits shine through each other.
    #
    # Why do some draws break up? Let q(z) be the mean of q(z|x) over all images. Then the mean of
    # KL( q(z|x) ‖ p(z) ) = E[ log q(z|x)/q(z) + log q(z)/p(z) ] = I_q(x; z) + KL( q(z) ‖ p(z) ).
    # I, mutual information, is what z tells of x: wanted. The rest is how far the z of training are
    # from those drawn here (Hoffman & Johnson 2016). (1) sees only the sum, so some of the rest can
    # stay: where q(z) never was, anything may come.

    def sample(self, n, y=None, generator=None):
        """n draws from p(x), or from p(x|y) with y (n,), by (2): z, then a coin per pixel.
        -> (n, 1, H, W) in {0, 1}."""
        p = self.sample_means(n, y, generator)
        return (torch.rand(p.shape, generator=generator).to(p) < p).to(p)

    @torch.no_grad()
    def sample_means(self, n, y=None, generator=None):
        """sigmoid(ℓ(z)) of (2) for n draws of z, no coin tossed -> (n, 1, H, W) in (0, 1). *Not*
        samples of p(x)."""
        weight = next(self.parameters())  # for its device and dtype
        z = torch.randn(n, self.z_size, generator=generator).to(weight)
        return torch.sigmoid(self.decode(z, None if y is None else y.to(weight.device)))


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


def gradient_variances(z_size=40, draws=20000, seed=0):
    """Mean and variance, over single draws, of three estimators of ∂/∂μ₁ E[f(z)], z ~ N(μ, I) at
    μ = 0, f(z) = −½ Σ_i (z_i − 1)². The true gradient is 1. Returns (mean, variance) of (8),
    f(z) ∇ log q(z), of (8) with a baseline, and of (9), ∇ f(μ + σ·ε)."""
    eps = torch.randn(draws, z_size, generator=torch.Generator().manual_seed(seed))
    z = eps  # μ = 0, σ = 1
    f = -0.5 * ((z - 1) ** 2).sum(dim=1)
    score = f * z[:, 0]  # f(z) · ∂ log q/∂μ₁, and ∂ log q/∂μ₁ = z₁ − μ₁
    with_baseline = (f + z_size) * z[:, 0]  # E[f] = −½ Σ_i (1 + 1) = −z_size
    reparameterized = 1 - z[:, 0]  # ∂f/∂z₁ · ∂z₁/∂μ₁
    return [(g.mean().item(), g.var().item()) for g in (score, with_baseline, reparameterized)]


@torch.no_grad()
def evaluate(model, x, y):
    """Mean of both terms of (1) over a set of bits x (N, 1, H, W): nats per image, each.

    Always with the same noise, so that two evaluations differ by the weights alone.
    """
    generator, log_px_z, kl = torch.Generator().manual_seed(0), 0.0, 0.0
    for xb, yb in utils.batches(x, y, 1000):
        terms = model.elbo_terms(xb, yb, generator)
        log_px_z, kl = log_px_z + terms[0].sum().item(), kl + terms[1].sum().item()
    return log_px_z / len(x), kl / len(x)


@torch.no_grad()
def evaluate_bound(model, x, y, num_samples):
    """Mean of −L_K (10) over a set of bits x (N, 1, H, W): nats per image. In expectation above
    −log p(x) and below −ELBO.

    AssertionError if it is above −ELBO by more than rounding (0.01) and chance explain: five
    standard errors of the mean, as both are estimated from draws, and K may be 1.
    """
    generator, same_noise_as_evaluate = [torch.Generator().manual_seed(0) for _ in range(2)]
    total, gaps = 0.0, []
    for xb, yb in utils.batches(x, y, 1000):
        bound = model.log_prob_bound(xb, num_samples, yb, generator)
        gaps.append(bound - model.elbo(xb, yb, same_noise_as_evaluate))
        total += bound.sum().item()
    gap = torch.cat(gaps)
    if gap.mean() < -0.01 - 5 * gap.std() / len(x) ** 0.5:
        raise AssertionError(f"−L_K is {-gap.mean():.2f} nats above −ELBO, and (10) says that it "
                             "cannot be: log w, or the KL (7), is wrong.")
    return -total / len(x)


@torch.no_grad()
def evaluate_without_label(model, x, y, num_samples):
    """Scores of a conditional model that is not told the label: p(x) = ⅒ Σ_k p(x|k), all ten digits
    equally probable. x: bits (N, 1, H, W), y: labels (N,) -> two numbers:

    the mean of −log p(x), nats per image, a bound, which may stand beside an unconditional model's;
    and the part of images for which the most probable k is y (Bayes' rule: the largest p(x|k)).

    Each p(x|k) is estimated by the average under the logarithm of (10), which has no bias for any
    number of draws. So −log of their mean is a bound as (10) is. Nearly all of the sum is p(x|y):
    that label gets num_samples draws, and each label a tenth of that to guess the digit by.
    """
    generator, total, right = torch.Generator().manual_seed(0), 0.0, 0
    for xb, yb in utils.batches(x, y, 1000):
        by_label = torch.stack([  # (classes, B)
            model.log_prob_bound(xb, max(1, num_samples // 10), torch.full_like(yb, k), generator)
            for k in range(model.classes)])
        right += (by_label.argmax(dim=0) == yb).sum().item()
        by_label.scatter_(0, yb[None], model.log_prob_bound(xb, num_samples, yb, generator)[None])
        total -= (by_label.logsumexp(dim=0) - math.log(model.classes)).sum().item()
    return total / len(x), right / len(x)


# Naive Monte Carlo (3), measured on 100 test images (easier than all 10,000) and the model that
# `python vae.py` trains: −log of the average of K = 500 is 186 nats a piece. With z from the
# encoder, by (4), and as many draws, it is 82.7. (naive_nats and naive_iw_nats in metrics.json, the
# picture is samples/vae/bound_by_samples.png.)
@torch.no_grad()
def bounds_by_samples(model, x, y, num_samples, batch=100):
    """−L_k (10) for k = 1 .. K, and likewise −log 1/k Σ p(x|z) of (3), z from the prior: two lists
    of K nats, means over x (N, 1, H, W).

    Both are −log of an average of k unbiased estimates of p(x), so in expectation both are upper
    bounds on −log p(x) and sink towards it. What differs is where the z come from. How much slack
    is left? At least what a curve still falls when k doubles.
    """
    generator = torch.Generator().manual_seed(0)
    log_count = torch.arange(1, num_samples + 1).log()
    curves = torch.zeros(2, num_samples)
    for xb, yb in utils.batches(x, y, batch):
        q = model.encode(xb, yb)
        prior = torch.zeros_like(q[0]), torch.zeros_like(q[0])  # mean and log-variance
        for row, proposal in enumerate((q, prior)):  # where z is drawn from
            log_w = [model.log_weight(xb, yb, *proposal, generator) for _ in range(num_samples)]
            sums = torch.logcumsumexp(torch.stack(log_w).cpu(), dim=0)  # (K, B)
            curves[row] -= (sums - log_count[:, None]).sum(dim=1) / len(x)
    return curves.tolist()


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def plot_pictures(model, folder, x, y, digits, curve):
    """All of the chapter's own pictures. x: bits (N, 1, H, W) of the test set, y: labels for the
    model, or None, digits: labels for the eye; curve: run.curve."""
    # The flattering means, from the same z as samples.png.
    n = 8 * (model.classes or 8)
    means = model.sample_means(n, utils.row_labels(model, n, 8), torch.Generator().manual_seed(0))
    pictures.save_grid(folder / "sample_means.png", means)

    # Reconstructions: the first 16 test digits, never chosen.
    generator, (x16, y16) = torch.Generator().manual_seed(0), utils.first(16, x, y)
    mu, log_var = model.encode(x16.float(), y16)
    z = mu + (0.5 * log_var).exp() * randn_like(mu, generator)
    means = torch.sigmoid(model.decode(z, y16))
    tossed = torch.rand(means.shape, generator=generator).to(means) < means
    pictures.labelled_rows(folder / "reconstructions.png", [
        ("test digit", x16), ("mean of p(x|z), z ~ q", means), ("a draw from p(x|z)", tossed)])

    # Interpolation: a straight line between what the encoder says of two digits, beside the
    # cross-fade of their pixels.
    rows, t = [], torch.linspace(0, 1, 12, device=x.device).view(-1, 1)
    for a, b in ((0, 1), (2, 3), (4, 5), (6, 7)):  # pairs of the first test digits
        z = (1 - t) * mu[a] + t * mu[b]  # (12, Z)
        # A conditional model also has to change the label: from a's to b's, half way.
        label = None if y is None else torch.where(t[:, 0] < 0.5, y[a], y[b])
        fade = (1 - t.view(-1, 1, 1, 1)) * x[a].float() + t.view(-1, 1, 1, 1) * x[b].float()
        rows += [("latent", torch.sigmoid(model.decode(z, label))), ("pixels", fade)]
    pictures.labelled_rows(folder / "interpolation.png", rows)

    # KL of each latent dimension, sorted: which live?
    codes = [model.encode(*batch) for batch in utils.batches(x, y, 1000)]
    kl = torch.cat([kl_to_prior(*code) for code in codes]).mean(dim=0)
    kl = kl.sort(descending=True).values.cpu().numpy()
    figure, ax = plt.subplots(figsize=(6, 2.8))
    ax.bar(range(1, len(kl) + 1), kl)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="latent dimension, sorted", ylabel="KL (nats per image)",
           title=f"{(kl > 0.01).sum()} of {len(kl)} dimensions live; {kl.sum():.1f} nats in all")
    pictures.save_figure(folder / "kl.png", figure)

    # The two terms of (1) over training.
    figure, ax = plt.subplots(figsize=(6, 3))
    for key, name in (("val_reconstruction", "−E[log p(x|z)]"), ("val_kl", "KL(q ‖ p)"),
                      ("val_nats", "−ELBO, their sum")):
        ax.plot([row["step"] for row in curve], [row[key] for row in curve], ".-", label=name)
    ax.set(xlabel="steps", ylabel="nats per image (validation)", ylim=(0, None))
    ax.legend()
    ax.grid(alpha=0.3)
    pictures.save_figure(folder / "elbo_terms.png", figure)

    if model.z_size == 2:
        plot_latent_plane(model, folder, torch.cat([mu for mu, _ in codes]), digits)


def plot_bounds(path, curves):
    """The two lists of bounds_by_samples against the number of samples; at the right the encoder's
    alone, since beside the other one cannot see that it falls."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    names = "z from the encoder (−L_k)", "z from the prior (naive)"
    for ax, shown in zip(axes, (2, 1)):
        for nats, name in list(zip(curves, names))[:shown]:
            ax.plot(range(1, len(nats) + 1), nats, label=f"{name}, {nats[-1]:.1f} at the end")
        ax.set(xscale="log", xlabel="k, draws of z for each image")
        ax.grid(alpha=0.3)
    axes[0].set(ylim=(0, 1.45 * max(map(max, curves))), ylabel="bound on −log p(x), nats")
    axes[0].legend(loc="upper right", fontsize=8)
    axes[1].set_title("−L_k alone: L_1 ≤ L_2 ≤ …", fontsize=10)
    pictures.save_figure(path, figure)


@torch.no_grad()
def plot_latent_plane(model, folder, mu, digits):
    """--z-size 2 only: what the decoder draws at each place, and where the encoder puts the test
    set. mu: (N, 2), digits: (N,)."""
    side = 20
    # Equal steps of probability, not of z: the inverse of the normal distribution function. Thus
    # each picture of the grid stands for the same share of what the model draws.
    at = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    z = torch.stack([at.repeat(side), at.flip(0).repeat_interleave(side)], dim=1)  # up is up
    # Told the label: all of one digit, a 3, in its styles.
    y = None if not model.classes else torch.full((side**2,), 3 % model.classes).to(mu.device)
    means = torch.sigmoid(model.decode(z.to(mu), y))
    pictures.labelled_rows(folder / "manifold.png", [
        (f"z₂ = {z2:.2f}", row) for z2, row in zip(at.flip(0).tolist(), means.split(side))],
        above=[f"z₁ =\n{at[0]:.1f}", *(f"{z1:.1f}" for z1 in at[1:].tolist())])
    figure, ax = plt.subplots(figsize=(6, 5))
    dots = ax.scatter(*mu.cpu().numpy().T, c=digits.cpu().numpy(), s=3, cmap="tab10", vmin=-0.5,
                      vmax=max(9, digits.max().item()) + 0.5)
    figure.colorbar(dots, label="label")
    ax.set(xlabel="μ₁", ylabel="μ₂", aspect="equal", title="test set: means of q(z|x)")
    pictures.save_figure(folder / "latent_scatter.png", figure)


# --------------------------------------------------------------------------------------------------
# Training
#
# How it went: in samples/vae/progress.png ten z, the same in each row, begin as one blot, part into
# digits, and get sharper (some never are digits). In samples/vae/loss.png: do training and
# validation both still fall at the end, and how far apart are they ("Does it learn by heart?")?
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for."""
    return VAE(image_size, s.z_size, s.width, s.depth, s.classes)


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Maximise the ELBO by Adam. All that a resumed run needs is in model, optimizer and run."""
    s = run.settings
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr, fused=True)  # one pass: faster
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            # The rate falls linearly to 0: at a constant rate the weights would jitter around the
            # optimum to the end. Before that it rises over the first part of the run, to 0.95 lr:
            # Adam's first steps are taken before it knows the scale of the gradients.
            warm, left = (run.step + 1) / (s.steps * s.warm_up + 1), 1 - run.step / s.steps
            optimizer.param_groups[0]["lr"] = s.lr * min(warm, left)
            x, y = utils.random_batch(data, s.batch_size)
            loss = model.loss(x, y, s.beta)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            run.check_finite(loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            if run.tick(loss.item()):
                train_log_px_z, train_kl = evaluate(
                    model, *utils.first(len(data.x_train), data.x_train, data.y_train))
                log_px_z, kl = evaluate(model, data.x_val, data.y_val)
                # Means, not draws: one sees better what changes.
                same_noise = torch.Generator().manual_seed(1)
                digits = model.sample_means(10, utils.row_labels(model, 10), same_noise)
                run.record(train_kl - train_log_px_z, kl - log_px_z, model, digits,
                           score=s.beta * kl - log_px_z, val_reconstruction=-log_px_z, val_kl=kl)


def main(argv=None):
    run = Run(__file__, "Train a variational autoencoder on binarized MNIST, sample from it, "
              "measure it.", SETTINGS, VARIANTS, argv)
    s, model = run.settings, run.build(build)
    if run.sample_only:  # no data, no training
        return run.write_samples(run.load_best(model))
    if run.finished:
        return
    data = run.load_data()
    model.start_from_mean(data.train)
    train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    run.load_best(model)
    log_px_z, kl = evaluate(model, data.x_test, data.y_test)
    print(f"scoring the test set with K = {s.iw_samples} draws an image ...")
    iw_nats = evaluate_bound(model, data.x_test, data.y_test, s.iw_samples)
    figures = {"elbo_nats": kl - log_px_z, "kl_nats": kl, "reconstruction_nats": -log_px_z,
               "iw_nats": iw_nats, "iw_samples": s.iw_samples, "test_images": len(data.x_test)}
    if model.classes:  # and if nobody tells it the digit ("Labels" in the notes)
        figures["marginal_nats"], figures["bayes_accuracy"] = evaluate_without_label(
            model, data.x_test, data.y_test, s.iw_samples)
    x, y = utils.first(100, data.x_test, data.y_test)
    curves = bounds_by_samples(model, x, y, s.naive_samples)
    figures |= {"naive_nats": curves[1][-1], "naive_iw_nats": curves[0][-1],
                "naive_samples": s.naive_samples, "naive_images": len(x)}
    run.check_finite(**figures)  # no axis of a picture reaches to infinity
    plot_bounds(run.folder / "bound_by_samples.png", curves)
    plot_pictures(model, run.folder, data.x_test, data.y_test, data.test_labels, run.curve)
    run.write_samples(model)
    run.finish(model, test_nats=iw_nats, likelihood="bound", **figures)


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 5,
    "title": lambda s: "VAE" + (
        "" if s.z_size == SETTINGS["z_size"].default else
        ", two latents" if s.z_size == 2 else f", {s.z_size} latents"
    ) + f", β = {s.beta:g}" * (s.beta != 1),
    "published": {"": ("≤ 86.35; by L_50 ≤ 84.78; a ResNet ≤ 81.08", "one layer of latents, K "
                       "= 5000, IWAE paper, as quoted by a reproduction; the last: IAF paper; "
                       "dynamic binarization")},
    "abilities": {"likelihood": "bound", "latent space": "yes, with an encoder",
                  "interpolation": "yes, between real digits",
                  "completion": "only by a search for z",
                  "steps a draw takes": "1, all pixels at once"},
    "variants": {"vae": ""},
    "small": "--width 16 --depth 2 --iw-samples 5 --naive-samples 5",
    "pictures": {
        "sample_means.png": "The means of p(x|z) for the z of samples.png: they look better than "
                            "the draws, because no coin has been tossed.",
        "reconstructions.png": "Test digits, what the decoder makes of their z, and draws: "
                               "do slant and weight of the stroke survive, and where is the mean "
                               "grey?",
        "interpolation.png": "Between two test digits: in pixel space they shine through each "
                             "other; in latent space one shape bends into the next. (With two "
                             "latents by way of other digits; told the label, with a jump half "
                             "way, where the label changes.)",
        "kl.png": "The KL of each latent dimension, sorted: where no bar can be seen the model has "
                  "switched the dimension off (live: above 0.01 nats).",
        "elbo_terms.png": "The two terms of the ELBO over training: the KL rises as latents come "
                          "to life, and the reconstruction falls by more.",
        "bound_by_samples.png": "Bounds on −log p(x) of 100 test digits, against the draws of z "
                                "for each. From the encoder one draw comes within a few nats of "
                                "500, but the line still falls. From the prior the bound starts "
                                "hundreds of nats too high: does it arrive? (With two latents "
                                "nearly; with 40 not in 500 draws.)",
        "manifold.png": "What the decoder draws at each place of the plane: do neighbours look "
                        "alike, and where does one digit turn into another? z₁ rises to the right, "
                        "z₂ upwards, in equal steps of probability.",
        "latent_scatter.png": "Where the encoder puts the test set, a colour for each digit: which "
                              "digits overlap, and so are confused?",
        "progress.png": "Means of p(x|z), not draws, of the same ten z at each evaluation, the "
                        "last at the bottom: when do they part, and become digits?",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. One thing changed, --steps 900 (a short run is a whole run, whose rate
# ends at 0: the default run at its step 900 is worse), seed 0, validation −ELBO
# (experiments/ablate_vae.py; the file is results/ablations/vae.json):
#
#                                                             nats   live latents
#     default                                                98.49    32
#     seed 1                                                 98.56    25
#     ReLU instead of SiLU                                  103.98    37
#     hidden layers replace instead of add                  111.98     8
#     one hidden layer instead of three                     103.84    33
#     LayerNorm in front of each SiLU                       101.25    35
#     decoder's bias starts at 0                            101.06    38
#     10 latents                                            101.95    10
#     two strided convolutions each way                      97.44    27
#
# Two seeds differ by 0.07 nats and 7 live latents; three, after 3,000 steps (below), span 0.3 nats:
# differences under 0.6 say nothing. A bias that starts at 0 alone costs the default 2.6 nats; the
# convolutions have one that starts at the mean image, as the default's does, and are a nat better
# in as many steps. What they do in equal time, and in whole runs, was not measured.
#
# Another optimizer? In a quarter of the steps (3,750; seed 0; 2,000 validation images) Adam has
# 92.80 nats, at twice the rate 93.65 (experiments/optimizers.py; results/optimizers/vae.json). Muon
# (muon.py) is too dear here, by its products of 400×784 and 400×400 matrices: it had taken more
# than six times as long as Adam, and had not ended, when it was stopped (no file is kept).
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (3,000), seed 0 where the row names no other; −ELBO on 1,000 validation images
# (experiments/robustness.py; the files are in results/robustness/). Each should end within 3 nats
# of the first line:
#
#                             vae
#     as it is                93.46
#     seed 1, seed 2          93.19, 93.35
#     lr / 3, lr · 3          95.81, 94.80
#     batch / 2, batch · 2    95.41, 91.85
#     width / 2, width · 2    95.35, 92.95
#
# All do, the furthest by 2.3. Three seeds span 0.3. Half the batch or half the width takes less
# time and is worse. Twice of either takes longer; of the batch it is better, of the width by 0.5
# nats, less than twice the span. The default's rate is better than the others, by 2.3 and 1.3.
#
# Given an afternoon. What would a longer run want? Each row is two complete runs, the second of
# three times the steps (why not the middle of one long run: transformer_ar.py): −ELBO on 1,000
# validation images, and minutes on one thread (experiments/afternoon.py; the file is
# results/afternoon/vae.json).
#
#                                         short            three times the steps
#     400 units                           95.25 (0.8)      91.44 (2.4)
#     800 units                           98.56 (0.7)      93.97 (2.2)
#     800 units, dropout 0.1              99.92 (0.8)      95.02 (2.4)
#
# Twice the width is behind by 2.5 nats in equal time, and gains more from three times the steps. It
# may win in an hour; in a quarter of one we trust the small network.
#
#     python vae.py --steps 50000 --out runs/vae_long
#
# reaches ≤ 84.88 nats on the test set (the bound with K = 200), in 11.9 minutes (2 cores, AMD, seed
# 0; 256 passes over the training set; samples/vae_long/), where the default has ≤ 85.69 in 4.6 (on
# an Intel). Three times the steps for 0.8 nats: by now more steps buy little. Published for one
# layer of latents, on dynamic bits, with K = 5000: MLPs trained on the ELBO ≤ 86.76 to 86.35 (1 to
# 50 draws of z a step), on L_50 ≤ 84.78 (IWAE paper, as nbip/IWAE quotes it, whose own runs reach
# 86.06 and 84.59); a convolutional ResNet ≤ 81.08 (IAF paper, K = 128, as a later one quotes it).
# As −ELBO, where the default has 89.28: 86.77 with convolutions, ≤ 80.72 with many layers of
# latents (VD-VAE), both of the README of EugenHotaj/pytorch-generative, whose code trains on all
# 60,000 images and scores the test set after each epoch, on bits tossed anew.
#
# Does it learn by heart? Validation images cost 2.8 nats more than training images after the
# default run, and 3.6 after this one (−ELBO, 10,000 of each; of such a gap no error was estimated).
# Sets differ without any memory: 784 coins pay 1.3 nats less on validation than on training images
# (β = 784), the default 0.7 less on the test set than on validation. But the default's gap was 0.6
# after 1.7 passes, and has grown since, with two small dips, on the same images: that looks like
# memory. A fifth of it is the encoder's: if each image gets a Gaussian q of its own, fitted to it
# by 1,000 steps, −ELBO falls by 1.8 nats on training and by 2.6 on validation images, and the gap
# from 3.7 to 2.9 (the default, 1,000 of each; experiments/encoder.py, results/encoder.json). The
# rest is the decoder's, and the sets'. Dropout (a tenth of what a hidden layer adds, silenced in
# each step; since removed) brought the gap of 800 units from 2.9 to 2.4 (longer runs, 1,000 images
# of each), and cost a nat.
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: validation −ELBO after --steps 900, seed 0; the default reaches 98.5. All
# from results/ablations/vae.json.)
# 1. Write .mean(dim=(1, 2, 3)) instead of .sum in bernoulli_log_prob. The loss looks small and
#    pretty. What do kl.png and samples.png show? (The hidden β of 784: the same as --beta 784,
#    since Adam divides the scale of the loss out again. 0 latents live, 205 nats.)
# 2. --beta 0: no KL, an autoencoder. Compare reconstructions.png with samples.png.
#    (−E_q[log p(x|z)] falls to 47 nats, from 74; the KL nobody paid for is 265 nats. z from N(0, I)
#    falls where q never was.)
# 3. --beta 4: which dimensions survive, and what happens when you walk along one of them?
#    (13 live, where β = 1 has 32; −ELBO 117.5.) A walk along the liveliest (no picture is kept):
#        import pictures, torch, utils, vae
#        model, data = vae.load("runs/vae_beta4"), utils.load_mnist("data")
#        kl = vae.kl_to_prior(*model.encode(data.x_val.float())).mean(dim=0)
#        k, z = kl.argsort(descending=True)[0], torch.zeros(9, 40)  # [1]: the next one
#        z[:, k] = torch.linspace(-3, 3, 9)
#        pictures.save_grid("walk.png", model.decode(z).sigmoid(), columns=9)
# 4. Cut z from the graph in elbo_terms (z.detach()). How long do the latents live? (0 are left at
#    the end; 205 nats, what 784 independent coins reach.)
# 5. --z-size 10, then 80. Does the number of live latents follow? (With 10 all 10 live, and a
#    few nats are missing: 102.0. With 80 41 live, and 99.0 is no better. The default needs more
#    steps to switch off what it does not use: 32 of its 40 live after 900 steps, 25 with seed 1, 21
#    at the end of the full run.)
# 6. F.relu in place of F.silu; or, with F.silu, no `h +`. Which costs more? (104.0 and 112.0 nats.)
# 7. Train on L_5 (10) instead of the ELBO: loss = −log_prob_bound(x, 5, y).mean(). Which of
#    elbo_nats and iw_nats gets better, which worse, and what does a step cost? (−ELBO is 99.9 for
#    98.5. −L_5 of 1,000 images, 95.8 for 96.2, is better by too little to say anything. A step
#    passes the encoder once and the decoder five times. By (10) q need only be a useful proposal.
#    In the IWAE paper the bound falls from 86.76 to 85.54. But q's gradient shrinks faster with K
#    than its noise: Rainforth et al. 2018.)
# 8. Decode mu instead of z in elbo_terms, and watch kl, reconstructions and samples. (The sum is
#    50.6 nats, hardly any of it KL: no bound. With z drawn, L_5 of 1,000 images is 1,283 nats.)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
