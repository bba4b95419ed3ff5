"""What each detail of wavenet.py and pixelcnn.py is worth: one thing changed, in a short run.

    python experiments/ablate_convolutions.py [--steps 400] [--data-dir data] [--only NAME ...]

Writes runs/ablations/convolutions.json, a row a variant: nats on the first 1,000 validation images,
gradient norms, seconds; as means of three seeds with their span, but for whole runs and for mask B
first. A script to run, not a test. The figures in the notes of both chapters come from the file
that is committed as results/ablations/convolutions.json. Validation chooses; no test figure is read
here.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from ablate import changed, frozen, likelihood_figures, main, rates, with_adam

import pixelcnn
import wavenet
from wavenet import WaveNet


class Streams(WaveNet):
    """WaveNet without labels, whose streams can lose residual connections or skips, or are told
    where in the image they are."""

    residual_stream, all_skips, shifted = True, True, True

    def place(self):
        return 0.0

    def streams(self, x, y=None):
        taps = self.first.in_features
        v = F.pad(2 * x.flatten(1) - 1, (taps, 0)).unfold(1, taps, 1)
        v = v[:, :-1] if self.shifted else v[:, 1:]
        h, skips = self.first(v.transpose(0, 1)) + self.place(), 0.0
        for k, delta in enumerate(self.dilations):
            taps = self.now[k](h)
            if delta < len(h):
                taps = torch.cat([taps[:delta], taps[delta:] + self.past[k](h[:-delta])])
            g = self.gate(taps)
            h = (h if self.residual_stream else 0.0) + self.residual[k](g)
            if self.all_skips or k == len(self.dilations) - 1:
                skips = skips + self.skip[k](g)
        return None, skips


class NoResidual(Streams):
    residual_stream = False


class NoSkip(Streams):
    all_skips = False


class NotShifted(Streams):
    shifted = False


class ReluWaveNet(WaveNet):
    def gate(self, taps):
        return F.relu(taps.chunk(2, dim=-1)[0])


class ReluGatedPixelCNN(pixelcnn.GatedPixelCNN):
    """Without labels."""

    def streams(self, x, y=None):
        signs = 2 * x - 1
        v = self.first_up(F.pad(signs[:, :, :-1], (3, 3, 3, 0)))
        h = self.first_left(F.pad(signs[:, :, :, :-1], (3, 0, 0, 0))) + v
        for k, delta in enumerate(self.dilations):
            up = self.up[k](F.pad(v, (delta, delta, delta, 0)))
            left = self.left[k](F.pad(h, (delta, 0, 0, 0))) + self.up_to_left[k](up)
            h = h + self.residual[k](F.relu(left.chunk(2, dim=1)[0]))
            v = F.relu(up.chunk(2, dim=1)[0])
        return [h]


def no_dilation(model):
    model.dilations = [1] * len(model.dilations)
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.dilation = (1, 1)


def mask_b_first(model):
    model.mask_a.copy_(pixelcnn.causal_mask(7, "B"))


def without_tap(column):
    """A build(): v's kernels lose one of their six taps, in the row itself; 2: on its right. Then
    to go right v has to go up, a step for each step, and what is left is the blind spot of the
    original. 0: on its left, where h goes as well: as few weights, and v and h see all."""
    def cut(model):
        for conv in model.up:
            kept = torch.ones_like(conv.weight)
            kept[:, :, 1, column] = 0
            conv.weight.data *= kept
            conv.weight.register_hook(lambda grad, kept=kept: grad * kept)

    return changed(pixelcnn, cut)


class Placed(Streams):
    """WaveNet with a learned vector for each step, where in the image?, and a bias for each logit,
    which begins at the pixel's mean. Their names say that Adam moves them."""

    @torch.no_grad()
    def start_from_mean(self, images):
        mean = images.float().mean(dim=(0, 1)).flatten() / 255
        self.last_biases.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def place(self):
        return self.last_position

    def logits(self, x, y=None):
        return super().logits(x, y) + self.last_biases.view(x.shape[2:])


def places(model):
    pixels, channels = model.image_size[0] * model.image_size[1], model.first.out_features
    model.last_position = nn.Parameter(0.5 * torch.randn(pixels, 1, channels))
    model.last_biases = nn.Parameter(torch.zeros(pixels))


def places_on_the_plane(model):
    """The same on the plane, for the gated model: beside its entrance, and behind its logits."""
    image = model.image_size
    model.last_position = nn.Parameter(0.5 * torch.randn(model.first_up.out_channels, *image))
    model.last_biases = nn.Parameter(torch.zeros(image))
    model.first_up.register_forward_hook(lambda conv, given, out: out + model.last_position)
    model.last.register_forward_hook(lambda conv, given, out: out + model.last_biases)


def narrow(s):
    """Half the channels, but the head is as wide as before."""
    return WaveNet(28, s.width, 4 * s.width, s.first_taps, s.dilations, s.classes)


LONGER = "--steps 400"  # in 200 steps Adam leads
ORIGINAL, RNN = "--variant original", "--variant rnn"
ONE = f"{LONGER} --first-taps 1"
VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "wavenet": (wavenet, LONGER, None),
    "wavenet, Adam": (wavenet, LONGER, with_adam(wavenet)),
    "wavenet, Adam, --lr 0.01": (wavenet, f"{LONGER} --lr 0.01", with_adam(wavenet)),
    "wavenet, line": (wavenet, f"{LONGER} --dilations line", None),
    "wavenet, one first tap": (wavenet, ONE, None),
    "wavenet, line, one first tap": (wavenet, f"{ONE} --dilations line", None),
    "wavenet, no dilation": (wavenet, LONGER, changed(wavenet, no_dilation)),
    "wavenet, no gate": (wavenet, LONGER, changed(wavenet, methods=ReluWaveNet)),
    "wavenet, no residual": (wavenet, LONGER, changed(wavenet, methods=NoResidual)),
    "wavenet, no skip": (wavenet, LONGER, changed(wavenet, methods=NoSkip)),
    "wavenet, told where it is": (wavenet, LONGER, changed(wavenet, places, Placed)),
    "wavenet, half the channels": (wavenet, f"{LONGER} --width 16", narrow),
    "wavenet, no clipping": (wavenet, f"{LONGER} --clip 1e9", None),
    **rates(wavenet, LONGER, "wavenet, "),
    "wavenet, whole run": (wavenet, "--steps 4500", None),
    "wavenet, whole run, Adam": (wavenet, "--steps 4500", with_adam(wavenet)),
    "wavenet, whole run, Adam, --lr 0.01": (wavenet, "--steps 4500 --lr 0.01", with_adam(wavenet)),
    "wavenet, not shifted": (wavenet, LONGER, changed(wavenet, methods=NotShifted)),
    "wavenet, 28 first taps": (wavenet, f"{LONGER} --first-taps 28", None),
    "wavenet, 300 first taps": (wavenet, f"{LONGER} --first-taps 300", None),
    "gated": (pixelcnn, LONGER, None),
    "gated, Adam": (pixelcnn, LONGER, with_adam(pixelcnn)),
    "gated, no gate": (pixelcnn, LONGER, changed(pixelcnn, methods=ReluGatedPixelCNN)),
    "gated, no dilation": (pixelcnn, LONGER, changed(pixelcnn, no_dilation)),
    "gated, told where it is": (pixelcnn, LONGER, changed(pixelcnn, places_on_the_plane)),
    "gated, v tells h only once": (pixelcnn, LONGER, frozen(pixelcnn, "up_to_left")),
    "gated, 900 steps, blind": (pixelcnn, "--steps 900", without_tap(2)),
    "gated, 900 steps, not blind": (pixelcnn, "--steps 900", without_tap(0)),
    "original": (pixelcnn, f"{LONGER} {ORIGINAL}", None),
    "original, no position": (
        pixelcnn, f"{LONGER} {ORIGINAL}", frozen(pixelcnn, "position")),
    "original, mask B first": (
        pixelcnn, f"{LONGER} {ORIGINAL}", changed(pixelcnn, mask_b_first)),
    "row lstm": (pixelcnn, f"{LONGER} {RNN}", None),
    "row lstm, no state to state": (
        pixelcnn, f"{LONGER} {RNN}", frozen(pixelcnn, "state_to_state")),
}


def figures(name, model, data, norms):
    return likelihood_figures(VARIANTS[name][0], model, data, norms)


def seeds(name):
    return 1 if "whole" in name or "mask B" in name else 3


if __name__ == "__main__":
    main(VARIANTS, "convolutions", 400, __doc__, figures, {"val_nats": None}, seeds=seeds)
