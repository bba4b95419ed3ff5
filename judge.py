"""
Judging digits by their looks: a classifier, and two clouds of features
=======================================================================
A likelihood says how well a model predicts real digits; it says nothing of a model that has none,
and little of how samples look. Two heaps of images can always be compared. A classifier of digits,
trained once on real ones, gives each image 64 features, the numbers in front of its last layer. A
heap of images becomes a cloud of points; and of two clouds one asks how far they are apart, which
part of the one lies inside the other, and the reverse.

    Fréchet distance   ‖μ_a − μ_b‖² + tr( Σ_a + Σ_b − 2 (Σ_a Σ_b)^½ )                            (1)
    precision          part of a in A with ‖a − b‖ ≤ r_b for some b in B: are they digits?       (2)
    recall             part of b in B with ‖b − a‖ ≤ r_a for some a in A: are all kinds drawn?   (3)

    code            symbol      shape              meaning
    draws           x           (N, 1, 28, 28)     in [0, 1]; or uint8, bits or grey levels to 255
    a, b            A, B        (N, 64), (M, 64)   the clouds: features of draws, of real digits
    cov_a, cov_b    Σ_a, Σ_b    (64, 64)           their covariances; the means are μ_a, μ_b
    radius          r_b, r_a    (M,), (N,)         how far it is to the third neighbour (k = 3)

Papers    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017 (arXiv 1706.08500): (1)
          Kynkäänniemi et al., Improved Precision and Recall Metric, 2019 (1904.06991): (2), (3)
Run       python judge.py FILE.npy   scores any array (N, 28, 28) in [0, 1] or 0 … 255, such as a
                                     chapter's --num-samples writes, and as many training digits
          python judge.py --train    how the judge was made; writes runs/judge.pt (to use it, copy
                                     it to data/judge.pt, which ships in half precision)
Reached   99.46 % of the grey test digits and 99.23 % of the binarized ones right: 3,000 steps of
          128 images, 78 s on 2 cores, seed 0. It ships as data/judge.pt, so that all scores have
          the same units: those made with two judges cannot be compared.
"""
import hashlib
import io
import json
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

import utils
from settings import Parser
from streams import seen_by_somebody

JUDGE = Path(__file__).resolve().parent / "data" / "judge.pt"
LEAST = 100  # images: fewer have no covariance in 64 dimensions that is worth the name

# --------------------------------------------------------------------------------------------------
# Notes
# Why features? In pixels two drawings of the same seven are far apart if one is a pixel further to
# the right. What a classifier goes by are strokes and loops, wherever they are exactly.
#
# (1) takes each cloud for a Gaussian, and measures how far its mass has to be carried to become the
# other's (the squared Wasserstein-2 distance, which has this closed form). It is 0 if mean and
# covariance agree, whatever else differs. (Σ, the covariance, is a table of means of (a_i −
# μ_i)(a_j − μ_j), tr sums its diagonal, and M^½ is a matrix whose square is M.) With features of
# Inception, a classifier of photographs, it is the well-known FID; that network has never seen a
# digit, so ours has other units, and the two cannot be compared.
#
# (2), (3): one distance does not say what is wrong. Put a ball around each point of a cloud that
# reaches to its third neighbour; all balls together are where that cloud lives. Precision falls if
# digits are malformed, recall if some are never drawn: a heap of perfect sevens has high precision
# and low recall.
#
# How to read them. No figure means much alone. 5,000 real training digits beside the grey test
# digits get 0.17, 0.85 and 0.88 (means of eight random heaps; compare.py): about what there is to
# get. (As bits random validation digits get 0.21 ± 0.02, training digits 0.14 ± 0.02, eight heaps
# of each: results/heaps.json. Validation is one block of the file, and differs from the rest even
# if no judge is asked: results/gaps.json. That the judge was trained on training digits does not
# show: judges trained on a random half of these give heaps of this half and of the other the same,
# 0.14 or 0.15 ± 0.02 (experiments/halves.py; results/halves.json). So a model that copied would not
# be flattered for that.) *The classic mistake* is to compare heaps of different sizes: of the same
# model, fewer draws have a larger distance (500 training digits 0.71; the kernel distance KID of
# Bińkowski et al., 2018, has no such bias). So compare.py scores 5,000 draws of each. And a ball
# around a stray point is large, so that recall flatters scattered clouds: density and coverage
# (Naeem et al., 2020) count balls of real digits only. They are not used here.
#
# Grey or bits? Grey images are scored against grey test digits and, after one coin a pixel, against
# binarized ones: so that a GAN, which draws grey, can be ranked with models that draw bits.

# --------------------------------------------------------------------------------------------------
# The classifier
# --------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """A small convolutional classifier. Images (B, 1, 28, 28) in [0, 1] -> logits (B, 10).

        1 × 28×28 ─► 16 × 28×28 ─► 32 × 14×14 ─► 32 × 14×14 ─► 64 × 7×7 ─► features, 64 ─► 10
    """

    def __init__(self):
        super().__init__()
        conv, norm, relu = nn.Conv2d, nn.BatchNorm2d, nn.ReLU
        self.body = nn.Sequential(
            conv(1, 16, 3, padding=1), norm(16), relu(),
            conv(16, 32, 4, stride=2, padding=1), norm(32), relu(),
            conv(32, 32, 3, padding=1), norm(32), relu(),
            conv(32, 64, 4, stride=2, padding=1), norm(64), relu(),
            nn.Flatten(), nn.Linear(64 * 49, 64), nn.BatchNorm1d(64), relu())
        self.last = nn.Linear(64, 10)

    def features(self, x):
        """f(x): (B, 1, 28, 28) -> (B, 64)."""
        return self.body(2 * x.to(self.last.weight.device) - 1)

    def forward(self, x):
        return self.last(self.features(x))


def train_judge(data, steps=3000, batch_size=128, lr=3e-3, seed=0):
    """A Judge, trained on the training images of utils.load_mnist() -> it, in eval mode.

    Half of each batch is grey and half binarized: it shall know both, and prefer neither.
    """
    torch.manual_seed(seed)
    judge = Judge().to(data.train.device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.01, fused=True)
    for step in tqdm(range(steps), desc="judge", mininterval=0.5, disable=not seen_by_somebody()):
        warm, left = (step + 1) / (0.05 * steps + 1), 1 - step / steps  # as in the chapters
        optimizer.param_groups[0]["lr"] = lr * min(warm, left)
        i = torch.randint(len(data.train), (batch_size,), device=data.train.device)
        grey, half = data.train[i], batch_size // 2
        x = torch.cat([grey[:half] / 255, utils.binarize(grey[half:])])
        # Up to two pixels to each side, all of the batch alike: a digit is the same one then. (What
        # leaves comes in again on the other side: in MNIST it is black.)
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = F.cross_entropy(judge(x.roll(shift, (2, 3))), data.train_labels[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval().requires_grad_(False)


def load_judge(device="cpu", path=JUDGE):
    """The judge that ships along, in eval mode; SystemExit if its file is missing or broken."""
    judge = Judge()
    try:
        judge.load_state_dict(torch.load(path, weights_only=True))  # half precision in the file
    except Exception as error:  # torch.load raises a dozen kinds for a file that is cut or foreign
        utils.fail(f"{path} is missing or broken ({type(error).__name__}): use git checkout.")
    return judge.eval().requires_grad_(False).to(device)


def judge_digest():
    """A name for the judge that ships along: of its file's bytes. Kept beside its scores."""
    return hashlib.sha256(JUDGE.read_bytes()).hexdigest()[:16]


@torch.no_grad()
def judged(judge, images):
    """Features (N, 64), in float64, and classes (N,) of images (N, 1, 28, 28): float in [0, 1], or
    uint8, bits or grey levels. Without a judge: None, None."""
    if judge is None:  # of images that are no digits: Run.load_judge()
        return None, None
    scale = 255 if images.dtype == torch.uint8 and images.max() > 1 else 1
    features, classes = [], []
    for part in images.split(500):
        f = judge.features(part.float() / scale)
        features.append(f.cpu().double())
        classes.append(judge.last(f).argmax(dim=1).cpu())
    return torch.cat(features), torch.cat(classes)


# --------------------------------------------------------------------------------------------------
# A heap of draws
# --------------------------------------------------------------------------------------------------


def data_labels(data, n):
    """n labels as frequent as in the training set, to draw a conditional model's digits by: all ten
    alike would be another mixture. None if the model is told none."""
    return None if data.y_train is None else data.y_train[torch.arange(n) % len(data.y_train)]


def sample_many(model, n, y=None, seed=0, **options):
    """n draws from noise of a fixed seed, 500 at a time -> (n, 1, H, W), on the CPU. options: of
    model.sample(), such as steps."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([model.sample(min(500, n - i), None if y is None else y[i:i + 500], generator,
                                   **options).cpu() for i in range(0, n, 500)])


# --------------------------------------------------------------------------------------------------
# What it says of a heap of images, beside another: (1), (2), (3)
# --------------------------------------------------------------------------------------------------


def frechet_distance(a, b):
    """(1), of two sets of features (N, F), (M, F) -> float, nan if one is not finite; or None:
    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)."""
    if a is None:  # nobody could judge
        return None
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.nan  # of a model whose weights are lost: whoever asked will see it
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # Σ_a Σ_b need not be symmetric, but √Σ_a Σ_b √Σ_a is, and has the same eigenvalues: so the
    # roots of both have the same trace. Rounding leaves some of them below 0: hence the clamps.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return (means + cov_a.trace() + cov_b.trace() - 2 * trace).clamp(min=0).item()


def within_manifold(points, support, k):
    """(2), (3): the part of points (N, F) that lie in a ball around some point of support (M, F)
    which reaches to that point's k-th neighbour in support. -> float in [0, 1]."""
    radius = torch.cat([torch.cdist(part, support).kthvalue(k + 1, dim=1).values  # + 1: itself
                        for part in support.split(1000)])
    inside = torch.cat([(torch.cdist(part, support) <= radius).any(dim=1)
                        for part in points.split(1000)])
    return inside.double().mean().item()


def scores(judge, draws, real, k=3):
    """Draws (N, 1, 28, 28) beside real digits (M, 1, 28, 28), as a dict: frechet (1), of all;
    precision (2) and recall (3), of min(N, M) of both, since in a larger heap neighbours are
    nearer; shares, how often each of the ten digits was drawn. Without a judge: {}."""
    if judge is None:
        return {}
    a, classes = judged(judge, draws)
    b, _ = judged(judge, real)
    # Of the larger heap a random part, always the same: the first half of MNIST's test set is the
    # cleaner one (says its home page).
    n, generator = min(len(a), len(b)), torch.Generator().manual_seed(0)
    some_a, some_b = (x[torch.randperm(len(x), generator=generator)[:n]] for x in (a, b))
    return {"frechet": frechet_distance(a, b),
            "precision": within_manifold(some_a, some_b, k),
            "recall": within_manifold(some_b, some_a, k),
            "shares": (torch.bincount(classes, minlength=10).double() / len(classes)).tolist()}


def measure(judge, draws, real, seed=1):
    """Scores of draws (N, 1, H, W) in [0, 1] against real digits (M, 1, H, W): grey as they are,
    and binarized once.

    real: (grey uint8, bits). -> dict: frechet, precision, recall, shares of the ten classes, and
    the first three again for draws that tossed a coin a pixel, against binarized real digits.
    seed: of the coins, and not that of the draws: tossed by the very numbers that a pixel was drawn
    by, a coin would know too much of it.
    """
    grey, binary = scores(judge, draws, real[0]), scores(judge, coins(draws, seed), real[1])
    binary.pop("shares", None)
    return {**grey, **{f"{name}_binary": value for name, value in binary.items()}}


def figures_of_levels(judge, model, data, nats):
    """What metrics say of a model of levels with an exact likelihood: nats of levels, which are of
    another scale than those of bits, bits/dim, and scores of 5,000 draws beside the test set."""
    n = 5000
    figures = {"grey_levels": data.levels, "grey_nats": nats, "test_draws": n,
               "grey_bits_per_dim": utils.bits_per_dim(nats, data.x_test[0].numel()),
               "binarization": f"none: trained on {data.levels} levels, and draws have as many"}
    if judge is None:
        return figures
    y = data_labels(data, n)
    draws = sample_many(model, n, y)
    return figures | obeyed(judge, draws, y) | {
        f"test_{key}": value for key, value in scores(judge, draws, data.x_test).items()}


def obeyed(judge, draws, labels):
    """How often draws (N, 1, 28, 28) are read as labels (N,) says, as a dict; {} if they had none,
    or nobody can judge."""
    if judge is None or labels is None:
        return {}
    return {"label_agreement": (judged(judge, draws)[1] == labels.cpu()).double().mean().item()}


def mean_scores(judge, heaps, real):
    """scores() of several heaps, each beside the same real digits: the means. Of 5,000 real digits
    one heap and another differ in (1) by some hundredths, of 0.16 (docs/results.md)."""
    rows = [scores(judge, heap, real) for heap in heaps]
    return {key: torch.tensor([row[key] for row in rows]).double().mean(dim=0).tolist()
            for key in rows[0]}


# --------------------------------------------------------------------------------------------------
# A file of images
# --------------------------------------------------------------------------------------------------


def is_grey(images):
    """Is there a value between 0 and 1? images: in [0, 1]."""
    return bool(((images > 0) & (images < 1)).any())


def coins(means, seed=0):
    """One coin a pixel: means (N, 1, 28, 28) in [0, 1] -> bits, float, as many. (Draws of seed 0
    have other numbers: the 64 of samples.png come before those of a file.)"""
    u = torch.rand(means.shape, generator=torch.Generator().manual_seed(seed)).to(means)
    return (u < means).to(means)


def read_images(path):
    """Images of a .npy file, float (N, 1, 28, 28) in [0, 1]; SystemExit, with why, if not."""
    if not os.path.isfile(path):
        utils.fail(f"{path}: there is no such file; give a .npy file, as --num-samples writes it.")
    try:
        images = np.load(path, allow_pickle=False)
    except Exception as error:  # np.load raises half a dozen kinds for a file that is cut
        utils.fail(f"{path} is not a readable .npy file ({type(error).__name__}); use numpy.save.")
    shape = getattr(images, "shape", "several arrays")
    if not isinstance(images, np.ndarray) or images.ndim not in (3, 4) \
            or shape[-2:] != (28, 28) or images.size != len(images) * 784:
        utils.fail(f"{path} holds {shape}, not images (N, 28, 28); save one array of that shape.")
    if images.dtype.kind not in "buif":
        utils.fail(f"{path} holds {images.dtype}, not numbers; save grey levels, 0 … 1 or 0 … 255.")
    if len(images) < LEAST:
        utils.fail(f"{path} has {len(images)} images, and scores take at least {LEAST}: draw more.")
    images = torch.from_numpy(images.astype(np.float32)).reshape(-1, 1, 28, 28)
    # A maximum of 1.001 is a float that ought to be clipped, and no grey level of 255.
    least, most = images.min(), images.max()  # nan if one is
    if not (0 <= least and most <= 255) or 1 < most < 2:
        utils.fail(f"{path} has values outside of [0, 1] (or 0 … 255), or that are not finite; "
                   "clip or rescale them.")
    return images / 255 if most > 1 else images


def score(judge, images, data):
    """All scores of images (N, 1, 28, 28) in [0, 1] beside those of as many real training digits,
    as a list of rows: "Grey or bits?" in the notes."""
    n, heaps = min(len(images), len(data.train)), []
    # By chance: one block of the training set is not like another.
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    digits = data.train[order[:n]]
    if is_grey(images):
        heaps.append(("grey", images, data.test, digits))
        images = coins(images)
    bits = torch.from_numpy(utils.fixed_bits(digits, 3))
    heaps.append(("binarized", images, data.x_test, bits))
    return [{"kind": pixels, "what": what, "n": len(x), **scores(judge, x, real)}
            for pixels, heap, real, train in heaps
            for what, x in (("images", heap), ("real training digits", train))]


def main(argv=None):
    parser = Parser(prog="judge.py", allow_abbrev=False,
                    description="Score a heap of images of digits, or train who does it.")
    flag = parser.add_argument
    flag("file", nargs="?", metavar="FILE.npy", help="images to score: (N, 28, 28), in [0, 1] or "
         "0 … 255")
    flag("--json", metavar="OUT.json", help="also write the scores there")
    flag("--train", action="store_true", help="train the judge anew, into runs/judge.pt")
    flag("--data-dir", default="data", help="folder that has, or gets, MNIST/raw (default: data)")
    args = parser.parse_args(argv)
    if (args.file is None) != args.train or (args.train and args.json is not None):
        utils.fail("give FILE.npy, to score its images (--json says where to), or --train alone.")
    if args.train:
        Path("runs").mkdir(exist_ok=True)
        data, start = utils.load_mnist(args.data_dir), time.perf_counter()
        judge = train_judge(data)
        right = [(judged(judge, x)[1] == data.test_labels).double().mean().item()
                 for x in (data.test, data.x_test)]  # grey, and binarized
        torch.save(judge.state_dict(), content := io.BytesIO())
        utils.write_atomically("runs/judge.pt", content.getbuffer())
        print(f"runs/judge.pt: {100 * right[0]:.2f} % of the grey test digits right, "
              f"{100 * right[1]:.2f} % of the binarized ones; {time.perf_counter() - start:.0f} s")
        return
    if args.json is not None:
        try:  # find out now, and not after the work, that it cannot be written
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            if Path(args.json).is_dir():  # "" is one, too
                raise IsADirectoryError(21, "it is a folder")
            tempfile.TemporaryFile(dir=Path(args.json).parent).close()
        except OSError as error:
            utils.fail(f"--json {args.json!r} cannot be written ({error.strerror}): take another.")
    images, judge, data = read_images(args.file), load_judge(), utils.load_mnist(args.data_dir)
    rows = score(judge, images, data)
    print(" " * 38 + "N  Fréchet  precision  recall   share of each digit, 0 to 9 (%)")
    for row in rows:
        shares = " ".join(f"{100 * share:4.1f}" for share in row["shares"])
        print(f"{row['kind'] + ', ' + row['what']:32}{row['n']:7,}{row['frechet']:9.2f}"
              f"{row['precision']:11.3f}{row['recall']:8.3f}   {shares}")
    if args.json is not None:
        text = json.dumps({"file": args.file, "data": data.name, "rows": rows}, indent=1)
        utils.write_atomically(args.json, f"{text}\n".encode())


if __name__ == "__main__":
    utils.start(main)
