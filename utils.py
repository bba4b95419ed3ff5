"""
utils.py: errors, files and data, which all chapters share
==========================================================
Nothing here is a generative model. If you never open this file you miss no mathematics: it loads
MNIST, tosses its pixels, and hands out batches. Pictures that know no model are in pictures.py;
the command line in settings.py; a run's folder and checkpoints in runner.py; how heaps of digits
are judged in judge.py.
"""
import contextlib
import gzip
import hashlib
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import torch
from tqdm import tqdm

from streams import Patient

# --------------------------------------------------------------------------------------------------
# 1. Errors and files
# --------------------------------------------------------------------------------------------------


def fail(message):
    """Print one sentence that says what is wrong and what to do, and leave with exit code 2."""
    for bar in list(getattr(tqdm, "_instances", ())):  # else it is glued to a progress bar
        bar.close()
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def start(main):
    """Run a script's main(); what ends it from outside ends it quietly (Run sees to training)."""
    sys.stdout, sys.stderr = Patient(sys.stdout), Patient(sys.stderr)
    with contextlib.suppress(AttributeError, ValueError):  # a notebook's stream has no such method
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    if "MPLBACKEND" not in os.environ and "IPython" not in sys.modules:  # nobody chose another:
        matplotlib.use("Agg")  # draw into files: works over ssh and without a screen
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: clean up, then leave
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; if training had begun, --resume goes on", file=sys.stderr)
        raise SystemExit(130) from None
    except (MemoryError, RuntimeError) as error:  # which is how torch says it
        if "alloc" not in str(error) and not isinstance(error, MemoryError):
            raise
        fail("there is not enough memory for that: choose a smaller --width, --batch-size, or "
             "number of draws.")
    except BrokenPipeError:  # `python vae.py | head`: the reader has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def write_atomically(path, content):
    """Write bytes so that at every moment either the old file or the whole new one is there."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")  # beside it: a rename across disks is not atomic
    try:
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())  # before the rename, else a power cut leaves an empty file
        for patience in (0.1, 0.3, 0.6, 0):  # on Windows a virus scanner may hold it
            try:
                os.replace(part, path)
                break
            except PermissionError:
                if not patience:
                    raise
                time.sleep(patience)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        fail(f"{path} cannot be written ({error.strerror or error}); what was there is unchanged.")


# --------------------------------------------------------------------------------------------------
# 2. Data
#
# All of MNIST is 47 MB of bytes, so it lives in memory as one uint8 tensor, and a batch is made by
# indexing it. A DataLoader that converts each image on its own costs many times as much a batch,
# and more than a training step of the small chapters (experiments/bench_batches.py measures).
# --------------------------------------------------------------------------------------------------

# name: (bytes, SHA-256) of each file, unpacked, as torchvision leaves them in DATA_DIR/MNIST/raw
MNIST_FILES = {
    "train-images-idx3-ubyte":
        (47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte":
        (60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte":
        (7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte":
        (10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
MNIST_5K = Path(__file__).resolve().parent / "data" / "mnist_5k.npz"  # ships with the repository
BINARIZATION = "dynamic for training; validation and test one fixed draw"  # else nats are others'
DOWNLOAD_PATIENCE = 20  # seconds without a new byte after which a network counts as none

# SHA-256 of the packed bits of x_val and x_test. Every score of every script is over these bits.
FIXED_BITS = {
    "mnist": ("04175b98d2891c6134e4849776583477cb2886646d101eab35bcbfb18d97a0ec",
              "a2375743af9362f6dfba1af01d50890cf1677e2e42c77fea11bc2e50337d76e7"),
    "mnist_5k": ("e5a71b911eff27ad6558079c4723ce141d9d73614b8f3e725202ce15219729c8",
                 "0781ef967d5691b374b1e9caf541a774b586b9fc20987daf0a772df1d40e9e28"),
}


def read_mnist_file(raw, name):
    """One idx file, or its .gz, as a uint8 array; None if there is none; SystemExit if bad."""
    path = raw / name if os.path.exists(raw / name) else raw / f"{name}.gz"
    if not os.path.exists(path):
        return None
    size, sha256 = MNIST_FILES[name]
    remedy = "Delete it (it is then downloaded anew), or replace it."
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        fail(f"{path} cannot be read ({error}). {remedy}")
    if len(content) != size:
        fail(f"{path} is truncated or swapped: {len(content)} bytes, not {size}. {remedy}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        fail(f"{path} is corrupt: SHA-256 {digest[:12]}…, expected {sha256[:12]}…. {remedy}")
    return np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8)  # skip the header


def download_mnist(data_dir):
    """Let torchvision download MNIST into data_dir. Returns None, or why it did not work.

    It runs in a process and a folder of its own: a network that says nothing can hang for hours in
    a system call, and only a process can be ended from outside; if we are killed, by its stdin,
    which is closed then. What arrives is moved into place when it is whole."""
    code = ("import os, shutil, sys, threading; threading.Thread(target=lambda: (os.read(0, 1), "
            "shutil.rmtree(sys.argv[1], True), os._exit(1)), daemon=True).start(); import "
            "torchvision; torchvision.datasets.MNIST(sys.argv[1], download=True)")
    raw = Path(data_dir) / "MNIST" / "raw"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-",
                                         ignore_cleanup_errors=True) as inbox:
            print(f"MNIST is not in {data_dir}: downloading it (12 MB) ...", flush=True)
            words = tempfile.TemporaryFile()  # what it says: the last line has the reason
            process = subprocess.Popen([sys.executable, "-c", code, inbox], stderr=words,
                                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            try:
                seen, since = None, time.monotonic()
                while process.poll() is None:
                    now = sorted((str(p), p.stat().st_size) for p in Path(inbox).rglob("*"))
                    if now != seen:  # something arrived: the clock starts again
                        seen, since = now, time.monotonic()
                    elif time.monotonic() - since > (DOWNLOAD_PATIENCE if seen else 120):
                        return f"the network was silent for {now and DOWNLOAD_PATIENCE or 120} s"
                    time.sleep(0.1)
            finally:
                process.kill()
                process.communicate()  # waits for it, and closes what it was told by
            if process.returncode != 0:
                words.seek(0)
                last = words.read().decode(errors="replace").strip().splitlines()[-1:]
                return f"the download failed: {' '.join(last)[:200]}"
            for name in MNIST_FILES:
                os.replace(Path(inbox) / "MNIST" / "raw" / name, raw / name)
    except OSError as error:
        return f"the download failed: {error}"


def load_mnist(data_dir="data", device="cpu"):
    """MNIST, split and with its fixed bits, as a namespace of tensors on `device`:

        name                            "mnist", or "mnist_5k" for the small set that ships along
        train, val, test                (N, 1, 28, 28) uint8, grey levels 0..255
        train_labels, val_labels, ...   (N,) int64
        x_val, x_test                   (N, 1, 28, 28) uint8, 0 or 1: the one fixed binarization
        x_train                         the same of as many training images as there are in val:
                                        here who learns by heart does better than on x_val
        y_train, y_val, y_test          labels for a model that is told them; None here
                                        (Run.load_data() sets them with --conditional)

    Full set: 50,000 / 10,000 / 10,000; validation is the last 10,000 training images. Small set:
    4,000 / 500 / 500, as many of each digit. Validation chooses, test is touched once, at the end.
    """
    data_dir = os.path.expanduser(data_dir)
    if os.path.isfile(data_dir):
        fail(f"--data-dir {data_dir} is a file; give the folder that has, or shall get, MNIST/raw.")
    raw = Path(data_dir) / "MNIST" / "raw"
    if any(os.path.exists(f"{data_dir}/{name}{gz}") for name in MNIST_FILES for gz in ("", ".gz")):
        raw = Path(data_dir)  # the folder of the files themselves was named
    files = {name: read_mnist_file(raw, name) for name in MNIST_FILES}
    reason = None
    if any(content is None for content in files.values()):
        reason = download_mnist(data_dir) if raw != Path(data_dir) else "some files are missing"
        files = {name: read_mnist_file(raw, name) for name in MNIST_FILES}
    if all(content is not None for content in files.values()):
        name = "mnist"
        images, labels, test, test_labels = (files[f] for f in MNIST_FILES)
        images, test = images.reshape(-1, 1, 28, 28), test.reshape(-1, 1, 28, 28)
        splits = [(images[:50000], labels[:50000]), (images[50000:], labels[50000:]),
                  (test, test_labels)]
    else:
        name = "mnist_5k"
        try:
            with np.load(MNIST_5K) as small:
                images, labels = small["images"].reshape(-1, 1, 28, 28), small["labels"]
        except Exception as error:  # np.load raises half a dozen kinds for a broken file
            fail(f"{MNIST_5K} is missing or broken ({type(error).__name__}): restore it with git "
                 "checkout.")
        print(f"!!! ONLY 5,000 DIGITS: the full MNIST is not in {data_dir} and could not be "
              f"fetched ({reason}). Nats on this small set cannot be compared with others'. For "
              f"the full set, put {', '.join(MNIST_FILES)} (or their .gz) into {raw}.", flush=True)
        # Of each digit's 500, the first 400 train, 50 validate, 50 test; then shuffled, since the
        # file has one digit after the other.
        of_class = np.stack([np.flatnonzero(labels == k) for k in range(10)])  # (10, 500)
        splits = []
        for part in (slice(400), slice(400, 450), slice(450, 500)):
            i = np.random.RandomState(0).permutation(of_class[:, part].ravel())
            splits.append((images[i], labels[i]))

    data = SimpleNamespace(name=name, y_train=None, y_val=None, y_test=None)
    for split, (x, y) in zip(("train", "val", "test"), splits):
        setattr(data, split, torch.from_numpy(x.copy()).to(device))
        setattr(data, f"{split}_labels", torch.from_numpy(y.astype(np.int64)).to(device))
    for split, seed, expected in zip(("val", "test"), (0, 1), FIXED_BITS[name]):
        bits = fixed_bits(getattr(data, split), seed)
        digest = hashlib.sha256(np.packbits(bits)).hexdigest()
        if digest != expected:
            raise AssertionError(f"the fixed bits of {name}/{split} have SHA-256 {digest}")
        setattr(data, f"x_{split}", torch.from_numpy(bits).to(device))
    data.x_train = torch.from_numpy(fixed_bits(data.train[:len(data.val)], 2)).to(device)
    return data


def fixed_bits(grey, seed):
    """One Bernoulli draw of grey levels, as a uint8 array of 0 and 1, the same on every machine.

    NumPy promises that the stream of RandomState never changes; torch promises no such thing.
    """
    grey = grey.cpu().numpy()
    return (np.random.RandomState(seed).random_sample(grey.shape) * 255 < grey).astype(np.uint8)


def binarize(grey):
    """Dynamic binarization: a pixel of grey level g is on with probability g/255, drawn anew each
    time. uint8 (B, 1, H, W) in, float 0 or 1 out, from torch's global generator.
    """
    return (torch.rand(grey.shape, device=grey.device) * 255 < grey).float()  # rand is below 1


def random_batch(data, batch_size, grey=False):
    """batch_size training images, drawn with replacement, binarized or as grey levels in [0, 1]:
    x (B, 1, 28, 28), and y (B,), or None for a model that is told no labels.

    Drawing with replacement needs no bookkeeping of epochs: a run can stop and resume anywhere.
    """
    i = torch.randint(len(data.train), (batch_size,), device=data.train.device)
    x = data.train[i] / 255 if grey else to_levels(data.train[i], data.levels) \
        if hasattr(data, "levels") else binarize(data.train[i])
    return x, None if data.y_train is None else data.y_train[i]


def to_levels(grey, levels):
    """Grey levels 0 … 255 in so many equal steps, from 0 to 1, float."""
    return (grey.int() * levels // 256).float() / (levels - 1)


def in_levels(data, levels):
    """The data with images of so many levels in [0, 1] in place of bits: x_train, x_val, x_test,
    and what random_batch() draws. As they are if levels is 2."""
    if levels > 2:
        data = SimpleNamespace(**{**vars(data), "levels": levels})
        for name, grey in (("x_train", data.train[:len(data.val)]), ("x_val", data.val),
                           ("x_test", data.test)):
            setattr(data, name, to_levels(grey, levels))
    return data


def batches(x, y=None, size=100):
    """All of x (N, 1, H, W) in order, as float, `size` at a time, with labels y, or None."""
    for i in range(0, len(x), size):
        part = x[i:i + size].float()
        yield part, None if y is None else y[i:i + len(part)]


def first(n, *tensors):
    """The first n of each, or as many as all have (x_train is shorter than y_train): first(500, x,
    y) -> x[:500], y[:500]. What is None stays None."""
    n = min([n, *(len(t) for t in tensors if t is not None)])
    return [None if t is None else t[:n] for t in tensors]


def row_labels(model, n, each=1):
    """0 to 9, each `each` times, over and over: n labels; None if the model is told none."""
    return torch.arange(n) // each % model.classes if model.classes else None


def check_label(model, y):
    """ValueError if a conditional model gets no label, or an unconditional one gets some."""
    if model.classes and y is None:
        raise ValueError("this model is conditional: it needs y, a label for each image")
    if not model.classes and y is not None:
        raise ValueError("this model is not conditional: it takes no y")


def check_pixels(x, top=1):
    """ValueError if pixels are not in 0 … top but, say, grey levels 0 … 255: of those a model of
    coins would say probabilities that are none."""
    if len(x) and not 0 <= x.min() <= x.max() <= top:
        raise ValueError(f"pixels have to lie in 0 … {top}, and these lie in {x.min():g} … "
                         f"{x.max():g}: binarize grey levels first (utils.binarize)")


def check_given(x, known):
    """ValueError if pixels are given, and not which, or the other way round; or as grey levels."""
    if x is not None:
        check_pixels(x)
    if (x is None) != (known is None):
        raise ValueError("x and known go together: the pixels that are given, and which those are")


def bits_per_dim(nats, pixels=784):
    """Nats per image -> bits per pixel; None (no likelihood) stays None."""
    return None if nats is None else nats / (pixels * math.log(2))


def pair(size):
    """28 -> (28, 28); (height, width) stays what it is."""
    return (size, size) if isinstance(size, int) else tuple(size)


def machine():
    """What a figure hangs on beside code and seed."""
    return {"threads": torch.get_num_threads(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "numpy": np.__version__}}
