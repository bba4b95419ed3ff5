"""
runner.py: a run, its folder, its checkpoints
=============================================
No generative model. A Run keeps a run's folder (checkpoint, curve, metrics), and goes on after a
Ctrl-C, a crash or a kill as if nothing had happened. The command line is in settings.py.
"""
import contextlib
import io
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm

import judge
import pictures
import utils
from settings import flag, parse, resolve, run_name
from utils import fail, write_atomically

try:
    import fcntl  # locks of files; Windows has others
except ImportError:
    fcntl = None

# --------------------------------------------------------------------------------------------------
# The training loop of a chapter talks to a Run at three points:
#
#     with run.training(model=model, optimizer=optimizer):    # starts, or restores on --resume
#         while run.step < s.steps:
#             ...                                             # the chapter's own step
#             run.check_finite(loss=..., gradient=...)        # or stop, with the reason
#             if run.tick(loss):                              # counts it; True when it is time to
#                 run.record(...)                             # evaluate, log, keep the best weights
#
# All that decides how training goes on is in checkpoint.pt, the random state included: a run that
# was killed and resumed ends bit for bit where another ends (on a CPU, with as many threads).
# --------------------------------------------------------------------------------------------------

SAVE_EVERY = 50  # seconds at most between two checkpoints
KEPT = ("script", "settings", "data", "judge", "command", "step", "curve", "pictures", "best",
        "train_seconds", "eval_seconds", "running")
WEIGHTS = ("script", "settings", "data", "command", "best")  # of these weights.pt consists


class Run:
    """One run of a chapter: its settings, its folder, its checkpoint, its log.

    file: the chapter's __file__; settings, variants: its SETTINGS and VARIANTS; argv: what was
    typed. run.settings.lr and so on are the values that hold.
    """

    def __init__(self, file, description, settings, variants, argv=None):
        self.script = Path(file).stem
        self.args, self.chosen, self.command = parse(
            self.script, description, settings, variants, argv)
        self.sample_only, self.device = self.args.sample_only, self.args.device
        self.drawing = [name for name, s in settings.items() if s.drawing]
        values = resolve(settings, variants, self.chosen)
        name = run_name(self.script, settings, variants, values)
        self.folder = Path(self.args.out or f"runs/{name}")
        self.path, self.checkpoint = self.find_checkpoint(), None
        if self.args.resume or self.sample_only:
            self.checkpoint = self.read_checkpoint()
            self.command = self.checkpoint["command"]
            values = resolve(settings, variants, self.chosen, self.agreed())
        self.settings = SimpleNamespace(**values)
        self.step, self.curve, self.pictures, self.best = 0, [], [], None
        self.data = self.judge = None  # names of what it hangs on
        self.train_seconds = self.eval_seconds = 0.0
        self.mark, self.running = time.perf_counter(), None  # running: the mean of recent losses

    def agreed(self):
        """The checkpoint's settings; SystemExit if another value was typed for one of them."""
        then = self.checkpoint["settings"]
        free = self.drawing + ["seed"] * self.sample_only  # there it is the seed of the draws
        for key, value in self.chosen.items():
            if key not in free and then.get(key, value) != value:
                fail(f"{self.path} was made with {flag(key)} {then[key]}, not {value}: leave "
                     f"{flag(key)} out, or choose another --out.")
        return {key: value for key, value in then.items() if key not in free}

    def build(self, build):
        """build(settings), from the run's seed, on the run's device; then the folder is made ready.

        ValueError of build() is a mistake in the flags: its words are what the user is told."""
        torch.manual_seed(self.settings.seed)
        try:
            model = build(self.settings)
        except ValueError as error:
            fail(error)
        except RuntimeError as error:  # by which torch says that there is not enough memory
            if "alloc" not in str(error):
                raise
            fail("there is not enough memory for a model of that size; choose a smaller one.")
        self.open_folder()
        model.to(self.device)
        return model

    def open_folder(self):
        """The run's folder, writable and ours alone: found out now, not after an hour."""
        ours = {"checkpoint.pt", "checkpoint.pt.part", "metrics.json", "weights.pt"}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            inside = {p.name for p in self.folder.iterdir() if p.name[0] != "."}
            if inside and not inside & ours:
                fail(f"--out {self.folder} has files in it that are not from a run; choose a new "
                     "or empty folder.")
            self.lock()
        except OSError as error:
            fail(f"--out {self.folder} cannot be written ({error.strerror or error}); choose "
                 "another folder.")
        self.finished = self.args.resume and "metrics.json" in inside
        if self.finished:
            print(f"{self.folder} is finished, there is nothing to resume: see metrics.json there.")
        if self.path not in (self.folder / "checkpoint.pt", self.folder / "weights.pt"):
            # What ships along is copied beside what is drawn; a later run will move it aside.
            self.write("weights.pt", self.path.read_bytes())

    def lock(self):
        """One process at a time in a folder. The lock is gone with the process, however it ends."""
        self.locked = open(self.folder / ".lock", "a+")
        try:
            fcntl and fcntl.lockf(self.locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.locked.seek(0)
            fail(f"another run is at work in {self.folder} (process {self.locked.read().strip()}); "
                 "wait for it, or choose another --out.")
        self.locked.truncate(0)
        self.locked.write(str(os.getpid()))
        self.locked.flush()

    def check_still_ours(self):
        """Somebody may have moved the folder away, and another run be at work in its place."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self.locked.fileno()), os.stat(self.folder / ".lock")):
                return
        fail(f"{self.folder} was moved away; go on with --resume and its new name for --out.")

    def move_aside(self):
        """A new run never destroys an old one: what is in the folder is moved aside, whole."""
        if not any(p.name != ".lock" for p in self.folder.iterdir()):
            return
        aside = next(p for k in range(1, 10**9)
                     if not (p := Path(f"{self.folder}.{k}")).exists())
        try:
            self.folder.rename(aside)
            self.folder.mkdir()
        except OSError as error:
            fail(f"the run in {self.folder} cannot be moved aside ({error.strerror}); choose "
                 "another --out.")
        self.lock()
        print(f"the run that was in {self.folder} is now in {aside}")

    def load_data(self):
        """MNIST, as utils.load_mnist() has it; y_… are there if the model is told the label."""
        data = utils.load_mnist(self.args.data_dir, self.device)
        if self.checkpoint and self.checkpoint["data"] != data.name:
            fail(f"{self.path} was trained on {self.checkpoint['data']}, and --data-dir "
                 f"{self.args.data_dir} gives {data.name}; give that which it was trained with.")
        if self.settings.batch_size > len(data.train):
            fail(f"--batch-size {self.settings.batch_size} is more than the {len(data.train)} "
                 "training images; choose a smaller one.")
        for split in ("train", "val", "test") * self.settings.conditional:
            setattr(data, f"y_{split}", getattr(data, f"{split}_labels"))
        self.data = data.name
        return data

    def load_judge(self):
        """The judge, the same one all through a run: by another one figures have another scale."""
        self.judge = judge.judge_digest()
        if self.checkpoint and self.checkpoint["judge"] not in (None, self.judge):
            fail(f"{self.path} was judged by another data/judge.pt: bring it back, or train anew.")
        return judge.load_judge(self.device)

    @contextlib.contextmanager
    def training(self, **parts):
        """Around the training loop. `parts`: all that training changes (what has a state_dict)."""
        self.parts, self.stop, steps = parts, False, self.settings.steps
        # About twenty evaluations, closer together at the start, where learning is fast.
        self.evaluations = {max(1, round(steps * (i / 20) ** 2)) for i in range(1, 21)}

        def on_signal(signum, frame):  # Ctrl-C, or a polite kill: after this step, not in it
            if self.stop:
                raise SystemExit(130)  # the second Ctrl-C: at once; the last checkpoint stands
            self.stop = True

        handlers, main = {}, threading.current_thread() is threading.main_thread()
        for s in (signal.SIGINT, signal.SIGTERM) * main:  # no other thread may set them
            if signal.getsignal(s) != signal.SIG_DFL:  # not in a notebook's way
                handlers[s] = signal.signal(s, on_signal)
        if not self.checkpoint:
            self.move_aside()
        self.restore() if self.checkpoint else self.save()
        # Into a log file the bar would write a line at each update: there it moves twice a minute.
        self.bar = tqdm(total=steps, initial=self.step, desc="training", unit="step",
                        dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 30)
        self.mark = self.saved = time.perf_counter()
        try:
            yield
        finally:
            self.bar.close()
            for s, handler in handlers.items():
                signal.signal(s, handler)

    def tick(self, loss, unit="nats"):
        """Count a step and its loss (nats per image, or `unit`). True if an evaluation is due."""
        self.step += 1
        now = time.perf_counter()
        self.train_seconds, self.mark = self.train_seconds + now - self.mark, now
        self.running = loss if self.running is None else 0.98 * self.running + 0.02 * loss
        self.bar.set_postfix_str(f"{self.running:.{1 if unit == 'nats' else 2}f} {unit}",
                                 refresh=False)
        self.bar.update()
        due = self.step in self.evaluations  # then record() saves: a save before it would lose it
        if not due and (self.stop or now - self.saved > SAVE_EVERY):
            self.save()
            self.leave_if_stopped()
        return due

    def check_finite(self, **values):
        """Stop before a step that would poison the weights. The last checkpoint stays as it is."""
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                fail(f"after step {self.step} the {name} is {value}. Likely causes: --lr "
                     f"{self.settings.lr:g} is too high, or a change to the loss (log of 0, "
                     f"division by 0). The last good checkpoint is {self.path}.")

    def record(self, train_nats, val_nats, model, picture, score=None, **more):
        """Log one evaluation, keep the weights if they are the best on validation, save.

        `picture`: (n, 1, H, W), drawn from the same noise each time: a row of progress.png.
        `score`: what "best" means, if it is not val_nats; the lower the better. A model without a
        likelihood gives None for both nats, and val_frechet, its Fréchet distance to validation.
        """
        score = val_nats if score is None else score
        self.check_finite(validation=float(score))
        images, seconds = self.step * self.settings.batch_size, round(self.train_seconds, 2)
        self.curve.append({"step": self.step, "images": images, "seconds": seconds,
                           "train_nats": train_nats, "val_nats": val_nats, **more})
        self.pictures.append((picture * 255).round().to("cpu", torch.uint8))
        if self.best is None or score < self.best["score"]:
            weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            self.best = {"score": score, "step": self.step, "weights": weights}
        self.save()
        bits = utils.bits_per_dim(val_nats)
        found = f"Fréchet distance {more.get('val_frechet', score):7.2f}" if val_nats is None else \
            f"train {train_nats:7.2f} | val {val_nats:7.2f} nats | {bits:.4f} bits/dim"
        with contextlib.suppress(OSError, ValueError):  # a full disk does not end training
            say = tqdm.write if sys.stderr.isatty() else print
            say(f"step {self.step:>6} | {images:>9,} images | {found} | {seconds:6.1f} s")
        self.leave_if_stopped()

    def leave_if_stopped(self):
        """After Ctrl-C, and with everything saved."""
        if self.stop:
            words = ["python", f"{self.script}.py", "--resume", "--out", str(self.folder)]
            for name in ("data_dir", "num_samples"):  # not in the checkpoint: to be typed again
                value = getattr(self.args, name)
                words += [flag(name), str(value)] * (value not in (None, "data"))
            tqdm.write(f"stopped at step {self.step}; go on with: {shlex.join(words)}")
            raise SystemExit(130)

    # --------------------------------------------------------------------------- its checkpoint

    def find_checkpoint(self):
        """Where the weights are: checkpoint.pt; to draw, weights.pt or what ships will do."""
        whole, alone = self.folder / "checkpoint.pt", self.folder / "weights.pt"
        shipped = Path(__file__).resolve().parent / "samples" / self.folder.name / "weights.pt"
        if not self.sample_only or os.path.exists(whole):
            return whole
        ours = self.folder.parent == Path("runs") and os.path.isfile(shipped)
        if os.path.exists(alone) or not ours:
            return alone
        print(f"{self.folder} has no run: drawing from the weights that ship along, "
              f"samples/{self.folder.name}/weights.pt")
        return shipped

    def read_checkpoint(self):
        """The checkpoint, as a dict; SystemExit if it is damaged, or another chapter's."""
        script = f"{self.script}.py"
        if not os.path.isfile(self.path):
            word = "--resume" if self.args.resume else "--sample-only"
            fail(f"{word} found no {self.folder / 'checkpoint.pt'}; train first, with python "
                 f"{script}, or say with --out where the run is.")
        alone = self.path.name == "weights.pt"
        parts = {*WEIGHTS, "left_out"} if alone else {*KEPT, "parts", "rng"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about foreign files: we say it ourselves, below
                checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            if zipfile.ZipFile(self.path).testzip() or not parts <= set(checkpoint):
                raise ValueError("damaged")
        except Exception as error:  # torch.load raises a dozen kinds for a bad file
            fail(f"{self.path} is truncated or is not a checkpoint ({type(error).__name__}); train "
                 "anew, or choose another --out.")
        if checkpoint["script"] != self.script:
            fail(f"{self.path} is of {checkpoint['script']}.py, not of {script}; choose another "
                 "--out.")
        return checkpoint

    def kept(self, names):
        return {k: vars(self.settings) if k == "settings" else getattr(self, k) for k in names}

    def save(self):
        """Write checkpoint.pt, atomically."""
        rng, kind = {"cpu": torch.get_rng_state()}, self.device.type
        if kind != "cpu":  # of this card, not of the first one
            rng[kind] = getattr(torch, kind).get_rng_state(*[self.device] * (kind == "cuda"))
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        self.write("checkpoint.pt", {**self.kept(KEPT), "rng": rng, "parts": parts})
        now = time.perf_counter()
        self.eval_seconds, self.mark, self.saved = self.eval_seconds + now - self.mark, now, now

    def restore(self):
        """The reverse of save()."""
        for name, part in self.parts.items():
            self.load_state(part, self.checkpoint["parts"].get(name, {}))
        vars(self).update({k: self.checkpoint[k] for k in KEPT if k != "settings"})
        rng, kind = self.checkpoint["rng"], self.device.type
        torch.set_rng_state(rng["cpu"])
        if kind != "cpu" and kind in rng:
            getattr(torch, kind).set_rng_state(rng[kind], *[self.device] * (kind == "cuda"))
        print(f"resuming {self.folder} at step {self.step} of {self.settings.steps}")

    def load_state(self, part, state):
        """part.load_state_dict(state); SystemExit if the checkpoint was made by other code."""
        try:
            part.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError):
            fail(f"{self.path} does not fit {self.script}.py as it is now; train anew, or choose "
                 "another --out.")

    def load_best(self, model):
        """Put the weights that were best on validation into the model. -> the model."""
        self.best = self.best or (self.checkpoint and self.checkpoint["best"])
        if not self.best:
            fail(f"{self.path} was stopped before its first evaluation: go on with --resume first.")
        weights = self.best["weights"]
        if self.path.name == "weights.pt":  # half precision, without what drawing does not need
            whole, left_out = model.state_dict(), tuple(self.checkpoint["left_out"])
            weights = {k: v.to(whole[k]) if k in whole else v for k, v in weights.items()}
            weights |= {k: v for k, v in whole.items() if left_out and k.startswith(left_out)}
        self.load_state(model, weights)
        self.check_still_ours()  # what follows is written here
        return model

    # ---------------------------------------------------------------------------- what it writes

    def write_samples(self, model):
        """samples.png, the first draws of a fixed seed; with --num-samples N also samples.npy,
        float32 (N, 28, 28), labels.npy for a conditional model (0 … 9 over and over, or --label
        everywhere), and means.npy if pixels were coins tossed apart (vae.py): the coins'
        probabilities; samples.json says of which step's weights they are, and how they came."""
        label, seed = self.args.label, self.settings.seed if self.sample_only else 0
        if label is not None and not model.conditional:
            fail(f"--label {label} is for models trained with --conditional; {self.path} was not.")

        def labels(n, each):
            return utils.row_labels(model, n, each) if label is None else torch.full((n,), label)

        generator = torch.Generator().manual_seed(seed)
        how = {} if label is None else {"label": label}
        how |= {key: self.chosen[key] for key in self.drawing if key in self.chosen}
        chosen = {"seed": seed, **how} if self.sample_only and "seed" in self.chosen else how
        name = "_".join(["samples"] + [f"{key}{value}" for key, value in chosen.items()]) + ".png"
        n = 80 if model.conditional and label is None else 64
        pictures.save_grid(self.folder / name, model.sample(n, labels(n, 8), generator))
        print(f"wrote {self.folder / name}")
        if not self.args.num_samples:
            return
        n, x, means, y = self.args.num_samples, [], [], labels(self.args.num_samples, 1)
        for i in range(0, n, 500):
            some = min(500, n - i), None if y is None else y[i:i + 500]
            twin = torch.Generator().set_state(generator.get_state())  # the same noise once more
            x.append(model.sample(*some, generator).cpu())
            if hasattr(model, "sample_means"):  # the probabilities of the coins that x tossed
                means.append(model.sample_means(*some, twin).cpu())
        arrays = {"samples": torch.cat(x)[:, 0].float(), "labels": y}
        arrays |= {"means": torch.cat(means)[:, 0].float()} if means else {}
        for name, array in arrays.items():
            if array is not None:
                buffer = io.BytesIO()
                np.save(buffer, array.numpy())
                self.write(f"{name}.npy", buffer.getbuffer())
                print(f"wrote {self.folder / name}.npy")
        # How they were drawn: compare.py wants plain draws of the run that it scores.
        self.write("samples.json", {"step": self.best["step"], **how})

    def write(self, name, content):
        """Write bytes into the folder, or the tensors of a dict, or anything else as JSON."""
        self.check_still_ours()
        if isinstance(content, dict) and name.endswith(".pt"):
            buffer = io.BytesIO()
            torch.save(content, buffer)
            content = buffer.getbuffer()
        elif isinstance(content, dict):
            content = (json.dumps(content, indent=1) + "\n").encode()
        write_atomically(self.folder / name, content)

    def write_weights(self, left_out):
        """weights.pt: what --sample-only needs, in half precision: small enough to ship."""
        weights = {k: v.half() if v.is_floating_point() else v
                   for k, v in self.best["weights"].items()
                   if not any(map(k.startswith, left_out))}
        if not all(torch.isfinite(v).all() for v in weights.values()):  # too large for that
            weights = {k: self.best["weights"][k] for k in weights}
        self.write("weights.pt", {**self.kept(WEIGHTS), "left_out": list(left_out),
                                  "best": {**self.best, "weights": weights}})

    def finish(self, model, test_nats, likelihood, left_out=(), **own):
        """Write weights.pt, metrics.json, loss.png, progress.png. likelihood: "exact", "bound",
        "estimate" (with nats_interval=) or "none". left_out: names of weights that begin so are not
        needed to draw. own: the chapter's further figures, all of which have to be finite."""
        self.check_finite(test_nats=test_nats, **own)
        y, s = utils.row_labels(model, 64, 8), self.settings
        sample_seconds = utils.median_seconds(lambda: model.sample(64, y))
        self.eval_seconds += time.perf_counter() - self.mark
        metrics = {
            "model": self.script, "variant": getattr(s, "variant", ""),
            "conditional": s.conditional, "likelihood": likelihood,
            "test_nats": test_nats, "bits_per_dim": utils.bits_per_dim(test_nats),
            "binarization": "dynamic for training; validation and test one fixed draw",
            "data": self.data, "judge": self.judge, **own, "best_step": self.best["step"],
            "parameters": sum(p.numel() for p in model.parameters()),
            **{name: getattr(s, name) for name in ("steps", "batch_size", "lr", "seed")},
            "train_seconds": round(self.train_seconds, 1),
            "eval_seconds": round(self.eval_seconds, 1), "sample_seconds_64": sample_seconds,
            "device": str(self.device), **utils.machine(), "command": self.command,
            "settings": vars(s), "curve": self.curve}
        self.write_weights(left_out)
        pictures.plot_loss(self.folder / "loss.png", self.curve)
        pictures.labelled_rows(self.folder / "progress.png", [
            (f"step {row['step']}", x.float() / 255) for row, x in zip(self.curve, self.pictures)])
        self.write("metrics.json", metrics)
        nats = f"no likelihood; Fréchet distance {own['test_frechet']:.2f}" if test_nats is None \
            else f"{test_nats:.2f} nats ({likelihood}), {metrics['bits_per_dim']:.4f} bits/dim"
        print(f"test: {nats}; trained {self.train_seconds / 60:.1f} minutes; all of it is in "
              f"{self.folder}")
