"""What each detail of vae.py is worth: the default with one thing changed, at 900 steps.

    python experiments/ablate_vae.py [--steps 900] [--data-dir data] [--only NAME ...]

Writes runs/ablations/vae.json, a row a variant: validation −ELBO, its two terms, live latent
dimensions, seconds. A script to run, not a test. The figures in vae.py's notes come from the file
that is committed as results/ablations/vae.json. Validation chooses; no test figure is read here.
"""
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from ablate import changed, main, rates

import utils
import vae


class ReluMLP(vae.MLP):
    def forward(self, u):
        h = F.relu(self.first(u))
        for layer in self.hidden:
            h = h + F.relu(layer(h))
        return self.last(h)


class PlainMLP(vae.MLP):
    """Hidden layers that replace their input instead of adding to it."""

    def forward(self, u):
        h = F.silu(self.first(u))
        for layer in self.hidden:
            h = F.silu(layer(h))
        return self.last(h)


class NormMLP(vae.MLP):
    """LayerNorm in front of each activation."""

    def forward(self, u):
        h = F.silu(self.norms[0](self.first(u)))
        for layer, norm in zip(self.hidden, self.norms[1:]):
            h = h + F.silu(norm(layer(h)))
        return self.last(h)


class ConvVAE(vae.VAE):
    """Two strided convolutions and a linear layer; the decoder is the mirror image, and has a bias
    for each pixel on top, which starts where the default's does."""

    def encode(self, x, y=None):
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, z, y=None):
        return self.decoder(z) + self.bias

    @torch.no_grad()
    def start_from_mean(self, images):
        p = images.float().mean(dim=(0, 1)) / 255
        self.bias.copy_(torch.logit(p.clamp(0.001, 0.999)))


class CutVAE(vae.VAE):
    def elbo_terms(self, x, y=None, generator=None):
        """z drawn, and cut from the graph: no reparameterization."""
        mu, log_var = self.encode(x, y)
        z = (mu + (0.5 * log_var).exp() * vae.randn_like(mu, generator)).detach()
        return vae.bernoulli_log_prob(self.decode(z, y), x), vae.kl_to_prior(mu, log_var)


class MeanVAE(vae.VAE):
    def elbo_terms(self, x, y=None, generator=None):
        """The decoder gets μ, never a draw of z."""
        mu, log_var = self.encode(x, y)
        return vae.bernoulli_log_prob(self.decode(mu, y), x), vae.kl_to_prior(mu, log_var)


class FiveVAE(vae.VAE):
    def loss(self, x, y=None, beta=1.0):
        """−L_5 of (10)."""
        return -self.log_prob_bound(x, 5, y).mean()


class FromZero(vae.VAE):
    def start_from_mean(self, images):
        pass


def networks(methods):
    """A build(): encoder and decoder are of a subclass of MLP."""
    def change(model):
        for network in (model.encoder, model.decoder):
            network.__class__ = methods
            if methods is NormMLP:
                width = network.first.out_features
                network.norms = nn.ModuleList(
                    nn.LayerNorm(width) for _ in range(len(network.hidden) + 1))

    return changed(vae, change)


def convolutions(model, c=16):
    model.encoder = nn.Sequential(
        nn.Conv2d(1, c, 4, 2, 1), nn.SiLU(), nn.Conv2d(c, 2 * c, 4, 2, 1), nn.SiLU(), nn.Flatten(),
        nn.Linear(2 * c * 49, 256), nn.SiLU(), nn.Linear(256, 2 * model.z_size))
    model.decoder = nn.Sequential(
        nn.Linear(model.z_size, 256), nn.SiLU(), nn.Linear(256, 2 * c * 49), nn.SiLU(),
        nn.Unflatten(1, (2 * c, 7, 7)), nn.ConvTranspose2d(2 * c, c, 4, 2, 1), nn.SiLU(),
        nn.ConvTranspose2d(c, 1, 4, 2, 1))
    model.bias = nn.Parameter(torch.zeros(28, 28))


def train_on_grey(model, data, run):
    """vae.train(), but pixels are grey levels in [0, 1]: no coin is tossed."""
    s = run.settings
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr, fused=True)
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            warm, left = (run.step + 1) / (s.steps * s.warm_up + 1), 1 - run.step / s.steps
            optimizer.param_groups[0]["lr"] = s.lr * min(warm, left)
            x, y = utils.random_batch(data, s.batch_size, grey=True)
            loss = model.loss(x, y, s.beta)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            run.check_finite(loss=loss.item())
            optimizer.step()
            run.tick(loss.item())


GREY = SimpleNamespace(**{**vars(vae), "train": train_on_grey})
VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (vae, "", None),
    "seed 1": (vae, "--seed 1", None),
    "ReLU": (vae, "", networks(ReluMLP)),
    "no residual": (vae, "", networks(PlainMLP)),
    "LayerNorm": (vae, "", networks(NormMLP)),
    **{f"convolutions{name}": (vae, flags, changed(vae, convolutions, ConvVAE)) for name, flags in (
        ("", ""), (", 3,000 steps", "--steps 3000"))},
    "9,000 steps": (vae, "--steps 9000", None),
    "decoder starts at 0": (vae, "", changed(vae, methods=FromZero)),
    "no warm-up": (vae, "--warm-up 0", None),
    "one hidden layer": (vae, "--depth 1", None),
    **rates(vae, ""),
    "batch / 2": (vae, "--batch-size 128", None),
    "10 latents": (vae, "--z-size 10", None),
    "80 latents": (vae, "--z-size 80", None),
    "mean over pixels (beta 784)": (vae, "--beta 784", None),
    "means over pixels and latents (beta 19.6)": (vae, "--beta 19.6", None),
    "beta 4": (vae, "--beta 4", None),
    "beta 0": (vae, "--beta 0", None),
    "no gradient through z": (vae, "", changed(vae, methods=CutVAE)),
    "trained on L_5": (vae, "", changed(vae, methods=FiveVAE)),
    "the decoder gets mu": (vae, "", changed(vae, methods=MeanVAE)),
    "trained on grey": (GREY, "", None),
}


@torch.no_grad()
def figures(name, model, data, norms):
    log_px_z, kl = vae.evaluate(model, data.x_val, None)
    train_log_px_z, train_kl = vae.evaluate(model, data.x_train, None)
    codes = [model.encode(x, y) for x, y in utils.batches(data.x_val, size=1000)]
    by_dimension = torch.cat([vae.kl_to_prior(*code) for code in codes]).mean(dim=0)
    return {"val_nats": kl - log_px_z, "val_reconstruction": -log_px_z, "val_kl": kl,
            "train_nats": train_kl - train_log_px_z,
            "val_bound_of_5": -sum(model.log_prob_bound(x, 5).sum().item() for x, _ in
                                   utils.batches(data.x_val[:1000], size=100)) / 1000,
            "live_dimensions": int((by_dimension > 0.01).sum()),
            "parameters": sum(p.numel() for p in model.parameters())}, None


if __name__ == "__main__":
    main(VARIANTS, "vae", 900, __doc__, figures, {"val_nats": None})
