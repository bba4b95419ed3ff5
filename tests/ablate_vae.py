"""What each detail of vae.py is worth: the default with one thing changed, at 900 steps.

    python tests/ablate_vae.py [--steps 900] [--data-dir data] [--only NAME ...]

Writes runs/ablate_vae/ablations.json, a row a variant: validation −ELBO, its two terms, live latent
dimensions, seconds. A script to run, not a test. The figures in vae.py's notes come from the file that
is committed as samples/vae/ablations.json. Validation chooses; no test figure is read here.
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
import utils  # noqa: E402
import vae  # noqa: E402


class ReluMLP(vae.MLP):
    def forward(self, u, dropout=0.0):
        h = F.relu(self.first(u))
        for layer in self.hidden:
            h = h + F.relu(layer(h))
        return self.last(h)


class PlainMLP(vae.MLP):
    """Hidden layers that replace their input instead of adding to it."""

    def forward(self, u, dropout=0.0):
        h = F.silu(self.first(u))
        for layer in self.hidden:
            h = F.silu(layer(h))
        return self.last(h)


class NormMLP(vae.MLP):
    """LayerNorm in front of each activation."""

    def __init__(self, n_in, width, depth, n_out):
        super().__init__(n_in, width, depth, n_out)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, u, dropout=0.0):
        h = F.silu(self.norms[0](self.first(u)))
        for layer, norm in zip(self.hidden, self.norms[1:]):
            h = h + F.silu(norm(layer(h)))
        return self.last(h)


class ConvVAE(vae.VAE):
    """Two strided convolutions and a linear layer; the decoder is the mirror image."""

    def __init__(self, image_size=28, z_size=40, width=400, depth=3, conditional=False, channels=16):
        super().__init__(image_size, z_size, width, depth, conditional)
        c = channels
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, c, 4, 2, 1), nn.SiLU(), nn.Conv2d(c, 2 * c, 4, 2, 1), nn.SiLU(),
            nn.Flatten(), nn.Linear(2 * c * 49, 256), nn.SiLU(), nn.Linear(256, 2 * z_size))
        self.decoder = nn.Sequential(
            nn.Linear(z_size, 256), nn.SiLU(), nn.Linear(256, 2 * c * 49), nn.SiLU(), nn.Unflatten(1, (2 * c, 7, 7)),
            nn.ConvTranspose2d(2 * c, c, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(c, 1, 4, 2, 1), nn.Flatten())

    def encode(self, x, y=None, dropout=0.0):
        return self.encoder(self.with_label(x.flatten(1), y)).chunk(2, dim=1)

    def decode(self, z, y=None, dropout=0.0):
        return self.decoder(self.with_label(z, y)).view(-1, 1, *self.image_size)

    def start_from_mean(self, images):
        pass


def no_gradient_through_z(self, x, y=None, generator=None, dropout=0.0):
    """z drawn, and cut from the graph: no reparameterization."""
    mu, log_var = self.encode(x, y)
    z = (mu + (0.5 * log_var).exp() * vae.randn_like(mu, generator)).detach()
    return vae.bernoulli_log_prob(self.decode(z, y), x), vae.kl_to_prior(mu, log_var)


VARIANTS = {  # name: (flags, patches of vae or utils: (object, attribute, value))
    "default": ([], []),
    "seed 1": (["--seed", "1"], []),
    "ReLU": ([], [(vae, "MLP", ReluMLP)]),
    "no residual": ([], [(vae, "MLP", PlainMLP)]),
    "LayerNorm": ([], [(vae, "MLP", NormMLP)]),
    "convolutions": ([], [(vae, "VAE", ConvVAE)]),
    "decoder starts at 0": ([], [(vae.VAE, "start_from_mean", lambda self, images: None)]),
    "no warm-up": ([], [(vae, "WARM_UP", 0.0)]),
    "one hidden layer": ([], [(vae, "DEPTH", 1)]),
    "lr / 3": (["--lr", f"{vae.LR / 3:.6f}"], []),
    "lr * 3": (["--lr", f"{vae.LR * 3:.6f}"], []),
    "batch / 2": (["--batch-size", str(vae.BATCH_SIZE // 2)], []),
    "10 latents": (["--z-size", "10"], []),
    "80 latents": (["--z-size", "80"], []),
    "mean over pixels (beta 784)": (["--beta", "784"], []),
    "means over pixels and latents (beta 19.6)": (["--beta", "19.6"], []),
    "beta 4": (["--beta", "4"], []),
    "beta 0": (["--beta", "0"], []),
    "no gradient through z": ([], [(vae.VAE, "elbo_terms", no_gradient_through_z)]),
    "trained on grey": ([], [(utils, "binarize", lambda grey: grey.float() / 255)]),
}


def measure(name, steps, data_dir):
    """Train one variant; its validation figures as a dict."""
    flags, patches = VARIANTS[name]
    result = {"name": name, "command": "python vae.py " + " ".join(["--steps", str(steps)] + flags)}

    def nothing(*args, **kwargs):  # in place of the final scoring and pictures
        return 0.0

    def no_curves(*args, **kwargs):
        return [[0.0], [0.0]]

    def finish(run, model, **own):
        data = utils.load_mnist(data_dir)
        with torch.no_grad():
            codes = [model.encode(data.x_val[i:i + 1000].float()) for i in range(0, len(data.x_val), 1000)]
            kl = torch.cat([vae.kl_to_prior(*c) for c in codes]).mean(0)
        last = run.curve[-1]
        result.update(val_nats=last["val_nats"], val_reconstruction=last["val_reconstruction"], val_kl=last["val_kl"],
                      train_nats=last["train_nats"], last_training_loss=run.running, live_dimensions=int((kl > 0.01).sum()),
                      parameters=sum(p.numel() for p in model.parameters()), seconds=round(run.train_seconds, 1))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(utils.Run, "finish", finish), \
            mock.patch.object(vae, "evaluate_bound", nothing), mock.patch.object(vae, "draw_pictures", nothing), \
            mock.patch.object(vae, "bounds_by_samples", no_curves), mock.patch.object(vae, "draw_bounds", nothing), \
            mock.patch.object(utils.Run, "draw", nothing):
        patched = [mock.patch.object(*patch) for patch in patches]
        for patch in patched:
            patch.start()
        try:
            vae.main(["--steps", str(steps), "--data-dir", data_dir, "--out", f"{folder}/run"] + flags)
        finally:
            for patch in patched:
                patch.stop()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    path = Path("runs/ablate_vae/ablations.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    for name in args.only:
        row = rows[name] = measure(name, args.steps, args.data_dir)
        path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
        print(f"=== {name}: val {row['val_nats']:.2f} nats (KL {row['val_kl']:.1f}, {row['live_dimensions']} live), "
              f"{row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
