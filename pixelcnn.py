"""
Autoregression on the plane: PixelCNN, Gated PixelCNN, PixelRNN
===============================================================
Predict each pixel from those above it and to its left by convolutions that keep to that part of the
plane. The first PixelCNN masks ordinary convolutions, and has a blind spot: a part of the past that it never
sees. The Gated PixelCNN mends that with two stacks, one that looks up and one that looks left.
PixelRNN, here in its Row LSTM form, lets a recurrence run down the rows instead. Three ways to see the
past, one objective:

    log p(x)  =  Σ_ij log p( x_ij | rows above, and in its row what is to the left )     nats per image, exact   (1)

    code       symbol        shape            meaning
    x          x             (B, 1, 28, 28)   binary image, 0 or 1; D = 784 pixels
    h          h             (B, C, H, W)     features at each place; from mask A on, of earlier pixels only
    v          v             (B, C, H, W)     gated: the vertical stack, features of the rows above
    logits     ℓ             (B, 1, 28, 28)   log-odds of (1)'s factors: p(x_ij=1 | before) = sigmoid(ℓ_ij)
    c          c_r           (B, C, W)        Row LSTM: the cell after row r; h_r its state
    u          u             (n, D)           uniform noise: pixel d is on if u_d < sigmoid(ℓ_d)
    y          y             (B,)             class label 0..9, only with --conditional
    B batch size, C channels, L layers; K ∗ means: convolve with the kernel K

Papers    van den Oord, Kalchbrenner & Kavukcuoglu, Pixel Recurrent Neural Networks, 2016 (arXiv
          1601.06759): PixelCNN, Row LSTM
          van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu, Conditional Image
          Generation with PixelCNN Decoders, 2016 (1606.05328): the gated one
Lecture   Berkeley CS294-158, lecture 2: autoregressive models
Run       python pixelcnn.py                       Gated PixelCNN; writes runs/pixelcnn/
          python pixelcnn.py --variant original    PixelCNN; writes runs/pixelcnn_original/
          python pixelcnn.py --variant rnn         PixelRNN (Row LSTM); writes runs/pixelcnn_rnn/
          python pixelcnn.py --conditional         the same with the class given: p(x|y); also for the others
Reached   −log p(x) = 81.50 nats, 0.1500 bits/dim on all 10,000 test images, exact, gated:
          5.6 minutes of training on 2 cores of a shared server (AMD EPYC), seed 0:
          samples/pixelcnn/metrics.json. Original: 86.07 in 4.6 minutes; Row LSTM: 84.96 in 4.5.
          Published (README of EugenHotaj/pytorch-generative, dynamic binarization, 457
          epochs on a GPU): PixelCNN 81.45, Gated PixelCNN 81.50.
Left out  on purpose: the diagonal BiLSTM, whose skewed rows cost a chapter of their own; colour channels.
"""
import math

import matplotlib.pyplot as plt
import torch
import torch.nn as nn
import torch.nn.functional as F

import utils

# Settings to turn. Each is read in main() and nowhere else.
STEPS = 9000  # the variants have lengths of their own
ORIGINAL_STEPS = 4500  # --variant original
RNN_STEPS = 4000  # --variant rnn
BATCH_SIZE = 16  # small: at equal time, more steps are worth more than larger batches
LR = 6e-3
ORIGINAL_LR = 5e-3  # --variant original
WARM_UP = 0.05  # part of the run in which the learning rate rises
CLIP = 1.0  # below nearly every gradient: longer ones are scaled down to it (wavenet.py)
CHANNELS = 16  # C of the gated model
LAYERS = 8  # gated layers after the first
ORIGINAL_CHANNELS = 64  # its residual blocks convolve half of them
ORIGINAL_LAYERS = 8
RNN_CHANNELS = 32
RNN_LAYERS = 3
EVAL_IMAGES = 500  # training and validation images scored at each evaluation

# --------------------------------------------------------------------------------------------------
# Notes, step by step
#
# The chain rule (1), nats, orders and completion are explained in full in made.py (completion_left.png
# is not exact here either); causal convolution, gates, residuals and the learned vector for each place
# in wavenet.py. What is new here is the plane.
#
# Why the plane. WaveNet reads the image as a line, where a pixel's upper neighbour is 28 steps away,
# and the right end of one row is next to the left end of another. A two-dimensional kernel has all
# neighbours within reach of one layer, and no others. What it must not see is the future: what is
# below, and what is right of it in its own row.
#
# Masks. Reading order divides a kernel at its centre. Multiply the weights by
#
#     mask A   1 1 1        mask B   1 1 1
#              1 0 0                 1 1 0        (3×3; for other sizes likewise)                   (2)
#              0 0 0                 0 0 0
#
# Mask A, in the first layer, leaves out the centre, which is the pixel to be guessed. From there on
# h_ij knows pixels before (i, j) only, so later layers may look at it: mask B. (B in the first layer
# is *the classic mistake*, with the symptoms that made.py shows: a loss too good to be true, and
# sample_obvious() draws nothing. A in a later one: nothing leaks, but each such layer loses what only
# its centre knew.)
#
# The blind spot. Stack masked kernels and ask what the last one sees. To get one column to the right,
# a path has to go one row up, since in its own row nothing to the right is allowed. So what one sees
# ends on the right in a slope:
#
#           seen by 3×3 masks, however many               seen by two stacks (3)
#
#           # # # # # # # # # # #                         # # # # # # # # # # #
#           # # # # # # # # # # ·                         # # # # # # # # # # #
#           # # # # # # # # # · ·  ◄ blind                # # # # # # # # # # #
#           # # # # # # # ?                               # # # # # # # ?
#
# Pixels right of the slope belong to the past, and the chain rule grants them, but no number of
# layers brings them in. (Our first kernel is 7×7, so the slope begins three columns to the right.)
# The likelihood is still exact; the model is just told less than it may know. receptive_field.png
# shows it by gradients.
#
# Two stacks. The gated PixelCNN splits the kernel in two, and each half is a full rectangle, which
# needs no mask, only a shift:
#
#     v_ij   looks up:    rows above i, columns on both sides of j                                     (3)
#     h_ij   looks left:  row i, columns before j; and is told v_ij (at the entrance: h = K ∗ x + v)
#
# v grows as a rectangle, without a slope, since v_ij may use all columns of the rows above i, and
# nothing of row i. h may listen to v (v_ij knows nothing that h_ij must not know). v must not listen
# to h: h_ij knows x_{i,j−1}; the next layer's K_v reads v_ij for place (i, j − 1) as well, and that
# pixel would be told itself.
#
# Gates. As in WaveNet, each layer says tanh(a) · sigmoid(b), here for both stacks:
#
#     v' = gate( K_v ∗ v ),     h' = h + R · gate( K_h ∗ h + U · (K_v ∗ v) )                        (4)
#
# with K_v two rows by three columns, K_h one by two, U and R one by one: figure 2 of the paper with
# small kernels. Only h has a residual there, and so it is here. ReLU instead of gates: 92.9 nats
# instead of 91.6. The arrow from v to h in the first layer only: 96.6.
#
# Reach. Eight layers of such small kernels see eleven rows up, which is enough for strokes and not
# for digits. As in WaveNet, let the taps of a layer be δ places apart, with holes in between:
#
#     δ = 1, 2, 4, 8, 1, 2, 4, 8           reach 3 + 30 places: all of the past of a 28×28 image    (5)
#
# at no cost in arithmetic. (The papers use larger kernels and more layers.) δ = 1 everywhere: 93.0 nats
# instead of 91.6. And in whole runs of 5,000 steps at a rate of 1e-2, on 500 validation images: 86.9
# instead of 83.7 (samples/pixelcnn/no_dilation.json, from before we had (5), and twice_the_lr.json),
# and digits that hang together in each corner, but not as a whole.
#
# Row LSTM. Convolutions see as far as their layers reach. A recurrence that runs down the rows has no
# such end upwards. Take a row r as one step: states and cells are rows of vectors, (B, C, W), and
#
#     i, f, o, g = K_is ∗ below_r + K_ss ∗ h_{r−1} + b              (four times C channels)
#     c_r = sigmoid(f) · c_{r−1} + sigmoid(i) · tanh(g),     h_r = sigmoid(o) · tanh(c_r)         (6)
#
# input-to-state K_is: columns j − 1 and j of the layer below (mask B), for all rows at once;
# state-to-state K_ss: columns j − 1, j, j + 1 of the state in the row above, which is past as a
# whole, so no mask. All W columns of a row move together: 28 steps, where the pixel RNN of made.py
# has 784. Each LSTM adds its h to what it was given. Each row upwards lets one more column in on both
# sides, so the state's field is a triangle that reaches to the top of the image (the first
# convolution, 7×7 with mask A, widens it by three). The triangle has the slope of the original, and
# so its blind spot; and in its own row it sees three pixels, and one more for each layer. Without
# K_ss: 94.6 nats instead of 93.9.
#
# Where am I? A convolution does the same at each place. Near the border it can feel the zeros
# outside; in the middle, if its field is small, it cannot tell where it is. So: a learned vector for
# each place, and a bias for each logit. Without the vector 94.8 instead of 93.5 (original), 94.9
# instead of 93.9 (Row LSTM). The gated model's field reaches all borders: without the vector 91.8,
# without both 91.0, instead of 91.6: a little better, if anything (two seeds differ by 0.4).
#
# Labels. With --conditional a label adds a learned vector: to the first features (original), or in
# front of all gates (gated, Row LSTM). evaluate_without_label() takes it away again (made.py).
#
# Sampling fast. A place's features depend on earlier pixels only, so they are final when its turn
# comes, and each is computed once, from kept features around it. The original keeps maps, and touches
# one place in each layer per pixel. The gated model has less to do: a row of v needs rows above only,
# so it is computed whole, 28 times, and h alone goes pixel by pixel. The Row LSTM likewise takes what
# the row above tells it for a whole row at once. All together that is one forward pass instead of 784
# (a test counts).
#
# The trade among the three (default runs, test nats; minutes and seconds on 2 cores):
#
#                        parameters        nats     minutes  ms per image     64 digits (s)
#     PixelCNN             165,904       86.07         4.6           3.9          0.78
#     Gated PixelCNN        58,224       81.50         5.6           2.3          0.35
#     Row LSTM              91,472       84.96         4.5           4.2          0.27
#
# Grey levels. Here a pixel is a coin. For 256 levels the last layer would give 256 logits per pixel,
# a softmax (PixelRNN, Gated PixelCNN), and the nats would be those of grey MNIST, which must not be
# compared with ours. A softmax does not know that 127 is close to 128. PixelCNN++ has a mixture of
# logistics instead: few numbers, and neighbours in level are neighbours in probability. With colours,
# a pixel is three variables, red, green given red, blue given both: three steps of the chain rule in
# the place of one, and masks that also divide channels.
#
# What each detail is worth. One thing changed, 200 steps with --lr 0.01, seed 0, nats on 1,000
# validation images, and seconds of training (tests/ablate_convolutions.py; the file is
# samples/wavenet/ablations.json):
#
#     gated                                             91.6       8 s   (13 s: a busier machine)
#       seed 1                                          91.2       8 s
#       ReLU instead of gates                           92.9       7 s
#       no dilation                                     93.0       8 s
#       no learned position                             91.8       8 s
#       neither position nor bias                       91.0      13 s
#       v tells h in the first layer only               96.6       8 s
#       half the channels                               94.0       7 s
#       half the layers                                 92.6       5 s
#       learning rate a third                           95.0       8 s
#       learning rate three times                       93.8       8 s
#     original                                          93.5       9 s
#       no learned position                             94.8       8 s
#     Row LSTM                                         93.9      14 s
#       no learned position                             94.9      13 s
#       no state from row to row                        94.6      11 s
#
# As for WaveNet (its notes), the rate that is best in 200 steps is not best in 5,000: there 1e-2 ends
# at 83.7 nats on 500 validation images (samples/pixelcnn/twice_the_lr.json), and half of it at 82.9
# (samples/pixelcnn/5000_steps.json). The default, 6e-3, is a little above that half: "Turning the knobs"
# says why.
#
# What did not help, at equal time: 24 or 32 channels in the gated model (fewer steps, worse), torch's
# channels_last layout (no faster).
#
# Turning the knobs. What if a setting were another? One is changed at a time, in runs of a fifth of the
# default's steps (1,800; original: 900; rnn: 800), seed 0 where the row names no other; nats on 1,000
# validation images (tests/robustness.py; the files are in samples/robustness/). Each should end within
# 3 nats of the first line:
#
#                             pixelcnn        pixelcnn, original    pixelcnn, rnn
#     as it is                84.11           89.72                 89.33
#     seed 1, seed 2          84.38, 84.68    89.68, 89.59          89.53, 89.23
#     lr / 3, lr · 3          86.91, 86.94    91.57, 89.51          91.98, 89.41
#     batch / 2, batch · 2    84.85, 83.26    90.61, 88.82          90.53, 88.45
#     width / 2, width · 2    86.33, 82.92    90.87, 88.83          91.28, 87.36
#
# All do, the furthest by 2.8. Half the batch or half the width takes less time and is worse, twice of
# either takes two to three times as long and is better. The gated model loses 2.8 nats with a third of
# the rate and with three times: it has no room on either side. The original does not mind three times
# its rate at all, and the Row LSTM hardly; a third costs them 1.9 and 2.6.
#
# The gated model and the Row LSTM had a rate of 5e-3 before, and a third of that was too little in runs
# this short: 3.4 nats behind (84.7 and 88.1, in 1,500 steps) and a little more than 3 (89.6 and 92.7).
# For the Row LSTM 6e-3 is enough. Not for the gated model: at 7e-3, in 1,500 steps, the fault is on the
# other side, and three times the rate is too much (84.4 and 88.6). With a longer run, 9,000 steps
# instead of 7,500, 6e-3 keeps a third and three times within reach. The original keeps its 5e-3.
# (Single runs while tuning, of which no file is kept.)
#
# Given an afternoon. Which width and depth would serve a longer run? Each row is two complete runs, the
# second of three times the steps (why not the middle of one long run: transformer_ar.py): nats on 1,000
# validation images, and minutes on one thread (tests/afternoon.py; the file is
# samples/afternoon/pixelcnn.json).
#
#                                         short            three times the steps
#     16 channels                         84.90 (1.4)      83.00 (3.8)
#     24 channels                         85.05 (1.8)      83.00 (4.8)
#     24 channels, 12 layers              85.84 (1.8)      83.12 (4.9)
#
# Three times the steps are worth 1.9, 2.1 and 2.7 nats: of the larger networks the deeper one gains
# most. These are single runs, and three seeds of 1,800 steps have 84.1, 84.4 and 84.7
# (samples/robustness/pixelcnn.json), so the table does not say when it would pass the first, or
# whether. We took the third for the long run; no small network has been run for as long.
#
#     python pixelcnn.py --width 24 --depth 12 --steps 13000 --lr 5e-3 --out runs/pixelcnn_long
#
# reaches 80.69 nats on the test set, exact, in 19.9 minutes (2 cores, seed 0; 168,640 weights, four
# passes over the training set; samples/pixelcnn_long/), where the default has 81.50 in 5.6 minutes.
# Others have published 81.50 for a Gated PixelCNN of another size, after 457 passes on a GPU. The
# table's runs are at the default's rate, 6e-3. At that rate this one ends at 81.38
# (samples/pixelcnn_long/default_rate.json), and is worse on validation as well, 82.4 instead of 81.8: a
# larger network may want smaller steps. (Single runs, and no other rate was tried.) The run at 5e-3 has
# hardly begun to learn by heart: validation images cost 1.9 nats more than training images (500 of
# each; they are the harder ones), and 1.7 in the default run. So what limits it is time or size.
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------


def bernoulli_log_prob(logits, x):
    """log p(x) of (1), given all its factors' logits. Both (B, 1, H, W), x in {0, 1} -> (B,) nats."""
    return (x * logits - F.softplus(logits)).sum(dim=(1, 2, 3))


def causal_mask(kernel, kind):
    """Which taps of a square kernel a masked convolution may use: the rows above, and what is left of the centre.
    kind "A": not the centre itself; "B": the centre, too. -> (kernel, kernel) of 0 and 1 (2)."""
    mask = torch.zeros(kernel, kernel)
    mask[:kernel // 2] = 1
    mask[kernel // 2, :kernel // 2 + (kind == "B")] = 1
    return mask


def choose_dilations(layers):
    """How far apart the taps of the gated model's layers are: 1, 2, 4, 8 and again (5)."""
    return [2 ** (k % 4) for k in range(layers)]


def gate(taps):
    """tanh · sigmoid: (B, 2C, …) -> (B, C, …) (4)."""
    a, b = taps.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def draw(u, logits, x, known):
    """One pixel: on if u < sigmoid(ℓ); if known (bool or None), it stays what it is in x. u, logits, x: (n,)."""
    bit = (u < torch.sigmoid(logits)).to(logits)
    return bit if known is None or not known else x


def check_label(model, y):
    """ValueError if a conditional model gets no label, or an unconditional one gets some."""
    if model.conditional and y is None:
        raise ValueError("this model is conditional: it needs y, a label 0..9 for each image")
    if not model.conditional and y is not None:
        raise ValueError("this model is not conditional: it takes no y")


def start_of_sample(model, n, y, generator, x):
    """Noise u (n, D), given pixels x (n, 1, H, W), labels y, and room for what is drawn, on the model's device.

    One number of noise for each pixel of each image, drawn before the loop: so two samplers, or two
    devices, can be compared pixel by pixel.
    """
    check_label(model, y)
    weight = model.last.weight  # for its device and dtype
    u = torch.rand(n, math.prod(model.image_size), generator=generator, dtype=weight.dtype).to(weight)
    drawn = torch.zeros(n, 1, *model.image_size).to(weight)
    return u, drawn if x is None else x.to(weight), None if y is None else y.to(weight.device), drawn


# --------------------------------------------------------------------------------------------------
# Model 1: PixelCNN, the original
# --------------------------------------------------------------------------------------------------


class PixelCNN(nn.Module):
    """Masked convolutions: mask A on the pixels, then residual blocks with mask B.

    image_size: height and width, or (height, width). channels: 2h of the paper's figure 5; layers: blocks.
    conditional: a label adds to the first features.
    """

    def __init__(self, image_size=28, channels=64, layers=8, conditional=False):
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.conditional, half = conditional, channels // 2
        self.first = nn.Conv2d(1, channels, 7)
        self.position = nn.Parameter(0.5 * torch.randn(channels, *self.image_size))
        self.label = nn.Embedding(10, channels) if conditional else None
        self.narrow = nn.ModuleList(nn.Conv2d(channels, half, 1) for _ in range(layers))
        self.masked = nn.ModuleList(nn.Conv2d(half, half, 3) for _ in range(layers))
        self.widen = nn.ModuleList(nn.Conv2d(half, channels, 1) for _ in range(layers))
        self.head = nn.Conv2d(channels, channels, 1)
        self.last = nn.Conv2d(channels, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.image_size))  # of each pixel
        self.register_buffer("mask_a", causal_mask(7, "A"))
        self.register_buffer("mask_b", causal_mask(3, "B"))

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start each pixel's bias at its log-odds. images: (N, 1, H, W) uint8, grey."""
        mean = images.float().mean(dim=(0, 1)) / 255
        self.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def streams(self, x, y=None):
        """Features after the first layer and after each block: L + 1 of (B, C, H, W)."""
        h = F.conv2d(2 * x - 1, self.first.weight * self.mask_a, self.first.bias, padding=3) + self.position
        streams = [h if y is None else h + self.label(y)[:, :, None, None]]
        for narrow, masked, widen in zip(self.narrow, self.masked, self.widen):
            h = F.relu(narrow(F.relu(streams[-1])))
            h = F.relu(F.conv2d(h, masked.weight * self.mask_b, masked.bias, padding=1))
            streams.append(streams[-1] + widen(h))
        return streams

    def logits(self, x, y=None):
        """All logits of (1) in one pass. x: (B, 1, H, W) in {0, 1} -> (B, 1, H, W)."""
        check_label(self, y)
        return self.last(F.relu(self.head(F.relu(self.streams(x, y)[-1])))) + self.bias

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) in {0, 1} -> (B,) nats."""
        return bernoulli_log_prob(self.logits(x, y), x)

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    # ----------------------------------------------------------------------------- sampling: Model 1

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None):
        """n draws from p(x), or p(x|y), as anybody would write it: D forward passes, each used for a single pixel.

        x (n, 1, H, W) and known (H, W) bool: pixels that are given. -> (n, 1, H, W).
        """
        u, x, y, drawn = start_of_sample(self, n, y, generator, x)
        for d in range(u.shape[1]):
            logits = self.logits(drawn, y).flatten(1)[:, d]
            # flatten() is a view: this writes into drawn.
            drawn.flatten(1)[:, d] = draw(u[:, d], logits, x.flatten(1)[:, d], known is not None and bool(known.flatten()[d]))
        return drawn

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious: features of a place depend on what comes before it, so they are final when
        its turn comes, and each is computed once, from the kept features around it."""
        u, x, y, drawn = start_of_sample(self, n, y, generator, x)
        height, width = self.image_size
        given = torch.zeros(height, width) if known is None else known
        first = (self.first.weight * self.mask_a)[:, 0, :4].flatten(1).T  # the rows that count, as a matrix
        masked = [(m.weight * self.mask_b)[:, :, :2].flatten(1).T for m in self.masked]
        label = 0.0 if y is None else self.label(y)
        signs = torch.zeros(n, height + 3, width + 6).to(u)  # ±1; 0: border, or not yet drawn
        kept = [torch.zeros(n, m.in_channels, height + 1, width + 2).to(u) for m in self.masked]
        for i in range(height):
            for j in range(width):
                h = signs[:, i:i + 4, j:j + 7].flatten(1) @ first + self.first.bias + self.position[:, i, j] + label  # (n, C)
                for k in range(len(masked)):
                    kept[k][:, :, i + 1, j + 1] = F.relu(linear(self.narrow[k], F.relu(h)))
                    window = kept[k][:, :, i:i + 2, j:j + 3].flatten(1)
                    h = h + linear(self.widen[k], F.relu(window @ masked[k] + self.masked[k].bias))
                logits = linear(self.last, F.relu(linear(self.head, F.relu(h))))[:, 0] + self.bias[i, j]
                drawn[:, 0, i, j] = draw(u[:, i * width + j], logits, x[:, 0, i, j], bool(given[i, j]))
                signs[:, i + 3, j + 3] = 2 * drawn[:, 0, i, j] - 1
        return drawn


def linear(conv, h):
    """A 1×1 convolution at a single place: (n, C) -> (n, C')."""
    return F.linear(h, conv.weight[:, :, 0, 0], conv.bias)


# --------------------------------------------------------------------------------------------------
# Model 2: Gated PixelCNN
# --------------------------------------------------------------------------------------------------


class GatedPixelCNN(nn.Module):
    """Two stacks: v looks up, at whole rows; h looks left, and is told by v what is above.

    image_size, conditional: as above; here a label speaks to all gates. channels: C of both stacks; layers:
    gated layers after the first, whose taps are 1, 2, 4, 8, 1, 2, … places apart (5).
    """

    def __init__(self, image_size=28, channels=16, layers=8, conditional=False):
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.conditional, c = conditional, channels
        self.first_up = nn.Conv2d(1, c, (3, 7))  # three rows above
        self.first_left = nn.Conv2d(1, c, (1, 3))  # three pixels to the left
        self.position = nn.Parameter(0.5 * torch.randn(c, *self.image_size))
        self.dilations = choose_dilations(layers)
        self.up = nn.ModuleList(nn.Conv2d(c, 2 * c, (2, 3), dilation=delta) for delta in self.dilations)
        self.left = nn.ModuleList(nn.Conv2d(c, 2 * c, (1, 2), dilation=delta) for delta in self.dilations)
        self.up_to_left = nn.ModuleList(nn.Conv2d(2 * c, 2 * c, 1) for _ in range(layers))
        self.residual = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(layers))
        self.label_to_gates = nn.Embedding(10, layers * 4 * c) if conditional else None
        self.head = nn.Conv2d(c, 2 * c, 1)
        self.last = nn.Conv2d(2 * c, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.image_size))  # of each pixel

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start each pixel's bias at its log-odds. images: (N, 1, H, W) uint8, grey."""
        mean = images.float().mean(dim=(0, 1)) / 255
        self.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def label_terms(self, y):
        """What a label adds in front of each gate: for each layer one (B, 2C, 1, 1) for v and one for h, or 0 and 0."""
        if y is None:
            return [(0.0, 0.0)] * len(self.up)
        terms = self.label_to_gates(y)[:, :, None, None].chunk(2 * len(self.up), dim=1)
        return list(zip(terms[::2], terms[1::2]))

    def streams(self, x, y=None):
        """Both stacks after the first layer and after each further one: L + 1 pairs (v, h) of (B, C, H, W)."""
        signs = 2 * x - 1
        # Shifts instead of masks: pad above (left), and drop the last row (column), so that place (i, j) gets
        # rows i − 3 … i − 1 (columns j − 3 … j − 1). A border is 0: not a pixel.
        v = self.first_up(F.pad(signs[:, :, :-1], (3, 3, 3, 0))) + self.position
        h = self.first_left(F.pad(signs[:, :, :, :-1], (3, 0, 0, 0))) + v
        streams = [(v, h)]
        for k, (delta, (to_v, to_h)) in enumerate(zip(self.dilations, self.label_terms(y))):
            taps = self.up[k](F.pad(v, (delta, delta, delta, 0)))  # rows i − δ and i of v: pixels of rows above i only
            left = self.left[k](F.pad(h, (delta, 0, 0, 0)))  # columns j − δ and j of h: pixels before (i, j) only
            h = h + self.residual[k](gate(left + self.up_to_left[k](taps) + to_h))  # (4)
            v = gate(taps + to_v)  # (4)
            streams.append((v, h))
        return streams

    def logits(self, x, y=None):
        """All logits of (1) in one pass. x: (B, 1, H, W) in {0, 1} -> (B, 1, H, W)."""
        check_label(self, y)
        return self.last(F.relu(self.head(F.relu(self.streams(x, y)[-1][1])))) + self.bias

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) in {0, 1} -> (B,) nats."""
        return bernoulli_log_prob(self.logits(x, y), x)

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    # ----------------------------------------------------------------------------- sampling: Model 2

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None):
        """n draws from p(x), or p(x|y), as anybody would write it: D forward passes, each used for a single pixel.

        x (n, 1, H, W) and known (H, W) bool: pixels that are given. -> (n, 1, H, W).
        """
        u, x, y, drawn = start_of_sample(self, n, y, generator, x)
        for d in range(u.shape[1]):
            logits = self.logits(drawn, y).flatten(1)[:, d]
            # flatten() is a view: this writes into drawn.
            drawn.flatten(1)[:, d] = draw(u[:, d], logits, x.flatten(1)[:, d], known is not None and bool(known.flatten()[d]))
        return drawn

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious: a row of v needs the rows above only, so it is computed once, all columns
        together, before its row is drawn; and of h each place once."""
        u, x, y, drawn = start_of_sample(self, n, y, generator, x)
        height, width = self.image_size
        c, layers, terms = self.position.shape[0], len(self.up), self.label_terms(y)
        given = torch.zeros(height, width) if known is None else known
        signs = torch.zeros(n, 1, height + 3, width + 6).to(u)  # ±1; 0: border, or not yet drawn
        above = [torch.zeros(n, c, delta + 1, width).to(u) for delta in self.dilations]  # rows i − δ … i of each layer's v
        first_left, left = self.first_left.weight.flatten(1), [m.weight.flatten(1) for m in self.left]
        for i in range(height):
            v = self.first_up(signs[:, :, i:i + 3]) + self.position[:, i:i + 1]  # (n, C, 1, W)
            from_above, told = v[:, :, 0], []
            for k, delta in enumerate(self.dilations):
                above[k] = torch.cat([above[k][:, :, 1:], v], dim=2)
                taps = self.up[k](F.pad(above[k], (delta, delta)))
                told.append((self.up_to_left[k](taps) + terms[k][1])[:, :, 0] + self.left[k].bias[:, None])  # (n, 2C, W)
                v = gate(taps + terms[k][0])
            kept = [torch.zeros(n, c, width + delta).to(u) for delta in self.dilations]  # each layer's h, from column −δ on
            for j in range(width):
                h = F.linear(signs[:, 0, i + 3, j:j + 3], first_left, self.first_left.bias) + from_above[:, :, j]  # (n, C)
                for k, delta in enumerate(self.dilations):
                    kept[k][:, :, j + delta] = h
                    taps = F.linear(kept[k][:, :, j:j + delta + 1:delta].flatten(1), left[k])  # columns j − δ and j
                    h = h + linear(self.residual[k], gate(taps + told[k][:, :, j]))
                logits = linear(self.last, F.relu(linear(self.head, F.relu(h))))[:, 0] + self.bias[i, j]
                drawn[:, 0, i, j] = draw(u[:, i * width + j], logits, x[:, 0, i, j], bool(given[i, j]))
                signs[:, 0, i + 3, j + 3] = 2 * drawn[:, 0, i, j] - 1
        return drawn


# --------------------------------------------------------------------------------------------------
# Model 3: PixelRNN, the Row LSTM
# --------------------------------------------------------------------------------------------------


class RowLSTM(nn.Module):
    """An LSTM that takes a whole row as one step; row i's state hears of three neighbours in row i − 1.

    image_size, conditional: as above; here a label speaks to the gates of all layers. channels: C of states,
    cells and features; layers: LSTMs, one on top of the other, each adding to what it was given.
    """

    def __init__(self, image_size=28, channels=32, layers=3, conditional=False):
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.conditional, c = conditional, channels
        self.first = nn.Conv2d(1, c, 7)
        self.position = nn.Parameter(0.5 * torch.randn(c, *self.image_size))
        self.input_to_state = nn.ModuleList(nn.Conv2d(c, 4 * c, (1, 2)) for _ in range(layers))
        self.state_to_state = nn.ModuleList(nn.Conv1d(c, 4 * c, 3, padding=1, bias=False) for _ in range(layers))
        for layer in self.input_to_state:  # start by remembering: the forget gate's bias, the second quarter
            nn.init.ones_(layer.bias.data[c:2 * c])
        self.label_to_gates = nn.Embedding(10, layers * 4 * c) if conditional else None
        self.head = nn.Conv2d(c, 2 * c, 1)
        self.last = nn.Conv2d(2 * c, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.image_size))  # of each pixel
        self.register_buffer("mask_a", causal_mask(7, "A"))

    @torch.no_grad()
    def start_from_mean(self, images):
        """Start each pixel's bias at its log-odds. images: (N, 1, H, W) uint8, grey."""
        mean = images.float().mean(dim=(0, 1)) / 255
        self.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def label_terms(self, y):
        """What a label adds to each layer's gates: L terms of (B, 4C, 1), or of 0."""
        layers = len(self.input_to_state)
        return [0.0] * layers if y is None else self.label_to_gates(y)[:, :, None].chunk(layers, dim=1)

    @staticmethod
    def cell(gates, c):
        """One step of an LSTM. gates: (B, 4C, W), c: (B, C, W) -> state and cell, (B, C, W) each (6)."""
        i, f, o, g = gates.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def streams(self, x, y=None):
        """Features after the first layer and after each LSTM: L + 1 of (B, C, H, W)."""
        streams = [F.conv2d(2 * x - 1, self.first.weight * self.mask_a, self.first.bias, padding=3) + self.position]
        for to_state, between, term in zip(self.input_to_state, self.state_to_state, self.label_terms(y)):
            # What the pixels say, for all rows at once: columns j − 1 and j of the layer below (mask B).
            inputs = to_state(F.pad(streams[-1], (1, 0)))  # (B, 4C, H, W)
            h = c = torch.zeros_like(streams[-1][:, :, 0])
            states = []
            for row in inputs.unbind(dim=2):  # the recurrence: H steps
                h, c = self.cell(row + term + between(h), c)
                states.append(h)
            streams.append(streams[-1] + torch.stack(states, dim=2))
        return streams

    def logits(self, x, y=None):
        """All logits of (1) in one pass. x: (B, 1, H, W) in {0, 1} -> (B, 1, H, W)."""
        check_label(self, y)
        return self.last(F.relu(self.head(F.relu(self.streams(x, y)[-1])))) + self.bias

    def log_prob(self, x, y=None):
        """log p(x), exact. x: (B, 1, H, W) in {0, 1} -> (B,) nats."""
        return bernoulli_log_prob(self.logits(x, y), x)

    def loss(self, x, y=None, step=0):
        """What training minimises: −log p(x), as a mean over the batch. -> () nats."""
        return -self.log_prob(x, y).mean()

    # ----------------------------------------------------------------------------- sampling: Model 3

    @torch.no_grad()
    def sample_obvious(self, n, y=None, generator=None, x=None, known=None):
        """n draws from p(x), or p(x|y), as anybody would write it: D forward passes, each used for a single pixel.

        x (n, 1, H, W) and known (H, W) bool: pixels that are given. -> (n, 1, H, W).
        """
        u, x, y, drawn = start_of_sample(self, n, y, generator, x)
        for d in range(u.shape[1]):
            logits = self.logits(drawn, y).flatten(1)[:, d]
            # flatten() is a view: this writes into drawn.
            drawn.flatten(1)[:, d] = draw(u[:, d], logits, x.flatten(1)[:, d], known is not None and bool(known.flatten()[d]))
        return drawn

    @torch.no_grad()
    def sample(self, n, y=None, generator=None, x=None, known=None):
        """The pixels of sample_obvious: carry states and cells from row to row; within a row, each place once."""
        u, x, y, drawn = start_of_sample(self, n, y, generator, x)
        height, width = self.image_size
        channels, layers, terms = self.position.shape[0], len(self.input_to_state), self.label_terms(y)
        given = torch.zeros(height, width) if known is None else known
        first = (self.first.weight * self.mask_a)[:, 0, :4].flatten(1)  # the rows that count, as a matrix
        to_state = [m.weight.flatten(1) for m in self.input_to_state]
        signs = torch.zeros(n, height + 3, width + 6).to(u)  # ±1; 0: border, or not yet drawn
        h = [torch.zeros(n, channels, width).to(u) for _ in range(layers)]  # of the row above
        c = [torch.zeros(n, channels, width).to(u) for _ in range(layers)]
        for i in range(height):
            told = [self.state_to_state[k](h[k]) + terms[k] + self.input_to_state[k].bias[:, None] for k in range(layers)]
            h, new_c = [torch.zeros_like(s) for s in h], [torch.zeros_like(s) for s in c]
            left = [torch.zeros(n, channels).to(u) for _ in range(layers)]  # column j − 1 of the layer below
            for j in range(width):
                features = F.linear(signs[:, i:i + 4, j:j + 7].flatten(1), first, self.first.bias) + self.position[:, i, j]  # (n, C)
                for k in range(layers):
                    gates = F.linear(torch.stack([left[k], features], dim=2).flatten(1), to_state[k]) + told[k][:, :, j]
                    left[k] = features
                    h[k][:, :, j], new_c[k][:, :, j] = self.cell(gates, c[k][:, :, j])
                    features = features + h[k][:, :, j]
                logits = linear(self.last, F.relu(linear(self.head, F.relu(features))))[:, 0] + self.bias[i, j]
                drawn[:, 0, i, j] = draw(u[:, i * width + j], logits, x[:, 0, i, j], bool(given[i, j]))
                signs[:, i + 3, j + 3] = 2 * drawn[:, 0, i, j] - 1
            c = new_c
        return drawn


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, x, y):
    """Mean of −log p over a set of bits x (N, 1, H, W): nats per image, exact."""
    total = 0.0
    for i in range(0, len(x), 100):
        total -= model.log_prob(x[i:i + 100].float(), None if y is None else y[i:i + 100]).sum().item()
    return total / len(x)


@torch.no_grad()
def evaluate_without_label(model, x, y):
    """Scores of a conditional model that is not told the label: p(x) = ⅒ Σ_k p(x|k), all ten digits equally probable.

    x: bits (N, 1, H, W), y: labels (N,) -> the mean of −log p(x), nats per image, exact, which may stand beside an
    unconditional model's; and the part of images for which the most probable k is y (Bayes' rule: the largest p(x|k)).
    """
    total, right = 0.0, 0
    for i in range(0, len(x), 100):
        xb = x[i:i + 100].float()
        by_label = torch.stack([model.log_prob(xb, torch.full_like(y[i:i + 100], k)) for k in range(10)])  # (10, B)
        total -= (by_label.logsumexp(dim=0) - math.log(10)).sum().item()
        right += (by_label.argmax(dim=0) == y[i:i + 100]).sum().item()
    return total / len(x), right / len(x)


@torch.no_grad()
def surprise(model, x, y):
    """Where the nats are: −log₂ of each factor of (1). x: binary (N, 1, H, W) -> the same shape, in bits."""
    parts = []
    for i in range(0, len(x), 100):
        xb = x[i:i + 100].float()
        logits = model.logits(xb, None if y is None else y[i:i + 100])
        parts.append(F.binary_cross_entropy_with_logits(logits, xb, reduction="none") / math.log(2))
    return torch.cat(parts)


def sight(model, x, y, pixels):
    """What logits look at: mean over x (N, 1, H, W) of |∂ℓ_d / ∂x_i| for each d in pixels -> a list of (H, W)."""
    x = x.float().requires_grad_()
    logits = model.logits(x, y).flatten(1)
    return [torch.autograd.grad(logits[:, d].sum(), x, retain_graph=True)[0].abs().mean(dim=(0, 1)) for d in pixels]


def fields(model, x, y, d):
    """What features of place d see, after the first layer and after each further one: mean over x (N, 1, H, W) of
    |∂(w·h_d) / ∂x_i|, for one random vector w over the channels -> L + 1 of (H, W). Gated: of the h stack."""
    x = x.float().requires_grad_()
    streams = [s[1] if isinstance(s, tuple) else s for s in model.streams(x, y)]
    weight = torch.randn(streams[0].shape[1], generator=torch.Generator().manual_seed(0)).to(x)
    return [torch.autograd.grad((h.flatten(2)[:, :, d] @ weight).sum(), x, retain_graph=True)[0].abs().mean(dim=(0, 1))
            for h in streams]


# --------------------------------------------------------------------------------------------------
# Pictures: how this model behaves
# --------------------------------------------------------------------------------------------------


def grid_labels(model, n):
    """Labels for a picture of n digits: 0 to 9, a row of eight each, over and over; None if unconditional."""
    return (torch.arange(n) // 8) % 10 if model.conditional else None


def draw_fields(path, rows, d):
    """Receptive fields of place d, layer by layer, a row a model. rows: (name, model, x, y). White: not seen at all."""
    maps = [fields(model, x, y, d) for _, model, x, y in rows]
    figure, axes = plt.subplots(len(rows), max(map(len, maps)), figsize=(1.6 * max(map(len, maps)), 2 * len(rows)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for (name, *_), line, row in zip(rows, axes, maps):
        for k, (ax, map_) in enumerate(zip(line, row)):
            map_ = map_.cpu()
            ax.imshow(torch.where(map_ > 0, map_.clamp(min=1e-12).log10(), math.nan).numpy(), cmap="viridis", vmin=-4, vmax=0)
            ax.plot(d % map_.shape[1], d // map_.shape[1], "rs", markersize=3)
            ax.set(xticks=[], yticks=[])
            ax.axis("on")
            ax.set_title(f"layer {k}: sees {(map_ > 0).sum()}", fontsize=8)
        line[0].set_ylabel(name, fontsize=8)
    utils.save_figure(path, figure)


def draw_sight(path, rows, pixels):
    """rows: (name, model, x, y); a map of |∂ℓ_d/∂x| for each of some pixels d. White: exactly 0."""
    figure, axes = plt.subplots(len(rows), len(pixels), figsize=(2 * len(pixels), 2.2 * len(rows)), squeeze=False)
    for (name, model, x, y), line in zip(rows, axes):
        for ax, d, map_ in zip(line, pixels, sight(model, x, y, pixels)):
            map_ = map_.cpu()
            ax.imshow(torch.where(map_ > 0, map_.clamp(min=1e-12).log10(), math.nan).numpy(), cmap="viridis", vmin=-3, vmax=1)
            ax.plot(d % map_.shape[1], d // map_.shape[1], "rs", markersize=3)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=8)
    axes[0, 0].set_title("log₁₀ |∂ℓ_d/∂x|, −3 to 1; white: exactly 0; red: d", fontsize=8, loc="left")
    utils.save_figure(path, figure)


def draw_completions(path, model, x, y, known):
    """For each of the digits x (n, 1, H, W): itself, what is given of it, and eight draws of the rest."""
    generator, rows = torch.Generator().manual_seed(0), []
    for i in range(len(x)):
        label = y[i:i + 1].repeat(8) if model.conditional else None
        futures = model.sample(8, label, generator, x[i:i + 1].repeat(8, 1, 1, 1), known)
        given = torch.where(known.to(x.device), x[i].float(), 0.5)
        rows.append(("test digit, given, 8 draws" if i == 0 else "", torch.cat([x[i:i + 1].float(), given[None], futures])))
    utils.labelled_rows(path, rows)


def draw_surprise(path, bits, x):
    """The mean over the test set of each pixel's bits, and four digits with theirs. Both (N, 1, H, W)."""
    figure, axes = plt.subplot_mosaic("aabcde;aafghi", figsize=(11, 3.6))
    mean = bits.mean(dim=(0, 1)).cpu()
    figure.colorbar(axes["a"].imshow(mean.numpy(), cmap="magma"), ax=axes["a"], shrink=0.8)
    axes["a"].set_title(f"bits, mean of the test set; sum {mean.sum():.0f}", fontsize=9)
    for i, (above, below) in enumerate(("bf", "cg", "dh", "ei")):
        axes[above].imshow(x[i, 0].cpu().numpy(), cmap="gray")
        axes[below].imshow(bits[i, 0].cpu().numpy(), cmap="magma", vmin=0, vmax=5)
        axes[below].set_title(f"{bits[i].sum():.0f} bits", fontsize=9)
    for ax in axes.values():
        ax.set(xticks=[], yticks=[])
    utils.save_figure(path, figure)


def draw_animation(path, model, place):
    """Sixteen digits appearing, as a GIF. A pixel never changes once it is drawn, so the finished digits hold all
    frames. place: (D,) the step at which each pixel is drawn."""
    y = torch.arange(16) % 10 if model.conditional else None
    x = model.sample(16, y, torch.Generator().manual_seed(2)).cpu()
    place = place.view(x.shape[2:]).cpu()
    utils.save_animation(path, [torch.where(place <= t, x, 0.5) for t in range(0, place.numel() + 1, 14)])


def draw_pictures(model, folder, x, y):
    """All of the chapter's own pictures. x: bits (N, 1, H, W) and y: labels (N,) of the test set."""
    label = y if model.conditional else None
    height, width = model.image_size
    pixels = [(height * r // 28) * width + width * c // 28 for r, c in ((7, 14), (13, 7), (13, 14), (13, 20), (20, 14), (26, 14))]
    few, few_labels = x[:16], None if label is None else label[:16]
    draw_sight(folder / "sight.png", [("this model", model, few, few_labels)], pixels)
    # Beside it untrained models, eight layers each: what cannot be seen is a matter of the kernels alone.
    others = [kind(model.image_size, layers=8).to(x.device) for kind in (PixelCNN, GatedPixelCNN, RowLSTM)]
    draw_fields(folder / "receptive_field.png",
                [("this model", model, few, few_labels)] + [(f"new {type(m).__name__}", m, few, None) for m in others], pixels[4])
    top, left = torch.zeros(2, height, width, dtype=torch.bool)
    top[:height // 2], left[:, :width // 2] = True, True
    draw_completions(folder / "completion_top.png", model, x[:8], y[:8], top)
    draw_completions(folder / "completion_left.png", model, x[:8], y[:8], left)
    draw_surprise(folder / "surprise.png", surprise(model, x, label), x)
    draw_animation(folder / "sampling.gif", model, torch.arange(height * width) + 1)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


def train(model, data, run, steps, batch_size, lr, warm_up, clip, eval_images):
    """Maximum likelihood by Adam. Everything a resumed run needs is in model, optimizer and run."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)  # one pass over the weights: faster
    with run.training(model=model, optimizer=optimizer):
        while run.step < steps:
            # The learning rate falls linearly to 0: at a constant rate the weights would jitter around
            # the optimum to the end. Before that it rises over the first part, warm_up, of the run: Adam's
            # first steps are taken before it knows the scale of the gradients.
            done = run.step / steps
            optimizer.param_groups[0]["lr"] = lr * min((run.step + 1) / (steps * warm_up + 1), 1 - done)
            x, y = utils.random_batch(data, batch_size)
            loss = model.loss(x, y if model.conditional else None, run.step)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
            run.check_finite(loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            if run.tick(loss.item()):
                x_train, x_val = data.x_train[:eval_images], data.x_val[:eval_images]
                y_train, y_val = None, None
                if model.conditional:
                    y_train, y_val = data.train_labels[:len(x_train)], data.val_labels[:len(x_val)]
                picture = model.sample(10, torch.arange(10) if model.conditional else None, torch.Generator().manual_seed(1))
                run.record(evaluate(model, x_train, y_train), evaluate(model, x_val, y_val), model, picture)


def main(argv=None):
    parser = utils.common_flags(
        "pixelcnn.py", "Train a PixelCNN on binarized MNIST, draw from it, measure it.", STEPS, BATCH_SIZE, LR)
    parser.add_argument("--variant", choices=("gated", "original", "rnn"), default="gated",
                        help=f"gated: Gated PixelCNN; original: PixelCNN, by default {ORIGINAL_STEPS} steps at {ORIGINAL_LR}; rnn: "
                             f"PixelRNN, a Row LSTM, {RNN_STEPS} steps (default: %(default)s)")
    parser.add_argument("--width", type=utils.number(int, 2, 10000),
                        help=f"channels (default: {CHANNELS}; original: {ORIGINAL_CHANNELS}; rnn: {RNN_CHANNELS})")
    parser.add_argument("--depth", type=utils.number(int, 1, 100),
                        help=f"layers after the first (default: {LAYERS}; original: {ORIGINAL_LAYERS}; rnn: {RNN_LAYERS})")
    args = utils.parse(parser, argv)
    if "steps" not in args.given:
        args.steps = {"gated": args.steps, "original": ORIGINAL_STEPS, "rnn": RNN_STEPS}[args.variant]
    if "lr" not in args.given and args.variant == "original":
        args.lr = ORIGINAL_LR
    sizes = {"gated": (CHANNELS, LAYERS), "original": (ORIGINAL_CHANNELS, ORIGINAL_LAYERS), "rnn": (RNN_CHANNELS, RNN_LAYERS)}
    variant = "_".join([args.variant] * (args.variant != "gated") + utils.sizes(args, *sizes[args.variant]))
    run = utils.Run("pixelcnn", args, {"variant": args.variant}, variant)
    width, depth = args.width or sizes[args.variant][0], args.depth or sizes[args.variant][1]
    run.fix(width=width, depth=depth, WARM_UP=WARM_UP, CLIP=CLIP, EVAL_IMAGES=EVAL_IMAGES)

    torch.manual_seed(args.seed)
    kind = {"gated": GatedPixelCNN, "original": PixelCNN, "rnn": RowLSTM}[args.variant]
    model = kind(28, width, depth, args.conditional).to(args.device)
    if args.sample_only:
        run.load_best(model)
        run.draw(model)
        return
    if run.finished:
        print(f"{run.folder} is finished: its figures are in metrics.json. There is nothing to resume.")
        return
    data = utils.load_mnist(args.data_dir, args.device)
    run.check_data(data)
    model.start_from_mean(data.train)
    train(model, data, run, args.steps, args.batch_size, args.lr, WARM_UP, CLIP, EVAL_IMAGES)

    # From here on only the weights that were best on validation, and, once, the test set.
    run.load_best(model)
    print("scoring the test set ...")
    nats, own = evaluate(model, data.x_test, data.test_labels if model.conditional else None), {}
    run.check_finite(test_nats=nats)
    if model.conditional:  # and what it scores when nobody tells it the digit ("Labels" in the notes): ten passes over the test set
        own["marginal_nats"], own["bayes_accuracy"] = evaluate_without_label(model, data.x_test, data.test_labels)
    draw_pictures(model, run.folder, data.x_test, data.test_labels)
    run.draw(model)
    seconds = utils.median_seconds(lambda: model.sample(64, grid_labels(model, 64)))
    run.finish(model, test_nats=nats, likelihood="exact", sample_seconds_64=seconds, test_images=len(data.x_test), **own)


# --------------------------------------------------------------------------------------------------
# Exercises (Figures: validation nats after --steps 200 --lr 0.01, seed 0;
# samples/wavenet/ablations.json. The gated default: 91.6.)
# 1. Mask B in the first layer of PixelCNN; draw with sample_obvious(). What do loss and samples say?
#    Which test?
# 2. Draw receptive_field.png of PixelCNN with 2, 4, 8 blocks. Does the blind spot go away?
# 3. Let v listen to h: add h to v at the end of a layer of GatedPixelCNN. Which test fails? Find the
#    pixel that leaks.
# 4. Cut up_to_left. (96.6.) What of the rows above does h still see, and why?
# 5. Leave out `+ self.position` in each of the three. (Gated: 91.8.) Which of them minds least, and
#    why?
# 6. K_ss of width 1 in RowLSTM. What becomes of the triangle? And with width 5?
# 7. LAYERS = 4. (92.6.) How far does v look up then, and does a digit need more?
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    utils.start(main)
