"""
utils.py: the plumbing that all chapters share
==============================================
Nothing here is a generative model. If you never open this file you miss no mathematics: it loads
MNIST, reads the command line, keeps a run's folder (checkpoint, metrics, curves), draws grids of
digits, and scores heaps of them (the formulas are explained in gan.py). Likelihoods, masks, losses,
samplers and training loops stay in the chapters.

The parts:  1 errors   2 data   3 command line   4 a run and its folder   5 pictures   6 a judge of samples
"""
import argparse
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import torch
import torchvision
from PIL import Image  # comes with torchvision and matplotlib
from tqdm import tqdm

matplotlib.use("Agg")  # draw into files: works over ssh and on machines without a screen
import matplotlib.pyplot as plt  # noqa: E402  (the backend has to be chosen first)

# --------------------------------------------------------------------------------------------------
# 1. Errors: a user's mistake gets one sentence and exit code 2, never a traceback.
# --------------------------------------------------------------------------------------------------


def fail(message):
    """Print one sentence that says what is wrong and what to do, and leave with exit code 2."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def start(main):
    """Run a script's main(); what ends it from outside ends it quietly (in training, Run sees to that)."""
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # a log file is written as it goes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: clean up, then leave
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; if training had begun, --resume goes on", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # `python vae.py | head`: the reader has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


# --------------------------------------------------------------------------------------------------
# 2. Data
#
# All of MNIST is 47 MB of bytes, so it lives in memory as one uint8 tensor, and a batch is made by
# indexing it. A DataLoader that converts each image on its own costs many times as much a batch, and
# more than a training step of the small chapters (tests/bench_batches.py measures; figures: README).
# --------------------------------------------------------------------------------------------------

# name: (bytes, SHA-256) of each file, unpacked, as torchvision leaves them in DATA_DIR/MNIST/raw
MNIST_FILES = {
    "train-images-idx3-ubyte": (47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
MNIST_5K = Path(__file__).resolve().parent / "data" / "mnist_5k.npz"  # ships with the repository
DOWNLOAD_PATIENCE = 20  # seconds without a new byte after which a network counts as none

# SHA-256 of the packed bits of x_val and x_test. Every score of every script is over these bits.
FIXED_BITS = {
    "mnist": ("04175b98d2891c6134e4849776583477cb2886646d101eab35bcbfb18d97a0ec",
              "a2375743af9362f6dfba1af01d50890cf1677e2e42c77fea11bc2e50337d76e7"),
    "mnist_5k": ("e5a71b911eff27ad6558079c4723ce141d9d73614b8f3e725202ce15219729c8",
                 "0781ef967d5691b374b1e9caf541a774b586b9fc20987daf0a772df1d40e9e28"),
}


def read_mnist_file(raw, name):
    """One idx file, or its .gz, as a uint8 array; None if neither is there; SystemExit if it is wrong."""
    path = raw / name if os.path.exists(raw / name) else raw / f"{name}.gz"
    if not os.path.exists(path):
        return None
    size, sha256 = MNIST_FILES[name]
    remedy = "Delete it (it is then downloaded anew), or replace it."
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        fail(f"{path} cannot be read ({error}). {remedy}")
    if len(content) != size:
        fail(f"{path} is truncated or swapped: {len(content)} bytes unpacked, expected {size}. {remedy}")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        fail(f"{path} is corrupt: SHA-256 {found[:12]}…, expected {sha256[:12]}…. {remedy}")
    return np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8)  # skip the header


def download_mnist(data_dir):
    """Let torchvision download MNIST into data_dir. Returns None, or the reason why it did not work.

    It runs in a process of its own, into a folder of its own: a network that accepts a connection
    and then says nothing can hang for hours inside a system call, and only a process can be ended
    from outside. What arrives is moved into place when it is whole.
    """
    code = "import sys, torchvision; torchvision.datasets.MNIST(sys.argv[1], download=True)"
    try:
        raw = Path(data_dir) / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-", ignore_cleanup_errors=True) as inbox:
            print(f"MNIST is not in {data_dir}: downloading it (12 MB) ...", flush=True)
            process = subprocess.Popen([sys.executable, "-c", code, inbox],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                seen, since = None, time.monotonic()
                while process.poll() is None:
                    now = sorted((str(p), p.stat().st_size) for p in Path(inbox).rglob("*"))
                    if now != seen:  # something arrived: the clock starts again
                        seen, since = now, time.monotonic()
                    elif time.monotonic() - since > (DOWNLOAD_PATIENCE if seen else 120):  # first it imports torch
                        return f"the network was silent for {DOWNLOAD_PATIENCE} s"
                    time.sleep(0.1)
            finally:
                process.kill()
                process.wait()
            if process.returncode != 0:
                return "the download failed"
            for name in MNIST_FILES:
                os.replace(Path(inbox) / "MNIST" / "raw" / name, raw / name)
    except OSError as error:
        return f"the download failed: {error}"


def load_mnist(data_dir="data", device="cpu"):
    """MNIST, split and with its fixed bits, as a namespace of tensors on `device`:

        name                                "mnist", or "mnist_5k" for the small set that ships along
        train, val, test                    (N, 1, 28, 28) uint8, grey levels 0..255
        train_labels, val_labels, ...       (N,) int64
        x_val, x_test                       (N, 1, 28, 28) uint8, 0 or 1: the one fixed binarization
        x_train                             the same of as many training images as there are in val: what
                                            a model does better here than on x_val, it has by heart

    Full set: 50,000 / 10,000 / 10,000; validation is the last 10,000 training images. Small set:
    4,000 / 500 / 500, as many of each digit. Validation chooses, test is touched once, at the end.
    """
    if os.path.isfile(data_dir):
        fail(f"--data-dir {data_dir} is a file; give the folder that has, or shall get, MNIST/raw.")
    raw = Path(data_dir) / "MNIST" / "raw"
    files = {name: read_mnist_file(raw, name) for name in MNIST_FILES}
    reason = None
    if any(content is None for content in files.values()):
        reason = download_mnist(data_dir)
        files = {name: read_mnist_file(raw, name) for name in MNIST_FILES}
    if all(content is not None for content in files.values()):
        name = "mnist"
        images, labels, test, test_labels = (files[f] for f in MNIST_FILES)
        images, test = images.reshape(-1, 1, 28, 28), test.reshape(-1, 1, 28, 28)
        splits = [(images[:50000], labels[:50000]), (images[50000:], labels[50000:]), (test, test_labels)]
    else:
        name = "mnist_5k"
        try:
            with np.load(MNIST_5K) as small:
                images, labels = small["images"].reshape(-1, 1, 28, 28), small["labels"]
        except Exception as error:  # np.load raises half a dozen kinds for a broken file
            fail(f"{MNIST_5K} is missing or broken ({type(error).__name__}): restore it with git checkout.")
        print(f"!!! ONLY 5,000 DIGITS: the full MNIST is not in {data_dir} and could not be fetched ({reason}). "
              f"Nats on this small set cannot be compared with others'. For the full set, put "
              f"{', '.join(MNIST_FILES)} (or their .gz) into {raw}.", flush=True)
        # Of each digit's 500, the first 400 train, 50 validate, 50 test; then shuffled, since the file
        # has one digit after the other.
        of_class, splits = np.stack([np.flatnonzero(labels == k) for k in range(10)]), []  # (10, 500)
        for part in (slice(400), slice(400, 450), slice(450, 500)):
            i = np.random.RandomState(0).permutation(of_class[:, part].ravel())
            splits.append((images[i], labels[i]))

    data = SimpleNamespace(name=name)
    for split, (x, y) in zip(("train", "val", "test"), splits):
        setattr(data, split, torch.from_numpy(x.copy()).to(device))
        setattr(data, f"{split}_labels", torch.from_numpy(y.astype(np.int64)).to(device))
    for split, seed, expected in zip(("val", "test"), (0, 1), FIXED_BITS[name]):
        bits = fixed_bits(getattr(data, split), seed)
        found = hashlib.sha256(np.packbits(bits)).hexdigest()
        if found != expected:
            raise AssertionError(f"the fixed bits of {name}/{split} have SHA-256 {found}, not {expected}")
        setattr(data, f"x_{split}", torch.from_numpy(bits).to(device))
    data.x_train = torch.from_numpy(fixed_bits(data.train[:len(data.val)], 2)).to(device)
    return data


def fixed_bits(grey, seed):
    """One Bernoulli draw of grey levels, as a uint8 array of 0 and 1, the same on every machine.

    NumPy promises that the stream of RandomState never changes; torch promises nothing of the kind.
    """
    grey = grey.cpu().numpy()
    return (np.random.RandomState(seed).random_sample(grey.shape) * 255 < grey).astype(np.uint8)


def binarize(grey):
    """Dynamic binarization: a pixel of grey level g is on with probability g/255, drawn anew each
    time. uint8 (B, 1, H, W) in, float 0 or 1 out, from torch's global generator.
    """
    return (torch.rand(grey.shape, device=grey.device) * 255 < grey).float()  # rand is below 1: 255 is always on


def random_batch(data, batch_size, grey=False):
    """batch_size training images, drawn with replacement, binarized or as grey levels in [0, 1]: x (B, 1, 28, 28), y (B,).

    Drawing with replacement needs no bookkeeping of epochs, so a run can stop and resume anywhere.
    """
    i = torch.randint(len(data.train), (batch_size,), device=data.train.device)
    return data.train[i] / 255 if grey else binarize(data.train[i]), data.train_labels[i]


# --------------------------------------------------------------------------------------------------
# 3. The command line
# --------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is answered by one sentence instead of a page of usage."""

    def error(self, message):
        print(f"{self.prog}: error: {message} (see python {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def number(kind, least, most=10**9, above=False):
    """An argparse type: an int or float (kind) in [least, most], or in (least, most] if `above`."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most:  # nan is neither
            what = f"{'whole ' * (kind is int)}number {'above' if above else 'of at least'} {least}"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a {what} and at most {most}")
        return value

    return read


def common_flags(prog, description, steps, batch_size, lr):
    """The flags that all chapters have, with the chapter's own defaults."""
    p = Parser(prog=prog, description=description, allow_abbrev=False)
    p.add_argument("--steps", type=number(int, 1), default=steps, help="length of training (default: %(default)s)")
    p.add_argument("--batch-size", type=number(int, 1), default=batch_size, help="images a step (default: %(default)s)")
    p.add_argument("--lr", type=number(float, 0, above=True), default=lr, help="highest learning rate (default: %(default)s)")
    p.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0,
                   help="of training, or with --sample-only of the draws (default: %(default)s)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    p.add_argument("--data-dir", default="data", help="folder that has, or gets, MNIST/raw (default: %(default)s)")
    p.add_argument("--out", help="folder of this run (default: runs/<script>[_variant][_conditional])")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run's folder")
    p.add_argument("--sample-only", action="store_true", help="draw from the checkpoint in the run's folder, and stop")
    p.add_argument("--num-samples", type=number(int, 1, 100000), metavar="N", help="also write samples.npy: N draws")
    p.add_argument("--conditional", action="store_true", help="tell the model the digit: p(x|y) instead of p(x)")
    p.add_argument("--label", type=int, choices=range(10), help="with --sample-only, conditional: draw this digit only")
    return p


def parse(parser, argv):
    """Parsed flags; args.given lists those the user typed, args.command is the line as typed."""
    unset = object()  # argparse leaves alone what a namespace already has: what stays unset was not typed
    typed = parser.parse_args(argv, SimpleNamespace(**{a.dest: unset for a in parser._actions if a.dest != "help"}))
    args = parser.parse_args(argv)
    args.given = {name for name, value in vars(typed).items() if value is not unset}
    args.command = shlex.join(["python", parser.prog, *(sys.argv[1:] if argv is None else argv)])
    if args.resume and args.sample_only:
        fail("--resume trains on and --sample-only does not train: give one of them.")
    if args.label is not None and not args.sample_only:
        fail("--label chooses which digit to draw: use it with --sample-only.")
    args.device = pick_device(args.device)
    return args


def sizes(args, width, depth=None):
    """What --width and --depth add to the name of a run, if they are not the chapter's own: a list of words."""
    found = (("width", args.width, width), ("depth", getattr(args, "depth", None), depth))
    return [f"{name}{typed}" for name, typed, usual in found if typed not in (None, usual)]


def pick_device(name):
    """A torch.device from auto, cpu, cuda, cuda:1, mps; SystemExit if this machine has no such thing."""
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    kind, colon, index = name.partition(":")
    if kind not in has or (colon and not (kind == "cuda" and index.isdigit())):
        fail(f"--device {name}: not a device that is known here; use auto, cpu, cuda or mps.")
    if not has[kind] or (index and int(index) >= torch.cuda.device_count()):
        fail(f"--device {name}: this machine has no such device; it has {', '.join(k for k in has if has[k])}.")
    return torch.device(name)


# --------------------------------------------------------------------------------------------------
# 4. A run and its folder
#
# The training loop of a chapter talks to a Run at three points:
#
#     with run.training(model=model, optimizer=optimizer):    # starts, or restores on --resume
#         while run.step < steps:
#             ...                                             # the chapter's own step
#             run.check_finite(loss=..., gradient=...)        # or stop, with the reason
#             if run.tick(loss):                              # counts it; True when it is time to
#                 run.record(...)                             # evaluate, log, keep the best weights
#
# All that decides how training goes on is in checkpoint.pt, the random state included. So a run that
# was killed and resumed ends bit for bit where an uninterrupted one ends (on a CPU, with as many threads).
# --------------------------------------------------------------------------------------------------

SAVE_EVERY = 50  # seconds at most between two checkpoints
# Settings that were constants of the scripts before they became flags: what they are called in older checkpoints.
RENAMED = {"WIDTH": "width", "CHANNELS": "width", "ORIGINAL_CHANNELS": "width", "RNN_CHANNELS": "width", "RNN_WIDTH": "width",
           "DEPTH": "depth", "LAYERS": "depth", "ORIGINAL_LAYERS": "depth", "RNN_LAYERS": "depth"}
KEPT = ("settings", "command", "step", "curve", "pictures", "best", "train_seconds", "eval_seconds", "running")


def write_atomically(path, content):
    """Write bytes so that at every moment either the old file or the whole new one is there."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")  # beside it: a rename across disks is not atomic
    try:
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())  # on the disk before the rename, else a power cut leaves an empty file
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        fail(f"{path} cannot be written ({error.strerror or error}); what stood there before is unchanged.")


def bits_per_dim(nats):
    """Nats per image of 784 pixels -> bits per pixel; None (no likelihood) stays None."""
    return None if nats is None else nats / (784 * math.log(2))


class Run:
    """One run: its folder, its checkpoint, its log. `settings` are the chapter's own flags, by their
    names in args: what, besides the common ones, has to be the same for a checkpoint to fit."""

    def __init__(self, script, args, settings, variant=""):
        name = "_".join([script] + [variant] * bool(variant) + ["conditional"] * args.conditional)
        self.folder = Path(args.out or Path("runs") / name)
        self.path = self.folder / "checkpoint.pt"
        self.args, self.script, self.command = args, script, args.command
        common = {k: getattr(args, k) for k in ("conditional", "steps", "batch_size", "lr", "seed")}
        self.settings = {"script": script, "variant": variant, **common, **settings}
        shipped = Path(__file__).resolve().parent / "samples" / self.folder.name / "weights.pt"
        if args.sample_only and not os.path.exists(self.path):  # then the weights alone will do
            self.path = self.folder / "weights.pt"
            if self.folder.parent == Path("runs") and not os.path.exists(self.path) and os.path.isfile(shipped):
                print(f"{self.folder} has no run: drawing from the weights that ship along, samples/{self.folder.name}/weights.pt")
                self.path = shipped
        self.checkpoint = self.read_checkpoint() if args.resume or args.sample_only else None
        # Find out now, and not after an hour of training, that the folder cannot be written.
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            inside = {p.name for p in self.folder.iterdir()}
        except OSError as error:
            fail(f"--out {self.folder} cannot be written ({error.strerror or error}); choose another folder.")
        self.finished = args.resume and "metrics.json" in inside
        if {n for n in inside if n[0] != "."} and not inside & {"checkpoint.pt", "checkpoint.pt.part", "metrics.json", "weights.pt"}:
            fail(f"--out {self.folder} has files in it that are not from a run; choose a new or empty folder.")
        if self.path == shipped:  # what is drawn goes into runs/, where a later run finds weights to move aside
            write_atomically(self.folder / "weights.pt", shipped.read_bytes())
        self.step, self.curve, self.pictures, self.best = 0, [], [], None
        self.train_seconds = self.eval_seconds = 0.0
        self.running = None  # the running mean of the loss, for the progress bar
        self.mark = time.perf_counter()

    def read_checkpoint(self):
        """The checkpoint of the folder, as a dict; settings that were not typed are taken from it."""
        args, script = self.args, f"{self.script}.py"
        if not os.path.isfile(self.path):
            fail(f"{'--resume' if args.resume else '--sample-only'} found no {self.folder / 'checkpoint.pt'}; train first, with "
                 f"python {script}, or say with --out where the run is.")
        parts = {"settings", "command", "best", "left_out"} if self.path.name == "weights.pt" else {*KEPT, "parts", "rng"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about foreign files: we say it ourselves, below
                checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            then = {"script": None, **{RENAMED.get(key, key): value for key, value in checkpoint["settings"].items()}}
            if hasattr(args, "dropout"):
                then.setdefault("dropout", 0.0)  # from before there was any
            if zipfile.ZipFile(self.path).testzip() or not parts <= set(checkpoint):
                raise ValueError("damaged")
        except Exception as error:  # torch.load raises a dozen kinds for a file that is cut or foreign
            fail(f"{self.path} is truncated or is not a checkpoint ({type(error).__name__}); train anew, or choose another --out.")
        if then["script"] != self.script:
            fail(f"{self.path} is a checkpoint of {then['script']}.py, not of {script}; choose another --out.")
        for key, value in then.items():
            now = getattr(args, key, self.settings.get(key))
            if key in args.given and value != now and not (key == "seed" and args.sample_only):
                flag = "--" + key.replace("_", "-")
                fail(f"{self.path} was made with {flag} {value}, not {now}: leave {flag} out, or choose another --out.")
            if hasattr(args, key) and key not in args.given and not (key == "seed" and args.sample_only):
                setattr(args, key, value)
        self.settings, self.command = then, checkpoint["command"]
        return checkpoint

    def fix(self, **constants):
        """Constants of the script that shape this run: a new run notes them; on resume they have to be the same."""
        for key, now in constants.items():
            then = self.settings.setdefault(key, now)
            if then != now:
                fail(f"{self.path} was made with {key} = {then}, and {self.script}.py now has {now}: change it back, or train anew.")

    def check_data(self, data):
        """The data has to be what the checkpoint was trained on, and enough for a batch."""
        if self.settings.setdefault("data", data.name) != data.name:
            fail(f"{self.path} was trained on {self.settings['data']}, and --data-dir {self.args.data_dir} gives "
                 f"{data.name}; give the --data-dir that it was trained with.")
        if self.args.batch_size > len(data.train):
            fail(f"--batch-size {self.args.batch_size} is more than the {len(data.train)} training images; choose a smaller one.")

    def start_folder(self):
        """A new run never destroys an old one: what is in the folder is moved aside, whole."""
        if not any(self.folder.iterdir()):
            return
        aside = next(p for p in (Path(f"{self.folder}.{k}") for k in itertools.count(1)) if not p.exists())
        try:
            self.folder.rename(aside)
            self.folder.mkdir()
        except OSError as error:
            fail(f"the run in {self.folder} cannot be moved aside ({error.strerror}); choose another --out.")
        print(f"the run that was in {self.folder} is now in {aside}")

    @contextlib.contextmanager
    def training(self, **parts):
        """Around the training loop. `parts`: all that training changes (whatever has a state_dict)."""
        self.parts, self.stop, steps = parts, False, self.settings["steps"]
        # About twenty evaluations, closer together at the start, where learning is fast.
        self.evaluations = {max(1, round(steps * (i / 20) ** 2)) for i in range(1, 21)}

        def on_signal(signum, frame):  # Ctrl-C, or a polite kill: end after this step, not inside it
            if self.stop:
                raise SystemExit(130)  # the second Ctrl-C: at once; the last checkpoint stands
            self.stop = True

        handlers = {}
        if threading.current_thread() is threading.main_thread():  # no other thread may set them
            handlers = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        if not self.checkpoint:
            self.start_folder()
        self.inode = self.folder.stat().st_ino  # the folder itself, whatever it is called later
        self.restore() if self.checkpoint else self.save()
        # Into a log file the bar would write a line at each update: there it moves twice a minute.
        self.bar = tqdm(total=steps, initial=self.step, desc="training", unit="step", dynamic_ncols=True,
                        mininterval=0.5 if sys.stderr.isatty() else 30)
        self.mark = self.saved = time.perf_counter()
        try:
            yield
        finally:
            self.bar.close()
            for s, handler in handlers.items():
                signal.signal(s, handler)

    def tick(self, loss, unit="nats"):
        """Count one step whose loss (nats per image, if no unit is given) is known. True when an evaluation is due."""
        self.step += 1
        now = time.perf_counter()
        self.train_seconds, self.mark = self.train_seconds + now - self.mark, now
        self.running = loss if self.running is None else 0.98 * self.running + 0.02 * loss
        self.bar.set_postfix_str(f"{self.running:.{1 if unit == 'nats' else 2}f} {unit}", refresh=False)
        self.bar.update()
        due = self.step in self.evaluations  # then record() saves: a save before it would lose it
        if not due and (self.stop or now - self.saved > SAVE_EVERY):
            self.save()
            self.leave_if_stopped()
        return due

    def check_finite(self, **values):
        """Stop before a step that would poison the weights. The last checkpoint stays as it is."""
        for name, value in values.items():
            if not math.isfinite(value):
                self.bar.close()
                fail(f"after step {self.step} the {name} is {value}. Likely causes: --lr {self.args.lr:g} is too high, or "
                     f"a change to the loss (log of 0, division by 0). The last good checkpoint is {self.path}.")

    def record(self, train_nats, val_nats, model, picture=None, score=None, **more):
        """Log one evaluation, keep the weights if they are the best on validation, save.

        `picture`: (n, 1, H, W), drawn from the same noise each time: a row of progress.png. `score`: what
        "best" means, if it is not val_nats; the lower the better. A model without a likelihood gives None for
        both nats, and val_frechet, its Fréchet distance to the validation set.
        """
        score = val_nats if score is None else score
        self.check_finite(validation=score)
        images = self.step * self.settings["batch_size"]
        self.curve.append({"step": self.step, "images": images, "seconds": round(self.train_seconds, 2),
                           "train_nats": train_nats, "val_nats": val_nats, **more})
        if picture is not None:
            self.pictures.append((picture * 255).round().to("cpu", torch.uint8))
        if self.best is None or score < self.best["score"]:
            self.best = {"score": score, "step": self.step,
                         "weights": {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}}
        # A progress bar and a log line share a terminal if tqdm writes both; a log file needs no such care.
        self.save()
        say = tqdm.write if sys.stderr.isatty() else print
        found = f"Fréchet distance {score:7.2f}" if val_nats is None else \
            f"train {train_nats:7.2f} | val {val_nats:7.2f} nats | {bits_per_dim(val_nats):.4f} bits/dim"
        say(f"step {self.step:>6} | {images:>9,} images | {found} | {self.train_seconds:6.1f} s")
        self.leave_if_stopped()

    def leave_if_stopped(self):
        """After Ctrl-C, and with everything saved."""
        if self.stop:
            tqdm.write(f"stopped at step {self.step}; go on with: python {self.script}.py --resume "
                       f"--out {shlex.quote(str(self.folder))}")
            raise SystemExit(130)

    def check_still_ours(self):
        """A run that was started meanwhile may have moved our folder aside: then write nothing into its own."""
        if not self.folder.is_dir() or self.folder.stat().st_ino != self.inode:
            fail(f"{self.folder} was moved away by another run; go on with --resume and its new name for --out.")

    def save(self):
        """Write checkpoint.pt, atomically."""
        self.check_still_ours()
        device, rng = self.args.device.type, {"cpu": torch.get_rng_state()}
        if device != "cpu":
            rng[device] = getattr(torch, device).get_rng_state()
        buffer = io.BytesIO()
        torch.save({**{k: getattr(self, k) for k in KEPT}, "rng": rng,
                    "parts": {name: part.state_dict() for name, part in self.parts.items()}}, buffer)
        write_atomically(self.path, buffer.getbuffer())
        now = time.perf_counter()
        self.eval_seconds, self.mark, self.saved = self.eval_seconds + now - self.mark, now, now

    def restore(self):
        """The reverse of save()."""
        for name, part in self.parts.items():
            self.load_state(part, self.checkpoint["parts"].get(name, {}))
        for k in KEPT:
            setattr(self, k, self.checkpoint[k])
        for device, state in self.checkpoint["rng"].items():
            if device == "cpu":
                torch.set_rng_state(state)
            elif device == self.args.device.type:
                getattr(torch, device).set_rng_state(state)
        print(f"resuming {self.folder} at step {self.step} of {self.settings['steps']}")

    def load_state(self, part, state):
        """part.load_state_dict(state); SystemExit if the checkpoint was made by other code."""
        try:
            part.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError):
            fail(f"{self.path} does not fit {self.script}.py as it is now; train anew, or choose another --out.")

    def load_best(self, model):
        """Put the weights that were best on validation into the model."""
        best = self.best or (self.checkpoint and self.checkpoint["best"])
        if not best:
            fail(f"{self.path} was stopped before its first evaluation: go on with --resume first.")
        weights = best["weights"]
        if self.path.name == "weights.pt":  # half precision, and without what drawing does not need
            whole = model.state_dict()
            weights = {k: v.to(whole[k]) if k in whole else v for k, v in weights.items()}
            weights |= {k: v for k, v in whole.items() if any(map(k.startswith, self.checkpoint["left_out"]))}
        self.load_state(model, weights)
        if not self.args.sample_only:
            self.check_still_ours()

    def draw(self, model, own=()):
        """samples.png, the first draw of a fixed seed; with --num-samples N also samples.npy, float32
        (N, 28, 28), labels.npy for a conditional model (0 … 9 over and over, or --label everywhere), and means.npy if
        pixels were coins tossed apart (vae.py): the coins' probabilities; samples.json says of which step's weights they are.
        own: flags of the chapter that change how is drawn; with --sample-only they are part of the picture's name."""
        args, generator = self.args, torch.Generator().manual_seed(self.args.seed if self.args.sample_only else 0)
        if args.label is not None and not model.conditional:
            fail(f"--label {args.label} needs a model that was trained with --conditional; {self.path} was not.")

        def labels(n, each):
            if model.conditional:
                return torch.arange(n) // each % 10 if args.label is None else torch.full((n,), args.label)

        n = 80 if model.conditional and args.label is None else 64
        chosen = [f"_{flag}{getattr(args, flag)}" for flag in ("seed", "label", *own) if flag in args.given]
        name = "".join(["samples"] + chosen * args.sample_only + [".png"])
        save_grid(self.folder / name, model.sample(n, labels(n, 8), generator))
        print(f"wrote {self.folder / name}")
        if args.num_samples:
            n, y, x, means = args.num_samples, labels(args.num_samples, 1), [], []
            for i in range(0, n, 500):
                how = min(500, n - i), None if y is None else y[i:i + 500]
                twin = torch.Generator().set_state(generator.get_state())  # the same noise once more
                x.append(model.sample(*how, generator).cpu())
                if hasattr(model, "sample_means"):  # the probabilities of the coins that x tossed
                    means.append(model.sample_means(*how, twin).cpu())
            for name, array in (("samples.npy", x), ("means.npy", means), ("labels.npy", y)):
                if array is not None and len(array):
                    array = torch.cat(array)[:, 0].float() if isinstance(array, list) else array
                    buffer = io.BytesIO()
                    np.save(buffer, array.numpy())
                    write_atomically(self.folder / name, buffer.getbuffer())
                    print(f"wrote {self.folder / name}")
            # How they were drawn: compare.py wants to know whether they are plain draws of the run that it scores.
            how = {flag: getattr(args, flag) for flag in ("label", *own) if flag in args.given}
            step = (self.best or self.checkpoint["best"])["step"]
            write_atomically(self.folder / "samples.json", (json.dumps({"step": step, **how}) + "\n").encode())

    def write_weights(self, left_out=()):
        """weights.pt: what --sample-only needs, in half precision, so that it is small enough to ship. left_out: names that
        begin so are not needed to draw."""
        best = {**self.best, "weights": {k: v.half() if v.is_floating_point() else v for k, v in self.best["weights"].items()
                                         if not any(map(k.startswith, left_out))}}
        buffer = io.BytesIO()
        torch.save({"settings": self.settings, "command": self.command, "best": best, "left_out": list(left_out)}, buffer)
        write_atomically(self.folder / "weights.pt", buffer.getbuffer())

    def finish(self, model, test_nats, likelihood, sample_seconds_64, left_out=(), **own):
        """Write weights.pt, metrics.json, loss.png and progress.png. likelihood: "exact", "bound" or "none"."""
        self.check_still_ours()
        self.eval_seconds += time.perf_counter() - self.mark
        s = self.settings
        metrics = {
            "model": self.script, "variant": s["variant"], "conditional": s["conditional"], "test_nats": test_nats,
            "bits_per_dim": bits_per_dim(test_nats), "likelihood": likelihood,
            "binarization": "dynamic for training; validation and test one fixed draw", "data": s["data"], **own,
            "best_step": self.best["step"], "parameters": sum(p.numel() for p in model.parameters()),
            "steps": s["steps"], "batch_size": s["batch_size"], "lr": s["lr"], "seed": s["seed"],
            "train_seconds": round(self.train_seconds, 1), "eval_seconds": round(self.eval_seconds, 1),
            "sample_seconds_64": sample_seconds_64, "device": str(self.args.device), "threads": torch.get_num_threads(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "torchvision": torchvision.__version__, "numpy": np.__version__},
            "command": self.command, "settings": s, "curve": self.curve}
        self.write_weights(left_out)
        plot_loss(self.folder / "loss.png", self.curve)
        labelled_rows(self.folder / "progress.png", [(f"step {row['step']}", picture.float() / 255)
                                                     for row, picture in zip(self.curve, self.pictures)])
        write_atomically(self.folder / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
        nats = f"no likelihood; Fréchet distance {own['test_frechet']:.2f}" if test_nats is None else \
            f"{test_nats:.2f} nats ({likelihood}), {metrics['bits_per_dim']:.4f} bits/dim"
        print(f"test: {nats}; trained {self.train_seconds / 60:.1f} minutes; all of it is in {self.folder}")


def median_seconds(f, repeats=5):
    """Median wall-clock seconds of f(), after one call that warms up."""
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return round(sorted(times)[repeats // 2], 4)


# --------------------------------------------------------------------------------------------------
# 5. Pictures
# --------------------------------------------------------------------------------------------------


def save_figure(path, figure):
    """A matplotlib figure to a PNG file, atomically; then close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def save_grid(path, images, columns=8, scale=2):
    """images (N, 1, H, W) in [0, 1] as one PNG, `columns` in a row, each pixel scale×scale."""
    buffer = io.BytesIO()
    large = images.cpu().float().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    torchvision.utils.save_image(large, buffer, nrow=columns, padding=2 * scale, pad_value=0.5, format="png")
    write_atomically(path, buffer.getvalue())


def save_animation(path, frames, columns=8, scale=2, milliseconds=60, last=2000):
    """frames: a list of (N, 1, H, W) in [0, 1], each a grid like save_grid's, as an endless GIF; the last stays longer."""
    pictures = []
    for images in frames:
        grid = torchvision.utils.make_grid(images.cpu().float(), nrow=columns, padding=1, pad_value=0.5)[0]
        large = (grid * 255).to(torch.uint8).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        pictures.append(Image.fromarray(large.numpy()))
    buffer = io.BytesIO()
    times = [milliseconds] * (len(pictures) - 1) + [last]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    write_atomically(path, buffer.getvalue())


def labelled_rows(path, rows):
    """rows: a list of (label, images (n, 1, H, W) in [0, 1]), as many in each; a strip of digits a row."""
    columns, height = len(rows[0][1]), rows[0][1].shape[2]
    images = torch.cat([images.cpu().float() for _, images in rows])
    figure, ax = plt.subplots(figsize=(0.45 * columns + 1.5, 0.45 * len(rows) + 0.3))
    ax.imshow(torchvision.utils.make_grid(images, nrow=columns, padding=1, pad_value=0.5)[0].numpy(), cmap="gray")
    ax.set_yticks([1 + (height + 1) * (k + 0.5) for k in range(len(rows))], [label for label, _ in rows], fontsize=8)
    ax.set_xticks([])
    save_figure(path, figure)


def plot_loss(path, curve):
    """Train and validation nats per image (or, without a likelihood, the Fréchet distance) against steps and minutes."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    names = ("train_nats", "val_nats") if curve[0]["val_nats"] is not None else ("val_frechet",)
    values = [row[name] for row in curve for name in names]
    for ax, key, unit, label in ((axes[0], "step", 1, "steps"), (axes[1], "seconds", 60, "minutes of training")):
        for name in names:
            ax.plot([row[key] / unit for row in curve], [row[name] for row in curve], ".-", label=name.split("_")[0])
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    # The first evaluations are far above the rest and would flatten the part one wants to see.
    axes[0].set_ylim(max(0, min(values) - 1), min(max(values) + 1, min(values) + 40))
    axes[0].set_ylabel("nats per image (sum over pixels)" if len(names) == 2 else "Fréchet distance to validation digits")
    axes[0].legend()
    save_figure(path, figure)


# --------------------------------------------------------------------------------------------------
# 6. A judge: a classifier of digits, and what it says of a heap of images
#
# A model without a likelihood has to be measured by its samples. Photographs are compared in the features of an
# Inception network, which has never seen a digit; so we have a classifier of our own. It is trained on grey digits
# and on binarized ones alike (python compare.py --train-judge), and its weights ship along: scores that were made with
# another judge cannot be compared, so everybody has the same one. The scores are explained in gan.py.
# --------------------------------------------------------------------------------------------------

JUDGE = Path(__file__).resolve().parent / "data" / "judge.pt"


class Judge(torch.nn.Module):
    """A small convolutional classifier. Images (B, 1, 28, 28) in [0, 1] -> logits (B, 10); features(x): (B, 64)."""

    def __init__(self):
        super().__init__()
        conv, norm, relu = torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.ReLU
        self.body = torch.nn.Sequential(
            conv(1, 16, 3, padding=1), norm(16), relu(), conv(16, 32, 4, stride=2, padding=1), norm(32), relu(),
            conv(32, 32, 3, padding=1), norm(32), relu(), conv(32, 64, 4, stride=2, padding=1), norm(64), relu(),
            torch.nn.Flatten(), torch.nn.Linear(64 * 49, 64), torch.nn.BatchNorm1d(64), relu())
        self.last = torch.nn.Linear(64, 10)

    def features(self, x):
        return self.body(2 * x - 1)

    def forward(self, x):
        return self.last(self.features(x))


def train_judge(data, steps=3000, batch_size=128, lr=3e-3, seed=0):
    """A Judge trained on the training images, half of each batch grey and half binarized -> it, in eval mode."""
    torch.manual_seed(seed)
    judge = Judge().to(data.train.device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.01, fused=True)
    for step in tqdm(range(steps), desc="judge", mininterval=0.5 if sys.stderr.isatty() else 30):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / (0.05 * steps + 1), 1 - step / steps)
        i = torch.randint(len(data.train), (batch_size,), device=data.train.device)
        grey, half = data.train[i], batch_size // 2
        x = torch.cat([grey[:half] / 255, binarize(grey[half:])])
        # Up to two pixels to each side: a digit is the same one then.
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = torch.nn.functional.cross_entropy(judge(x.roll(shift, (2, 3))), data.train_labels[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def judged(judge, images):
    """Features (N, 64) in float64 and classes (N,) of images (N, 1, 28, 28): float in [0, 1], or uint8, bits or grey levels."""
    scale, features, classes = 255 if images.dtype == torch.uint8 and images.max() > 1 else 1, [], []
    for part in images.split(500):
        f = judge.features(part.float() / scale)
        features.append(f.cpu().double())
        classes.append(judge.last(f).argmax(dim=1).cpu())
    return torch.cat(features), torch.cat(classes)


def frechet_distance(a, b):
    """Fréchet distance of the Gaussians that fit two sets of features, (N, F) and (M, F): ‖μ_a − μ_b‖² + tr(A + B − 2 √(AB))."""
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.nan  # of a model whose weights are lost: whoever asked will see it
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # AB need not be symmetric, but √A B √A is, and has the same eigenvalues: so the roots of both have the same trace.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace).clamp(min=0).item()


def within_manifold(points, support, k):
    """The part of points (N, F) that lie in a ball around some point of support (M, F) which reaches to that point's k-th neighbour in support."""
    radius = torch.cat([torch.cdist(part, support).kthvalue(k + 1, dim=1).values for part in support.split(1000)])  # + 1: itself
    return torch.cat([(torch.cdist(part, support) <= radius).any(dim=1) for part in points.split(1000)]).double().mean().item()


def scores(judge, draws, real, k=3):
    """Draws (N, 1, 28, 28) beside real digits (M, 1, 28, 28), as a dict: frechet distance (of all); precision and recall
    (of min(N, M) of both); shares, how often each of the ten digits was drawn. Equations (6) to (8) of gan.py."""
    a, classes = judged(judge, draws)
    b, _ = judged(judge, real)
    # Of the larger heap a random part, always the same: the first half of MNIST's test set is the cleaner one (says its home page).
    n, generator = min(len(a), len(b)), torch.Generator().manual_seed(0)
    some, others = a[torch.randperm(len(a), generator=generator)[:n]], b[torch.randperm(len(b), generator=generator)[:n]]
    return {"frechet": frechet_distance(a, b), "precision": within_manifold(some, others, k), "recall": within_manifold(others, some, k),
            "shares": (torch.bincount(classes, minlength=10).double() / len(classes)).tolist()}


def load_judge(device="cpu", path=JUDGE):
    """The judge that ships along, in eval mode; SystemExit if its file is missing or broken."""
    judge = Judge()
    try:
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in torch.load(path, weights_only=True).items()})
    except Exception as error:  # torch.load raises a dozen kinds for a file that is cut or foreign
        fail(f"{path} is missing or broken ({type(error).__name__}): restore it with git checkout.")
    return judge.eval().requires_grad_(False).to(device)
