"""
How good are these digits? Scores for any heap of images
========================================================
A likelihood says how well a model predicts real digits; it says nothing of a model that has none, and little
of how samples look. So here is a judge: a small classifier of digits, trained once on real ones (grey and
binarized alike) and shipped as data/judge.pt, so that everybody's scores are in the same units. It turns each image into
64 features, and two heaps of images are compared there:

    Fréchet distance   ‖μ − μ'‖² + tr( Σ + Σ' − 2 (Σ Σ')^½ ), of the Gaussians that fit both heaps; lower is better
    precision          part of the images that lie among real digits (k = 3 nearest neighbours): are they digits?
    recall             part of the real digits that lie among the images: are all kinds drawn?
    shares             which digits, and how often

gan.py has the explanations. A number alone says little, so beside each stands what as many real training digits get: the floor of the
distance, and about as much precision and recall as there is to get. (The judge was trained on them, so it may flatter them a little.)
These distances are not those of papers: their features come from an Inception network, which has never seen a digit.

Run       python compare.py --score FILE.npy             any array (N, 28, 28) in [0, 1], or grey levels up to 255
          python compare.py --score FILE.npy --json OUT.json
          python compare.py --train-judge                how the judge was made; writes runs/judge.pt (to use it, copy it
                                                         to data/judge.pt; scores made with another cannot be compared)
Judge     99.46 % of the grey test digits and 99.23 % of the binarized ones right (3,000 steps of 128, 78 s on 2 cores, seed 0).
"""
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import utils

LEAST = 100  # images: fewer have no covariance in 64 dimensions that is worth the name


def read_images(path):
    """Images of a .npy file as float (N, 1, 28, 28) in [0, 1]; SystemExit, with the reason, if it has none."""
    if not os.path.isfile(path):
        utils.fail(f"--score {path}: there is no such file; give a .npy file, such as --num-samples writes.")
    try:
        images = np.load(path, allow_pickle=False)
    except Exception as error:  # np.load raises half a dozen kinds for a file that is cut or foreign
        utils.fail(f"--score {path} is not a readable .npy file ({type(error).__name__}); write it with numpy.save.")
    if not isinstance(images, np.ndarray) or images.ndim not in (3, 4) or images.shape[-2:] != (28, 28) or images.size != len(images) * 784:
        shape = getattr(images, "shape", "several arrays")
        utils.fail(f"--score {path} holds {shape}, not images (N, 28, 28); save one array of that shape.")
    if images.dtype.kind not in "buif":
        utils.fail(f"--score {path} holds {images.dtype}, not numbers; save grey levels in [0, 1] or 0 … 255.")
    if len(images) < LEAST:
        utils.fail(f"--score {path} has {len(images)} images, and a distance takes at least {LEAST}; draw more, with --num-samples.")
    images = torch.from_numpy(images.astype(np.float32)).reshape(-1, 1, 28, 28)
    # A maximum of 1.001 is a float that ought to be clipped, and no grey level of 255.
    if not torch.isfinite(images).all() or images.min() < 0 or images.max() > 255 or 1 < images.max() < 2:
        utils.fail(f"--score {path} has values outside of [0, 1] (or 0 … 255), or that are not finite; clip or rescale them.")
    return images / 255 if images.max() > 1 else images


def score(judge, images, data):
    """All scores of images (N, 1, 28, 28) in [0, 1] beside those of as many real training digits, as a list of rows.

    Binary images are compared with binarized test digits. Grey ones with grey test digits, and once more after a coin for each pixel, with
    the binarized ones: so that models of both sorts can stand in one ranking.
    """
    n, heaps = min(len(images), len(data.train)), []
    if ((images > 0) & (images < 1)).any():
        heaps.append(("grey", images, data.test))
        images = (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) < images).float()
    heaps.append(("binarized", images, data.x_test))
    rows = []
    for kind, heap, real in heaps:
        train = data.train[:n] if kind == "grey" else torch.from_numpy(utils.fixed_bits(data.train[:n], 3))
        for name, x in (("images", heap.to(real.device)), ("real training digits", train.to(real.device))):
            rows.append({"kind": kind, "what": name, "n": len(x), **utils.scores(judge, x, real)})
    return rows


def main(argv=None):
    parser = utils.Parser(prog="compare.py", description="Score a heap of images of digits against the test set.", allow_abbrev=False)
    parser.add_argument("--score", metavar="FILE.npy", help="images to score: (N, 28, 28), in [0, 1] or 0 … 255")
    parser.add_argument("--json", metavar="OUT.json", help="with --score: also write the scores there")
    parser.add_argument("--train-judge", action="store_true", help="train the judge anew, into runs/judge.pt, and say how good it is")
    parser.add_argument("--data-dir", default="data", help="folder that has, or gets, MNIST/raw (default: %(default)s)")
    args = parser.parse_args(argv)
    if bool(args.score) == args.train_judge:
        utils.fail("give either --score FILE.npy or --train-judge.")
    if args.json is not None and not args.score:
        utils.fail("--json says where scores go: use it with --score.")
    if args.train_judge:
        data, start = utils.load_mnist(args.data_dir), time.perf_counter()
        judge = utils.train_judge(data)
        right = [(utils.judged(judge, x)[1] == data.test_labels).double().mean().item() for x in (data.test, data.x_test)]
        Path("runs").mkdir(exist_ok=True)
        torch.save(judge.state_dict(), "runs/judge.pt")
        print(f"runs/judge.pt: {100 * right[0]:.2f} % of the grey test digits right, {100 * right[1]:.2f} % of the binarized ones; "
              f"{time.perf_counter() - start:.0f} s")
        return
    if args.json is not None:
        try:  # find out now, and not after the work, that it cannot be written; and leave nothing behind
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            if Path(args.json).is_dir():  # "" is one, too
                raise IsADirectoryError(21, "it is a folder")
            with tempfile.TemporaryFile(dir=Path(args.json).parent):
                pass
        except OSError as error:
            utils.fail(f"--json {args.json!r} cannot be written ({error.strerror}); choose another file.")
    images = read_images(args.score)
    judge, data = utils.load_judge(), utils.load_mnist(args.data_dir)
    rows = score(judge, images, data)
    print(f"{'':32}{'N':>7}{'Fréchet':>9}{'precision':>11}{'recall':>8}   share of each digit, 0 to 9 (%)")
    for row in rows:
        shares = " ".join(f"{100 * share:4.1f}" for share in row["shares"])
        print(f"{row['kind'] + ', ' + row['what']:32}{row['n']:7,}{row['frechet']:9.2f}{row['precision']:11.3f}"
              f"{row['recall']:8.3f}   {shares}")
    if args.json is not None:
        utils.write_atomically(args.json, (json.dumps({"file": args.score, "data": data.name, "rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    utils.start(main)
