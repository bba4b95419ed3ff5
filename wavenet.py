"""
Autoregression along a line: WaveNet
====================================
Read the image as one long line of pixels and let a stack of causal convolutions predict each pixel
from those before it. Causal: a layer at step t reads t and earlier steps, and since the line is
shifted by one at the entrance, logit t sees pixels up to t − 1. Dilated: each layer reads two steps
(its taps), with gaps chosen so that ten layers see all that came before. All 784 predictions come
from one pass, as in MADE; one set of small matrices serves all steps, as in an RNN (a vector and a
bias for each step say where it is); and in training no step waits for another.

    log p(x)  =  Σ_t log p( x_t | x_1, ..., x_{t−1} )               nats per image, exact        (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   binary image, 0 or 1; D = 784 pixels
    v          v_t           (T, B, N)        what the entrance sees: pixels t − N … t − 1 as ±1,
                                              and 0 before the first
    h          h_t           (T, B, C)        the residual stream: C numbers a step
    position                 (T, 1, C)        a learned vector for each step: where in the image?
    delta      δ             ()               how far back a layer's second tap reaches
    g          g_t           (T, B, C)        what a layer says: tanh · sigmoid of its two taps
    skips      s_t           (T, B, S)        what the head hears: a sum over all layers
    logits     ℓ             (B, 1, 28, 28)   log-odds of (1)'s factors, p(x_t=1 | before) =
                                              sigmoid(ℓ_t)
    u          u             (n, D)           uniform noise: pixel d is on if u_d < sigmoid(ℓ_d)
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, S width of the head, T = D steps along the line (step t is pixel
    d = t), L layers

Papers    van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior &
          Kavukcuoglu, WaveNet: A Generative Model for Raw Audio, 2016 (arXiv 1609.03499)
          Le Paine, Khorrami, Chang, Zhang, Ramachandran, Hasegawa-Johnson & Huang, Fast WaveNet
          Generation Algorithm, 2016 (1611.09482)
Lecture   Berkeley CS294-158, lecture 2: autoregressive models
Run       python wavenet.py                    train, draw, measure; writes runs/wavenet/
          python wavenet.py --conditional      the same with the class given: p(x|y)
          python wavenet.py --dilations line   1, 2, 4, …, 512, as for sound; runs/wavenet_line/
Reached   −log p(x) = 82.78 nats, 0.1523 bits/dim on all 10,000 test images, exact:
          5.5 minutes of training on 2 cores of a shared server (AMD EPYC), seed 0:
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
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--first-taps 1).
SETTINGS = {
    "dilations": Setting("image", "image: in steps of columns and of rows; line: 1, 2, 4, …",
                         choices=("image", "line"), word="{}"),
    "steps": Setting(6500, "length of training"),
    # Small: at equal time, more steps did better than larger batches (single runs).
    "batch_size": Setting(16, "images a step"),
    "lr": Setting(5e-3, "highest learning rate"),
    "warm_up": Setting(0.05, "part of the run in which the learning rate rises", 0, 1),
    # Below nearly every gradient, so that all batches count alike (notes).
    "clip": Setting(1.0, "longer gradients are scaled down to this length"),
    "width": Setting(24, "C, channels of the residual stream; the head has 2C", 1, 10000,
                     word="width{}"),
    "first_taps": Setting(116, "N, pixels that the first convolution sees: four rows and four"),
    "eval_images": Setting(500, "training and validation images scored at each evaluation"),
}
VARIANTS = {}  # no setting changes the defaults of others

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# The chain rule (1), why any order of the pixels is right, what a nat costs in a file, and why
# nothing here is a bound: made.py has all of that in full. In short: 784 binary classifiers, each
# sees the pixels before its own, and the product of what they say is a probability of the whole
# image.
#
# The third way to hide the future. MADE masks the weights of a network that is fully connected: 3
# million of them, and none serves two places. An RNN shares its weights between all steps, but each
# step has to wait for the one before. A convolution shares weights *and* computes all steps at
# once, in training: each output is the same small function of a few inputs before it.
#
# Causal. In one dimension no mask is needed, a shift will do: step t is given pixels up to t − 1,
# and so h_t knows nothing later. From then on layers may look at h_t itself, and back from there.
# (On the plane it takes two masks for this, A and B: pixelcnn.py.)
#
#     x            x₁  x₂  x₃  x₄  …
#     v       0    x₁  x₂  x₃  …             shifted once, at the entrance
#     h_t          knows x₁ … x_{t−1} at most
#
# *The classic mistake* is not to shift at all, or to shift twice. Not at all: each step is told its
# own answer, and after 200 steps the loss is 2 · 10⁻⁵ nats (exercise 1). Twice (v_t ends with
# x_{t−2}): nothing leaks, every test for leaks passes, and the left neighbour is lost for good. So
# tests have to ask for both: no future, *and all of the past*.
#
# The entrance. The first convolution reads one number a step, so it may be wide: N = 116 taps, four
# rows and four pixels, cost 6 % of all products. It shows each step its neighbourhood at once, and
# the layers above are left with what it means. With one tap neighbours have to be fetched by the
# layers: 95.3 nats instead of 91.7.
#
# Dilation. A causal layer with two taps, one at t and one at t − δ:
#
#     taps_t = W h_t + W′ h_{t−δ} + w                                                            (2)
#
# so each layer adds 0 or δ to how far one can look back. All that an output can depend on is its
# receptive field, field for short. After L layers a step sees, from its entrance, every distance
# that is a sum of some of the δ's. With δ = 1 everywhere that is 0 … L. With δ = 1, 2, 4, …,
# 2^(L−1) the sums are the binary numbers, 0 … 2^L − 1, each by exactly one path: the field doubles
# with each layer, and ten layers are enough for 784 pixels.
#
#     ℓ_t, after δ = 4                                      ●
#                                           ┌───────────────┤
#     h after δ = 2                         ●               ●
#                                   ┌───────┤       ┌───────┤
#     h after δ = 1                 ●       ●       ●       ●
#                               ┌───┤   ┌───┤   ┌───┤   ┌───┤
#     h at the entrance         ●   ●   ●   ●   ●   ●   ●   ●           field: 2³ = 8 steps
#
# (receptive_field.png shows such fields layer by layer, by gradients: of the trained model, and of
# new ones with one first tap. In those a pixel is reached by one path, or few, and its neighbour by
# others, through other weights: hence their grid. A wide entrance and training even it out.)
#
# Dilations for an image. On our line the pixel above is 28 steps away, and its right neighbour 27:
# with 1, 2, 4, … the sums that reach them need several layers (the entrance is one step back
# already, and 26 = 16 + 8 + 2). So by default we count in the image's own units,
#
#     1, 26, 2, 2·28, 4, 4·28, 8, 8·28, 16, 16·28                                                (3)
#
# steps along the row and rows upwards in turn: two layers see the left, upper and upper right
# neighbours, and all ten see the whole past (choose_dilations(), and a test). As many layers and
# weights, with one first tap: 95.3 nats instead of 97.9 (--dilations line). With all 116 taps such
# short runs do not tell: 91.7 and 92.2 by two seeds, 92.5 along the line, 93.5 with all δ = 1.
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
# The first gives the gradient a direct path to the first layer: 95.8 nats without. (The last layer
# has no next one: its R, 600 weights, is never trained.) The second lets each layer, of near or far
# sight, be heard by the head. At both ends, by their names in the code,
#
#     h_t = first · v_t + position_t,     ℓ_t = last · relu( head · relu(s_t) ) + bias_t         (7)
#
# Where am I? A convolution does the same at each step, and a line of pixels has hardly any marks,
# apart from its beginning: whether step t is in the middle of a row or at its edge has to be found
# out. For sound that is right, each moment is like any other. An image has a top and a middle. So
# (7) has a learned vector for each step, and a bias for each logit: 19,600 of 66,328 weights, 30 %.
# What do they bring? In short runs nothing that we could measure: without the vector 91.8, without
# both 91.6. A step whose field reaches back beyond the line's beginning *can* find out where it is,
# from the zeros there; with a smaller field only early steps see zeros. Whole runs without vector
# and biases were not made.
#
# Labels. With --conditional (2) becomes taps_t = W h_t + W′ h_{t−δ} + w + V_y: each layer has a
# learned vector V_y for each label y, the same at all steps ("global conditioning" in the paper).
# To stand beside models of p(x), evaluate_without_label() takes it away again, as in made.py: at
# most log 10 = 2.3 nats more.
#
# Clipping. `clip` is below nearly every gradient (in a run of 200 steps the median is 37), so all
# batches count with the same length, and only directions are left.
#
# Completion works as in made.py: exact in completion_top.png, where what is given comes first in
# the line, and not in completion_left.png. surprise.png shows where the nats are, sight.png what
# logits look at.
#
# What WaveNet was for. Sound: 16,000 samples a second, each one of 256 levels (a softmax in place
# of our sigmoid), no end to the line, and several stacks of 1, 2, …, 512 for a field of several
# thousand samples. The 256 levels are not even: a sample of 16 bits, scaled to |x| ≤ 1, is bent by
# the µ-law, sign(x) · ln(1 + 255 |x|) / ln 256, and then rounded: finely where sound is soft. What
# to say comes from outside ("local conditioning": text, in features that change with time). What
# carries over to us is all of (2) and (4)–(6); what does not is the position, for which sound has
# no use, and (3).
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

        v_t ─► first + position ─► h ──┬────────────────(+)──► h of the next layer
                                       │                 ▲
                     h_{t−δ}, h_t ─► tanh · sigmoid ─► residual
                                               └─────► skip: summed over layers ─► head ─► ℓ_t

    image_size: height and width, or (height, width). dilations: "image" or "line", see
    choose_dilations(). first_taps: N. classes: of labels, 0 if it is told none; the label
    speaks to all gates, as in section 2.5 of the paper.
    """

    def __init__(self, image_size=28, channels=24, head=48, first_taps=116, dilations="image",
                 classes=0):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, pixels = classes, math.prod(self.image_size)
        self.dilations = choose_dilations(dilations, self.image_size[1], pixels)
        layers = len(self.dilations)
        self.first = nn.Linear(first_taps, channels)  # of one number a step: many cost little
        # Where on the line: where in the image.
        self.position = nn.Parameter(0.5 * torch.randn(pixels, 1, channels))

        def each(*size, bias=True):  # a linear layer for each dilation
            return nn.ModuleList(nn.Linear(*size, bias=bias) for _ in range(layers))

        # W′ and W of (2), the taps t − δ and t: together what nn.Conv1d(C, 2C, 2, dilation=δ) is,
        # with time in front, (T, B, C), so that going back δ steps is a slice. Then R, Q: (5), (6).
        self.past, self.now = each(channels, 2 * channels, bias=False), each(channels, 2 * channels)
        self.residual, self.skip = each(channels, channels), each(channels, head)
        self.label_to_gates = nn.Embedding(classes, layers * 2 * channels) if classes else None
        self.head = nn.Linear(head, head)
        self.last = nn.Linear(head, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(pixels))  # of each pixel

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start each pixel's bias at its log-odds. images: (N, 1, H, W) uint8, grey."""
        mean = images.float().mean(dim=(0, 1)).flatten() / 255
        self.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def label_terms(self, y):
        """What a label adds in front of each layer's gate: L terms of (B, 2C), or of 0."""
        layers = len(self.dilations)
        return [0.0] * layers if y is None else self.label_to_gates(y).chunk(layers, dim=1)

    def gate(self, taps):
        """tanh · sigmoid (4): (…, 2C) -> (…, C)."""
        a, b = taps.chunk(2, dim=-1)
        return torch.tanh(a) * torch.sigmoid(b)

    def streams(self, x, y=None):
        """The stream h in front of layer 1, first · v_t + position (7), …, L and after the last, by
        taps W h_t + W′ h_{t−δ} + w (2), h + R g (5): L + 1 of (T, B, C); and the sum of Q g (6),
        (T, B, S)."""
        # Shifted by one: step t is told pixels t − N … t − 1, and zeros before the first.
        taps = self.first.in_features
        v = F.pad(2 * x.flatten(1) - 1, (taps, 0)).unfold(1, taps, 1)  # (B, T + 1, N)
        h, skips = self.first(v[:, :-1].transpose(0, 1)) + self.position, 0.0  # (T, B, C)
        streams = [h]
        for k, (delta, term) in enumerate(zip(self.dilations, self.label_terms(y))):
            taps = self.now[k](h) + term  # (2)
            if delta < len(h):
                past = self.past[k](h[:-delta])  # (T − δ, B, 2C); before the beginning: nothing
                taps = torch.cat([taps[:delta], taps[delta:] + past])
            g = self.gate(taps)  # (4)
            h, skips = h + self.residual[k](g), skips + self.skip[k](g)  # (5), (6)
            streams.append(h)
        return streams, skips

    def logits(self, x, y=None):
        """(7): last·relu(head·relu(s_t)) + bias_t, one pass. x: (B, 1, H, W) bits -> as many."""
        utils.check_label(self, y)
        _, skips = self.streams(x, y)
        logits = self.last(F.relu(self.head(F.relu(skips))))[..., 0]  # (T, B)
        return (logits.T + self.bias).view(x.shape)

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) in {0, 1} -> (B,) nats."""
        return bernoulli_log_prob(self.logits(x, y), x)

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    # ------------------------------------------------------------------------------------ sampling
    #
    # Sampling fast. The obvious loop runs the whole network for each pixel: 784 passes. But at step
    # t all that is new is one column of the drawing above: per layer, h_t from the layer below, and
    # h_{t−δ}, which was computed δ steps ago. Keep it in a queue of length δ. A step then costs two
    # taps per layer, whatever the field: O(L) instead of O(T L), and all steps together one forward
    # pass. This is Fast WaveNet (Le Paine et al.).

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None):
        """n draws from p(x), or p(x|y), as anybody would write it: D forward passes, each used for
        a single pixel. x (n, 1, H, W) and known (H, W) bool: pixels that are given.
        -> (n, 1, H, W)."""
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
        queues = [torch.zeros(delta, n, self.position.shape[2]).to(u) for delta in self.dilations]
        for t in range(u.shape[1]):
            h, skips = self.first(v) + self.position[t], 0.0  # (n, C)
            for k, delta in enumerate(self.dilations):
                taps = self.now[k](h) + terms[k]
                if t >= delta:
                    taps = taps + self.past[k](queues[k][t % delta])  # what went in δ steps ago
                queues[k][t % delta] = h
                g = self.gate(taps)
                h, skips = h + self.residual[k](g), skips + self.skip[k](g)
            logits = self.last(F.relu(self.head(F.relu(skips))))[:, 0] + self.bias[t]
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
    """Maximum likelihood by Adam. All that a resumed run needs is in model, optimizer and run."""
    s = run.settings
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr, fused=True)  # one pass: faster
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            # The rate falls linearly to 0: at a constant rate the weights would jitter around the
            # optimum to the end. Before that it rises over the first part of the run: Adam's first
            # steps are taken before it knows the scale of the gradients.
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
    model.start_from_mean(data.train)
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
                  "completion": "what comes later (below)", "steps a draw takes": "784"},
    "variants": {"wavenet": ""},
    "small": "--width 4 --first-taps 5 --eval-images 20",
    "cases": ["--first-taps 1", "--dilations line --first-taps 1"],
    "pictures": {"receptive_field.png": "What one step (red) sees after each layer, in this model "
                 "and in two new ones, untrained, with a single first tap: one looks back by "
                 "columns and rows in turn, the last along the line, twice as far with each layer. "
                 "Colours: the gradient, from 10⁻⁴ (dark) to 1 (yellow); white: exactly none."},
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# What each detail is worth. One thing changed, 200 steps with --lr 0.01, seed 0, nats on 1,000
# validation images (a run itself looks at 500), and seconds of training, 21 on a busier machine
# (experiments/ablate_convolutions.py; the file is results/ablations/convolutions.json):
#
#     default                                           91.7      11 s
#       seed 1                                          92.2      11 s
#       --dilations line                                92.5      10 s
#       one first tap                                   95.3      11 s
#       --dilations line, one first tap                 97.9      10 s
#       no dilation: ten layers with δ = 1              93.5      12 s
#       ReLU instead of gates                           93.0       9 s
#       no residual: layers replace the stream          95.8      10 s
#       no skips: the last layer alone is heard         92.4       8 s
#       no learned position                             91.8      10 s
#       neither position nor bias                       91.6      21 s
#       one first tap, neither of both                  94.7      21 s
#       half the channels, but a head as wide           94.3       7 s
#       no clipping                                     92.8      12 s
#       learning rate a third                           97.1      12 s
#       learning rate three times                       92.2      12 s
#
# What does it carry? A row is one run, and two seeds of the default differ by 0.5 (more seeds can
# spread wider), so read nothing into less than two nats. What is left: the width of the entrance,
# the image's own dilations where it is narrow, residuals, channels, and a rate that is too low.
# Gates, skips, position, clipping and the higher rate are undecided; longer runs could tell (three
# seeds of 1,300 steps are within 0.3, below). Nor are all rows as large as the default: a ReLU
# leaves the second half of taps_t unused, 11,760 of 66,328 weights; the last skip alone leaves the
# other nine, 10,800.
#
# A trap in such tables: the learning rate. In 200 steps a third of 1e-2 is 5.5 nats behind, and a
# first version of this chapter had 1e-2. But in 2,500 steps 1e-2 reaches 85.9, half of that rate
# 84.8, a third 85.7 (1,000 validation images, seed 0, while tuning; no file is kept); and 7,500
# steps at 1e-2 were no better than 5,000. Short runs reward large steps, long ones steps that are
# small enough to end near the optimum. So the default is 5e-3.
#
# Another optimizer. In a quarter of the default's steps (1,625), seed 0, on 2,000 validation images
# (experiments/optimizers.py; results/optimizers/wavenet.json): Adam 86.2 nats; Muon (muon.py), for
# all matrices but the last, at the same rate 85.7, at twice the rate 86.0. A step of Muon takes
# about 4 ms more than one of Adam (one thread, no file is kept). So it would pay.
#
# With Muon the vector and the biases of (7) do harm: with 32 channels, in 1,250 steps, 85.4 and
# 85.6 nats by two seeds, and 85.0 and 85.0 without both (2,000 validation images). A whole run
# without, of 4,500 steps at 5e-3, has 82.7 on 500 validation images, where the default ends at
# 84.0; but in a fifth of it a third of the rate is 3.4 nats behind, and another rate has not been
# tried. So today's default stays until one has. (Single runs, no file is kept.)
#
# What did not help, at equal time: batches of 8 and twice the steps, or of 32 and half of them;
# writing the two taps as one product of twice the width, or adding the second in place (no
# faster). (Single runs, no file is kept.)
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (1,300), seed 0 where the row names no other; nats on 1,000 validation images
# (experiments/robustness.py; the files are in results/robustness/). Each should end within 3 nats
# of the first line:
#
#                             wavenet
#     as it is                86.39
#     seed 1, seed 2          86.20, 86.13
#     lr / 3, lr · 3          89.25, 87.36
#     batch / 2, batch · 2    87.50, 85.44
#     width / 2, width · 2    89.15, 84.72
#
# All do, the furthest by 2.9, at a third of the rate, which costs more than three times it (1.0).
# Half the width is 2.8 behind; seeds differ by 0.3. Half the batch or half the width takes less
# time and is worse, twice of either takes two to three times as long and is better.
#
# It was not always so. With a default of 5,000 steps, a fifth (1,000) had 87.2 nats, and a third of
# the rate 90.4: 3.2 behind. A higher rate moves the fault to the other side: in 1,000 steps 8e-3
# has 86.6, a third of it 88.8, three times 90.0. 6e-3 would have served (86.9; a third 89.6, three
# times 88.5), and so does a longer run: we took that, since it lowers the nats as well. (Single
# runs while tuning, of which no file is kept.)
#
# Given an afternoon. What would a longer run want? Each row is two complete runs, of 900 and 2,700
# steps, or 500 and 1,500 with 40 channels (why not the middle of one long run: transformer_ar.py):
# nats on 1,000 validation images, and minutes on one thread (experiments/afternoon.py; the file is
# results/afternoon/wavenet.json).
#
#                                         short            three times the steps
#     24 channels                         87.56 (1.4)      84.66 (4.1)
#     40 channels                         87.98 (1.7)      84.73 (4.8)
#
# Three times the steps are worth 2.9 nats to the first and 3.3 to the second, which is level with
# it by then. Single runs: which would lead after half an hour they do not say. Nor do they show
# anything learned by heart: validation images cost 0.8 and 0.9 nats more than training images in
# the second column, and on 1,000 of each such a gap has a standard error of 0.9. No long run has
# been made: among the convolutions it was given to the Gated PixelCNN, ahead of both in equal time
# (pixelcnn.py).
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: validation nats after --steps 200 --lr 0.01, seed 0;
# results/ablations/convolutions.json. The default: 91.7.)
# 1. Do not shift: v[:, 1:] instead of v[:, :-1] in streams(). What does the loss do? (It goes to
#    0: 2 · 10⁻⁵ nats.) Why do probabilities no longer sum to 1 (test_autoregressive.py)?
# 2. Shift twice: pad by one more and drop the last two. (Probabilities sum to 1. The test that asks
#    for all of the past fails.)
# 3. --dilations line, then choose_dilations() that returns [1] * 10. (92.5, 93.5.) Look at
#    receptive_field.png.
# 4. F.relu of the first half in gate(). (93.0.)
# 5. Leave out `+ self.position` in streams() and `+ self.position[t]` in sample(). (91.8.) Do
#    samples leave the middle?
# 6. Cut the skips: only the last layer's. Then the residuals. (92.4, 95.8.) Which costs more?
# 7. In sample(), make each queue, and both `% delta`, one longer than δ. Which test notices? (That
#    both samplers draw the same pixels. What such draws look like has not been tried.)
# 8. --first-taps 1, 28, 300. (95.3, 93.0, 92.4 nats.) Where does it stop paying? (Beyond 28 such
#    runs cannot tell: two nats, as above.)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
