"""
Autoregression along a line: WaveNet
====================================
Read the image as one long line of pixels and let a stack of causal convolutions predict each pixel
from those before it. Causal: a layer at step t reads t and earlier steps, and since the line is
shifted by one at the entrance, logit t sees pixels up to t − 1. Dilated: each layer reads two steps
(its taps), with gaps chosen so that ten layers see all that came before. All 784 predictions come
from one pass, as in MADE; one set of small matrices serves all steps, as in an RNN; and in training
no step waits for another.

    log p(x)  =  Σ_t log p( x_t | x_1, ..., x_{t−1} )               nats per image, exact        (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   binary image, 0 or 1; D = 784 pixels
    v          v_t           (T, B, N)        what the entrance sees: pixels t − N … t − 1 as ±1,
                                              and 0 before the first
    h          h_t           (T, B, C)        the residual stream: C numbers a step
    delta      δ             ()               how far back a layer's second tap reaches
    g          g_t           (T, B, C)        what a layer says: tanh · sigmoid, from the sum
                                              of its two taps (2)
    skips      s_t           (T, B, S)        what the head hears: a sum over all layers
    logits     ℓ             (B, 1, 28, 28)   log-odds of (1)'s factors, p(x_t=1 | before) =
                                              sigmoid(ℓ_t)
    u          u             (n, D)           uniform noise: pixel d is on if u_d < sigmoid(ℓ_d)
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, S width of the head, T = D steps along the line (step t is pixel
    d = t), L layers; N taps of the entrance, but in shapes like (N, 1, H, W) a number of images

Papers    van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior &
          Kavukcuoglu, WaveNet: A Generative Model for Raw Audio, 2016 (arXiv 1609.03499)
          Le Paine, Khorrami, Chang, Zhang, Ramachandran, Hasegawa-Johnson & Huang, Fast WaveNet
          Generation Algorithm, 2016 (1611.09482)
          Jordan et al., Muon, 2024: the optimizer, which has a small chapter of its own, muon.py
Lecture   Berkeley CS294-158, lecture 2: autoregressive models
Run       python wavenet.py                    train, draw, measure; writes runs/wavenet/
          python wavenet.py --conditional      the same with the class given: p(x|y)
          python wavenet.py --dilations line   1, 2, 4, …, 512, as for sound; runs/wavenet_line/
Reached   −log p(x) = 81.87 nats, 0.1507 bits/dim on all 10,000 test images, exact:
          9.8 minutes of training on 2 cores of a shared server (Intel Xeon), seed 0:
          samples/wavenet/metrics.json. For a WaveNet on MNIST we found nothing published.
Gallery   samples/wavenet/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: softmax over 256 levels (an audio sample has more than two values;
          pixelcnn.py says what grey would take); several stacks of dilations one after the other.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from muon import Muon
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--first-taps 1).
SETTINGS = {
    "dilations": Setting("image", "image: in steps of columns and of rows; line: 1, 2, 4, …",
                         choices=("image", "line"), word="{}"),
    "steps": Setting(4500, "length of training"),
    # At equal time neither 8 with twice the steps nor 32 with half did better (single runs).
    "batch_size": Setting(16, "images a step"),
    "lr": Setting(6e-3, "highest learning rate"),
    "warm_up": Setting(0.05, "part of the run in which the learning rate rises", 0, 1),
    # Below nearly every gradient, so that all batches count alike (notes).
    "clip": Setting(1.0, "longer gradients are scaled down to this length"),
    "width": Setting(32, "C, channels of the residual stream; the head has 2C", 1, 10000,
                     word="width{}"),
    "first_taps": Setting(116, "N, pixels the first convolution sees: four rows and four pixels"),
    "eval_images": Setting(500, "training and validation images scored at each evaluation"),
}
VARIANTS = {}  # no setting changes the defaults of others
ADAM = ("label", "last")  # weights so named are Adam's

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# The chain rule (1), why any order of the pixels is right, what a nat costs in a file, and why
# nothing here is a bound: made.py has all of that in full. In short: 784 binary classifiers, each
# sees the pixels before its own, and the product of what they say is the image's probability.
#
# The third way to hide the future. MADE masks the weights of a network that is fully connected: 3
# million of them, and none serves two places. An RNN shares its weights between all steps, but each
# has to wait for the one before. A convolution shares weights *and* computes all steps at once, in
# training: each output is the same small function of a few inputs before it.
#
# Causal. In one dimension no mask is needed, a shift will do: step t is given pixels up to t − 1,
# and so h_t knows nothing later. From then on layers may look at h_t itself, and back from there.
# (On the plane one shift does not do: pixelcnn.py has two masks, A and B, and then two stacks.)
#
#     x            x₁  x₂  x₃  x₄  …
#     v       0    x₁  x₂  x₃  …             shifted once, at the entrance (the last of N pixels)
#     h_t          knows x₁ … x_{t−1} at most
#
# *The classic mistake* is not to shift at all, or to shift twice. Not at all: each step is told its
# own answer, and after 400 steps the loss is 4 · 10⁻⁷ nats (exercise 1). Twice (v_t ends with
# x_{t−2}): nothing leaks, every test for leaks passes, and the left neighbour is lost for good. So
# tests have to ask for both: no future, *and all of the past*.
#
# The entrance. The first convolution reads one number a step, so it may be wide: N = 116 taps, four
# rows and four pixels, cost 5 % of all multiplications. It shows each step its neighbourhood at
# once, and the layers above are left with what it means. With one tap neighbours have to be fetched
# by the layers: 91.2 nats instead of 88.5 (short runs, as all below: "What was measured").
#
# Dilation. A causal layer with two taps, one at t and one at t − δ:
#
#     taps_t = W h_t + W′ h_{t−δ} + w                                                            (2)
#
# where h is 0 before the line begins. So each layer adds 0 or δ to how far one can look back. All
# that an output can depend on is its receptive field, field for short. After L layers step t knows
# h_{t−a} of the entrance for each a that is a sum of some of the δ's. With δ = 1 everywhere these
# are 0 … L. With δ = 1, 2, 4, …, 2^(L−1) they are the binary numbers, 0 … 2^L − 1, each by one
# choice of jumps: the field doubles with each layer, and ten layers are enough for 784 pixels.
#
#     ℓ_t, after δ = 4                                      ●
#                                           ┌───────────────┤
#     h after δ = 2                         ●               ●
#                                   ┌───────┤       ┌───────┤
#     h after δ = 1                 ●       ●       ●       ●
#                               ┌───┤   ┌───┤   ┌───┤   ┌───┤
#     h at the entrance         ●   ●   ●   ●   ●   ●   ●   ●           field: 2³ = 8 steps
#
# (samples/wavenet/receptive_field.png shows fields layer by layer, by gradients: of the trained
# model, and of new ones with one first tap. There a pixel is reached by one choice of jumps, or
# few, and its neighbour by others, through other weights: hence their grid. Ours has none.)
#
# Dilations for an image. On our line the pixel above is 28 steps away, and its right neighbour 27:
# with 1, 2, 4, … the sums that reach them need several layers (the entrance is one step back
# already, and 26 = 16 + 8 + 2). So by default we count in the image's own units,
#
#     1, 26, 2, 2·28, 4, 4·28, 8, 8·28, 16, 16·28                                                (3)
#
# steps along the row and rows upwards in turn (26, not 28, as the entrance adds 1). Two layers
# reach 1, 27 and 28 steps back, the left, upper right and upper neighbours, and all ten see the
# whole past (choose_dilations(), and a test). With one first tap that has 91.2 nats; --dilations
# line, with as many layers and weights, has 92.5. With all 116 taps there is no difference to be
# seen, 88.5 and 88.6; but without dilation, all δ = 1, there is: 94.5.
#
# Gates. A layer's output is not a ReLU of (2) but a product,
#
#     g_t = tanh(a_t) · sigmoid(b_t),        (a, b) the two halves of taps_t                     (4)
#
# the content, and how much of it to let through, as in an LSTM, but with no recurrence. They come
# from the Gated PixelCNN (June 2016), as section 2.3 of the paper says.
#
# Residual and skip.
#
#     h_t  ←  h_t + R g_t            what the next layer sees (R: a matrix for each layer)       (5)
#     s_t  =  Σ_layers Q g_t         what the head hears (Q: likewise; and biases)               (6)
#
# The first gives the gradient a direct path to the first layer: 91.8 nats without. (The last layer
# has no next one: its R, 1,056 weights, is never trained.) The second lets each layer, of near or
# far sight, be heard by the head. At both ends, by their names in the code (each has a bias, as R
# and Q have),
#
#     h_t  =  first · v_t,        ℓ_t  =  last · relu( head · relu(s_t) )                        (7)
#
# Where am I? A convolution does the same at each step, and a line of pixels has hardly any marks,
# apart from its beginning: whether step t is in the middle of a row or at its edge has to be found
# out. For sound that is right, each moment is like any other; an image has a top and a middle. But
# a step whose field reaches back beyond the line's beginning *can* find out where it is, from the
# zeros there, which no pixel has: they are ±1 (with a smaller field only early steps see zeros).
# Earlier versions of this chapter had a learned vector for each step in (7), and a bias for each
# logit: 25,872 weights beside today's 81,249, and no gain that shows.
#
# Labels. With --conditional (2) becomes taps_t = W h_t + W′ h_{t−δ} + w + V_y: each layer has a
# learned vector V_y for each label y, the same at all steps ("global conditioning" in the paper).
# So that nats may stand beside those of p(x), evaluate_without_label() takes the label away again,
# as in made.py: at most log 10 = 2.3 nats more.
#
# Clipping. `clip` is below nearly every gradient (in a run of 400 steps the median is 72), so all
# batches count alike in the mean of past gradients. (Muon takes only the directions of that mean,
# but a long gradient would turn them its way.)
#
# Training. A matrix turns, stretches along axes, and turns again: U S Vᵀ, the stretches S are its
# singular values. Of the mean of past gradients of each matrix but the last, Muon keeps both turns
# and makes all stretches about 1 (muon.py, a small chapter of its own). Adam moves the rest:
# biases, labels, the last layer. What that is worth stands behind the code.
#
# What WaveNet was for. Sound: 16,000 samples a second, each one of 256 levels (a softmax in place
# of our sigmoid), no end to the line, and several stacks of 1, 2, …, 512 for a field of several
# thousand samples. The 256 levels are not even: a sample of 16 bits, scaled to |x| ≤ 1, is bent by
# the µ-law, sign(x) · ln(1 + 255 |x|) / ln 256, and then rounded: finely where sound is soft. What
# to say comes from outside ("local conditioning": text, in features that change with time). What
# carries over to us is all of (2) and (4)–(6); (3) is ours, for images.
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------


def bernoulli_log_prob(logits, x):
    """(1): Σ_t x_t ℓ_t − softplus(ℓ_t). Both (B, 1, H, W), x in {0, 1} -> log p(x), (B,) nats."""
    utils.check_pixels(x)
    return (x * logits - F.softplus(logits)).sum(dim=(1, 2, 3))


def choose_dilations(pattern, width, length):
    """Dilations whose sums are all of 0 .. length − 2 at least: the last output sees the first
    pixel. pattern "line": 1, 2, 4, …, the plain WaveNet; "image": the same up to the width of a
    row, then width − 2 and 2, 4, 8, … rows (3), and both sorts take turns: the upper neighbours
    come early.
    """
    if pattern == "line":
        return [2**k for k in range(max(1, (length - 1).bit_length()))]
    # Sums of these: 0 .. width + 1 at least; with width − 2, 0 .. 2·width − 1, so that 2 rows leave
    # no hole.
    along = [2**k for k in range((width + 1).bit_length())]
    rows = (length + width - 1) // width
    across = [max(1, width - 2)] + [2**k * width for k in range(1, max(1, (rows - 1).bit_length()))]
    mixed = [d for pair in zip(along, across) for d in pair]
    return mixed + along[len(across):] + across[len(along):]


def toss(u, logits, x, known):
    """One pixel: on if u < sigmoid(ℓ); if known (bool), it stays what it is in x. All (n,)."""
    bit = (u < torch.sigmoid(logits)).to(logits)
    return x if known else bit


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
# --------------------------------------------------------------------------------------------------


class WaveNet(nn.Module):
    """A stack of gated, dilated, causal convolutions over the line of pixels.

        v_t ─► first ─► h ──┬────────────────(+)──► h of the next layer
                            │                 ▲
          h_{t−δ}, h_t ─► tanh · sigmoid ─► residual
                                    └─────► skip: summed over layers ─► head ─► ℓ_t

    image_size: height and width, or (height, width). dilations: "image" or "line", see
    choose_dilations(). first_taps: N. classes: of labels, 0 if it is told none; the label
    speaks to all gates, as in section 2.5 of the paper.
    """

    def __init__(self, image_size=28, channels=32, head=64, first_taps=116, dilations="image",
                 classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes = classes
        self.dilations = choose_dilations(dilations, self.image_size[1], math.prod(self.image_size))
        layers = len(self.dilations)
        self.first = nn.Linear(first_taps, channels)  # the same at each step: a convolution

        def each(*size, bias=True):  # a linear layer for each dilation
            return nn.ModuleList(nn.Linear(*size, bias=bias) for _ in range(layers))

        # W′ and W of (2), the taps t − δ and t: together what nn.Conv1d(C, 2C, 2, dilation=δ) is,
        # with time in front, (T, B, C), so that going back δ steps is a slice. Then R, Q: (5), (6).
        self.past, self.now = each(channels, 2 * channels, bias=False), each(channels, 2 * channels)
        self.residual, self.skip = each(channels, channels), each(channels, head)
        self.label_to_gates = nn.Embedding(classes, layers * 2 * channels) if classes else None
        self.head = nn.Linear(head, head)
        self.last = nn.Linear(head, 1)

    def label_terms(self, y):
        """What a label adds in front of each layer's gate: L terms of (B, 2C), or of 0."""
        layers = len(self.dilations)
        return [0.0] * layers if y is None else self.label_to_gates(y).chunk(layers, dim=1)

    def gate(self, taps):
        """(4): tanh(a) · sigmoid(b), the two halves of the taps. (…, 2C) -> (…, C)."""
        a, b = taps.chunk(2, dim=-1)
        return torch.tanh(a) * torch.sigmoid(b)

    def streams(self, x, y=None):
        """The stream h: first · v_t (7) in front of layer 1, then as each layer leaves it, h + R g
        (5), with g (4) of the taps W h_t + W′ h_{t−δ} + w (2): a list of L + 1 tensors (T, B, C).
        And the sum of Q g over the layers (6), (T, B, S)."""
        # Shifted by one: step t is told pixels t − N … t − 1, and zeros before the first. Of the
        # T + 1 windows the last ends with the last pixel, and no step may see that: it is left out.
        n = self.first.in_features  # N
        v = F.pad(2 * x.flatten(1) - 1, (n, 0)).unfold(1, n, 1)  # (B, T + 1, N)
        h, skips = self.first(v[:, :-1].transpose(0, 1)), 0.0  # (T, B, C)
        streams = [h]
        for k, (delta, term) in enumerate(zip(self.dilations, self.label_terms(y))):
            taps = self.now[k](h) + term  # (2)
            past = self.past[k](h[:-delta])  # (T − δ, B, 2C); before the beginning: nothing
            taps = torch.cat([taps[:delta], taps[delta:] + past])
            g = self.gate(taps)  # (4)
            h, skips = h + self.residual[k](g), skips + self.skip[k](g)  # (5), (6)
            streams.append(h)
        return streams, skips

    def logits(self, x, y=None):
        """(7): last · relu(head · relu(s_t)), one pass. x: (B, 1, H, W) bits -> as many."""
        utils.check_label(self, y)
        _, skips = self.streams(x, y)
        logits = self.last(F.relu(self.head(F.relu(skips))))[..., 0]  # (T, B)
        return logits.T.reshape(x.shape)

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) in {0, 1} -> (B,) nats."""
        return bernoulli_log_prob(self.logits(x, y), x)

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    # ------------------------------------------------------------------------------------ sampling
    #
    # Sampling fast. The obvious loop runs the whole network for each pixel: 784 passes. But at step
    # t all that is new is one column of the drawing in the notes. Each layer needs its input at t,
    # which the layer below has just computed, and its input at t − δ, computed δ steps ago: kept in
    # a queue of length δ. A step then costs two taps per layer, whatever the field: O(L) instead of
    # O(T L), and all steps together one forward pass. This is Fast WaveNet (Le Paine et al.).

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None):
        """n draws from p(x), or p(x|y), as anybody would write it: D forward passes, each used for
        a single pixel. x (n, 1, H, W) and known (H, W) bool: pixels that are given. (known becomes
        a list of D bools.) -> (n, 1, H, W)."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        for d in range(u.shape[1]):
            logits = self.logits(room, y).flatten(1)[:, d]
            # flatten() is a view: this writes into room.
            room.flatten(1)[:, d] = toss(u[:, d], logits, pixels[:, d], known[d])
        return room

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious, for the arithmetic of one forward pass: a layer's input at
        t − δ was computed δ steps ago, so keep it in a queue. A step then costs two taps a
        layer."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        out, v = torch.zeros_like(u), torch.zeros(n, self.first.in_features).to(u)
        terms = self.label_terms(y)
        queues = [torch.zeros(delta, n, self.first.out_features).to(u) for delta in self.dilations]
        for t in range(u.shape[1]):
            h, skips = self.first(v), 0.0  # (n, C)
            for k, delta in enumerate(self.dilations):
                taps = self.now[k](h) + terms[k]
                taps = taps + self.past[k](queues[k][t % delta])  # what went in δ steps ago, or 0
                queues[k][t % delta] = h
                g = self.gate(taps)
                h, skips = h + self.residual[k](g), skips + self.skip[k](g)
            logits = self.last(F.relu(self.head(F.relu(skips))))[:, 0]
            out[:, t] = toss(u[:, t], logits, pixels[:, t], known[t])
            v = torch.cat([v[:, 1:], 2 * out[:, t:t + 1] - 1], dim=1)
        return out.view_as(room)


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
    """Where the nats are: −log₂ of each factor of (1). x: binary (N, 1, H, W) -> bits, as many."""
    parts = []
    for xb, yb in utils.batches(x, y):
        utils.check_pixels(xb)
        nats = F.binary_cross_entropy_with_logits(model.logits(xb, yb), xb, reduction="none")
        parts.append(nats / math.log(2))
    return torch.cat(parts)


def sight(model, x, y, pixels):
    """What logits look at: mean over x (N, 1, H, W) of |∂ℓ_d / ∂x_i| for each d in pixels -> a
    list of (H, W)."""
    x = x.float().requires_grad_()
    logits = model.logits(x, y).flatten(1)
    return [torch.autograd.grad(logits[:, d].sum(), x, retain_graph=True)[0].abs()
            .mean(dim=(0, 1)) for d in pixels]


def fields(model, x, y, d):
    """What step d of the residual stream sees, in front of layer 1, …, L and after the last (by an
    R that is never trained): mean over x (N, 1, H, W) of |∂(w·h_d) / ∂x_i|, for one random vector w
    over the channels -> L + 1 of (H, W)."""
    x = x.float().requires_grad_()
    streams, _ = model.streams(x, y)
    weight = torch.randn(streams[0].shape[2], generator=torch.Generator().manual_seed(0)).to(x)
    return [torch.autograd.grad((h[d] @ weight).sum(), x, retain_graph=True)[0].abs()
            .mean(dim=(0, 1)) for h in streams]


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
#
# What to look for, in samples/wavenet/ or in a run of yours. completion_top.png: what is given
# comes first in the line, so draws of the rest are exact (made.py says why): strokes should go on,
# differently where that is open (a 2 may become a 3 or an 8). In completion_left.png they are not
# exact: a pixel is drawn before what is given further down has been seen, and in rows of the digit
# 1 some ends do not meet. surprise.png: bits are spent where strokes begin and at their edges.
# sight.png: what six logits look at, yellow much, dark little, white exactly nothing. White should
# be the pixel itself (red) and all that comes later in the line, and nothing else. sampling.gif:
# digits appear along the line, pixel by pixel. progress.png: when do draws from the same noise
# become digits? loss.png: do training and validation part, and do they still fall at the end?
# --------------------------------------------------------------------------------------------------


def plot_pictures(model, folder, x, y):
    """All of the chapter's own pictures. x: bits (N, 1, H, W) of the test set; y: labels, or
    None."""
    height, width = model.image_size
    pixels, (images, labels) = pictures.six_pixels(height, width), utils.first(16, x, y)
    pictures.plot_sight(folder / "sight.png", [
        ("this model", sight(model, images, labels, pixels))], pixels)
    # Untrained ones beside it, with a single first tap: the sums of the dilations can be seen.
    nets = [("this model", model, labels)]
    for pattern in ("image", "line"):
        new = WaveNet(model.image_size, first_taps=1, dilations=pattern).to(x.device)
        nets.append((f"new, {pattern}", new, None))
    pictures.plot_fields(folder / "receptive_field.png", [
        (name, ["first"] + [f"δ = {delta}" for delta in net.dilations],
         fields(net, images, label, pixels[4])) for name, net, label in nets], pixels[4])
    pictures.plot_autoregressive(folder, model, x, y, surprise(model, x, y),
                                 torch.arange(height * width) + 1)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for."""
    return WaveNet(image_size, s.width, 2 * s.width, s.first_taps, s.dilations, s.classes)


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Maximum likelihood by Muon: of the mean gradient of each matrix it keeps the directions and
    makes them equally long (muon.py). Biases, labels and the last layer are left to Adam. All that
    a resumed run needs is in model, optimizer and run."""
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
    run = Run(__file__, "Train a WaveNet on binarized MNIST, sample from it, measure it.",
              SETTINGS, VARIANTS, argv)
    model = run.build(build)
    if run.sample_only:  # no data, no training
        return run.write_samples(run.load_best(model))
    if run.finished:
        return
    data = run.load_data()
    train(model, data, run)

    # From here on only the weights that were best on validation, and, once, the test set.
    run.load_best(model)
    print("scoring the test set ...")
    figures = {"test_nats": evaluate(model, data.x_test, data.y_test)}
    if model.classes:  # and if nobody tells it the digit ("Labels" in the notes)
        figures["marginal_nats"], figures["bayes_accuracy"] = evaluate_without_label(
            model, data.x_test, data.y_test)
    plot_pictures(model, run.folder, data.x_test, data.y_test)
    run.write_samples(model)
    run.finish(model, likelihood="exact", test_images=len(data.x_test), **figures)


# What tables and tests know of this chapter (CONTRIBUTING.md).
ABOUT = {
    "order": 2,
    "title": lambda s: "WaveNet" + ", dilations as for sound" * (s.dilations == "line"),
    "published": {"": ("none found", "")},
    "abilities": {"likelihood": "exact", "latent space": "no", "interpolation": "no",
                  "completion": "what comes later in reading order", "steps a draw takes": "784"},
    "variants": {"wavenet": ""},
    "small": "--width 4 --first-taps 5 --eval-images 20",
    "cases": ["--first-taps 1", "--dilations line --first-taps 1"],
    "pictures": {"receptive_field.png": "What one step (red) sees after each layer (the last, "
                 "which has no next one: by weights that are never trained), in this model "
                 "and in two new ones, untrained, with a single first tap: one looks back by "
                 "columns and rows in turn, the last along the line, twice as far with each layer. "
                 "Colours: the gradient, from 10⁻⁴ (dark) to 1 (yellow); white: exactly none."},
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. One thing changed, 400 steps, nats on 1,000 validation images (a run
# itself looks at 500): means of seeds 0, 1 and 2, in brackets how far the worst is above the best;
# and seconds of training a seed, one thread beside one other job or two, so that they tell little
# (experiments/ablate_convolutions.py; the file is results/ablations/convolutions.json):
#
#     default                                       88.5 (0.5)    102 s
#       Adam for all                                88.6 (0.4)     76 s
#       Adam for all, --lr 0.01                     88.1 (0.3)     78 s
#       --dilations line                            88.6 (0.4)     79 s
#       one first tap                               91.2 (0.4)     69 s
#       --dilations line, one first tap             92.5 (0.4)     68 s
#       no dilation: ten layers with δ = 1          94.5 (0.1)     75 s
#       ReLU instead of gates                       88.1 (0.3)     87 s
#       no residual: layers replace the stream      91.8 (0.3)     75 s
#       no skips: the last layer alone is heard     89.0 (0.5)     63 s
#       told where it is: vector and biases         88.7 (0.1)    107 s
#       half the channels, but a head as wide       90.8 (0.5)     49 s
#       no clipping                                 88.5 (0.5)     75 s
#       learning rate a third                       94.1 (0.3)    109 s
#       learning rate three times                   88.5 (0.6)     73 s
#
# What counts? Read nothing into less than twice what three seeds span: one nat. That leaves the
# width of the entrance, dilation, the image's own where the entrance is narrow, residuals,
# channels, and a rate that is too low. Undecided are gates, skips, the place, clipping and the
# higher rate; longer runs could tell. Nor are all rows as large as the default: a ReLU leaves the
# second half of taps_t unused, 20,800 of 81,249 weights; the last skip alone leaves the other nine,
# 19,008.
#
# Short runs choose neither rate nor optimizer. They reward large steps; long runs reward steps that
# are small enough to end near the optimum: three times the rate is no worse in this table, and 2.4
# behind in 900 steps (below). And Adam, no worse here, is behind at the end of the default's own
# 4,500 steps (seed 0, of the same file and images):
#
#     default                                       82.5    941 s
#       Adam for all                                83.5    841 s
#       Adam for all, --lr 0.01                     86.8    862 s
#
# What Muon's steps cost, these seconds do not tell: runs with the same arithmetic vary by half in
# the table above. Nor is the nat more than a hint: each of these rows is a single run, all of one
# seed. And for Adam we tried no rate below Muon's; these rows suggest that Adam wants one.
#
# What did not help, at equal time: batches of 8 and twice the steps, or of 32 and half of them;
# writing the two taps as one product of twice the width, or adding the second in place (no
# faster). (Single runs, no file is kept.)
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (900), seed 0 where the row names no other; nats on 1,000 validation images
# (experiments/robustness.py; the files are in results/robustness/). Each should end within 3 nats
# of the first line:
#
#                             wavenet
#     as it is                85.45
#     seed 1, seed 2          85.25, 85.34
#     lr / 3, lr · 3          88.22, 87.86
#     batch / 2, batch · 2    86.59, 84.52
#     width / 2, width · 2    87.41, 84.01
#
# All do, the furthest by 2.8, at a third of the rate, which costs a little more than three times
# the rate (2.4). Half the width is 2.0 behind; seeds differ by 0.2. Half the batch or half the
# width takes half the time and is worse, twice of either takes two to three times as long and is
# better.
#
# The rate was chosen so. With 5e-3 as many steps have 85.6 nats, and a third of the rate 89.0: 3.4
# behind. A higher rate moves the fault to the other side: 7e-3 has 85.5, and three times of it
# 88.6, 3.1 behind. (Single runs while tuning, of which no file is kept.)
#
# Given an afternoon. Half as many channels again, more steps, and two thirds of the rate (a wide
# network at the default's rate moves about the optimum: pixelcnn.py has the figures):
#
#     python wavenet.py --width 48 --steps 8000 --lr 4e-3 --threads 1 --out runs/wavenet_long
#
# reaches 80.57 nats on the test set, exact, in 46.3 minutes (one thread, beside one other job; seed
# 0; 178,705 weights, two and a half passes over the training set; samples/wavenet_long/), where the
# default has 81.87 in 9.8 on two.
#
# Does it learn by heart? Of 10,000 images each, those of validation cost the default 0.6 nats more
# than those of training, those of the test set 0.1 less; each difference has a standard error of
# 0.3 (experiments/gaps.py; results/gaps.json). So hardly.
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: validation nats after --steps 400, means of seeds 0, 1 and 2;
# results/ablations/convolutions.json. The default: 88.5.)
# 1. Do not shift: v[:, 1:] instead of v[:, :-1] in streams(). What does the loss do? (It goes to 0:
#    4 · 10⁻⁷ nats.) What does sample_obvious() draw? (Black: it copies the 0 that stands where
#    nothing is drawn yet.) Why do probabilities no longer sum to 1 (test_autoregressive.py)? To
#    draw, once it is trained:
#        import pictures, wavenet
#        pictures.save_grid("draws.png", wavenet.load("runs/wavenet").sample_obvious(16))
# 2. Shift twice: pad by one more and drop the last two. (Probabilities sum to 1. The test that asks
#    for all of the past fails. What it costs in nats was not tried.)
# 3. --dilations line, then choose_dilations() that returns [1] * 10. (88.6, 94.5.) Look at
#    receptive_field.png.
# 4. F.relu of the first half in gate(). (88.1.)
# 5. Tell each step where it is: self.last_position = nn.Parameter(0.5 * torch.randn(784, 1, 32)) in
#    __init__() (a name with "last" is Adam's), `+ self.last_position` behind self.first(…) in
#    streams(), `+ self.last_position[t]` in sample(). Is it worth its weights? (88.7, with a bias
#    for each logit as well, which begins at its pixel's log-odds.)
# 6. Cut the skips, but for the last layer's: `skips = self.skip[k](g)`. Then, with all skips, the
#    residuals: `h = self.residual[k](g)`. In sample(), too. (89.0, 91.8.) Which costs more?
# 7. In sample(), make each queue, and both `% delta`, one longer than δ. Which test notices? (That
#    both samplers draw the same pixels.) Draw with the weights that ship, which no run of yours has
#    replaced: python wavenet.py --sample-only. What do digits look like? (Bent, many of no kind: a
#    Fréchet distance, how unlike real digits draws are as a whole (judge.py), of 19.2 where 3.4 is
#    usual, 1,000 draws beside validation digits; one run, no file is kept.)
# 8. --first-taps 1, 28, 300. (91.2, 89.7, 88.3 nats.) Where does it stop paying? (Between 28 and
#    116, as far as such runs can tell.)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
