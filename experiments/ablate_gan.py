"""What each detail of gan.py is worth: the default with one thing changed, in a short run.

    python experiments/ablate_gan.py [--steps 1500] [--data-dir data] [--only NAME ...]

Writes runs/ablations/gan.json, a row a variant: Fréchet distance, precision and recall of 5,000
draws against grey validation digits, the smallest and the largest share of a digit, seconds; and
gan.png, sixteen drawings of each from the same noise. A script to run, not a test. The figures in
the notes of the chapter come from the files that are committed in results/ablations/. Validation
chooses; no test figure is read here.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from ablate import main, rates
from fit import DRAWS

import gan
import judge
import pictures
from gan import Discriminator, Generator, Players


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


def without_wide(discriminator):
    """Take out the convolution that does not change the size."""
    discriminator.wide = discriminator.norm_3 = nn.Identity()
    discriminator.last = nn.Linear(discriminator.last.in_features // 2, 1)


class WithoutLast(Generator):
    """The second doubling leads straight to one channel."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.up_2 = nn.ConvTranspose2d(self.up_2.in_channels, 1, 4, stride=2, padding=1)
        self.norm_4 = self.last = nn.Identity()

    def forward(self, z, y=None):
        h = F.relu(self.norm_1(self.first(z).view(-1, *self.small)))
        h = F.relu(self.norm_3(self.refine(F.relu(self.norm_2(self.up_1(h))))))
        return torch.sigmoid(self.up_2(h))


class Minimax(Players):
    """The loss (4) for G."""

    @staticmethod
    def generator_step(generator, discriminator, optimizer, n, y, objective, noise=0.0):
        fake = discriminator(gan.noisy(generator(generator.noise(n), y), noise), y)
        loss = -F.softplus(fake).mean()
        return loss.item(), gan.update(generator, optimizer, loss)


class Smoothed(Players):
    """Real images count as real to 90 % (one-sided label smoothing)."""

    @staticmethod
    def discriminator_step(generator, discriminator, optimizer, x, y, objective, penalty, noise=0):
        with torch.no_grad():
            x = gan.noisy(x, noise)
            drawn = gan.noisy(generator(generator.noise(len(x)), y), noise)
        real, fake = discriminator(x, y), discriminator(drawn, y)
        loss = (0.9 * F.softplus(-real) + 0.1 * F.softplus(real)).mean() + F.softplus(fake).mean()
        return step_of_D(discriminator, optimizer, real, fake, loss)


class R1(Players):
    """R1 (Mescheder et al. 2018) in place of instance noise: the squared slope of D at real images,
    weighed by 0.05."""

    @staticmethod
    def discriminator_step(generator, discriminator, optimizer, x, y, objective, penalty, noise=0):
        with torch.no_grad():
            drawn = generator(generator.noise(len(x)), y)
        x = x.requires_grad_()
        real, fake = discriminator(x, y), discriminator(drawn, y)
        gradient = torch.autograd.grad(real.sum(), x, create_graph=True)[0]
        slope = gradient.flatten(1).square().sum(dim=1).mean()
        loss = gan.discriminator_loss(real, fake) + 0.025 * slope
        return step_of_D(discriminator, optimizer, real, fake, loss)


class Leaking(Players):
    """The classic mistake. Drawings of D's step keep their gradients, so that G gets those of D's
    loss; and G's step does not set them to zero before it adds its own."""

    @staticmethod
    def discriminator_step(generator, discriminator, optimizer, x, y, objective, penalty, noise=0):
        x = gan.noisy(x, noise)
        drawn = gan.noisy(generator(generator.noise(len(x)), y), noise)
        real, fake = discriminator(x, y), discriminator(drawn, y)
        loss = gan.discriminator_loss(real, fake)
        return step_of_D(discriminator, optimizer, real, fake, loss)

    @staticmethod
    def generator_step(generator, discriminator, optimizer, n, y, objective, noise=0.0):
        fake = discriminator(gan.noisy(generator(generator.noise(n), y), noise), y)
        loss = gan.generator_loss(fake, objective)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), 0.0


def step_of_D(discriminator, optimizer, real, fake, loss):
    """Take it, and say what gan.discriminator_step() says."""
    norm = gan.update(discriminator, optimizer, loss)
    return loss.item(), real.sigmoid().mean().item(), fake.sigmoid().mean().item(), norm


def game(players=Players, generator=Generator, change_G=None, change_D=None, norm=None):
    """A build(), as gan.build() is, of players whose networks or steps are others. norm: has D
    batch norm? None: as the chapter has it."""
    def build(s):
        G = generator(28, s.z_size, s.width, s.classes)
        if change_G:
            change_G(G)
        D = Discriminator(28, s.width, s.loss != "wgan-gp" if norm is None else norm, s.classes)
        if change_D:
            change_D(D)
        return players(G, D)

    return build


VARIANTS = {  # name: (chapter, flags, build or None for the chapter's own)
    "default": (gan, "", None),
    "seed 1": (gan, "--seed 1", None),
    "D's step reaches G": (gan, "", game(Leaking)),
    "minimax loss (4)": (gan, "", game(Minimax)),
    "no noise on what D sees": (gan, "--noise 0", None),
    "beta_1 0.5": (gan, "--beta-1 0.5", None),
    "beta_1 0.9": (gan, "--beta-1 0.9", None),
    "no average": (gan, "--average 0", None),
    "no batch norm in D": (gan, "", game(change_D=without_norms)),
    "no batch norm in G": (gan, "", game(change_G=without_norms)),
    "D without `wide`": (gan, "", game(change_D=without_wide)),
    "G without `last`": (gan, "", game(generator=WithoutLast)),
    "z of 2": (gan, "--z-size 2", None),
    "z of 64": (gan, "--z-size 64", None),
    **rates(gan, ""),
    "weights start at N(0, 0.02)": (gan, "", game(change_G=dcgan_init, change_D=dcgan_init)),
    "label smoothing": (gan, "", game(Smoothed)),
    "spectral norm for batch norm in D": (gan, "", game(change_D=spectral)),
    "R1, no noise, no batch norm in D": (gan, "--noise 0", game(R1, change_D=without_norms)),
    "wgan-gp": (gan, "--loss wgan-gp", None),
    "wgan-gp, no penalty": (gan, "--loss wgan-gp --penalty 0", None),
    "wgan-gp, batch norm in the critic": (gan, "--loss wgan-gp", game(norm=True)),
}


def figures(name, model, data, norms):
    """Scores of draws, and sixteen of them."""
    draws = model.sample(DRAWS, None, torch.Generator().manual_seed(0))
    row = judge.scores(judge.load_judge("cpu"), draws, data.val)
    shares = row.pop("shares")
    images = model.sample(16, None, torch.Generator().manual_seed(1))
    return {**row, "least": min(shares), "most": max(shares)}, images


def paint(folder, images):
    pictures.labelled_rows(folder / "gan.png", list(images.items()))


if __name__ == "__main__":
    main(VARIANTS, "gan", 1500, __doc__, figures, {"frechet": None}, paint)
