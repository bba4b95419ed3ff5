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
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from tqdm import tqdm

import draws
import judge
import own_data
import pictures
import utils
import weights
from settings import called, flag, parse, pick_device, resolve, run_name
from streams import seen_by_somebody
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
load_trained = weights.load  # what load() of each chapter calls


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
        start, npz, then = self.args.start_from, self.args.data, None
        self.start = self.began_from = self.data = self.judge = None  # what it hangs on
        if start:
            self.start, self.began_from, then = weights.read_start(start, self.script, npz)
        values = resolve(settings, variants, self.chosen, then, begins=bool(start))
        name = run_name(self.script, settings, variants, values)
        name += (f"_{Path(npz).stem}" if npz else "") + ("_more" if start else "")
        name += "_more" * (start is not None and Path(start) == Path("runs", name))
        self.folder = Path(self.args.out or f"runs/{name}")
        self.path, self.checkpoint = self.find_checkpoint(), None
        if self.args.resume or self.sample_only:
            self.checkpoint = self.read_checkpoint()
            self.command = self.checkpoint["command"]
            values = resolve(settings, variants, self.chosen, self.agreed())
        self.own_data = own_data.load(npz, self.device) if npz and not self.sample_only else None
        if self.own_data and not self.checkpoint:
            values |= own_data.sizes(npz, self.own_data, values["conditional"])
        self.settings = SimpleNamespace(**values)
        self.step, self.curve, self.pictures, self.best = 0, [], [], None
        self.train_seconds = self.eval_seconds = self.plot_seconds = 0.0
        self.mark, self.running = time.perf_counter(), None  # running: the mean of recent losses

    def command_on(self, *words, begin=("--start-from",)):
        """What goes on from this run, in a line; what no checkpoint says stands there as typed."""
        words = [*called(self.script), *begin, self.folder, *words]
        for name in ("data", "data_dir", "device", "threads", "num_samples"):
            value = getattr(self.args, name)
            words += [flag(name), value] * (value not in (None, "data", pick_device("auto")))
        return shlex.join(map(str, words + ["--png"] * self.args.png))

    def agreed(self):
        """The checkpoint's settings; SystemExit if another value was typed for one of them."""
        then = self.checkpoint["settings"]
        free = self.drawing + ["seed"] * self.sample_only  # there it is the seed of the draws
        for key, value in self.chosen.items():
            if key not in free and then.get(key, value) != value:
                if self.args.resume and key == "steps":  # the rate has fallen to its end for those
                    fail(f"{self.path} was made for {then[key]} steps. To train its weights on, by "
                         f"a new schedule: {self.command_on('--steps', value)}")
                fail(f"{self.path} was made with {flag(key)} {then[key]}, not {value}: leave "
                     f"{flag(key)} out, or choose another --out.")
        return {key: value for key, value in then.items() if key not in free}

    def build(self, build):
        """build(settings), from the run's seed, on the run's device; then the folder is made ready.

        ValueError of build() is a mistake in the flags: its words are what the user is told."""
        torch.manual_seed(self.settings.seed)
        try:
            model = build(self.settings, self.settings.image_size)
        except ValueError as error:
            fail(error)
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
        except OSError as error:
            if isinstance(error, BlockingIOError | PermissionError):  # else it knows no locks
                self.locked.seek(0)
                fail(f"another run is at work in {self.folder} (process "
                     f"{self.locked.read().strip()}); wait for it, or choose another --out.")
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
        self.check_still_ours()
        if not any(p.name != ".lock" for p in self.folder.iterdir()):
            return
        aside = next(p for k in range(1, 10**9)
                     if not (p := Path(f"{self.folder}.{k}")).exists())
        try:
            if os.name == "nt":  # which renames no folder with an open file in it
                self.locked.close()
            self.folder.rename(aside)
            self.folder.mkdir()
        except OSError as error:
            fail(f"the run in {self.folder} cannot be moved aside ({error.strerror}); choose "
                 "another --out.")
        self.lock()
        print(f"the run that was in {self.folder} is now in {aside}")

    def load_data(self):
        """MNIST, as utils.load_mnist() has it, or what --data says; y_… are there if the model is
        told the label."""
        args, data = self.args, self.own_data or utils.load_mnist(self.args.data_dir, self.device)
        if self.checkpoint and self.checkpoint["data"] != data.name:
            where = f"--data {args.data}" if self.own_data else f"--data-dir {args.data_dir}"
            fail(f"{self.path} was trained on {self.checkpoint['data']}, and {where} gives "
                 f"{data.name}; give that which it was trained with.")
        if self.settings.batch_size > len(data.train):
            fail(f"--batch-size {self.settings.batch_size} is more than the {len(data.train)} "
                 "training images; choose a smaller one.")
        given = self.checkpoint or self.start or "steps" in self.chosen
        if data.name == "mnist_5k" and not given:
            self.settings.steps //= 4
            print("!!! a quarter of the usual steps: few images are soon known by heart (--steps).")
        for split in ("train", "val", "test") * self.settings.conditional:
            setattr(data, f"y_{split}", getattr(data, f"{split}_labels"))
        self.data = data.name
        return data

    def load_judge(self):
        """The judge, the same one all through a run: by another one figures have another scale.
        None for images that are not MNIST's, of which it knows nothing."""
        if self.own_data:
            print("distances, precision and recall are left out: the judge knows digits alone.")
            return None
        network, self.judge = judge.load_judge(self.device), judge.judge_digest()
        if self.checkpoint and self.checkpoint["judge"] not in (None, self.judge):
            fail(f"{self.path} was judged by another data/judge.pt: bring it back, or train anew.")
        return network

    @contextlib.contextmanager
    def training(self, **parts):
        """Around the training loop. `parts`: all that training changes (what has a state_dict)."""
        self.parts, self.stop, steps = parts, False, self.settings.steps
        n = min(20, 4 + steps // 100)  # evaluations, closer together where learning is fast
        self.evaluations = {max(1, round(steps * (i / n) ** 2)) for i in range(1, n + 1)}

        def on_signal(signum, frame):  # Ctrl-C, or a polite kill: after this step, not in it
            if self.stop:
                raise SystemExit(130)  # the second Ctrl-C: at once; the last checkpoint stands
            self.stop = True

        if self.start:
            weights.load_start(parts, self.start, self.began_from, self.data)
        if not self.checkpoint:
            self.move_aside()
        self.restore() if self.checkpoint else self.save()
        self.bar = tqdm(total=steps, initial=self.step, desc="training", unit="step",
                        dynamic_ncols=True, mininterval=0.5, disable=not seen_by_somebody())
        self.mark = self.saved = time.perf_counter()
        handlers, main = {}, threading.current_thread() is threading.main_thread()
        try:
            for s in (signal.SIGINT, signal.SIGTERM) * main:  # no other thread may set them
                if signal.getsignal(s) != signal.SIG_DFL:  # not in a notebook's way
                    handlers[s] = signal.signal(s, on_signal)
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
                then = "; to go on from its best weights: " + self.command_on(
                    "--lr", f"{self.settings.lr / 3:.1g}") if self.best else ""
                fail(f"after step {self.step} the {name} is {value}. Likely causes: --lr "
                     f"{self.settings.lr:g} is too high, or a change to the loss (log of 0, "
                     f"division by 0). The last good checkpoint is {self.path}{then}.")

    def record(self, train_nats, val_nats, model, picture, score=None, **more):
        """Log one evaluation, keep the weights if they are the best on validation, save.

        `picture`: (n, 1, H, W), of the same noise each time: a row of progress.png. `score`: what
        "best" means, if it is not val_nats; the lower the better. A model without a likelihood
        gives None for both nats, and val_frechet, its distance to validation; None for that, too,
        if nobody can judge its images: then the latest weights count as the best."""
        score = val_nats if score is None else score
        if getattr(self.settings, "levels", 2) > 2 and val_nats is not None:  # of another scale
            more = {"train_grey_nats": train_nats, "val_grey_nats": val_nats}
            train_nats = val_nats = None
        self.check_finite(validation=score)
        images, seconds = self.step * self.settings.batch_size, round(self.train_seconds, 2)
        self.curve.append({"step": self.step, "images": images, "seconds": seconds,
                           "train_nats": train_nats, "val_nats": val_nats, **more})
        self.pictures.append((picture * 255).round().to("cpu", torch.uint8))
        if self.best is None or score is None or score < self.best["score"]:
            kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            self.best = {"score": score, "step": self.step, "weights": kept}
        self.save()
        # Pictures to look at meanwhile: at first, and if they took below a fiftieth of the time.
        if len(self.curve) == 1 or self.plot_seconds < 0.02 * self.train_seconds:
            self.plot_progress()
        distance = more.get("val_frechet")
        bits = utils.bits_per_dim(val_nats, math.prod(self.settings.image_size))
        shown = f"train {train_nats:7.2f} | val {val_nats:7.2f} nats | {bits:.4f} bits/dim" \
            if bits is not None else f"Fréchet distance {distance:7.2f}" if distance is not None \
            else "no likelihood, no judge" if score is None else f"{score:7.2f} nats of levels"
        tqdm.write(f"step {self.step:>6} | {images:>9,} images | {shown} | {seconds:6.1f} s")
        self.leave_if_stopped()

    def plot_progress(self):
        """loss.png, progress.png."""
        self.check_still_ours()
        start = time.perf_counter()
        pictures.plot_loss(self.folder / "loss.png", self.curve)
        pictures.labelled_rows(self.folder / "progress.png", [
            (f"step {row['step']}", x.float() / 255) for row, x in zip(self.curve, self.pictures)])
        now = time.perf_counter()
        self.plot_seconds += now - start
        self.eval_seconds, self.mark = self.eval_seconds + now - self.mark, now

    def leave_if_stopped(self):
        """After Ctrl-C, and with everything saved."""
        if self.stop:
            go_on = self.command_on(begin=("--resume", "--out"))
            tqdm.write(f"stopped at step {self.step}; go on with: {go_on}")
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
        if not os.path.isfile(self.path):
            word = "--resume" if self.args.resume else "--sample-only"
            fail(f"{word} found no {self.folder / 'checkpoint.pt'}; train first, with python "
                 f"{self.script}.py, or say with --out where the run is.")
        try:
            return weights.read(self.path, self.script)
        except ValueError as error:
            fail(error)

    def kept(self, names):
        return {k: vars(self.settings) if k == "settings" else getattr(self, k) for k in names}

    def save(self):
        """Write checkpoint.pt, atomically."""
        rng = weights.random_states(self.device)
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        self.write("checkpoint.pt", {**self.kept(weights.KEPT), "rng": rng, "parts": parts})
        now = time.perf_counter()
        self.eval_seconds, self.mark, self.saved = self.eval_seconds + now - self.mark, now, now

    def restore(self):
        """The reverse of save()."""
        for name, part in self.parts.items():
            self.load_state(part, self.checkpoint["parts"].get(name, {}))
        vars(self).update({k: self.checkpoint[k] for k in weights.KEPT if k != "settings"})
        weights.set_random_states(self.checkpoint["rng"], self.device)
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
        best = self.best["weights"]
        if self.path.name == "weights.pt":  # half precision, without what drawing does not need
            whole, left_out = model.state_dict(), tuple(self.checkpoint["left_out"])
            best = {k: v.to(whole[k]) if k in whole else v for k, v in best.items()}
            best |= {k: v for k, v in whole.items() if left_out and k.startswith(left_out)}
        self.load_state(model, best)
        self.check_still_ours()  # what follows is written here
        return model

    # ---------------------------------------------------------------------------- what it writes

    def write_samples(self, model):
        """samples.png, and samples.npy … with --num-samples N: draws.write()."""
        draws.write(self, model)

    def write(self, name, content):
        """Write bytes into the folder, or the tensors of a dict, or any other dict as JSON."""
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
        half = {k: v.half() if v.is_floating_point() else v
                for k, v in self.best["weights"].items()
                if not k.startswith(tuple(left_out))}
        if not all(torch.isfinite(v).all() for v in half.values()):  # too large for that
            half = {k: self.best["weights"][k] for k in half}
        self.write("weights.pt", {**self.kept(weights.WEIGHTS), "left_out": list(left_out),
                                  "best": {**self.best, "weights": half}})

    def finish(self, model, test_nats, likelihood, left_out=(), **more):
        """Write weights.pt, metrics.json, loss.png, progress.png. likelihood: "exact", "bound",
        "estimate" (with nats_interval=) or "none". left_out: names of weights that begin so are not
        needed to draw. more: the chapter's further figures, which have to be finite."""
        y, s = utils.row_labels(model, 64, 8), self.settings
        self.check_finite(test_nats=test_nats, **more)
        most = math.log(s.classes or 1) + (1 if likelihood == "bound" else 0.01)  # chance; rounding
        if "bayes_accuracy" in more and more["marginal_nats"] > test_nats + most:
            raise AssertionError("p(x) = ⅒ Σ_y p(x|y) came out below p(x|y) / 10")
        sample_seconds = draws.median_seconds(lambda: model.sample(64, y).cpu())
        self.eval_seconds += time.perf_counter() - self.mark
        metrics = {
            "model": self.script, "variant": getattr(s, "variant", ""),
            "conditional": s.conditional, "likelihood": likelihood,
            "test_nats": test_nats,
            "bits_per_dim": utils.bits_per_dim(test_nats, math.prod(s.image_size)),
            "binarization": utils.BINARIZATION,
            "data": self.data, "judge": self.judge, **more, "best_step": self.best["step"],
            "began_from": self.began_from, "labels": getattr(self.own_data, "names", None),
            "parameters": sum(p.numel() for p in model.parameters()),
            **{name: getattr(s, name) for name in ("steps", "batch_size", "lr", "seed")},
            "train_seconds": round(self.train_seconds, 1),
            "eval_seconds": round(self.eval_seconds, 1), "sample_seconds_64": sample_seconds,
            "device": str(self.device), **utils.machine(), "command": self.command,
            "settings": vars(s), "curve": self.curve}
        self.write_weights(left_out)
        self.plot_progress()
        self.write("metrics.json", metrics)
        judged = f"; Fréchet distance {more['test_frechet']:.2f}" if "test_frechet" in more else ""
        nats = f"no likelihood{judged}" if test_nats is None else \
            f"{test_nats:.2f} nats ({likelihood}), {metrics['bits_per_dim']:.4f} bits/dim"
        print(f"test: {nats}; trained {self.train_seconds / 60:.1f} minutes; all of it is in "
              f"{self.folder}")
