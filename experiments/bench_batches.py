"""How long does a batch take? Indexing one tensor in memory against a DataLoader with per-image
transforms.

    python experiments/bench_batches.py [--data-dir data] [--batch-size 256]

Prints milliseconds a batch (median of 30) for both, binarization included, and what share of a
training step of vae.py the first is. A script to run, not a timed test: machines differ.
"""
import time

import torch
import torchvision.transforms as transforms
from fit import command_line, values

import utils
import vae


class Digits(torch.utils.data.Dataset):
    """The usual way: each image is converted on its own, when it is asked for."""

    def __init__(self, data):
        self.images, self.labels = data.train[:, 0].numpy(), data.train_labels
        self.transform = transforms.Compose([
            transforms.ToPILImage(), transforms.ToTensor(), torch.bernoulli])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i]), self.labels[i]


def median_ms(f, repeats=30):
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        f()
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times[3:])[repeats // 2]


def main():
    s, parser = values(vae), command_line(__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--batch-size", type=int, default=s.batch_size)
    args = parser.parse_args()
    data = utils.load_mnist(args.data_dir)
    indexing = median_ms(lambda: utils.random_batch(data, args.batch_size))
    print(f"indexing one tensor:             {indexing:8.2f} ms a batch of {args.batch_size}")
    for workers in (0, 2):
        loader = iter(torch.utils.data.DataLoader(
            Digits(data), args.batch_size, shuffle=True, num_workers=workers))
        print(f"DataLoader with {workers} workers:       "
              f"{median_ms(lambda: next(loader), 8):8.2f} ms a batch")

    model = vae.build(s)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    x, _ = utils.random_batch(data, args.batch_size)

    def step():
        loss = -model.elbo(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ms = median_ms(step)
    print(f"a training step of vae.py:       {ms:8.2f} ms without its batch, of which indexing "
          f"adds {100 * indexing / ms:.1f} %")


if __name__ == "__main__":
    main()
