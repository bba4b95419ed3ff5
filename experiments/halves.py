"""Does a judge flatter digits that it was trained on, and so a model that copies them?

    python experiments/halves.py [--data-dir data] [--judges 2] [--heaps 8] [--json OUT]

Trains judges as judge.py does, each on a random half of the training digits, and scores random
heaps of 5,000, bits, of the half it has seen and of the other, beside the binarized test digits.
Both halves are of the same digits by the same writers: what differs is that the judge has seen one.
results/halves.json is such a file. A script to run, not a test: it needs the full MNIST, and five
minutes.
"""
import json
import statistics
from types import SimpleNamespace

import torch
from fit import command_line, mnist
from heaps import N, real_heap

import judge
import utils


def main():
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--judges", type=int, default=2)
    parser.add_argument("--heaps", type=int, default=8)
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    if args.heaps < 2:
        parser.error("--heaps: a spread takes two heaps at least.")
    data, rows = mnist(parser, args.data_dir), []
    for seed in range(args.judges):
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        seen, unseen = order.chunk(2)
        half = SimpleNamespace(train=data.train[seen], train_labels=data.train_labels[seen])
        network, row = judge.train_judge(half, seed=seed), {}
        for name, part in (("seen", seen), ("unseen", unseen)):
            heaps = [real_heap(data.train[part], N, k) for k in range(1, args.heaps + 1)]
            row[name] = [round(judge.scores(network, heap, data.x_test)["frechet"], 4)
                         for heap in heaps]
            print(f"judge {seed}, {name}: {statistics.mean(row[name]):.3f} ± "
                  f"{statistics.stdev(row[name]):.3f}", flush=True)
        rows.append(row)
    if args.json:
        utils.write_atomically(args.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
