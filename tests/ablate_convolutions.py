"""What each detail of wavenet.py and pixelcnn.py is worth: the default with one thing changed, in a short run.

    python tests/ablate_convolutions.py [--steps 200] [--data-dir data] [--only NAME ...]

Writes runs/ablate_convolutions/ablations.json, a row a variant: nats on the first 1,000 validation images, gradient
norms, seconds. A script to run, not a test. The figures in the notes of both chapters come from the file that is
committed as samples/wavenet/ablations.json. Validation chooses; no test figure is read here.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pixelcnn  # noqa: E402
import utils  # noqa: E402
import wavenet  # noqa: E402

IMAGES = 1000


def streams_with(residual=True, skip=True):
    """WaveNet.streams without residual connections, or with skip connections from the last layer only."""
    def streams(self, x, y=None):
        v = F.pad(2 * x.flatten(1) - 1, (self.first.in_features, 0)).unfold(1, self.first.in_features, 1)
        h, skips = self.first(v[:, :-1].transpose(0, 1)) + self.position, 0.0
        for k, delta in enumerate(self.dilations):
            taps = self.now[k](h)
            if delta < len(h):
                taps = torch.cat([taps[:delta], taps[delta:] + self.past[k](h[:-delta])])
            g = self.gate(taps)
            h = (h if residual else 0.0) + self.residual[k](g)
            if skip or k == len(self.dilations) - 1:
                skips = skips + self.skip[k](g)
        return None, skips

    return streams


def after_init(kind, change):
    """A patch: kind.__init__, and then change(self)."""
    init = kind.__init__

    def changed(self, *args, **flags):
        init(self, *args, **flags)
        change(self)

    return (kind, "__init__", changed)


def frozen_at_zero(kind, *names):
    """A patch: these parameters (or the parameters of these lists of modules) are 0 for ever."""
    def freeze(model):
        for name in names:
            part = getattr(model, name)
            for p in part.parameters() if isinstance(part, nn.Module) else [part]:
                p.data.zero_()
                p.requires_grad_(False)

    return after_init(kind, freeze)


def relu_gate(taps):
    return F.relu(taps.chunk(2, dim=1)[0])


def rates(module, name, lr):
    return {f"{name}, lr / 3": (module, ["--lr", f"{lr / 3:.6f}"], []), f"{name}, lr * 3": (module, ["--lr", f"{lr * 3:.6f}"], [])}


ORIGINAL, RNN = ["--variant", "original"], ["--variant", "rnn"]
SHORT = ["--lr", "0.01"]  # best in 200 steps; a whole run wants about half of it (notes of wavenet.py)
VARIANTS = {  # name: (chapter, flags, patches: (object, attribute, value))
    "wavenet": (wavenet, SHORT, []),
    "wavenet, seed 1": (wavenet, SHORT + ["--seed", "1"], []),
    "wavenet, line": (wavenet, SHORT + ["--dilations", "line"], []),
    "wavenet, one first tap": (wavenet, SHORT, [(wavenet, "FIRST_TAPS", 1)]),
    "wavenet, line, one first tap": (wavenet, SHORT + ["--dilations", "line"], [(wavenet, "FIRST_TAPS", 1)]),
    "wavenet, no dilation": (wavenet, SHORT, [(wavenet, "choose_dilations", lambda *args: [1] * 10)]),
    "wavenet, no gate": (wavenet, SHORT, [(wavenet.WaveNet, "gate", lambda self, taps: F.relu(taps.chunk(2, dim=-1)[0]))]),
    "wavenet, no residual": (wavenet, SHORT, [(wavenet.WaveNet, "streams", streams_with(residual=False))]),
    "wavenet, no skip": (wavenet, SHORT, [(wavenet.WaveNet, "streams", streams_with(skip=False))]),
    "wavenet, no position": (wavenet, SHORT, [frozen_at_zero(wavenet.WaveNet, "position")]),
    "wavenet, neither position nor bias": (wavenet, SHORT, [frozen_at_zero(wavenet.WaveNet, "position", "bias"),
                                                         (wavenet.WaveNet, "start_from_mean", lambda self, images: None)]),
    "wavenet, one first tap, neither": (wavenet, SHORT, [(wavenet, "FIRST_TAPS", 1), frozen_at_zero(wavenet.WaveNet, "position", "bias"),
                                                      (wavenet.WaveNet, "start_from_mean", lambda self, images: None)]),
    "wavenet, half the channels": (wavenet, SHORT, [(wavenet, "CHANNELS", wavenet.CHANNELS // 2)]),
    "wavenet, no clipping": (wavenet, SHORT, [(wavenet, "CLIP", 1e9)]),
    **rates(wavenet, "wavenet", 0.01),
    "gated": (pixelcnn, SHORT, []),
    "gated, seed 1": (pixelcnn, SHORT + ["--seed", "1"], []),
    "gated, no gate": (pixelcnn, SHORT, [(pixelcnn, "gate", relu_gate)]),
    "gated, no dilation": (pixelcnn, SHORT, [(pixelcnn, "choose_dilations", lambda layers: [1] * layers)]),
    "gated, no position": (pixelcnn, SHORT, [frozen_at_zero(pixelcnn.GatedPixelCNN, "position")]),
    "gated, neither position nor bias": (pixelcnn, SHORT, [frozen_at_zero(pixelcnn.GatedPixelCNN, "position", "bias"),
                                                        (pixelcnn.GatedPixelCNN, "start_from_mean", lambda self, images: None)]),
    "gated, v tells h only once": (pixelcnn, SHORT, [frozen_at_zero(pixelcnn.GatedPixelCNN, "up_to_left")]),
    "gated, half the channels": (pixelcnn, SHORT, [(pixelcnn, "CHANNELS", pixelcnn.CHANNELS // 2)]),
    "gated, half the layers": (pixelcnn, SHORT, [(pixelcnn, "LAYERS", pixelcnn.LAYERS // 2)]),
    **rates(pixelcnn, "gated", 0.01),
    "original": (pixelcnn, SHORT + ORIGINAL, []),
    "original, no position": (pixelcnn, SHORT + ORIGINAL, [frozen_at_zero(pixelcnn.PixelCNN, "position")]),
    "row lstm": (pixelcnn, SHORT + RNN, []),
    "row lstm, no position": (pixelcnn, SHORT + RNN, [frozen_at_zero(pixelcnn.RowLSTM, "position")]),
    "row lstm, no state to state": (pixelcnn, SHORT + RNN, [frozen_at_zero(pixelcnn.RowLSTM, "state_to_state")]),
}


def measure(name, variant, steps, data_dir):
    """Train one variant; its validation figures as a dict."""
    chapter, flags, patches = variant
    flags = ["--steps", str(steps)] + flags
    result, norms = {"name": name, "command": f"python {chapter.__name__}.py " + " ".join(flags)}, []
    evaluate, finite = chapter.evaluate, utils.Run.check_finite

    class Done(Exception):
        pass

    def load_best(run, model):  # in place of scoring and pictures: the weights as they are at the end
        data = utils.load_mnist(data_dir)
        norms.sort()
        result.update(val_nats=evaluate(model, data.x_val[:IMAGES], None), train_nats=evaluate(model, data.x_train[:IMAGES], None),
                      gradient_median=norms[len(norms) // 2], gradient_max=norms[-1],
                      parameters=sum(p.numel() for p in model.parameters()), seconds=round(run.train_seconds, 1))
        raise Done

    def check_finite(run, **values):
        if "gradient" in values:
            norms.append(values["gradient"])
        return finite(run, **values)

    models = [item for item in vars(chapter).values() if hasattr(item, "sample_obvious")]
    with tempfile.TemporaryDirectory() as folder:
        patched = [mock.patch.object(*patch) for patch in patches + [
            (utils.Run, "load_best", load_best), (utils.Run, "check_finite", check_finite),
            (utils.Run, "record", lambda run, *args, **more: None), (chapter, "evaluate", lambda *args: 0.0),
            *[(model, "sample", lambda *args: None) for model in models]]]
        for patch in patched:
            patch.start()
        try:
            chapter.main(flags + ["--data-dir", data_dir, "--out", f"{folder}/run"])
        except SystemExit as stop:
            if stop.code != 2:  # Ctrl-C
                raise
            result.update(val_nats=None, diverged_after=len(norms))
        except Done:
            pass
        finally:
            for patch in patched:
                patch.stop()
    return result


def main(variants=VARIANTS, folder="ablate_convolutions", steps=200, description=__doc__):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="+", choices=list(variants), metavar="NAME", default=list(variants))
    args = parser.parse_args()
    path = Path("runs") / folder / "ablations.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    for name in args.only:
        rows[name] = measure(name, variants[name], args.steps, args.data_dir)
        print(rows[name], flush=True)
        path.write_text(json.dumps([rows[name] for name in variants if name in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
