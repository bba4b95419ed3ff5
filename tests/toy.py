"""A chapter in miniature, for tests: 784 coins, or ten times as many if they are told the digit.

It has all that runner.py and settings.py can be asked for, and takes milliseconds. It lies where no
table looks for chapters.
"""
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import utils  # noqa: E402
from runner import Run  # noqa: E402
from settings import Setting  # noqa: E402

SETTINGS = {
    "variant": Setting("plain", "plain or fancy", choices=("plain", "fancy"), word="{}"),
    "steps": Setting(120, "length of training"),  # a quarter on the small set
    "batch_size": Setting(16, "images a step"),
    "lr": Setting(0.05, "learning rate"),
    "width": Setting(3, "numbers that do nothing", 1, 50, word="width{}"),
    "beta": Setting(1.0, "weight of the loss", least=0, word="beta{}"),
    "frills": Setting(2, "of the fancy one", only=("variant", "fancy")),
    "temperature": Setting(1.0, "divides the logits", most=100, drawing=True),
}
VARIANTS = {("variant", "fancy"): {"steps": 80, "width": 4}}


class Coins(torch.nn.Module):
    """Independent pixels: logits (classes or 1, H·W)."""

    def __init__(self, image_size, width, classes):
        super().__init__()
        self.image_size = utils.pair(image_size)
        self.classes, self.temperature = classes, 1.0
        self.logits = torch.nn.Parameter(torch.zeros(classes or 1, math.prod(self.image_size)))
        self.extra = torch.nn.Parameter(0.1 * torch.randn(width))

    def log_prob(self, x, y=None):
        utils.check_label(self, y)
        logits = self.logits[torch.zeros(len(x), dtype=torch.long) if y is None else y]
        x = x.flatten(1)
        return (x * logits - torch.nn.functional.softplus(logits)).sum(dim=1)

    @torch.no_grad()
    def sample_means(self, n, y=None, generator=None):
        utils.check_label(self, y)
        logits = self.logits[torch.zeros(n, dtype=torch.long) if y is None else y]
        p = torch.sigmoid(logits / self.temperature)
        torch.rand(n, generator=generator)  # some noise of its own, as z is in vae.py
        return p.view(n, 1, *self.image_size)

    def sample(self, n, y=None, generator=None):
        p = self.sample_means(n, y, generator)
        return (torch.rand(p.shape, generator=generator) < p).float()


def build(s, image_size=28):
    if s.width == 13:
        raise ValueError("--width 13 brings bad luck; choose another.")
    return Coins(image_size, s.width, s.classes)


@torch.no_grad()
def evaluate(model, x, y):
    return sum(-model.log_prob(*batch).sum().item() for batch in utils.batches(x, y)) / len(x)


def train(model, data, run):
    s = run.settings
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr)
    with run.training(model=model, optimizer=optimizer):
        while run.step < s.steps:
            x, y = utils.random_batch(data, s.batch_size)
            loss = -s.beta * model.log_prob(x, y).mean()
            optimizer.zero_grad()
            loss.backward()
            run.check_finite(loss=loss.item())
            optimizer.step()
            if run.tick(loss.item()):
                digits = model.sample(10, utils.row_labels(model, 10),
                                      torch.Generator().manual_seed(1))
                run.record(evaluate(model, data.x_train, data.y_train),
                           evaluate(model, data.x_val, data.y_val), model, digits)


def main(argv=None, run_class=Run):
    run = run_class(__file__, "Coins.", SETTINGS, VARIANTS, argv)
    model = run.build(build)
    model.temperature = run.settings.temperature
    if run.sample_only:
        return run.write_samples(run.load_best(model))
    if run.finished:
        return
    data = run.load_data()
    train(model, data, run)
    run.load_best(model)
    nats = evaluate(model, data.x_test, data.y_test)
    run.write_samples(model)
    run.finish(model, test_nats=nats, likelihood="exact", left_out=["extra"], entropy=math.pi)


if __name__ == "__main__":
    utils.start(main)
