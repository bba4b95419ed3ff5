"""What each detail of gan.py is worth: the default with one thing changed, in a short run.

    python tests/ablate_gan.py [--steps 1500] [--data-dir data] [--only NAME ...]

Writes runs/ablate_gan/ablations.json, a row a variant: Fréchet distance, precision and recall of 5,000 draws against grey validation
digits, the smallest and the largest share of a digit, seconds; and ablations.png, ten drawings of each from the same noise. A script to
run, not a test. The figures in the notes of the chapter come from the files that are committed in samples/gan/. Validation chooses; no test
figure is read here.
"""
import argparse
import io
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.nn as nn
import torch.nn.functional as F

from ablate_convolutions import after_init

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import gan  # noqa: E402
import utils  # noqa: E402


@torch.no_grad()
def dcgan_init(network):
    for part in network.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            part.weight.normal_(0, 0.02)


def without_norms(network):
    for name, part in list(network.named_children()):
        if isinstance(part, nn.BatchNorm2d):
            setattr(network, name, nn.Identity())


def spectral(network):
    without_norms(network)
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.utils.parametrizations.spectral_norm(part)


def without_layer(layer, norm):
    """Take out the convolution that does not change the size."""
    def change(network):
        setattr(network, norm, nn.Identity())
        if layer == "wide":
            setattr(network, layer, nn.Identity())
            network.last = nn.Linear(network.last.in_features // 2, 1)
        elif layer == "up_2":  # straight to one channel
            network.up_2, network.last = nn.ConvTranspose2d(network.up_2.in_channels, 1, 4, stride=2, padding=1), nn.Identity()
    return change


def up_2_last(network, z, y=None):
    """Generator.forward without its last convolution."""
    h = F.relu(network.norm_1(network.first(z).view(-1, *network.small)))
    h = F.relu(network.norm_3(network.refine(F.relu(network.norm_2(network.up_1(h))))))
    return torch.sigmoid(network.up_2(h))


def smoothed(real, fake, kind="ns"):
    """Real images count as real to 90 % (one-sided label smoothing)."""
    return (0.9 * F.softplus(-real) + 0.1 * F.softplus(real)).mean() + F.softplus(fake).mean()


def r1_step(generator, discriminator, optimizer, x, y, kind, penalty, noise=0.0):
    """D's step with R1 (Mescheder et al. 2018) in place of instance noise: the squared slope at real images, weighed by 0.05."""
    with torch.no_grad():
        drawn = generator(generator.noise(len(x)), y)
    x = x.requires_grad_()
    real, fake = discriminator(x, y), discriminator(drawn, y)
    gradient = torch.autograd.grad(real.sum(), x, create_graph=True)[0]
    loss = gan.discriminator_loss(real, fake) + 0.025 * gradient.flatten(1).square().sum(dim=1).mean()
    return loss.item(), real.sigmoid().mean().item(), fake.sigmoid().mean().item(), gan.update(discriminator, optimizer, loss)


def leaking_step_of_D(generator, discriminator, optimizer, x, y, kind, penalty, noise=0.0):
    """The classic mistake, first half: drawings of D's step keep their gradients, so G gets those of D's loss."""
    x, drawn = gan.blurred(x, noise), gan.blurred(generator(generator.noise(len(x)), y), noise)
    real, fake = discriminator(x, y), discriminator(drawn, y)
    loss = gan.discriminator_loss(real, fake)
    return loss.item(), real.sigmoid().mean().item(), fake.sigmoid().mean().item(), gan.update(discriminator, optimizer, loss)


def leaking_step_of_G(generator, discriminator, optimizer, n, y, kind, noise=0.0):
    """And its second half: G's step does not set them to zero before it adds its own."""
    loss = gan.generator_loss(discriminator(gan.blurred(generator(generator.noise(n), y), noise), y), kind)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item(), 0.0


def constant(name, value):
    return [(gan, name, value)]


def rate(factor):
    return ["--lr", f"{gan.LR * factor:.6f}"]


VARIANTS = {  # name: (flags, patches: (object, attribute, value))
    "default": ([], []),
    "seed 1": (["--seed", "1"], []),
    "D's step reaches G": ([], [(gan, "discriminator_step", leaking_step_of_D), (gan, "generator_step", leaking_step_of_G)]),
    "minimax loss (4)": ([], [(gan, "generator_loss", lambda fake, kind="ns": -F.softplus(fake).mean())]),
    "no noise on what D sees": ([], constant("NOISE", 0.0)),
    "beta_1 0.5": ([], constant("BETA_1", 0.5)),
    "beta_1 0.9": ([], constant("BETA_1", 0.9)),
    "no average": ([], constant("AVERAGE", 0.0)),
    "no batch norm in D": ([], [after_init(gan.Discriminator, without_norms)]),
    "no batch norm in G": ([], [after_init(gan.Generator, without_norms)]),
    "D without `wide`": ([], [after_init(gan.Discriminator, without_layer("wide", "norm_3"))]),
    "G without `last`": ([], [after_init(gan.Generator, without_layer("up_2", "norm_4")), (gan.Generator, "forward", up_2_last)]),
    "z of 2": (["--z-size", "2"], []),
    "z of 64": (["--z-size", "64"], []),
    "lr / 3": (rate(1 / 3), []),
    "lr * 3": (rate(3), []),
    "weights start at N(0, 0.02)": ([], [after_init(gan.Generator, dcgan_init), after_init(gan.Discriminator, dcgan_init)]),
    "label smoothing": ([], [(gan, "discriminator_loss", smoothed)]),
    "spectral norm for batch norm in D": ([], [after_init(gan.Discriminator, spectral)]),
    "R1, no noise, no batch norm in D": ([], [(gan, "discriminator_step", r1_step), after_init(gan.Discriminator, without_norms)] + constant("NOISE", 0.0)),
    "wgan-gp": (["--loss", "wgan-gp"], []),
}


def measure(name, steps, data_dir):
    """Train one variant -> its validation figures as a dict, and ten drawings."""
    flags, patches = VARIANTS[name]
    flags = ["--steps", str(steps)] + flags
    result, pictures = {"name": name, "command": "python gan.py " + " ".join(flags)}, None

    class Done(Exception):
        pass

    def load_best(run, model):  # in place of scoring and pictures: the weights as they are at the end
        nonlocal pictures
        data, judge = utils.load_mnist(data_dir), utils.load_judge()
        draws = model.sample(5000, None, torch.Generator().manual_seed(0))
        found = utils.scores(judge, draws, data.val)
        shares = found.pop("shares")
        result.update(**found, least=min(shares), most=max(shares), seconds=round(run.train_seconds, 1))
        pictures = model.sample(16, None, torch.Generator().manual_seed(1))
        raise Done

    with tempfile.TemporaryDirectory() as folder:
        patched = [mock.patch.object(*patch) for patch in patches + [
            (utils.Run, "load_best", load_best), (utils.Run, "record", lambda run, *args, **more: None), (gan, "EVAL_DRAWS", 100)]]
        for patch in patched:
            patch.start()
        try:
            gan.main(flags + ["--data-dir", data_dir, "--out", f"{folder}/run"])
        except SystemExit as stop:
            if stop.code != 2:  # Ctrl-C
                raise
            result.update(frechet=None)
        except Done:
            pass
        finally:
            for patch in patched:
                patch.stop()
    return result, pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="NAME", default=list(VARIANTS))
    args = parser.parse_args()
    folder = Path("runs/ablate_gan")
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        row, pictures = measure(name, args.steps, args.data_dir)
        print(row, flush=True)
        # A file a variant: so that two processes can share the work.
        buffer = io.BytesIO()
        torch.save({"row": row, "pictures": pictures}, buffer)
        utils.write_atomically(folder / f"{list(VARIANTS).index(name):02}.pt", buffer.getvalue())
        found = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
        found = [f for f in found if f"--steps {args.steps}" in f["row"]["command"]]  # none of another length
        (folder / "ablations.json").write_text(json.dumps([f["row"] for f in found], indent=1) + "\n")
        utils.labelled_rows(folder / "ablations.png", [(f["row"]["name"], f["pictures"]) for f in found if f["pictures"] is not None])


if __name__ == "__main__":
    main()
