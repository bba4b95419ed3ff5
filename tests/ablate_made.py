"""What each detail of made.py is worth: the default with one thing changed, in a short run.

    python tests/ablate_made.py [--steps 700] [--rnn-steps 120] [--data-dir data] [--only NAME ...]

Writes runs/ablate_made/ablations.json, a row a variant: nats on all validation images (the RNN: on the first
2,000), gradient norms, seconds; with several mask sets also both kinds of averages; and broken_masks.png, what
models draw whose masks are broken. A script to run, not a test. The figures in made.py's notes come from the file that is committed as samples/made/ablations.json.
Validation chooses; no test figure is read here.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import made  # noqa: E402
import utils  # noqa: E402

build_masks, start_from_mean = made.build_masks, made.MADE.start_from_mean


def masks_with(hidden_strict=False, between_strict=False, output_equal=False, direct=True):
    def build(place, degree):
        to_hidden, between, to_logit, to_self = build_masks(place, degree)
        if hidden_strict:
            to_hidden = degree[:, None] > place[None]
        if between_strict:
            between = degree[:, None] > degree[None]
        if output_equal:
            to_logit = place[:, None] >= degree[None]
        return to_hidden, between, to_logit, to_self & direct

    return build


def no_masks(place, degree):
    return tuple(torch.ones_like(mask) for mask in build_masks(place, degree))


def even_degrees(self, place, m=0):
    width = self.first.out_features
    return torch.arange(width, device=place.device) * (len(place) - 1) // width + 1


def random_degrees(self, place, m=0):
    return torch.randint(1, len(place), (self.first.out_features,))


def not_centred(self, images):
    start_from_mean(self, images)
    self.mean.zero_()


def no_residual(self, x, y=None, place=None, degree=None, dropout=0.0):
    place, degree = (self.place[0], self.degree[0]) if place is None else (place, degree)
    to_hidden, between, to_logit, direct = made.build_masks(place, degree)
    v = x.flatten(1) - self.mean
    h = F.silu(F.linear(v, made.masked(self.first.weight, to_hidden), self.first.bias))
    for layer in self.hidden:
        h = F.silu(F.linear(h, made.masked(layer.weight, between), layer.bias))
    return (F.linear(h, made.masked(self.last.weight, to_logit), self.last.bias)
            + F.linear(v, made.masked(self.direct, direct))).view(x.shape)


def norm_over_units(self, x, y=None, place=None, degree=None, dropout=0.0):
    """LayerNorm in front of each activation."""
    place, degree = (self.place[0], self.degree[0]) if place is None else (place, degree)
    to_hidden, between, to_logit, direct = made.build_masks(place, degree)
    v, size = x.flatten(1) - self.mean, (self.first.out_features,)
    h = F.silu(F.layer_norm(F.linear(v, made.masked(self.first.weight, to_hidden), self.first.bias), size))
    for layer in self.hidden:
        h = h + F.silu(F.layer_norm(F.linear(h, made.masked(layer.weight, between), layer.bias), size))
    return (F.linear(h, made.masked(self.last.weight, to_logit), self.last.bias)
            + F.linear(v, made.masked(self.direct, direct))).view(x.shape)


def no_position(self, window, position, y):
    return F.silu(self.window_to_features(window))


def no_state(self, state, features):
    return self.last(F.silu(self.features_to_head(features)))[..., 0]


def nothing_but_the_last_pixel(self, x):
    padded = torch.cat([2 * x - 1, torch.zeros_like(x[:, :1])], dim=1)
    window = padded[:, self.seen].transpose(0, 1)
    return torch.cat([window[..., :1], torch.zeros_like(window[..., 1:])], dim=-1)


RNN = ["--variant", "rnn"]
VARIANTS = {  # name: (flags, patches: (object, attribute, value))
    "default": ([], []),
    "seed 1": (["--seed", "1"], []),
    "no masks": ([], [(made, "build_masks", no_masks)]),
    "output mask >=": ([], [(made, "build_masks", masks_with(output_equal=True))]),
    "first hidden mask >": ([], [(made, "build_masks", masks_with(hidden_strict=True))]),
    "first hidden mask >, no direct weights": ([], [(made, "build_masks", masks_with(hidden_strict=True, direct=False))]),
    "second hidden mask >": ([], [(made, "build_masks", masks_with(between_strict=True))]),
    "no direct weights": ([], [(made, "build_masks", masks_with(direct=False))]),
    "no residual": ([], [(made.MADE, "logits", no_residual)]),
    "LayerNorm": ([], [(made.MADE, "logits", norm_over_units)]),
    "even degrees": ([], [(made.MADE, "new_degree", even_degrees)]),
    "random degrees": ([], [(made.MADE, "new_degree", random_degrees)]),
    "inputs not centred": ([], [(made.MADE, "start_from_mean", not_centred)]),
    "ReLU": ([], [(made.F, "silu", F.relu)]),
    "one hidden layer": ([], [(made, "DEPTH", 1)]),
    "half the width": ([], [(made, "WIDTH", made.WIDTH // 2)]),
    "lr / 3": (["--lr", f"{made.LR / 3:.6f}"], []),
    "lr * 3": (["--lr", f"{made.LR * 3:.6f}"], []),
    "random order": (["--order", "random"], []),
    "4 masks": (["--num-masks", "4"], []),
    "4 orders": (["--order", "random", "--num-masks", "4"], []),
    "rnn": (RNN, []),
    "rnn, gru": (RNN + ["--cell", "gru"], []),
    "rnn, no position": (RNN, [(made.RNN, "features", no_position)]),
    "rnn, window without state": (RNN, [(made.RNN, "head", no_state)]),
    "rnn, fed with the last pixel alone": (RNN, [(made.RNN, "windows", nothing_but_the_last_pixel)]),
    "rnn, reach 0": (RNN, [(made, "RNN_REACH", 0)]),
    "rnn, no clipping": (RNN, [(made, "RNN_CLIP", 1e9)]),
    "rnn, lr / 3": (RNN + ["--lr", f"{made.RNN_LR / 3:.6f}"], []),
    "rnn, lr * 3": (RNN + ["--lr", f"{made.RNN_LR * 3:.6f}"], []),
}

DRAWN = {"default": "default", "no masks": "no masks", "output mask >=": "logit ≥ unit",
         "first hidden mask >, no direct weights": "unit > pixel"}  # rows of broken_masks.png


def measure(name, steps, rnn_steps, data_dir, pictures):
    """Train one variant; its validation figures as a dict. What it draws, if that is of interest, goes into pictures."""
    flags, patches = VARIANTS[name]
    flags = ["--steps", str(rnn_steps if "rnn" in flags else steps)] + flags
    result, norms = {"name": name, "command": "python made.py " + " ".join(flags)}, []

    class Done(Exception):
        pass

    def load_best(run, model):  # in place of scoring and pictures: the weights as they are at the end
        made.evaluate = evaluate
        data = utils.load_mnist(data_dir)
        x_val = data.x_val[:made.RNN_EVAL_IMAGES] if "rnn" in flags else data.x_val
        norms.sort()
        result.update(val_nats=made.evaluate(model, x_val, None), train_nats=made.evaluate(model, data.x_train[:len(x_val)], None),
                      gradient_median=norms[len(norms) // 2], gradient_max=norms[-1],
                      parameters=sum(p.numel() for p in model.parameters()), seconds=round(run.train_seconds, 1))
        if getattr(model, "num_masks", 1) > 1:
            result.update(made.compare_averages(model, x_val, None))
        if name in DRAWN:
            pictures[name] = model.sample_obvious(10, None, torch.Generator().manual_seed(0))
        raise Done

    def check_finite(run, **values):
        if "gradient" in values:
            norms.append(values["gradient"])
        return finite(run, **values)

    finite = utils.Run.check_finite
    with tempfile.TemporaryDirectory() as folder:
        patched = [mock.patch.object(*patch) for patch in patches + [
            (utils.Run, "load_best", load_best), (utils.Run, "check_finite", check_finite),
            (utils.Run, "record", lambda run, *args, **more: None), (made, "evaluate", lambda *args: 0.0),
            (made.MADE, "sample", lambda *args: None), (made.RNN, "sample", lambda *args: None)]]
        evaluate = made.evaluate
        for patch in patched:
            patch.start()
        try:
            made.main(flags + ["--data-dir", data_dir, "--out", f"{folder}/run"])
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--rnn-steps", type=int, default=120)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="NAME", default=list(VARIANTS))
    args = parser.parse_args()
    path = Path("runs/ablate_made/ablations.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    pictures = {}
    for name in args.only:
        rows[name] = measure(name, args.steps, args.rnn_steps, args.data_dir, pictures)
        print(rows[name], flush=True)
        path.write_text(json.dumps([rows[name] for name in VARIANTS if name in rows], indent=1) + "\n")
    if len(pictures) == len(DRAWN):
        utils.labelled_rows(path.parent / "broken_masks.png", [(label, pictures[name]) for name, label in DRAWN.items()])


if __name__ == "__main__":
    main()
