"""
Generative adversarial networks: two networks and a game
========================================================
A generator G turns noise into images. A discriminator D is shown real digits and drawings of G, and
learns to tell which is which; G learns to be taken for real. Nobody ever writes down a probability
of an image, and no pixel is scored apart from the others, which is what blurs. The price: no
likelihood, no bound, and two losses that say little. This chapter is about making it work every
time.

    min_G max_D  E_real[ log D(x) ] + E_z[ log(1 − D(G(z))) ]                                    (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   real digits: grey levels in [0, 1]
    z          z             (B, Z)           noise, N(0, I)
    G(z)       G(z)          (B, 1, 28, 28)   drawings, in (0, 1); those of the averaged G, in the
                                              end, are called draws
    real, fake s             (B,)             logits of D for real images and for drawings;
                                              D(x) = sigmoid(s) = 1/(1 + e^(−s))
    average                                   a running average of G's weights: what draws in the
                                              end
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, Z noise dimensions, C channels; s of build(), train() and main() are the settings

Papers    Goodfellow et al., Generative Adversarial Nets, 2014 (arXiv 1406.2661): (1)–(3),
          Algorithm 1
          Radford, Metz & Chintala, DCGAN, 2015 (1511.06434): the shape of both networks
          Arjovsky & Bottou, Towards Principled Methods for Training GANs, 2017 (1701.04862):
          instance noise (so called by Sønderby et al. 2016, 1610.04490, who had the same idea)
          Gulrajani et al., Improved Training of Wasserstein GANs, 2017 (1704.00028): --loss wgan-gp
          Miyato & Koyama, cGANs with Projection Discriminator, 2018 (1802.05637): --conditional
Lecture   Berkeley CS294-158, lecture 5 (in 2020: 5 and 6): implicit models, GANs
Run       python gan.py                    train, draw, measure; writes runs/gan/
          python gan.py --conditional      the same with the class given
          python gan.py --loss wgan-gp     Wasserstein with gradient penalty; runs/gan_wgan-gp/
          python gan.py --sample-only --num-samples 5000     draw from a run, into samples.npy
          python judge.py runs/gan/samples.npy               scores of these images, or of others
Reached   Fréchet distance 0.51, precision 0.74, recall 0.80 of 5,000 draws beside the grey test
          digits (5,000 training digits: 0.17, 0.85, 0.88): no likelihood, so no nats. 4.0 minutes
          of training on 2 cores of a shared server (AMD EPYC), seed 0: samples/gan/metrics.json.
          Five seeds: 0.41 to 0.56, no collapse (python experiments/seeds.py gan).
Gallery   samples/gan/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: any likelihood (there is none); Inception distances (that network has never
          seen a digit).
"""
import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from judge import data_labels, frechet_distance, judged, measure, obeyed
from pictures import plt  # matplotlib.pyplot
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--beta-1 0.5).
SETTINGS = {
    "loss": Setting("ns", "ns: non-saturating (5); wgan-gp: Wasserstein, gradient penalty (6), (7)",
                    choices=("ns", "wgan-gp"), word="{}"),
    "z_size": Setting(12, "Z, dimensions of the noise", 1, 1000, word="z{}"),
    "steps": Setting(14000, "length of training"),
    # Small, for more steps in the same time.
    "batch_size": Setting(32, "images a step"),
    "lr": Setting(3e-3, "highest learning rate, of both players"),
    # No memory, since the opponent moves.
    "beta_1": Setting(0.0, "Adam's memory of gradients", 0, 0.999),
    "noise": Setting(0.1, "standard deviation of what is added to all that D sees", 0),
    "width": Setting(16, "C, channels of both players", 1, 10000, word="width{}"),
    # It remembers about 1,000 steps (early in a run, a ninth of those so far).
    "average": Setting(0.999, "decay of the average of G's weights: what draws in the end", 0, 1),
    "critic_steps": Setting(1, "steps of D for each one of G"),
    "penalty": Setting(10.0, "λ of (7)", 0, only=("loss", "wgan-gp")),
    "eval_draws": Setting(2000, "draws scored at each evaluation during training", 10),
    "test_draws": Setting(5000, "draws scored at the end", 10),
}
# wgan-gp has a length, a rate and a rhythm of its own; its critic need not be shown noise.
VARIANTS = {("loss", "wgan-gp"): {"steps": 5000, "lr": 2e-3, "noise": 0.0, "critic_steps": 2}}

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# No likelihood. All chapters before this one give each image a probability and raise it on real
# ones. A GAN has a sampler and nothing else: z ~ N(0, I), x = G(z), one pass, all pixels at once.
# p_G, the distribution of what it draws, has no formula. (z has 12 dimensions, x has 784: the
# drawings fill a surface of dimension 12, so "the density at x" is 0 for almost every x, a real
# digit included.) So maximum likelihood cannot even be written down. (The first paper has nats, of
# Gaussians put around drawings, "Parzen windows": they say little of G.) What can be done with two
# samplers is to ask a classifier whether it can tell them apart. Below, p is the distribution of
# real digits, E_real a mean over it; we write as if p and p_G had densities (the noise below gives
# them some).
#
# The game. A discriminator D(x) = sigmoid(s(x)) guesses the probability that x is real. It is
# trained as any classifier, and G to be taken for real:
#
#     min_G max_D   V(D, G) = E_real[ log D(x) ] + E_z[ log(1 − D(G(z))) ]                       (1)
#
# Measuring without likelihood. Draws and real test digits are compared by a classifier of digits,
# in its features (judge.py has the equations): precision (are they digits?), recall (are all kinds
# drawn?), shares (how often each digit), and the Fréchet distance (lower is better): the squared
# distance between the means of two clouds of features, plus a term of their covariances. Precision
# and recall do not fix it: draws of an RBM (ebm.py) have the same 0.76 and 0.82 as draws of this
# chapter, and a distance of 1.60 where these have 0.44 (after a coin a pixel; vae.py has 4.15,
# 5,000 training digits 0.16: docs/results.md). The distance also chooses our weights, on validation
# digits. That may flatter a GAN beside models whose weights nats chose. Distances of different
# numbers of draws cannot be compared: the curve in samples/gan/loss.png, 2,000 draws beside
# validation digits, is not the figure at the end, 5,000 beside test digits.
#
# The recipe, besides the loss (5), noise on all that D sees, and an average of G's weights, all
# three below (in short runs half of it shows nothing: "What was measured"):
#
#   · Adam with β₁ = 0: no memory of the direction (0.9 in most libraries). An old gradient answers
#     an opponent that is gone.
#   · Batch norm in both: subtract from each channel its mean over the batch, divide by its standard
#     deviation (then a learned scale and shift; when G draws in the end, running means stand in for
#     those of the batch). D gets digits and drawings as two batches, since in G's turn drawings
#     come alone. (So D(x) is no function of x alone, as it is in (1): a batch of sevens looks odd
#     to D. Here only the game has to work.)
#   · Convolutions that do not change the size: one in D, two in G, the second at full size. Those
#     of stride 2 alone have little to make a stroke from.
#   · A small z. Digits have few degrees of freedom; each direction of z too many is one that G has
#     to learn to ignore.
#
# Labels. With --conditional G gets the label as ten more inputs, and D adds v_y · features to its
# logit, with a learned vector v for each label (projection). There is no p(x|y), so no Bayes' rule
# either. Instead the judge reads the draws: test_label_agreement in metrics.json is how often it
# finds the digit that was asked for.
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# The two networks
# --------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """z (B, Z) -> images (B, 1, H, W) in (0, 1).

        z ─► linear ─► 4C × 7×7 ─► double ─► 2C × 14×14 ─► convolve ─► 2C × 14×14
                                                 ─► double ─► C × 28×28 ─► convolve ─► 1 × 28×28

    Batch norm and ReLU after each but the last. image_size: height and width, or (height, width),
    multiples of 4. classes: of labels, 0 if it is told none; one of so many more inputs is 1.
    """

    def __init__(self, image_size=28, z_size=12, channels=16, classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        if self.image_size[0] % 4 or self.image_size[1] % 4:
            raise ValueError(f"an image of {self.image_size[0]}×{self.image_size[1]} cannot be "
                             "halved twice: choose multiples of 4")
        self.z_size, self.classes, c = z_size, classes, channels
        # Where the convolutions begin.
        self.small = (4 * c, self.image_size[0] // 4, self.image_size[1] // 4)
        # No bias in front of a batch norm: it would be subtracted at once.
        self.first = nn.Linear(z_size + classes, math.prod(self.small), bias=False)
        self.norm_1 = nn.BatchNorm2d(4 * c)
        # Kernel 4 = 2 · stride: all pixels but those at the edge get as many inputs. With 3 they
        # would not, which shows as a checkerboard.
        self.up_1 = nn.ConvTranspose2d(4 * c, 2 * c, 4, stride=2, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(2 * c)
        self.refine = nn.Conv2d(2 * c, 2 * c, 3, padding=1, bias=False)
        self.norm_3 = nn.BatchNorm2d(2 * c)
        self.up_2 = nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1, bias=False)
        self.norm_4 = nn.BatchNorm2d(c)
        self.last = nn.Conv2d(c, 1, 3, padding=1)

    def forward(self, z, y=None):
        """G(z), or G(z, y): (B, Z), (B,) -> (B, 1, H, W)."""
        utils.check_label(self, y)
        u = z if y is None else torch.cat([z, F.one_hot(y, self.classes).to(z)], dim=1)
        h = F.relu(self.norm_1(self.first(u).view(-1, *self.small)))
        h = F.relu(self.norm_2(self.up_1(h)))
        h = F.relu(self.norm_3(self.refine(h)))
        h = F.relu(self.norm_4(self.up_2(h)))
        return torch.sigmoid(self.last(h))  # grey levels in [0, 1] (DCGAN: tanh)

    def noise(self, n, generator=None):
        """n draws of z. With a generator (always on the CPU) the same on all devices. -> (n, Z)."""
        weight = self.first.weight
        if generator is None:
            return torch.randn(n, self.z_size, device=weight.device, dtype=weight.dtype)
        z = torch.randn(n, self.z_size, generator=generator, dtype=weight.dtype)
        return z.to(weight.device)

    # Sampling is the model: one pass, all pixels at once, nothing to make faster.

    @torch.no_grad()
    def sample(self, n, y=None, generator=None):
        """n draws, grey, (n, 1, H, W) in (0, 1). In eval mode: batch norm then uses the statistics
        kept from training, so image k depends on z_k alone. In training mode it would depend on its
        neighbours in the batch."""
        was_training, weight = self.training, self.first.weight
        images = self.eval()(self.noise(n, generator), None if y is None else y.to(weight.device))
        self.train(was_training)
        return images


class Discriminator(nn.Module):
    """Images (B, 1, H, W) -> s (B,), the logit that they are real. D(x) = sigmoid(s).

        1 × 28×28 ─► halve ─► C × 14×14 ─► halve ─► 2C × 7×7 ─► convolve ─► 4C × 7×7 ─► linear ─► s

    norm: batch norm in the middle; without it, for the critic of (6), each image is judged by
    itself. classes: of labels, 0 if it is told none; each has a read-out of its own, s + v_y ·
    features, at first 0 (projection, Miyato & Koyama 2018).
    """

    def __init__(self, image_size=28, channels=16, norm=True, classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, c = classes, channels
        self.down_1 = nn.Conv2d(1, c, 4, stride=2, padding=1)
        # Here a bias stays: the critic has no norm behind it.
        self.down_2 = nn.Conv2d(c, 2 * c, 4, stride=2, padding=1)
        self.norm_2 = nn.BatchNorm2d(2 * c) if norm else nn.Identity()
        self.wide = nn.Conv2d(2 * c, 4 * c, 3, padding=1)
        self.norm_3 = nn.BatchNorm2d(4 * c) if norm else nn.Identity()
        features = 4 * c * (self.image_size[0] // 4) * (self.image_size[1] // 4)
        self.last = nn.Linear(features, 1)
        self.label = nn.Embedding(classes, features) if classes else None
        if classes:
            nn.init.zeros_(self.label.weight)

    def forward(self, x, y=None):
        """s(x), or s(x, y): (B, 1, H, W), in [0, 1] but for the noise, (B,) -> (B,)."""
        utils.check_label(self, y)
        # Leaky: a ReLU that is off would pass no gradient on to G, whose only teacher this is.
        h = F.leaky_relu(self.down_1(2 * x - 1), 0.2)
        h = F.leaky_relu(self.norm_2(self.down_2(h)), 0.2)
        h = F.leaky_relu(self.norm_3(self.wide(h)), 0.2).flatten(1)
        s = self.last(h)[:, 0]
        return s if y is None else s + (self.label(y) * h).sum(dim=1)


# --------------------------------------------------------------------------------------------------
# The objective: two losses, and a step of each player
#
# The best D against a fixed G. Write (1) as an integral over x of p(x) log D + p_G(x) log(1 − D).
# For each x the derivative in D is p/D − p_G/(1 − D), which is 0 at
#
#     D*(x) = p(x) / ( p(x) + p_G(x) )                                                           (2)
#
# A classifier learns a ratio of densities, though nobody can compute either.
#
# What G then minimises. Put (2) into (1), with m = (p + p_G)/2 the mixture of both, so that
# D* = p/2m and 1 − D* = p_G/2m. KL(a ‖ b) is the mean of log a/b over draws of a:
#
#     V(D*, G) = E_real[ log( p/2m ) ] + E_z[ log( p_G/2m ) ]
#              = −2 log 2 + KL(p ‖ m) + KL(p_G ‖ m)  =  −2 log 2 + 2 JSD(p, p_G)                 (3)
#
# JSD = ½ KL(p ‖ m) + ½ KL(p_G ‖ m), the Jensen-Shannon divergence, is 0 only if p = p_G, and never
# above log 2. At its minimum D* = ½ everywhere: the discriminator can only toss a coin, its loss
# (minus (1)) is 2 log 2 = 1.386, and that of G, (5) below, is log 2 = 0.693.
#
# Starved. (3) is flat where the two do not overlap: JSD = log 2 whatever G does. In the terms of
# one drawing: G gets its gradient through s = s(G(z)), the logit. As long as D sees through it,
# D(G(z)) = sigmoid(s) is near 0, and
#
#     minimax            log(1 − D)      ∂/∂s = −D                  no slope where G is bad      (4)
#     non-saturating     −log D          ∂/∂s = −(1 − D)            slope 1 where G is bad       (5)
#
# so G maximises log D instead of minimising log(1 − D). ((4) is flat, "saturated", where s is far
# below 0: hence the name of (5).) Each drawing is pushed the same way, and D = ½ is still the fixed
# point; but the weights differ: now the bad drawings count most.
#
# Noise on both. There is a second way to be starved, and (5) does not mend it. Real digits have
# backgrounds of exactly 0, and drawings of almost 0; a D that looks for such trifles tells them
# apart without looking at strokes, and then its slope says nothing of strokes. So all that D sees,
# real or drawn, gets N(0, 0.1²) added to each pixel ("instance noise"). The two clouds overlap
# then, (3) has a slope everywhere, and D has to look for what noise does not hide. The optimum
# stays where it is: noise multiplies the characteristic functions (Fourier transforms) of p and of
# p_G by the same Gaussian, which is 0 nowhere, so the two clouds are alike only if p = p_G (who has
# not met such functions may skip this). G itself draws without.
#
# What the losses mean. Not what a loss means elsewhere: each is measured against an opponent that
# moves. D's loss near 1.386 is a D that tosses coins: G is perfect, or D is too weak. Near 0 D sees
# through everything, and G learns at all only thanks to (5). In the default run both hardly move
# after the first 3,000 steps (1.38 and 0.75, at the end 1.35 and 0.73), while the Fréchet distance
# falls from 2.4 to 0.8. So the losses say who is ahead, and not how far both have come
# (samples/gan/losses.png beside loss.png): that needs a judge from outside.
#
# In code: softplus(u) = log(1 + e^u), so −log sigmoid(s) = softplus(−s), and as 1 − sigmoid(s) is
# sigmoid(−s), −log(1 − D) = softplus(s). Thus (5) is softplus(−s), and minus (1) is softplus(−s(x))
# + softplus(s(G(z))). Where sigmoid(s) rounds to 0 its logarithm is −inf; softplus stays finite.
#
# Wasserstein. Another distance than (3), one that is not flat where p and p_G do not overlap: how
# far the probability has to be carried. If every real digit is the number 0 and every drawing θ, it
# is |θ|, and JSD = log 2 for each θ ≠ 0. By duality (Kantorovich-Rubinstein) it is the largest
# difference of means (slope ≤ 1: |s(a) − s(b)| ≤ ‖a − b‖ for all images a, b)
#
#     W(p, p_G) = max over s with slope ≤ 1 of   E_real[ s(x) ] − E_z[ s(G(z)) ]                 (6)
#
# so the same network is asked for a number without a sigmoid (it is called a critic then), its loss
# is minus (6), and G raises s(G(z)). In code both losses lose their softplus, and we leave out the
# noise on both. What it reaches: behind the code.
# --------------------------------------------------------------------------------------------------


def discriminator_loss(real, fake, objective="ns"):
    """What D minimises, given its logits of real images and of drawings, (B,) each -> (). "ns":
    −log D(x) − log(1 − D(G(z))), minus (1); "wgan-gp": s(G(z)) − s(x), minus (6)."""
    if objective == "wgan-gp":
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake, objective="ns"):
    """What G minimises, given the logits of its drawings (B,) -> (). "ns": (5), −log D(G(z));
    "wgan-gp": the part of (6) that G can change, −s(G(z))."""
    return -fake.mean() if objective == "wgan-gp" else F.softplus(-fake).mean()


# The penalty. What (6) costs is the slope. The best s has slope 1 on the lines along which
# probability is carried. Nobody knows them, so a penalty asks for it between random pairs instead,
#
#     λ · mean of ( ‖∇_x s(x̂)‖ − 1 )²,    x̂ on a line from a real image to a drawing             (7)
#
# a gradient of a gradient (create_graph=True). The critic has no batch norm: with it s(x̂) depends
# on the whole batch, the gradient with respect to one image is not its slope, and the argument is
# lost (in a short run the digits are not: exercise 7). And it should be near its optimum before G
# moves, so it gets two steps for each one of G (the paper: five), which is a balance, too.
def gradient_penalty(critic, real, fake, mix):
    """(7): the mean of (‖∇s‖ − 1)², between each real image and a drawing. critic: images -> (B,);
    mix: (B, 1, 1, 1) in [0, 1]. -> ()."""
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    # Of the sum: images do not mix, since the critic has no batch norm.
    gradient = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def noisy(x, noise):
    """Instance noise: what D is shown, real or drawn, is x + noise·N(0, 1). See "Noise on both",
    above."""
    return x + noise * torch.randn_like(x) if noise else x


# One step. D and G take turns, each with an optimizer of its own: D sees real images and drawings,
# then G sees what D says of new drawings. Gradients of D's loss must not arrive at G (no_grad(), or
# detach(), on the drawings), and those that G's loss leaves on D must be set to zero before D uses
# its own. *The classic mistake* is to let D's loss train G as well. It hardly shows: D's loss pulls
# on each drawing by D, (5) pushes by 1 − D, and what is left, 1 − 2D, still points the right way
# while D is winning. After 1,500 steps the Fréchet distance is 6.6, and for two seeds without the
# mistake 4.7 and 4.2: drawings are worse, but nothing looks broken. Tests ask that each step
# changes its own network only, and leaves no gradient on G.
def discriminator_step(generator, discriminator, optimizer, x, y, objective, penalty, noise=0.0):
    """One step of D on real images x (B, 1, H, W) in [0, 1], and on as many drawings -> (its loss,
    mean D(x), mean D(G(z)), gradient norm). "wgan-gp": the loss is minus (6), without the penalty,
    and the means are of s, which has no sigmoid there."""
    with torch.no_grad():  # nothing may reach G (its batch norms' running statistics do move)
        x = noisy(x, noise)
        drawn = noisy(generator(generator.noise(len(x)), y), noise)
    # Two batches, not one of both: batch norm is to see a batch of one kind, as G's step will show
    # it one.
    real, fake = discriminator(x, y), discriminator(drawn, y)
    loss = whole = discriminator_loss(real, fake, objective)
    if objective == "wgan-gp":
        mix = torch.rand(len(x), 1, 1, 1, device=x.device)
        whole = loss + penalty * gradient_penalty(lambda u: discriminator(u, y), x, drawn, mix)
    else:
        real, fake = real.sigmoid(), fake.sigmoid()
    norm = update(discriminator, optimizer, whole)
    return loss.item(), real.mean().item(), fake.mean().item(), norm


def generator_step(generator, discriminator, optimizer, n, y, objective, noise=0.0):
    """One step of G on n new drawings -> (its loss, gradient norm). D's weights get gradients here
    as well; its own step sets them to zero before it uses them."""
    fake = discriminator(noisy(generator(generator.noise(n), y), noise), y)
    loss = generator_loss(fake, objective)
    norm = update(generator, optimizer, loss)  # backward and step
    return loss.item(), norm


def update(network, optimizer, loss):
    """The usual three lines: zero_grad, backward, step -> the norm of the gradient, which is not
    clipped."""
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), math.inf).item()
    optimizer.step()
    return norm


# The average of G's weights (decay 0.999). Two players who answer each other circle around the
# balance; the average of a circle is near its centre. It only draws; training does not use it.
@torch.no_grad()
def follow(average, model, decay):
    """Move the average of G's weights, and of its batch norms' statistics, towards the present
    ones: old ← decay · old + (1 − decay) · new.

    An average of statistics is not quite the statistics of the average. It is near enough here."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values()):
        old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)


class Players(nn.Module):
    """All three networks: G, D, and the average of G's weights, which is the one that draws."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.G, self.D, self.average = generator, discriminator, copy.deepcopy(generator)
        self.image_size, self.classes = generator.image_size, generator.classes

    # Here, so that an experiment can put other steps in their place.
    discriminator_step = staticmethod(discriminator_step)
    generator_step = staticmethod(generator_step)

    def sample(self, n, y=None, generator=None):
        """n draws of the average, (n, 1, H, W) in (0, 1)."""
        return self.average.sample(n, y, generator)


# --------------------------------------------------------------------------------------------------
# Measuring
#
# Mode collapse. (3) asks for all digits. But G follows (5). Let D be the best one, and fixed while
# G steps. Then G's loss is a sum over x of p_G(x) log(2m/p), as −log D* = log(2m/p): to draw x a
# little more often costs log(2m/p) = log(m/p) + log 2. Now take another divergence, 2 KL(m ‖ p), a
# sum of 2m log(m/p): there it costs log(m/p) + 1, as m grows by half as much. The two costs differ
# by a constant, which does not count, as p_G sums to 1. So G descends (right side: Arjovsky &
# Bottou)
#
#     2 KL(m ‖ p)  =  KL(p_G ‖ p) − 2 JSD(p, p_G)
#
# Drawings where p is small are dear, a digit that is never drawn is cheap: if it is a tenth of p
# and all else is right, 2 KL(m ‖ p) is 0.033 nats, 2 JSD is 0.072, and KL(p ‖ p_G), which maximum
# likelihood minimises, infinite. Besides, a step of G sees only the D of the moment, and but for
# batch norm in D each drawing is judged alone: none is worse off for looking like the others. G may
# put everything on one digit, D learns to reject it, G moves to the next. One sees it in
# samples.png, in samples/gan/shares.png, and in recall (there is no collapse here: recall is 0.80;
# training digits have 0.88). A test makes it happen on eight Gaussians in the plane: 300 times a
# step of D and twenty of G, and G sits on four of the eight at most; 1,500 times one of each, and
# it finds all.
#
# Memory. Does G draw training digits? samples/gan/neighbours.png shows, for twelve draws, the
# nearest of 50,000 training digits, in pixels and in features: relatives, and some are close. Too
# close? Then draws would be nearer to training digits than new real digits are. They are further
# away: the distance to the nearest training digit, in pixels, has a mean of 4.46 for 5,000 draws
# and 4.27 for as many test digits (± 0.02 each; results/gaps.json); with --conditional 4.22, nearer
# by 0.04, where the error of a difference is 0.02: too little to say. G never sees a training
# image. But D does, and may have them by heart: if D is shown one image over and over, as in a
# test, G ends by drawing it.
# --------------------------------------------------------------------------------------------------


def nearest(images, train):
    """For each of images (N, 1, H, W) in [0, 1] the nearest training image, in pixels: Euclidean
    distances (N,), and indices (N,) into train (M, 1, H, W) uint8."""
    train = train.flatten(1).cpu().float() / 255
    parts = images.flatten(1).cpu().split(250)
    nearest_ones = [torch.cdist(part, train).min(dim=1) for part in parts]
    return torch.cat([n.values for n in nearest_ones]), torch.cat([n.indices for n in nearest_ones])


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
#
# Interpolation. z ~ N(0, I) in Z dimensions has a length near √Z, and two of them are nearly
# perpendicular. So half way on the straight line between them the length is smaller by a factor of
# √2, and G has seen few like that: with Z = 12 one z in twelve is so short, with Z = 100 hardly
# any. The arc along the sphere keeps the length. samples/gan/interpolation.png shows both: with so
# few dimensions they are hard to tell apart. Try --z-size 100.
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
def plot_interpolation(path, model):
    """Between pairs of z: along the sphere, and straight."""
    model.eval()
    rows, t = [], torch.linspace(0, 1, 12)
    weight = model.first.weight  # for its device and dtype
    z = model.noise(8, torch.Generator().manual_seed(3)).cpu()
    labels = utils.row_labels(model, 8)  # 0 to 7: of each pair the second
    for k in range(4):
        y = None if labels is None else labels[2 * k + 1].repeat(12).to(weight.device)
        a, b = z[2 * k], z[2 * k + 1]
        straight = (1 - t)[:, None] * a + t[:, None] * b
        for name, path_of_z in (("sphere", sphere(a, b, t)), ("straight", straight)):
            rows.append((name, model(path_of_z.to(weight), y)))
    pictures.labelled_rows(path, rows)


@torch.no_grad()
def plot_neighbours(path, model, train, judge):
    """Does it draw from memory? Twelve draws, and for each the nearest training digits: in pixels,
    and in the judge's features. train: (N, 1, H, W) uint8."""
    draws = model.sample(12, utils.row_labels(model, 12), torch.Generator().manual_seed(0))
    indices = {"pixels": nearest(draws, train)[1]}
    if judge:
        distances = torch.cdist(judged(judge, draws)[0], judged(judge, train)[0])
        indices["features"] = distances.argmin(dim=1)
    pictures.labelled_rows(path, [("a draw", draws)] + [
        (f"nearest in {name}", train[i.to(train.device)] / 255) for name, i in indices.items()])


def plot_losses(path, history, steps, objective):
    """Both losses, and what D says of real images and of drawings. history: (200, 4), as History
    has its means; objective: "ns", or "wgan-gp": without G's loss, minus a curve at the right."""
    at = (torch.arange(len(history)) + 0.5) * steps / len(history)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    name = "D" if objective == "ns" else "s"
    labels = ("loss of D", "loss of G", f"{name}(x), real", f"{name}(G(z)), drawn")
    for column, label in enumerate(labels):
        if objective == "ns" or column != 1:
            axes[column // 2].plot(at, history[:, column], label=label)
    if objective == "ns":
        lines = (2 * math.log(2), "if D tosses coins"), (math.log(2), None), (0.5, "½")
        for ax, (height, label) in zip(axes[[0, 0, 1]], lines):
            ax.axhline(height, color="grey", linewidth=0.8, zorder=1, label=label)
    else:  # from where D's loss can be read, not from its first steps
        axes[0].set_ylim(bottom=history[:, 0].quantile(0.05).item())
    for ax in axes:
        ax.set_xlabel("steps")
        ax.grid(alpha=0.3)
        ax.legend()
    pictures.save_figure(path, figure)


def plot_shares(path, shares, real):
    """How often each digit is drawn, beside how often it is in the test set. Both: ten numbers."""
    figure, ax = plt.subplots(figsize=(6, 2.6))
    for offset, values, name in ((-0.2, shares, "drawn"), (0.2, real, "test set")):
        ax.bar([k + offset for k in range(10)], [100 * v for v in values], width=0.4, label=name)
    ax.set_xticks(range(10))
    ax.set(xlabel="digit, as the judge reads it", ylabel="%", ylim=(0, 130 * max(*shares, *real)))
    ax.legend(ncol=2, loc="upper center")
    pictures.save_figure(path, figure)


def plot_pictures(model, folder, data, judge, history, shares, s):
    """All of the chapter's own pictures. model: a Generator, the average."""
    plot_interpolation(folder / "interpolation.png", model)
    plot_neighbours(folder / "neighbours.png", model, data.train, judge)
    plot_losses(folder / "losses.png", history, s.steps, s.loss)
    if judge:
        count = torch.bincount(data.test_labels, minlength=10)
        plot_shares(folder / "shares.png", shares, (count / len(data.test_labels)).tolist())


# --------------------------------------------------------------------------------------------------
# Training
#
# How it went: in samples/gan/progress.png ten z, the same in each row, are blots, then strokes,
# then digits (and some never are); which of them still change at the end? In samples/gan/loss.png:
# does the distance still fall?
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The players that settings ask for."""
    return Players(Generator(image_size, s.z_size, s.width, s.classes),
                   Discriminator(image_size, s.width, s.loss != "wgan-gp", s.classes))


class History(nn.Module):
    """Means over each two-hundredth of the run: loss of D, loss of G, mean D(x), mean D(G(z)). A
    module, so that a checkpoint has it, too."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.register_buffer("sums", torch.zeros(min(steps, 200), 5))  # four sums, and of how many

    def add(self, step, row):
        self.sums[step * len(self.sums) // self.steps] += torch.tensor([*row, 1.0])

    def means(self):
        return self.sums[:, :4] / self.sums[:, 4:]


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """The game, by alternating steps of Adam: the rhythm of Algorithm 1 of the first paper, with
    (5) in place of its loss for G. model: Players. -> the history, means over two-hundredths of the
    run (200, 4)."""
    s, G, D, average = run.settings, model.G, model.D, model.average
    judge = run.load_judge()
    opt_G, opt_D = (torch.optim.Adam(network.parameters(), lr=s.lr, betas=(s.beta_1, 0.999),
                                     fused=True) for network in (G, D))
    history, real = History(s.steps), judged(judge, data.val)[0]
    with run.training(G=G, D=D, average=average, opt_G=opt_G, opt_D=opt_D, history=history):
        while run.step < s.steps:
            # Falls linearly to 0, as in all chapters, the same for both; here without warm-up and
            # without clipping.
            for optimizer in (opt_G, opt_D):
                optimizer.param_groups[0]["lr"] = s.lr * (1 - run.step / s.steps)
            for _ in range(s.critic_steps):
                x, y = utils.random_batch(data, s.batch_size, grey=True)
                loss_D, p_real, p_fake, norm_D = model.discriminator_step(
                    G, D, opt_D, x, y, s.loss, s.penalty, s.noise)
            loss_G, norm_G = model.generator_step(G, D, opt_G, len(x), y, s.loss, s.noise)
            # Both steps are taken by now, but no checkpoint is written before this has passed.
            run.check_finite(loss_of_D=loss_D, loss_of_G=loss_G, gradient_of_D=norm_D,
                             gradient_of_G=norm_G)
            history.add(run.step, (loss_D, loss_G, p_real, p_fake))
            # At first a short average: a decay d remembers 1/(1 − d) steps, here (step + 10)/9.
            follow(average, G, min(s.average, (run.step + 1) / (run.step + 10)))
            if run.tick(loss_D, "loss of D"):
                noise, same_noise = (torch.Generator().manual_seed(seed) for seed in (0, 1))
                draws = average.sample(s.eval_draws, data_labels(data, s.eval_draws), noise)
                distance = frechet_distance(judged(judge, draws)[0], real)
                digits = average.sample(10, utils.row_labels(average, 10), same_noise)
                run.record(None, None, average, digits, score=distance, val_frechet=distance)
    return history.means()


def main(argv=None):
    run = Run(__file__, "Train a generative adversarial network on MNIST, sample from it, measure "
              "it.", SETTINGS, VARIANTS, argv)
    s, model = run.settings, run.build(build)
    if run.sample_only:  # no data, no training
        return run.write_samples(run.load_best(model.average))
    if run.finished:
        return
    data = run.load_data()
    history = train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    average, judge = run.load_best(model.average), run.load_judge()
    print("scoring draws against the test set ...")
    labels = data_labels(data, s.test_draws)
    # (The first 2,000 z also chose the weights. Heaps of other z are no worse: results/heaps.json.)
    draws = average.sample(s.test_draws, labels, torch.Generator().manual_seed(0))
    figures = measure(judge, draws, (data.test, data.x_test)) | obeyed(judge, draws, labels)
    run.check_finite(**figures)
    # Has it training digits by heart? Then draws would be nearer to them than test digits are.
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    test = data.test[order[:1000].to(data.test.device)] / 255
    distances = [nearest(x, data.train)[0].median().item() for x in (draws[:1000], test)]
    plot_pictures(average, run.folder, data, judge, history, figures.get("shares"), s)
    run.write_samples(average)
    run.finish(average, test_nats=None, likelihood="none",
               binarization="none: trained on grey levels; draws are scored grey, and (…_binary) "
                            "after one coin a pixel",
               test_images=len(data.x_test), test_draws=s.test_draws,
               nearest_of_draws=distances[0], nearest_of_test_digits=distances[1],
               discriminator_parameters=sum(p.numel() for p in model.D.parameters()),
               **{f"test_{name}": value for name, value in figures.items()})


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 6,
    "title": lambda s: "GAN" + ", Wasserstein with gradient penalty" * (s.loss == "wgan-gp") + (
        f", z of {s.z_size}" * (s.z_size != SETTINGS["z_size"].default)),
    "published": {"": ("none: papers' distances are of another judge", "")},
    "abilities": {"likelihood": "none", "latent space": "yes, without an encoder",
                  "interpolation": "yes, between drawn digits",
                  "completion": "only by a search for z",
                  "steps a draw takes": "1, all pixels at once"},
    "variants": {"gan": "", "gan, wgan-gp": "--loss wgan-gp"},
    "small": "--width 4 --eval-draws 80 --test-draws 100",
    "pictures": {
        "interpolation.png": "From one z to another, along the sphere and straight: are all of the "
                             "drawings between them digits, and do the two paths differ?",
        "neighbours.png": "Twelve draws above the training digits that are nearest to them, in "
                          "pixels and in the judge's features: relatives, or copies?",
        "losses.png": "Both losses, and what D says of real images and of drawings. After the "
                      "first thousands of steps they hardly move, while loss.png shows that the "
                      "digits get better; if D tosses coins the losses are 1.386 and 0.693, and D "
                      "says ½. (Wasserstein: any constant may be added to s, so look at the gap "
                      "between its two curves. As digits get better it narrows, and D's loss "
                      "creeps up to 0.)",
        "shares.png": "How often each digit is drawn, beside how often it is in the test set: if "
                      "modes had collapsed, some bars would be missing.",
    },
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. One thing changed, 1,500 steps, seed 0; Fréchet distance, precision and
# recall of 5,000 draws beside grey validation digits (experiments/ablate_gan.py; the files are
# results/ablations/gan.json, and gan.png, a row of drawings each):
#
#                                              Fréchet   precision   recall   shares (%)
#     default                                     4.71       0.62     0.68       7 to 13
#       seed 1                                    4.17       0.62     0.67       8 to 11
#       D's step reaches G                        6.64       0.56     0.60       8 to 13
#       minimax loss (4)                          4.14       0.63     0.69       8 to 11
#       no noise on what D sees                   4.87       0.62     0.70       7 to 12
#       beta_1 0.5                                4.62       0.62     0.66       8 to 13
#       beta_1 0.9                               19.70       0.51     0.19       1 to 19
#       no average                                4.94       0.62     0.67       7 to 13
#       no batch norm in D                        4.22       0.60     0.68       8 to 13
#       no batch norm in G                      186.04       0.00     0.00       0 to 100
#       D without `wide`                          7.56       0.52     0.55       8 to 13
#       G without `last`                          5.29       0.59     0.69       8 to 13
#       z of 2                                   20.81       0.73     0.01       1 to 20
#       z of 64                                   5.96       0.55     0.78       7 to 13
#       lr / 3                                    6.64       0.55     0.62       8 to 13
#       lr * 3                                    4.15       0.60     0.69       7 to 13
#       weights start at N(0, 0.02)               5.05       0.62     0.65       9 to 12
#       label smoothing                           4.56       0.60     0.69       7 to 12
#       spectral norm for batch norm in D         3.72       0.60     0.68       9 to 13
#       R1, no noise, no batch norm in D          3.48       0.61     0.75       9 to 12
#       wgan-gp                                   4.57       0.59     0.72       8 to 11
#
# Two seeds of the default differ by 0.54, and all other rows are one seed: what lies within twice
# that of their mean, 4.4, tells nothing. So in so short a run half of the recipe is worth nothing
# that one could measure: the noise, β₁ = 0 instead of 0.5, G's `last`, batch norm in D, the average
# (which hardly can show: a rate that falls to 0 averages by itself). What this game does need:
# batch norm in G (without it, and so without any bias but the last layer's, all drawings are black;
# biases put back were not tried), a short memory (β₁ = 0.9: recall 0.19), a D that is large enough
# (`wide`), more than a third of the rate, and a z of the right size: with two dimensions what is
# drawn lies among real digits and nearly all of them are missing (precision 0.73, recall 0.01);
# with 64, more is drawn, and less well. Three times the rate, DCGAN's initialisation, and label
# smoothing (real counts as 90 %) make no difference that shows.
#
# The minimax loss (4) makes none either, though the first paper warns of it. The default's
# losses.png has a reason: the mean of D(G(z)) is near ½, and at ½ (4) and (5) have the same slope.
# What starves G is a D that is far ahead, and two small networks that learn at the same rate do not
# get there.
#
# Steadier games. Let every real digit be the number 0, every drawing the number θ, and s(x) = ψ·x.
# Near the balance, θ = ψ = 0, D moves ψ by −θ/2 and G moves θ by ψ/2 (times the rate): a circle,
# never nearer. So a game need not converge (Mescheder et al. 2018, arXiv 1801.04406: with noise on
# both it does, near the balance; with (7) and few steps of the critic it need not). R1, from the
# same paper, adds to D's loss
#
#     γ/2 · E_real[ ‖∇_x s(x)‖² ],    here γ/2 · ψ², which takes γψ from ψ: a spiral inwards
#
# Spectral norm (Miyato et al. 2018, 1802.05957) puts W / σ_max(W) in place of each weight matrix W
# of D, with σ_max its largest singular value, so that no layer stretches much. R1 (γ = 0.05, in
# place of noise and batch norm) and spectral norm (in place of batch norm) have the smallest
# distances of the table, one seed each, ahead of the default by less than twice the seeds' spread
# (outside the table wgan-gp with batch norm in the critic has 3.35: exercise 7): a reason for whole
# runs, which are not made yet. By name only: the hinge loss (Lim & Ye 2017: D minimises max(0, 1 −
# s(x)) + max(0, 1 + s(G(z)))), and a learning rate for each player (Heusel et al. 2017).
#
# Wasserstein. Here: 5,000 steps of G in 2.4 minutes reach a Fréchet distance of 1.39, precision
# 0.66, recall 0.80 (samples/gan_wgan-gp/), with no noise and no batch norm in the critic. Its loss
# creeps up to 0 as digits get better (losses.png there): −0.31 around step 500, −0.17 at the end
# (of the run's own record; no file is kept). Meanwhile the distance to validation digits, of 2,000
# draws, falls from 10.7 to 1.7. The loss is no estimate of −W. Any s of slope ≤ 1 bounds (6) from
# below. One such s is minus the distance to the nearest training digit. That distance has a mean of
# 4.71 for draws and 4.27 for test digits (± 0.02 each; results/gaps.json), so W is about 0.4 or
# more. A small critic with a slope that is asked for, not forced, says 0.17. (Stanczuk et al. 2021,
# arXiv 2103.01678, argue so of WGANs.)
#
# Another optimizer? In a quarter of the steps (3,500; seed 0; 5,000 draws beside validation digits)
# Adam has a distance of 2.03, at half the rate 2.81, at twice 1.90. Muon for the matrices of both
# players (muon.py) has 6.99, at half the rate 9.21: why, we did not look
# (experiments/optimizers.py; results/optimizers/gan.json).
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (2,800; wgan-gp: 1,000), seed 0 where the row names no other; Fréchet distance
# of 5,000 draws to validation digits, and in brackets the smallest share of a digit among them
# (experiments/robustness.py; the files are in results/robustness/). Each should end within twice
# the distance of the first line:
#
#                             gan                           gan, wgan-gp
#     as it is                2.61 (8.4 %)                  6.82 (6.6 %)
#     seed 1, seed 2          2.46 (7.2 %), 2.47 (7.5 %)    6.31 (8.3 %), 6.90 (8.2 %)
#     lr / 3, lr · 3          4.27 (8.2 %), 2.06 (8.2 %)    11.00 (5.0 %), 12.89 (5.2 %)
#     batch / 2, batch · 2    3.75 (8.6 %), 1.76 (8.8 %)    7.50 (6.3 %), 5.18 (8.7 %)
#     width / 2, width · 2    4.75 (7.6 %), 1.77 (8.5 %)    10.52 (8.0 %), 5.20 (7.7 %)
#
# All do, and no digit disappears: each has 5 % of the draws or nearly. Three seeds of the default
# loss differ by 0.14, of wgan-gp by 0.6; other rows are one seed. Half the batch or half the width
# takes less time and is worse (wgan-gp at half the batch: within twice that spread), twice of
# either takes longer and is better; half the width is the worse of the two, in as much time (50 s
# on one thread, default loss). The learning rate: in a run this short the default loss gains from
# three times its own, and a third makes the distance 1.6 times as large; wgan-gp is best near its
# own rate: with a third the distance is 1.6 times as large, with three times 1.9, only just inside.
#
# Given an afternoon. What would a longer run want? Each row is two complete runs, the second of
# three times the steps (why not the middle of one long run: transformer_ar.py): Fréchet distance of
# 5,000 draws to validation digits, and minutes on one thread (experiments/afternoon.py; the file is
# results/afternoon/gan.json).
#
#                                         short            three times the steps
#     16 channels                         2.52 (1.3)       1.07 (3.9)
#     16 channels, batch 64               4.20 (1.3)       1.14 (3.7)
#     32 channels                         5.57 (1.3)       1.56 (4.0)
#     32 channels, batch 64               7.27 (1.4)       2.33 (4.1)
#
# In four minutes 16 channels lead (which batch, one seed each does not say). But three times the
# steps divide the first row's distance by 2.4, and those of the others by 3.1 to 3.7. Distances
# cannot fall for ever: 5,000 training digits have 0.17 (beside test digits;
# samples/comparison_floors.json). For the long run we took 32 channels at the small batch.
#
#     python gan.py --width 32 --steps 32000 --out runs/gan_long
#
# reaches a Fréchet distance of 0.37 on the test set, precision 0.76, recall 0.81, in 20.9 minutes
# (2 cores, seed 0; 20 passes over the training set; samples/gan_long/), where the default has 0.51,
# 0.74 and 0.80 in 4.0 minutes. One seed, but below all five of the default (0.41 to 0.56,
# results/seeds/gan.json). What limits it is D, we think. From step 10,000 on D(x) and D(G(z)) are
# both 0.50 (losses.png): D hardly tells real from drawn any more, and has little to teach. The
# distance to validation digits (2,000 draws) still falls from 0.81 at step 11,520 to 0.56 at
# 25,920, whose weights are kept, and is 0.65 at the end. Nothing says that it has learned by heart:
# the nearest training digit is 4.38 away from its draws and 4.27 from test digits (means of 5,000;
# results/gaps.json). A larger D for the same G, or less noise on what it sees as time goes by, we
# have not tried.
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: Fréchet distance to validation digits after --steps 1500, seed 0;
# results/ablations/gan.json. The default: 4.71, with seed 1 4.17; what is within 1 says nothing.)
# 1. In generator_loss() return -F.softplus(fake).mean(), the minimax loss (4). (4.14.) When does it
#    do any harm: at the beginning or at the end? (Look at losses.png: where is D(G(z))?)
# 2. In discriminator_step() draw without no_grad(), and in generator_step(), in place of update():
#    loss.backward(), optimizer.step(), only then optimizer.zero_grad(), and norm = 0.0. Which test
#    fails? (test_the_step_of_D_leaves_no_gradient_on_G; 6.64.)
# 3. --average 0: draw from G as it is. (4.94.) Compare the rows of progress.png.
# 4. --z-size 2, 64. (20.81, 5.96.) With 2: which digits share a border? (Not looked at here; of a
#    VAE samples/vae_z2/manifold.png shows it.)
# 5. Batch norm out of D, out of G. (4.22, 186.04: put nn.Identity() in their place, and G has no
#    bias left but the last layer's.) Which of the two needs it?
# 6. --beta-1 0.9, the default of most libraries. (19.70.) Why should a player whose opponent moves
#    forget?
# 7. --loss wgan-gp --penalty 0. (30.15, where the penalty has 4.57.) What becomes of the critic's
#    loss? (Not recorded here.) And, with the penalty, if build() gives the critic norm=True? (3.35:
#    no harm here, though the slope that is held at 1 is then of a function of the whole batch.)
# 8. Save 5,000 validation digits as .npy, rotated by 10°, then blurred, then the sevens alone, and
#    score each with judge.py. Which of Fréchet distance, precision, recall and shares notices what?
#    (Plain: 0.19, precision 0.86, recall 0.85. Rotated: 1.72, 0.81, 0.67. Blurred by means of 3×3:
#    8.47, 0.63, 0.16. The 1,090 sevens: 89.4, 0.90, 0.10.) (No file is kept.)
#        import numpy, torch, torchvision, utils
#        data = utils.load_mnist("data")
#        x = data.val[:5000].float() / 255
#        rotated = torchvision.transforms.functional.rotate(x, 10)
#        blurred = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
#        sevens = data.val[data.val_labels == 7].float() / 255
#        for name, heap in (("plain", x), ("rotated", rotated), ("blurred", blurred),
#                           ("sevens", sevens)):
#            numpy.save(f"{name}.npy", heap[:, 0].numpy())
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
