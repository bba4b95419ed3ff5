"""
settings.py: what can be set, as flags
======================================
A chapter says at its top what can be set: a line a setting, with its default and its reason. This
module makes flags of these lines, and answers a mistake by one sentence.

What holds is: the chapter's defaults, then its variant's, then the checkpoint's (with --resume or
--sample-only), then what was typed, which must not contradict the checkpoint.
"""
import argparse
import dataclasses
import importlib
import math
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from utils import fail


@dataclasses.dataclass(frozen=True)
class Setting:
    """A line of a chapter's SETTINGS: all there is to know of a flag. Its type is the default's.

    least, most   numbers that are allowed: by default whole ones from 1, fractions above 0
    choices       words, or numbers, that are allowed
    word          what it adds to the name of a run if it is not the default: "width{}"
    only          ("variant", "rnn"): a flag of that variant alone; with more words, of these
    drawing       it changes how is drawn, not what is learned: a flag for --sample-only
    """

    default: object
    help: str
    least: float = None
    most: float = 10**9
    choices: tuple = None
    word: str = ""
    only: tuple = None
    drawing: bool = False

    def read(self, text):
        """The value that was typed; argparse.ArgumentTypeError, with the reason, if it is none."""
        number = type(self.default)
        above = self.least is None and number is float
        least = 0 if above else 1 if self.least is None else self.least
        try:
            value = number(text)
        except ValueError:
            value = math.nan  # which is not above, nor below anything
        if not (least < value if above else least <= value) or not value <= self.most:
            whole, least_word = "whole " * (number is int), "above" if above else "of at least"
            what = f"{whole}number {least_word} {least}"
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not a {what} and at most {self.most}")
        return value


COMMON = {  # settings that all chapters have; steps, batch_size and lr stand in the chapters
    "seed": Setting(0, "of training, or with --sample-only of the draws", 0, 2**32 - 1),
    "conditional": Setting(False, "tell the model the digit: p(x|y) instead of p(x)"),
}

FROM_DATA = {"image_size", "classes"}  # what is not typed but read off the images


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is answered by one sentence instead of a page of usage."""

    def error(self, message):
        print(f"{self.prog}: error: {message} (see python {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def flag(name):
    return "--" + name.replace("_", "-")


def defaults(settings, variants, chosen):
    """Values of all settings, given those that were chosen: a dict. variants: {(name, value):
    {name: default}}, what some defaults are if another setting has that value."""
    values = {name: setting.default for name, setting in {**settings, **COMMON}.items()}
    for (name, value), other in variants.items():
        if chosen.get(name, values[name]) == value:
            values |= other
    return values


def make_parser(script, description, settings, variants):
    """The flags of a chapter: its settings, and those of a run. What is not typed stays unset."""
    parser = Parser(prog=f"{script}.py", description=description, allow_abbrev=False,
                    argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("settings")
    for name, s in {**settings, **COMMON}.items():
        if isinstance(s.default, bool):
            group.add_argument(flag(name), action="store_true", help=s.help)
            continue
        others = [f"; with {flag(key)}{'' if value is True else f' {value}'}: {other[name]}"
                  for (key, value), other in variants.items() if name in other]
        only = f"with {flag(s.only[0])} {' or '.join(s.only[1:])}: " if s.only else ""
        only = f"with --sample-only{only and ' and' + only[4:-2]}: " if s.drawing else only
        metavar = None if s.choices else type(s.default).__name__.upper()
        group.add_argument(flag(name), choices=s.choices, metavar=metavar,
                           type=type(s.default) if s.choices else s.read,
                           help=f"{only}{s.help} (default: {s.default}{''.join(others)})")
    group = parser.add_argument_group("the run")
    group.add_argument("--device", help="auto, cpu, cuda or mps (default: auto)")
    group.add_argument("--threads", type=Setting(1, "", 1, 1024).read, metavar="N",
                       help="threads of the CPU (default: one a core; 1 beside a busy program)")
    group.add_argument("--data-dir", help="folder that has, or gets, MNIST/raw (default: data)")
    group.add_argument("--data", metavar="FILE.npz",
                       help="images of your own instead of MNIST (docs/own_data.md)")
    group.add_argument("--out", help="folder of this run (default: runs/<script>[_<variant>])")
    group.add_argument("--start-from", metavar="FOLDER",
                       help="begin with the weights and settings of the run in that folder")
    group.add_argument("--resume", action="store_true",
                       help="go on from the checkpoint in the run's folder")
    group.add_argument("--sample-only", action="store_true",
                       help="draw from the checkpoint in the run's folder, and stop")
    group.add_argument("--num-samples", type=Setting(1, "", 1, 100000).read, metavar="N",
                       help="also write samples.npy: N draws")
    group.add_argument("--png", action="store_true",
                       help="with --num-samples: also write each draw as a PNG file, into png/")
    group.add_argument("--label", type=Setting(0, "", 0).read, metavar="K",
                       help="with --sample-only, conditional: draw this digit only")
    return parser


def pick_device(name):
    """A torch.device from auto, cpu, cuda, cuda:1, mps; SystemExit if there is none here."""
    has = {"cpu": True, "cuda": torch.cuda.is_available(),
           "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(backend for backend in ("cuda", "mps", "cpu") if has[backend])
    backend, colon, index = name.partition(":")
    if backend not in has or (colon and not (backend == "cuda" and index.isdigit())):
        fail(f"--device {name}: not a device that is known; use auto, cpu, cuda or mps.")
    if not has[backend] or (index and int(index) >= torch.cuda.device_count()):
        fail(f"--device {name}: this machine has no such device; it has "
             f"{', '.join(k for k in has if has[k])}.")
    return torch.device(name)


def parse(script, description, settings, variants, argv):
    """What was typed -> (args, chosen, command): the flags of the run, a namespace; the settings
    that were typed, a dict; the whole line. SystemExit, with a sentence, if it makes no sense."""
    parser = make_parser(script, description, settings, variants)
    typed = vars(parser.parse_args(argv))
    command = shlex.join(["python", parser.prog, *(sys.argv[1:] if argv is None else argv)])
    chosen = {name: typed[name] for name in {**settings, **COMMON} if name in typed}
    args = SimpleNamespace(**{
        "device": "auto", "threads": None, "data_dir": "data", "data": None, "out": None,
        "start_from": None, "resume": False, "sample_only": False, "num_samples": None,
        "png": False, "label": None, **typed})
    for name in ("data", "out", "start_from"):  # --out=~/x: a shell leaves that as it is
        if getattr(args, name):
            setattr(args, name, os.path.expanduser(getattr(args, name)))
    if args.resume and args.sample_only:
        fail("--resume trains on and --sample-only does not train: give one of them.")
    if args.start_from and (args.resume or args.sample_only):
        fail("--start-from begins a new run; --resume and --sample-only need one that is there: "
             "give one of them.")
    if args.png and not args.num_samples:
        fail("--png writes the draws of --num-samples N as files: say how many.")
    for name in ["label"] + [name for name, s in settings.items() if s.drawing]:
        if name in typed and not args.sample_only:
            fail(f"{flag(name)} changes how digits are drawn, not how the model is trained: use it "
                 "with --sample-only.")
    args.device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    return args, chosen, command


def called(script):
    """How it was started, as words: python, and the script with its path."""
    path = Path(sys.argv[0])
    return ["python", path if path.stem == script else f"{script}.py"]


def resolve(settings, variants, chosen, then=None, begins=False):
    """The values that hold, as a dict: defaults, variant's, checkpoint's (then), typed (chosen).
    begins: a new run, which only takes over what that of `then` had."""
    typed, chosen = chosen, {**(then or {}), **chosen}
    values = {"image_size": [28, 28], **defaults(settings, variants, chosen), **chosen}
    values["classes"] = (values.get("classes") or 10) if values["conditional"] else 0
    for name, s in settings.items():
        if s.only and name in typed and (s.drawing or begins or not then) \
                and values[s.only[0]] not in s.only[1:]:
            remedy = "choose another --out" if then and not begins else "add that"
            fail(f"{flag(name)} is for {flag(s.only[0])} {' or '.join(s.only[1:])}: {remedy}, or "
                 f"leave {flag(name)} out.")
    return values


def run_name(script, settings, variants, values):
    """The folder of a run in runs/: the script, a word for each setting that is unusual."""
    usual = defaults(settings, variants, values)
    words = [s.word.format(f"{values[key]:g}" if isinstance(s.default, float) else values[key])
             for key, s in settings.items()
             if s.word and not s.drawing and values[key] != usual[key]]
    return "_".join([script, *words] + ["conditional"] * values["conditional"])


def chapters():
    """All chapters that declare themselves, {name: module}, in the order of ABOUT["order"]: scripts
    beside this one that have a line which begins with "ABOUT = "."""
    scripts = sorted(Path(__file__).resolve().parent.glob("*.py"))
    modules = [importlib.import_module(path.stem) for path in scripts
               if "\nABOUT = " in path.read_text(encoding="utf-8")]
    for module in modules:
        for key in ("order", "title", "published", "abilities", "variants", "small"):
            if key not in module.ABOUT:
                fail(f'{module.__name__}.py: ABOUT has no "{key}" (CONTRIBUTING.md, step 5).')
    return {module.__name__: module for module in sorted(modules, key=lambda m: m.ABOUT["order"])}
