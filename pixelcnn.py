"""
Autoregression on the plane: PixelCNN, Gated PixelCNN, PixelRNN
===============================================================
Predict each pixel from those above it and to its left by convolutions that keep to that part of the
plane. The first PixelCNN masks ordinary convolutions, and has a blind spot: a part of the past that
it never sees. The Gated PixelCNN mends that with two stacks, one that looks up and one that looks
left. PixelRNN, here in its Row LSTM form, lets a recurrence run down the rows instead. Three ways
to see the past, one objective, in nats per image, exact:

    log p(x)  =  Σ_ij log p( x_ij | rows above, and in its row what is to the left )             (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   binary image, 0 or 1; D = 784 pixels
    h          h             (B, C, H, W)     features at each place; from mask A on, of earlier
                                              pixels only
    v          v             (B, C, H, W)     gated: the vertical stack, features of the rows above
    logits     ℓ             (B, 1, 28, 28)   log-odds of (1)'s factors, p(x_ij=1 | before) =
                                              sigmoid(ℓ_ij)
    c          c_r           (B, C, W)        Row LSTM: the cell after row r; h_r its state
    u          u             (n, D)           uniform noise: pixel d is on if u_d < sigmoid(ℓ_d)
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, L layers; K ∗ means: convolve with the kernel K; c in __init__() is a
    number of channels

Papers    van den Oord, Kalchbrenner & Kavukcuoglu, Pixel Recurrent Neural Networks, 2016 (arXiv
          1601.06759): PixelCNN, Row LSTM
          van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu, Conditional Image
          Generation with PixelCNN Decoders, 2016 (1606.05328): the gated one
          Salimans, Karpathy, Chen & Kingma, PixelCNN++, 2017 (1701.05517); Chen, Mishra,
          Rohaninejad & Abbeel, PixelSNAIL, 2017 (1712.09763): what came after
          Jordan et al., Muon, 2024: the optimizer, which has a small chapter of its own, muon.py
Lecture   Berkeley CS294-158, lecture 2: autoregressive models
Run       python pixelcnn.py                       Gated PixelCNN; writes runs/pixelcnn/
          python pixelcnn.py --variant original    PixelCNN; writes runs/pixelcnn_original/
          python pixelcnn.py --variant rnn         PixelRNN (Row LSTM); writes runs/pixelcnn_rnn/
          python pixelcnn.py --conditional         with the class given: p(x|y); any variant
Reached   −log p(x) = 80.49 nats, 0.1481 bits/dim on all 10,000 test images, exact, gated:
          11.7 minutes of training on 2 cores of a shared server (Intel Xeon), seed 0:
          samples/pixelcnn/metrics.json. Original: 85.33 in 7.9 minutes; Row LSTM: 82.99 in 9.9.
          Longer, gated: 79.55 in 52.7 minutes on one thread ("Given an afternoon").
          Published: PixelCNN 81.45, Gated PixelCNN 81.50 (README of EugenHotaj/pytorch-generative,
          dynamic binarization; its code makes 457 passes over the data, unless told otherwise);
          PixelCNN 81.30, Row LSTM 80.54 (PixelRNN paper, static binarization; from memory).
Gallery   samples/pixelcnn/README.md shows its runs; pictures that notes name lie beside it
Left out  on purpose: the Diagonal BiLSTM (the notes say what it is); colour channels.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import pictures
import utils
from judge import figures_of_levels
from muon import Muon
from runner import Run, load_trained
from settings import Setting

# Settings to turn, here or as flags (--depth 4).
SETTINGS = {
    "variant": Setting("gated", "gated: Gated PixelCNN; original: PixelCNN; rnn: PixelRNN, a Row "
                       "LSTM", choices=("gated", "original", "rnn"), word="{}"),
    "steps": Setting(7500, "length of training"),
    # Small: at equal time, more steps did better than larger batches (single runs).
    "batch_size": Setting(16, "images a step"),
    # A third of it, and three times, cost the gated model much ("Turning the knobs").
    "lr": Setting(8e-3, "highest learning rate"),
    "warm_up": Setting(0.05, "part of the run in which the learning rate rises", 0, 1),
    # Below nearly every gradient, so that all batches count alike (wavenet.py).
    "clip": Setting(1.0, "longer gradients are scaled down to this length"),
    "width": Setting(16, "C, channels; the blocks of the original convolve half of them", 2, 10000,
                     word="width{}"),
    "depth": Setting(8, "L, layers after the first", 1, 100, word="depth{}"),
    "levels": Setting(2, "2: black and white; more: grey, a softmax over so many levels", 2, 256,
                      word="{}levels"),
    "eval_images": Setting(500, "training and validation images scored at each evaluation"),
}
VARIANTS = {  # what some defaults are if another setting has that value
    ("variant", "original"): {"steps": 3500, "lr": 5e-3, "width": 64},
    ("variant", "rnn"): {"steps": 4000, "lr": 9e-3, "width": 32, "depth": 3},
}
ADAM = ("label", "last", "look", "position")  # weights so named are Adam's
SEEN = 6  # E: of more than two levels, networks see each as so many learned numbers

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# The chain rule (1), nats, orders and completion: made.py. Causal convolution, dilation, residuals:
# wavenet.py. What is new here is the plane.
#
# Why the plane. WaveNet reads the image as a line, where a pixel's upper neighbour is 28 steps
# away, and the right end of one row is next to the left end of another. A two-dimensional kernel
# has all neighbours within reach of one layer, and no others. What it must not see is the future:
# what is below the pixel, and what is right of it in its row.
#
# Masks. Reading order divides a kernel at its centre. Multiply the weights by
#
#     mask A   1 1 1        mask B   1 1 1
#              1 0 0                 1 1 0        (3×3; for other sizes likewise)                (2)
#              0 0 0                 0 0 0
#
# Mask A, in the first layer, leaves out the centre, which is the pixel to be guessed. From there on
# h_ij knows pixels before (i, j) only, so later layers may look at it: mask B. (B in the first
# layer is *the classic mistake*: a loss too good to be true, and black images, as sample_obvious()
# copies the 0 that stands where nothing is drawn yet. A in a later one: nothing leaks, but such a
# layer works without what only its centre knows.) The original (biases are left out; V_y: labels):
#
#     h = K_A ∗ (2x − 1) + position + V_y,  h' = h + widen · relu( K_B ∗ relu( narrow · relu(h) ) )
#     ℓ = last · relu( head · relu(h) )                      (the head of all three models)     (2a)
#
# The blind spot. Stack masked kernels and ask what the last one sees. A layer of 3×3 with mask A
# sees four pixels. One with mask B on top looks at five such places, and sees eleven. To get one
# column to the right, a path has to go one row up, since in its own row nothing to the right is
# allowed. So what one sees ends on the right in a slope:
#
#     mask A: 4       and one B: 11     and two: 21       however many           two stacks
#
#                                       #######··         #########              #########
#                     #####··           ######···         ########·              #########
#     ###             ####···           #####····         #######··  ◄ blind     #########
#     #?              ##?               ###?              ####?                  ####?
#
# Pixels right of the slope belong to the past, and the chain rule grants them, but no number of
# layers brings them in. (The first kernel, 7×7, sees 24; layer by layer they are 39, 57, … 228:
# samples/pixelcnn/receptive_field.png.) The likelihood is still exact; the model is told less than
# it may know.
#
# (What the gated model and the Row LSTM see instead stands in front of their code.)
#
# Where am I? Beyond the border are zeros, which no pixel has: a place whose field reaches them can
# find out. The other two models see all of the past, or nearly, and are not told; nor is WaveNet.
# The original sees eleven rows up and as many columns: in the middle of an image it cannot know. So
# it has a learned vector for each place, `position`, three tenths of its weights ("What was
# measured").
#
# Labels. With --conditional a label y adds a learned vector V_y, the same at all places: in (2a) to
# the first features; in the other two models in front of all gates, where their equations have it.
# evaluate_without_label() takes it away again (made.py).
#
# Grey levels. Here a pixel is a coin. With --levels 256 the last layer gives 256 logits per pixel,
# a softmax (PixelRNN, Gated PixelCNN). Nobody tells it that 127 is close to 128: that has to be
# learned (with what success: "What was measured"). PixelCNN++ has a mixture of logistics instead:
# few numbers, and neighbours in level are neighbours in probability. (Nats of levels are of another
# data set, and not to be compared with nats of bits.) A colour is three steps of the chain rule in
# the place of one: red, green given red, blue given both. PixelSNAIL adds attention, by which a
# place looks at any earlier one (transformer_ar.py).
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------


def log_probs(logits, x):
    """Factors of (1), log p(x_d | before): x ℓ − softplus(ℓ) of a coin, else log softmax(ℓ)[level].
    logits: (B, 1, H, W) or (B, levels, H, W); x: (B, 1, H, W) in [0, 1] -> (B, 1, H, W) nats."""
    utils.check_pixels(x)
    if logits.shape[1] == 1:
        return x * logits - F.softplus(logits)
    level = (x * (logits.shape[1] - 1)).round().long()
    return logits.log_softmax(dim=1).gather(1, level)


def causal_mask(kernel, letter):
    """Which taps of a square kernel a masked convolution may use: the rows above, and what is left
    of the centre. letter "A": not the centre itself; "B": the centre, too. -> (kernel, kernel) of
    0 and 1 (2)."""
    mask = torch.zeros(kernel, kernel)
    mask[:kernel // 2] = 1
    mask[kernel // 2, :kernel // 2 + (letter == "B")] = 1
    return mask


def choose_dilations(layers):
    """How far apart the taps of the gated model's layers are: 1, 2, 4, 8 and again (5)."""
    return [2 ** (k % 4) for k in range(layers)]


def gate(taps):
    """(4): tanh(a) · sigmoid(b), the two halves of the taps. (B, 2C, …) -> (B, C, …)."""
    a, b = taps.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def linear(conv, h):
    """A 1×1 convolution at a single place: (n, C) -> (n, C')."""
    return F.linear(h, conv.weight[:, :, 0, 0], conv.bias)


def toss(u, logits, x, known):
    """One pixel: on if u < sigmoid(ℓ), or the first level l with u < p(0) + … + p(l); if known
    (bool), it stays what it is in x. logits: (n, 1 or levels), u and x: (n,) -> (n,) in [0, 1]."""
    if logits.shape[1] == 1:
        drawn = (u < torch.sigmoid(logits[:, 0])).to(logits)
    else:
        sums = logits.softmax(dim=1).cumsum(dim=1)[:, :-1]  # without the last, which is 1
        drawn = (sums <= u[:, None]).sum(dim=1).to(logits) / sums.shape[1]
    return x if known else drawn


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
# What the three models share: all but how they see the past
# --------------------------------------------------------------------------------------------------


class Autoregressive(nn.Module):
    """Each model adds its own streams(x, y), features after the first layer and after each further
    one, L + 1 of (B, C, H, W), the last of which make the logits; and its own fast sample().
    levels: of a pixel; 2: a coin, one logit; more: a softmax, one logit each."""

    def last_layer(self, channels, levels):
        """From `channels` to logits."""
        self.levels = levels
        # For tables of nats of bits: nats of more levels are exact, too, but on another scale.
        self.likelihood = "exact" if levels == 2 else "none"
        self.last = nn.Conv2d(channels, levels if levels > 2 else 1, 1)
        if levels > 2:
            self.look = nn.Embedding(levels, SEEN)
            self.start_looking(torch.ones(levels))

    def seen(self, x):
        """What convolutions look at: ±1; of more levels E learned numbers each (flow.py, "What
        networks see"). They are linear between two levels, for those who take a gradient in x.
        x: (B, c, …) -> (B, E · c, …)."""
        if self.levels == 2:
            return 2 * x - 1
        place = x * (self.levels - 1)
        low = place.detach().round().long().clamp(max=self.levels - 2)
        start, end = self.look.weight[low], self.look.weight[low + 1]
        numbers = start + (place - low)[..., None] * (end - start)
        return numbers.movedim(-1, 1).flatten(1, 2)

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
        """Start the last bias at the log-odds of white, or those of levels at their log
        frequencies, over all pixels. images: (N, 1, H, W) uint8, grey."""
        level = (utils.to_levels(images, self.levels) * (self.levels - 1)).round().int()
        counts = torch.bincount(level.flatten().cpu(), minlength=self.levels) + 1
        logs = (counts / counts.sum()).log()
        if self.levels == 2:
            self.last.bias.copy_(logs[1:] - logs[:1])
        else:
            self.start_looking(counts)
            self.last.bias.copy_(logs)

    def logits(self, x, y=None):
        """All logits of (1) in one pass: last · relu(head · relu(h)) (2a). x: (B, 1, H, W)
        in [0, 1] -> (B, 1, H, W), or (B, levels, H, W)."""
        utils.check_label(self, y)
        return self.last(F.relu(self.head(F.relu(self.streams(x, y)[-1]))))

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) in [0, 1], levels -> (B,) nats."""
        return log_probs(self.logits(x, y), x).sum(dim=(1, 2, 3))

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    # ------------------------------------------------------------------------------------ sampling
    #
    # Sampling fast. A place's features depend on earlier pixels only, so they are final when its
    # turn comes, and each is computed once, from kept features around it. The original touches one
    # place in each layer per pixel. In the gated model a row of v needs rows above only: it is
    # computed whole, 28 times, and h alone goes pixel by pixel. The Row LSTM likewise takes what
    # the row above tells it for a whole row. All together that is one forward pass instead of 784
    # (a test counts).

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None):
        """n draws from p(x), or p(x|y), as anybody would write it: D forward passes, each used for
        a single pixel. x (n, 1, H, W) and known (H, W) bool: pixels that are given. (known becomes
        a list of D bools.) -> (n, 1, H, W)."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        for d in range(u.shape[1]):
            logits = self.logits(room, y).flatten(2)[:, :, d]
            # flatten() is a view: this writes into room.
            room.flatten(1)[:, d] = toss(u[:, d], logits, pixels[:, d], known[d])
        return room


# --------------------------------------------------------------------------------------------------
# Model 1: PixelCNN, the original
# --------------------------------------------------------------------------------------------------


class PixelCNN(Autoregressive):
    """Masked convolutions: mask A on the pixels, then residual blocks with mask B.

    image_size: height and width, or (height, width). channels: 2h of the paper's figure 5; layers:
    blocks. classes: of labels, 0 if it is told none; a label adds to the first features.
    """

    def __init__(self, image_size=28, channels=64, layers=8, classes=0, levels=2):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, half = classes, channels // 2
        self.first = nn.Conv2d(SEEN if levels > 2 else 1, channels, 7)
        self.position = nn.Parameter(0.5 * torch.randn(channels, *self.image_size))
        self.label = nn.Embedding(classes, channels) if classes else None
        self.narrow = nn.ModuleList(nn.Conv2d(channels, half, 1) for _ in range(layers))
        self.masked = nn.ModuleList(nn.Conv2d(half, half, 3) for _ in range(layers))
        self.widen = nn.ModuleList(nn.Conv2d(half, channels, 1) for _ in range(layers))
        self.head = nn.Conv2d(channels, channels, 1)
        self.last_layer(channels, levels)
        self.register_buffer("mask_a", causal_mask(7, "A"))
        self.register_buffer("mask_b", causal_mask(3, "B"))

    def streams(self, x, y=None):
        """Features after the first layer and after each block, h ← h + widen · relu(K_B ∗ relu(
        narrow · relu(h))) (2a): L + 1 of (B, C, H, W)."""
        weight = self.first.weight * self.mask_a
        h = F.conv2d(self.seen(x), weight, self.first.bias, padding=3) + self.position
        streams = [h if y is None else h + self.label(y)[:, :, None, None]]
        for narrow, masked, widen in zip(self.narrow, self.masked, self.widen):
            h = F.relu(narrow(F.relu(streams[-1])))
            h = F.relu(F.conv2d(h, masked.weight * self.mask_b, masked.bias, padding=1))
            streams.append(streams[-1] + widen(h))
        return streams

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious: features of a place depend on what comes before it, so they
        are final when its turn comes, and each is computed once, from those kept around it."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        height, width = self.image_size
        # The rows of each kernel that count, as a matrix.
        first = (self.first.weight * self.mask_a)[:, :, :4].flatten(1).T
        masked = [(m.weight * self.mask_b)[:, :, :2].flatten(1).T for m in self.masked]
        label = 0.0 if y is None else self.label(y)
        inputs = self.first.in_channels  # ±1, or E numbers; 0: border, or not yet drawn
        signs = torch.zeros(n, inputs, height + 3, width + 6).to(u)
        kept = [torch.zeros(n, m.in_channels, height + 1, width + 2).to(u) for m in self.masked]
        for d in range(height * width):
            i, j = d // width, d % width
            h = signs[:, :, i:i + 4, j:j + 7].flatten(1) @ first + self.first.bias  # (n, C)
            h = h + self.position[:, i, j] + label
            for k in range(len(masked)):
                kept[k][:, :, i + 1, j + 1] = F.relu(linear(self.narrow[k], F.relu(h)))
                window = kept[k][:, :, i:i + 2, j:j + 3].flatten(1)
                h = h + linear(self.widen[k], F.relu(window @ masked[k] + self.masked[k].bias))
            logits = linear(self.last, F.relu(linear(self.head, F.relu(h))))
            room[:, 0, i, j] = toss(u[:, d], logits, pixels[:, d], known[d])
            signs[:, :, i + 3, j + 3] = self.seen(room[:, :, i, j])
        return room


# --------------------------------------------------------------------------------------------------
# Model 2: Gated PixelCNN
#
# Two stacks. The gated PixelCNN splits the kernel in two, and each half is a full rectangle, which
# needs no mask, only a shift:
#
#     v_ij   looks up:    rows above i, columns on both sides of j                               (3)
#     h_ij   looks left:  row i, columns before j; and is told v_ij (at the entrance: h = K ∗ x + v)
#
# v grows as a rectangle, without a slope, since v_ij may use all columns of the rows above i. h may
# listen to v, which knows nothing of row i. v must not listen to h: v_ij would then know x_{i,j−1},
# and the next v at (i, j − 1), whose kernel looks right, would tell that pixel to its own logit.
#
# Gates, which WaveNet took from here. gate(…) = tanh(a) · sigmoid(b), where a and b are the halves
# of 2C channels: the content, and how much of it to let through. In both stacks:
#
#     v' = gate( K_v ∗ v + V_y ),     h' = h + R · gate( K_h ∗ h + U · (K_v ∗ v) + V'_y )        (4)
#
# with K_v two rows by three columns, K_h one by two, U and R one by one: figure 2 of the paper with
# small kernels. V_y and V'_y are what a label adds, with --conditional alone, other vectors in each
# layer. As in the paper, only h has a residual. Without U: 95.6 nats after 400 steps, not 87.0.
#
# Reach. Eight layers of such small kernels see eleven rows up, which is enough for strokes and not
# for digits. As in WaveNet, let the taps of a layer be δ places apart, with holes in between:
#
#     δ = 1, 2, 4, 8, 1, 2, 4, 8    reach 3 + 30 places: all of the past of a 28×28 image        (5)
#
# at no cost in arithmetic. (The papers use larger kernels and more layers.) With δ = 1 everywhere:
# 92.1 nats after 400 steps. (wavenet.py says where the grid in receptive_field.png comes from.)
# --------------------------------------------------------------------------------------------------


class GatedPixelCNN(Autoregressive):
    """Two stacks (3): v looks up, at whole rows; h looks left, and is told by v what is above.

    image_size, classes: as above; here a label speaks to all gates (4). channels: C of both stacks;
    layers: gated layers after the first, whose taps are 1, 2, 4, 8, 1, 2, … places apart (5).
    """

    def __init__(self, image_size=28, channels=16, layers=8, classes=0, levels=2):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, c = classes, channels
        inputs = SEEN if levels > 2 else 1
        self.first_up = nn.Conv2d(inputs, c, (3, 7))  # three rows above
        self.first_left = nn.Conv2d(inputs, c, (1, 3))  # three pixels to the left
        self.dilations = choose_dilations(layers)

        def each(kernel):  # a convolution for each layer, onto both halves of its gate
            return nn.ModuleList(nn.Conv2d(c, 2 * c, kernel, dilation=d) for d in self.dilations)

        self.up, self.left = each((2, 3)), each((1, 2))
        self.up_to_left = nn.ModuleList(nn.Conv2d(2 * c, 2 * c, 1) for _ in range(layers))
        self.residual = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(layers))
        self.label_to_gates = nn.Embedding(classes, layers * 4 * c) if classes else None
        self.head = nn.Conv2d(c, 2 * c, 1)
        self.last_layer(2 * c, levels)

    def label_terms(self, y):
        """V_y and V'_y of (4), what a label adds in front of each gate: for each layer one
        (B, 2C, 1, 1) for v and one for h, or 0 and 0."""
        if y is None:
            return [(0.0, 0.0)] * len(self.up)
        terms = self.label_to_gates(y)[:, :, None, None].chunk(2 * len(self.up), dim=1)
        return list(zip(terms[::2], terms[1::2]))

    def streams(self, x, y=None):
        """(3), then (4) for each layer: v ← gate(K_v∗v + V_y), h ← h + R gate(K_h∗h + U(K_v∗v) +
        V'_y). -> h, L + 1 of (B, C, H, W)."""
        signs = self.seen(x)
        # Shifts instead of masks: pad above (left), and drop the last row (column), so that place
        # (i, j) gets rows i − 3 … i − 1 (columns j − 3 … j − 1). A border is 0: not a pixel.
        v = self.first_up(F.pad(signs[:, :, :-1], (3, 3, 3, 0)))  # (3)
        h = self.first_left(F.pad(signs[:, :, :, :-1], (3, 0, 0, 0))) + v  # (3)
        streams = [h]
        for k, (delta, (to_v, to_h)) in enumerate(zip(self.dilations, self.label_terms(y))):
            # Rows i − δ and i of v: pixels of rows above i only. Columns j − δ and j of h: pixels
            # before (i, j) only.
            up = self.up[k](F.pad(v, (delta, delta, delta, 0)))
            left = self.left[k](F.pad(h, (delta, 0, 0, 0)))
            h = h + self.residual[k](gate(left + self.up_to_left[k](up) + to_h))  # (4)
            v = gate(up + to_v)  # (4)
            streams.append(h)
        return streams

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious: a row of v needs the rows above only, so it is computed
        once, all columns together, before its row is drawn; and of h each place once."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        height, width = self.image_size
        c, terms = self.head.in_channels, self.label_terms(y)
        first_left = self.first_left.weight.flatten(1)
        left = [m.weight.flatten(1) for m in self.left]
        inputs = self.first_up.in_channels  # ±1, or E numbers; 0: border, or not yet drawn
        signs = torch.zeros(n, inputs, height + 3, width + 6).to(u)
        # Rows i − δ … i of each layer's v.
        above = [torch.zeros(n, c, delta + 1, width).to(u) for delta in self.dilations]
        for i in range(height):
            v = self.first_up(signs[:, :, i:i + 3])  # (n, C, 1, W)
            first_v, to_gates = v[:, :, 0], []  # what v tells h in this row, layer by layer
            for k, delta in enumerate(self.dilations):
                above[k] = torch.cat([above[k][:, :, 1:], v], dim=2)
                up, (to_v, to_h) = self.up[k](F.pad(above[k], (delta, delta))), terms[k]
                to_gate = (self.up_to_left[k](up) + to_h)[:, :, 0]  # (n, 2C, W)
                to_gates.append(to_gate + self.left[k].bias[:, None])
                v = gate(up + to_v)
            # Each layer's h in this row, from column −δ on.
            kept = [torch.zeros(n, c, width + delta).to(u) for delta in self.dilations]
            for j in range(width):
                window = signs[:, :, i + 3, j:j + 3].flatten(1)
                h = F.linear(window, first_left, self.first_left.bias)
                h = h + first_v[:, :, j]  # (n, C)
                for k, delta in enumerate(self.dilations):
                    kept[k][:, :, j + delta] = h
                    # Columns j − δ and j.
                    taps = F.linear(kept[k][:, :, j:j + delta + 1:delta].flatten(1), left[k])
                    h = h + linear(self.residual[k], gate(taps + to_gates[k][:, :, j]))
                logits = linear(self.last, F.relu(linear(self.head, F.relu(h))))
                d = i * width + j
                room[:, 0, i, j] = toss(u[:, d], logits, pixels[:, d], known[d])
                signs[:, :, i + 3, j + 3] = self.seen(room[:, :, i, j])
        return room


# --------------------------------------------------------------------------------------------------
# Model 3: PixelRNN, the Row LSTM
#
# Row LSTM. Convolutions see as far as their layers reach. A recurrence that runs down the rows has
# no such end upwards. Take row r as one step, with rows of vectors (B, C, W) as state and cell:
#
#     i, f, o, g = K_is ∗ in_r + K_ss ∗ h_{r−1} + b + V_y           (four times C channels)
#     c_r = sigmoid(f) · c_{r−1} + sigmoid(i) · tanh(g),     h_r = sigmoid(o) · tanh(c_r)        (6)
#
# f keeps what the cell has, i lets g into it, o lets it out. in_r is row r of what the layer is
# given. K_is, input to state: its columns j − 1 and j (mask B), for all rows at once. K_ss, state
# to state: columns j − 1, j, j + 1 of the row above, which is past as a whole, so no mask. All W
# columns of a row move together: 28 steps, where the pixel RNN of made.py has 784. Each LSTM adds
# its h to what it was given. With each row upwards one more column comes in on both sides: what is
# seen is a triangle that reaches to the top of the image (the first convolution, 7×7 with mask A,
# widens it by three), but it is closed on *both* sides. Of the 574 pixels before (20, 14) three
# layers miss 55 on the right, the original's blind spot, and 36 on the left.
#
# The Diagonal BiLSTM of the same paper mends that. Shift each row by one place against the row
# above: columns of this skewed map are diagonals, and each is a step. The state at (i, j) hears
# those at (i, j − 1) and (i − 1, j), so all that is above and to the left. A second LSTM comes from
# the right, its output a row lower, lest it tell the future. Both together see the whole past.
# --------------------------------------------------------------------------------------------------


class RowLSTM(Autoregressive):
    """An LSTM that takes a whole row as one step; row i's state hears of three neighbours in row
    i − 1.

    image_size, classes: as above; here a label speaks to the gates of all layers. channels: C
    of states, cells and features; layers: LSTMs, one on top of the other, each adding to what it
    was given.
    """

    def __init__(self, image_size=28, channels=32, layers=3, classes=0, levels=2):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, c = classes, channels
        self.first = nn.Conv2d(SEEN if levels > 2 else 1, c, 7)
        self.input_to_state = nn.ModuleList(nn.Conv2d(c, 4 * c, (1, 2)) for _ in range(layers))
        self.state_to_state = nn.ModuleList(
            nn.Conv2d(c, 4 * c, (1, 3), padding=(0, 1), bias=False) for _ in range(layers))
        # Start by remembering: the second quarter is the forget gate's bias.
        for layer in self.input_to_state:
            nn.init.ones_(layer.bias.data[c:2 * c])
        self.label_to_gates = nn.Embedding(classes, layers * 4 * c) if classes else None
        self.head = nn.Conv2d(c, 2 * c, 1)
        self.last_layer(2 * c, levels)
        self.register_buffer("mask_a", causal_mask(7, "A"))

    def label_terms(self, y):
        """V_y of (6), what a label adds to a layer's gates: L terms of (B, 4C, 1, 1), or of 0."""
        layers = len(self.input_to_state)
        if y is None:
            return [0.0] * layers
        return self.label_to_gates(y)[:, :, None, None].chunk(layers, dim=1)

    @staticmethod
    def cell(gates, c):
        """(6): c ← σ(f) c + σ(i) tanh(g), h = σ(o) tanh(c). gates: (B, 4C, …), c: (B, C, …) -> h
        and c, (B, C, …) each."""
        i, f, o, g = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def streams(self, x, y=None):
        """Features after the first layer and after each LSTM, whose gates are K_is ∗ in_r +
        K_ss ∗ h_{r−1} + b + V_y (6): L + 1 of (B, C, H, W)."""
        weight, terms = self.first.weight * self.mask_a, self.label_terms(y)
        streams = [F.conv2d(self.seen(x), weight, self.first.bias, padding=3)]
        for to_state, between, term in zip(self.input_to_state, self.state_to_state, terms):
            # What pixels say, all rows at once: columns j − 1 and j of the layer below (mask B).
            inputs = to_state(F.pad(streams[-1], (1, 0)))  # (B, 4C, H, W)
            h = c = torch.zeros_like(streams[-1][:, :, :1])
            states = []
            for row in inputs.split(1, dim=2):  # the recurrence: H steps, of (B, 4C, 1, W)
                h, c = self.cell(row + term + between(h), c)
                states.append(h)
            streams.append(streams[-1] + torch.cat(states, dim=2))
        return streams

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious: carry states and cells from row to row; within a row, each
        place once."""
        u, pixels, known, y, room = start_of_sample(self, n, y, generator, x, known)
        (height, width), channels = self.image_size, self.head.in_channels
        layers, terms = range(len(self.input_to_state)), self.label_terms(y)
        # The rows of the first kernel that count, as a matrix.
        first = (self.first.weight * self.mask_a)[:, :, :4].flatten(1)
        to_state = [m.weight.flatten(1) for m in self.input_to_state]
        inputs = self.first.in_channels  # ±1, or E numbers; 0: border, or not yet drawn
        signs = torch.zeros(n, inputs, height + 3, width + 6).to(u)
        h = [torch.zeros(n, channels, width).to(u) for _ in layers]  # of the row above
        c = [torch.zeros(n, channels, width).to(u) for _ in layers]
        for i in range(height):
            # All that the gates of this row hear, but for its own pixels: (n, 4C, W).
            to_gates = [(self.state_to_state[k](h[k][:, :, None]) + terms[k])[:, :, 0]
                        + self.input_to_state[k].bias[:, None] for k in layers]
            h, new_c = [torch.zeros_like(s) for s in h], [torch.zeros_like(s) for s in c]
            left = [torch.zeros(n, channels).to(u) for _ in layers]  # column j − 1, the layer below
            for j in range(width):
                window = signs[:, :, i:i + 4, j:j + 7].flatten(1)
                features = F.linear(window, first, self.first.bias)
                for k in layers:  # features: (n, C)
                    both = torch.stack([left[k], features], dim=2).flatten(1)
                    gates = F.linear(both, to_state[k]) + to_gates[k][:, :, j]
                    left[k] = features
                    h[k][:, :, j], new_c[k][:, :, j] = self.cell(gates, c[k][:, :, j])
                    features = features + h[k][:, :, j]
                logits = linear(self.last, F.relu(linear(self.head, F.relu(features))))
                d = i * width + j
                room[:, 0, i, j] = toss(u[:, d], logits, pixels[:, d], known[d])
                signs[:, :, i + 3, j + 3] = self.seen(room[:, :, i, j])
            c = new_c
        return room


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
    """Where the nats are: −log₂ of each factor of (1). x: (N, 1, H, W) -> bits, as many."""
    return torch.cat([-log_probs(model.logits(xb, yb), xb) / math.log(2)
                      for xb, yb in utils.batches(x, y)])


def sight(model, x, y, pixels):
    """What logits look at: mean over x (N, 1, H, W) of |∂ℓ_d / ∂x_i| for each d in pixels -> a
    list of (H, W). Of more levels: the log-odds that d is not black, by one level of pixel i."""
    x = x.float().requires_grad_()
    logits = model.logits(x, y)
    if model.levels > 2:
        logits = logits[:, 1:].logsumexp(dim=1) - logits[:, 0]
    logits = logits.flatten(1) / (model.levels - 1)
    return [torch.autograd.grad(logits[:, d].sum(), x, retain_graph=True)[0].abs()
            .mean(dim=(0, 1)) for d in pixels]


def fields(model, x, y, d):
    """What features of place d see, after the first layer and after each further one: mean over x
    (N, 1, H, W) of |∂(w·h_d) / ∂x_i|, for one random vector w over the channels, by one level of
    pixel i -> L + 1 of (H, W)."""
    x = x.float().requires_grad_()
    streams = model.streams(x, y)
    weight = torch.randn(streams[0].shape[1], generator=torch.Generator().manual_seed(0)).to(x)
    weight = weight / (model.levels - 1)
    return [torch.autograd.grad((h.flatten(2)[:, :, d] @ weight).sum(), x, retain_graph=True)[0]
            .abs().mean(dim=(0, 1)) for h in streams]


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
#
# What to look for, in samples/pixelcnn/ or in a run of yours. sight.png: what six logits look at,
# yellow much, dark little, white exactly nothing. White should be the pixel itself (red) and all
# that comes later, and nothing else; in samples/pixelcnn_original/sight.png the past is white, too,
# right of a slope and where it is far. completion_top.png: all that is given comes first, so draws
# of the rest are exact: do strokes go on? In completion_left.png they are not exact, and some do
# not meet (made.py). surprise.png: edges of strokes are dear. sampling.gif: pixels appear row by
# row. progress.png: when do draws from the same noise become digits? loss.png: do training and
# validation part, and do they still fall at the end?
# --------------------------------------------------------------------------------------------------


def plot_pictures(model, folder, x, y):
    """All of the chapter's own pictures. x: bits (N, 1, H, W) of the test set; y: labels, or
    None."""
    height, width = model.image_size
    pixels, (digits, labels) = pictures.six_pixels(height, width), utils.first(16, x, y)
    pictures.plot_sight(folder / "sight.png", [
        ("this model", sight(model, digits, labels, pixels))], pixels)
    # Untrained ones beside it, of eight layers: what cannot be seen is a matter of kernels alone.
    nets = [("this model", model, labels)]
    nets += [(f"new {net.__name__}", net(model.image_size, layers=8).to(x.device), None)
             for net in (PixelCNN, GatedPixelCNN, RowLSTM)]
    rows = [(name, fields(net, digits, label, pixels[4])) for name, net, label in nets]
    pictures.plot_fields(folder / "receptive_field.png", [
        (name, [f"layer {k}" for k in range(len(maps))], maps) for name, maps in rows], pixels[4])
    pictures.plot_autoregressive(folder, model, x, y, surprise(model, x, y),
                                 torch.arange(height * width) + 1)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


def build(s, image_size=28):
    """The model that settings ask for."""
    model = {"gated": GatedPixelCNN, "original": PixelCNN, "rnn": RowLSTM}[s.variant]
    return model(image_size, s.width, s.depth, s.classes, s.levels)


def load(folder=None):
    """A trained model, for use from Python (docs/notebook.md): of a run's folder, or the run that
    ships along."""
    return load_trained(__file__, SETTINGS, VARIANTS, build, folder)


def train(model, data, run):
    """Maximum likelihood by Muon: of the mean gradient of each matrix it keeps the directions and
    makes them equally long (muon.py). Biases, labels, places, what is seen of levels and the last
    layer are left to Adam. All that a resumed run needs is in model, optimizer and run."""
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
    run = Run(__file__, "Train a PixelCNN on binarized MNIST, sample from it, measure it.",
              SETTINGS, VARIANTS, argv)
    model = run.build(build)
    if run.sample_only:  # no data, no training
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
    "order": 3,
    "title": lambda s: {"gated": "Gated PixelCNN", "original": "PixelCNN, the original",
                        "rnn": "PixelRNN (Row LSTM)"}[s.variant]
    + f", {s.levels} levels" * (s.levels > 2),
    "published": {
        "gated": ("81.50", "README of EugenHotaj/pytorch-generative, dynamic binarization, 60,000 "
                  "images, up to 457 epochs on a GPU"),
        "original": ("81.45", "README of EugenHotaj/pytorch-generative, dynamic binarization, "
                     "60,000 images, up to 457 epochs on a GPU; 81.30 in the paper, static "
                     "binarization"),
        "rnn": ("80.54 (Diagonal BiLSTM: 80.75 to 79.20)",
                "PixelRNN paper (one to seven layers), static binarization; from memory"),
    },
    "abilities": {"likelihood": "exact", "latent space": "no", "interpolation": "no",
                  "completion": "what comes later in reading order", "steps a draw takes": "784"},
    "variants": {"pixelcnn": "", "pixelcnn, original": "--variant original",
                 "pixelcnn, rnn": "--variant rnn"},
    "small": "--width 4 --depth 1 --eval-images 20",
    "cases": ["--depth 3", "--variant original --depth 3", "--variant rnn --depth 2"],
    "pictures": {"receptive_field.png": "What one place (red) sees after each layer, in this model "
                 "and in three new ones, untrained: PixelCNN is blind right of the white slope, "
                 "the Row LSTM has a triangle, the gated model ends by seeing the whole past. "
                 "Colours: the gradient, from 10⁻⁴ (dark) to 1 (yellow); white: exactly none."},
}

# --------------------------------------------------------------------------------------------------
# What was measured
#
# The trade among the three (default runs, test nats; minutes, ms an image in training and seconds
# on 2 cores; 34,368 of the first's parameters and 800 of the last's are masked for good):
#
#                        parameters        nats     minutes  ms per image     64 digits (s)
#     PixelCNN             165,121       85.33         7.9           8.4          1.40
#     Gated PixelCNN        44,897       80.49        11.7           5.8          0.77
#     Row LSTM              65,601       82.99         9.9           9.3          0.57
#
# The gated one learns fastest, and is the smallest. It ends ahead, by 4.8 and 2.5 nats, after a
# longer run; after five minutes of each it leads by 4.2 and 2.8 (500 validation images). This does
# not measure the blind spot (that is done below: a nat): all else differs, too. Of the 574 pixels
# before (20, 14) the default original misses 346, but only 55 for the slope; eight layers do not
# reach the others. Published figures show no such lead: 81.45 is of an original of 53.6 thousand
# weights, 81.50 of a gated one of 3.36 million (sizes are of EugenHotaj's code, which trains on all
# 60,000 images and scores the test set, on bits tossed anew, after each of 457 passes). Our
# original and Row LSTM have had far less: they see each training image 1.1 and 1.3 times. (The Row
# LSTM's 80.54 is the paper's, on static bits: another scale.)
#
# What each detail is worth. One thing changed, 400 steps, means of three seeds: nats on 1,000
# validation images, by how much the seeds differ, and seconds (one thread;
# experiments/ablate_convolutions.py; the file is results/ablations/convolutions.json):
#
#                                                  nats   span   seconds
#     gated                                        87.0    0.3      53
#       Adam for all                               88.1    0.5      53
#       ReLU instead of gates                      86.9    0.3      46
#       no dilation                                92.1    0.6      50
#       told where it is                           88.2    0.2      49
#       v tells h in the first layer only          95.6    0.3      46
#     original                                     90.4    0.2      90
#       no learned position                        92.8    0.2      92
#     Row LSTM                                     89.1    0.2      70
#       no K_ss: the cell alone runs down          93.8    0.3      62
#
# What counts? Read nothing into less than twice what three seeds span: a nat, roughly. That leaves
# v's arrow to h (8.6 nats), dilation (5.1), K_ss (4.7) and the original's position (2.4). In the
# gated model the same, with a bias for each logit, is a loss (1.2); so is Adam (1.1). Gates are
# undecided: with a ReLU 8,448 of 44,897 weights lie idle, and it is no worse here. (With v's arrow
# in the first layer alone 33,280 lie idle, without K_ss 36,864 of 65,601.)
#
# The blind spot alone. Take from v's kernels in the gated model one of their six taps, in the row
# itself. Without the right one v has to go up to go right, and the 55 pixels of the original's
# slope are missed; without the left one none is, as h goes left. Depth, gates, steps and weights
# are the same: 85.66, 85.78 and 85.61 nats with the spot, 84.42, 84.73 and 84.83 without it (1,800
# steps, three seeds; of an earlier version, by Adam: results/pixelcnn/blind_spot_by_adam.json). So
# it costs 1.0 nats, where three seeds span 0.4.
#
# Muon for Adam. An earlier version of this file (git checkout 647e55f) was moved by Adam, and had a
# learned vector for each place and a bias for each logit, 23 % of its weights. It took 9,000 steps,
# at 6e-3, to 81.50 test nats and 82.4 on 500 validation images (results/pixelcnn/by_adam.json);
# this one has 80.49 and 81.5 after 7,500, at 8e-3. (Its minutes do not compare: that run had a
# faster machine.) Which of the two did it? Muon: in 2,250 steps at 6e-3, with places, Adam has 84.0
# nats on 2,000 validation images and Muon 82.9, in 304 and 348 seconds (experiments/optimizers.py;
# results/optimizers/pixelcnn.json). The places are a loss in short runs (above).
#
# What did not help, at equal time, by Adam: 24 or 32 channels in the gated model (fewer steps,
# worse), torch's channels_last layout (no faster). (Single runs, no file is kept.)
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of
# the default's steps (1,500; original: 700; rnn: 800), seed 0 where the row names no other; nats on
# 1,000 validation images (experiments/robustness.py; the files are in results/robustness/). Each
# should end within 3 nats of the first line:
#
#                             pixelcnn        pixelcnn, original    pixelcnn, rnn
#     as it is                82.60           88.55                 86.70
#     seed 1, seed 2          82.59, 82.82    88.73, 88.52          86.59, 86.53
#     lr / 3, lr · 3          85.09, 84.92    91.04, 89.14          89.41, 88.72
#     batch / 2, batch · 2    83.49, 82.03    89.67, 87.55          87.82, 85.76
#     width / 2, width · 2    84.85, 81.76    90.17, 87.61          88.75, 85.26
#
# All do, the furthest by 2.7: the Row LSTM with a third of its rate. Three times the rate costs the
# gated model 2.3, the others 0.6 and 2.0. Half the batch or half the width takes less time and is
# worse, twice of either takes two to three times as long and is better.
#
# The gated model's rate was chosen so. In 1,500 steps 6e-3 has 83.3 nats and a third of it 86.7,
# 3.4 behind; 8e-3 has 83.0, a third of it 85.4 and three times 85.4 (2,000 validation images;
# single runs while tuning, of which no file is kept). So was the Row LSTM's, and its length: in 600
# steps 8e-3 has 87.9 nats and a third of it is 3.9 behind; at 12e-3 three times the rate is 4.5
# behind; in 800 steps at 1e-2, 3.7 (results/pixelcnn/row_lstm_rates.json).
#
# Grey levels. With --levels 4 the gated model's last layer says four logits, and its first sees
# each level as six learned numbers (flow.py, "What networks see"). After the default's 7,500 steps:
# 104.42 nats of levels, exact, 0.192 bits/dim; the Fréchet distance (judge.py) of 5,000 draws to
# test digits of four levels is 1.41; 26.0 minutes (one thread, beside other work, so longer than it
# need take; seed 0; samples/pixelcnn_4levels/). --levels 256 changes nothing else, and reaches in
# as many steps 478.34 nats of levels, exact, 0.880 bits/dim; 30.3 minutes (likewise;
# samples/pixelcnn_256levels/; nats of bits, of four and of 256 levels are three scales). flow.py
# has 0.964 bits/dim, exact as well (samples/flow/); what others reach stands there ("What others
# reach"). So the softmax of --levels 256 does learn which levels are neighbours: its density of
# grey levels is the best here. Its draws are the worst of all that are grey: distance 4.70,
# precision 0.50, recall 0.91, where the flow's have 2.49. (surprise.png: nearly all of the 690 bits
# are spent where strokes end, on how grey their edge is. Which digit it is, and whether strokes
# meet, costs few of them; so, we think, a model as small as this one learns that last.)
#
# Given an afternoon. Half as many channels again, more steps, and half the rate:
#
#     python pixelcnn.py --width 24 --steps 12000 --lr 4e-3 --threads 1 --out runs/pixelcnn_long
#
# reaches 79.55 nats on the test set, exact, in 52.7 minutes (one thread, beside one other job; seed
# 0; 99,985 weights, nearly four passes over the training set; samples/pixelcnn_long/), where the
# default has 80.49 in 11.7 on two. It is the rate that had to change. At 8e-3 a network as wide was
# behind the default at the same part of the run, 82.4 validation nats for 82.2 after 72 %, and was
# stopped (500 images; results/pixelcnn/long_at_8e-3.json). We think that steps of that length keep
# it moving about the optimum until the rate falls, and that short runs want them since they have
# far to go. By Adam, with 12 layers and 13,000 steps, the earlier version came to 80.69
# (results/pixelcnn/long_by_adam.json).
#
# Does it learn by heart? Of 10,000 images each, those of validation cost the default 0.6 nats more
# than those of training, those of the test set 0.1 less; each difference has a standard error of
# 0.3 (experiments/gaps.py; results/gaps.json). So hardly.
# --------------------------------------------------------------------------------------------------
# Exercises (Figures: validation nats after --steps 400, means of seeds 0, 1 and 2;
# results/ablations/convolutions.json. The gated default: 87.0. No nats: that was not measured.)
# 1. Mask B in the first layer of PixelCNN (--variant original). What do loss and draws say? (The
#    loss: 1 · 10⁻⁷ nats, seed 0; draws are black: "Masks". Probabilities no longer sum to 1.) To
#    draw, once it is trained:
#        import pictures, pixelcnn
#        pictures.save_grid("draws.png", pixelcnn.load("runs/pixelcnn_original").sample_obvious(16))
# 2. --variant original --depth 2, 4, 8, and the first row of receptive_field.png. Does the blind
#    spot go away? (No. Of the 574 pixels before (20, 14) 8 blocks miss 346, 15 blocks 111, any
#    number 55.)
# 3. Let v listen to h: add h to v at the end of a layer of GatedPixelCNN. Which test fails? (First
#    of all test_probabilities_of_all_images_sum_to_one.) Find the pixel that leaks. (x_ij itself,
#    by way of v at (i, j + 1).)
# 4. Cut up_to_left. (95.6.) What of the rows above does h still see, and why? (Three rows, up to
#    three columns to the right: what v tells it at the entrance, and what h to the left was told.)
# 5. Leave out `+ self.position` in PixelCNN, and in its sample(); give one to GatedPixelCNN, added
#    to v at the entrance. (Original: 92.8 for 90.4; gated, with a bias for each logit as well: 88.2
#    for 87.0.) Which of the two suffers, and why? (In mid-image the original sees no border.)
# 6. K_ss of width 1 in RowLSTM (padding=0). What becomes of the triangle? And with width 5
#    (padding=(0, 2))? (A strip; two columns a row. Missed are 368 and 50 pixels, instead of 91.)
# 7. --depth 4. How far does v look up then, and does a digit need more? (18 rows.)
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
