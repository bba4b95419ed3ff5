"""
own_data.py: images of your own, in place of MNIST
==================================================
    python pixelcnn.py --data letters.npz

A file of numpy: `images` (N, H, W), whole numbers 0 … 255 or fractions in [0, 1], and, if there
are any, `labels` (N,), whole numbers or words. No generative model; docs/own_data.md shows how to
make such files of other sets.
"""
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from utils import fail, fixed_bits

LEAST = 100  # images: a tenth validates, a tenth tests


def read(path):
    """(images (N, H, W) uint8, labels (N,) or None) of a file; SystemExit, with why, if it will not
    do. Fractions become levels: they are rounded to the nearest of 256."""
    def refuse(why):
        fail(f"--data {path} {why}")

    if not Path(path).is_file():
        refuse("is no file: give the path of one that was written by numpy.savez(path, images=…).")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("images", "labels")}
            names = file.files
    except Exception as error:  # np.load raises a dozen kinds
        refuse(f"is no file of named arrays ({type(error).__name__}): write it by "
               "numpy.savez(path, images=…, labels=…).")
    if "images" not in arrays:
        refuse(f"has no array `images`, but {', '.join(names) or 'none at all'}.")
    images, labels = arrays["images"], arrays.get("labels")
    if images.ndim != 3 or min(images.shape[1:]) < 4:
        refuse(f"has images of shape {images.shape}: (N, H, W) is needed, one channel, H and W of "
               "at least 4.")
    if len(images) < LEAST:
        refuse(f"has {len(images)} images: at least {LEAST} are needed, of which a tenth validates "
               "and a tenth tests.")
    if images.dtype.kind == "f":
        if not (np.isfinite(images).all() and 0 <= images.min() <= images.max() <= 1):
            refuse("has fractions that are not in [0, 1], or NaN: divide by the largest.")
        images = np.round(images * 255)
    elif images.dtype.kind == "b":
        images = images * 255
    elif images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        refuse(f"has images of type {images.dtype} outside of 0 … 255.")
    elif images.max() <= 1:
        refuse("has whole numbers 0 and 1, and of 255 levels 1 is nearly black: give booleans.")
    if images.min() == images.max():
        refuse("has one level in all pixels of all images: there is nothing to learn.")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "biuU"):
        refuse(f"has labels of shape {labels.shape} and type {labels.dtype}: one whole number, or "
               "word, for each image is needed.")
    return images.astype(np.uint8), labels


def sizes(path, data, conditional):
    """What a model has to know of them: the settings that are not typed. SystemExit if it is to be
    told labels, and there are none."""
    if conditional and len(data.names) < 2:
        fail(f"--conditional: {path} has no labels, or only one for all.")
    return {"image_size": list(data.image_size), "classes": len(data.names) * conditional}


def load(path, device="cpu"):
    """As utils.load_mnist() has it, for images of any size, and further:

        image_size    (H, W)
        names         what the labels were, in the order of their numbers 0, 1, …; [] if there are
                      none: then all images have the number 0

    Shuffled once, by a fixed seed; a tenth validates, a tenth tests, at most 10,000 each. name is
    that of the file, and part of the SHA-256 of what is in it: by it two runs can be compared.
    """
    images, labels = read(path)
    names, numbers = np.unique(np.zeros(len(images), int) if labels is None else labels,
                               return_inverse=True)
    digest = hashlib.sha256(repr(images.shape).encode() + images.tobytes())
    digest.update(b"" if labels is None else repr(labels.tolist()).encode())
    data = SimpleNamespace(name=f"{Path(path).stem}-{digest.hexdigest()[:12]}", y_train=None,
                           y_val=None, y_test=None, image_size=images.shape[1:],
                           names=[] if labels is None else [str(name) for name in names])
    order, part = np.random.RandomState(0).permutation(len(images)), min(len(images) // 10, 10000)
    for split, i in (("test", order[:part]), ("val", order[part:2 * part]),
                     ("train", order[2 * part:])):
        setattr(data, split, torch.from_numpy(images[i][:, None]).to(device))
        y = torch.from_numpy(numbers[i].astype(np.int64)).to(device)
        setattr(data, f"{split}_labels", y)
    for seed, (name, grey) in enumerate((("x_val", data.val), ("x_test", data.test),
                                         ("x_train", data.train[:part]))):
        setattr(data, name, torch.from_numpy(fixed_bits(grey, seed)).to(device))
    sizes = " / ".join(f"{len(getattr(data, split)):,}" for split in ("train", "val", "test"))
    print(f"{data.name}: {sizes} images of {images.shape[1]}×{images.shape[2]}" + (
        f"; labels {', '.join(f'{k}: {name}' for k, name in enumerate(data.names))}"[:500]
        if data.names else ", no labels"))
    return data
