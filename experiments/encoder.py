"""How much of a VAE's bound is the encoder's? What an encoder of each image's own would reach.

    python experiments/encoder.py [--data-dir data] [--images 1000] [--json OUT]

With the decoder of samples/vae as it is, for the first images of each set (fixed bits): −ELBO and
−L_K, (10) of vae.py, with the encoder's q(z|x), and −ELBO with the Gaussian q that is fitted to
each image by 1,000 steps of Adam on its own mu and log_var. What fitting wins is the encoder's
share of the gap between −ELBO and −log p(x) ("amortization gap", Cremer et al., Inference
Suboptimality in Variational Autoencoders, 2018, arXiv 1801.03558). And the effective sample size
(Σ w)²/Σ w² of K draws: of how many draws of equal weight the mean is worth. Means over images, each
with its standard error; results/encoder.json is such a file. A script to run, not a test: it needs
the full MNIST, and ten minutes.
"""
import json

import torch
from fit import ROOT, command_line, mnist
from gaps import mean_and_error
from score_weights import model_of

import utils
import vae

STEPS, DRAWS = 1000, 200  # of fitting; of z for a mean of −ELBO
SAMPLES = (200, 1000, 5000)  # K of the bounds


def fitted(model, x):
    """The q(z|x) of images' own: mu and log_var (N, Z), fitted to x (N, 1, H, W)."""
    with torch.no_grad():
        q = [part.clone().requires_grad_() for part in model.encode(x)]
    optimizer, generator = torch.optim.Adam(q), torch.Generator().manual_seed(0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / STEPS)
        loss = -elbo(model, x, q, generator).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [part.detach() for part in q]


def elbo(model, x, q, generator):
    """(1) of vae.py with a q of our own: mu and log_var (N, Z). One z an image. -> (N,) nats."""
    z = q[0] + (0.5 * q[1]).exp() * vae.randn_like(q[0], generator)
    return vae.bernoulli_log_prob(model.decode(z), x) - vae.kl_to_prior(*q).sum(dim=1)


@torch.no_grad()
def measured(model, x):
    """All figures of one set of bits x (N, 1, H, W)."""
    encoder, generator = model.encode(x), torch.Generator().manual_seed(1)
    with torch.enable_grad():
        own = fitted(model, x)
    by = {name: -sum(elbo(model, x, q, generator) for _ in range(DRAWS)).double() / DRAWS
          for name, q in (("encoder", encoder), ("fitted", own))}
    figures = {f"elbo_{name}": mean_and_error(nats) for name, nats in by.items()}
    figures["won"] = mean_and_error(by["encoder"] - by["fitted"])  # image by image
    log_w = torch.stack([model.log_weight(x, None, *encoder, generator).double()
                         for _ in range(max(SAMPLES))])
    for k in SAMPLES:
        bound = torch.tensor(k).log() - log_w[:k].logsumexp(dim=0)
        size = (2 * log_w[:k].logsumexp(dim=0) - (2 * log_w[:k]).logsumexp(dim=0)).exp()
        figures |= {f"bound_{k}": mean_and_error(bound), f"effective_{k}": mean_and_error(size)}
    return figures


def main():
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    data, rows = mnist(parser, args.data_dir), {}
    model = model_of(vae, ROOT / "samples/vae")[0].requires_grad_(False)
    for name in ("train", "val"):
        rows[name] = measured(model, getattr(data, f"x_{name}")[:args.images].float())
        print(name, *(f"{key} {mean:.2f} ± {error:.2f}" for key, (mean, error)
                      in rows[name].items()), flush=True)
    if args.json:
        utils.write_atomically(args.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
