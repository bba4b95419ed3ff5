"""
weights.py: files of trained weights
====================================
No generative model. checkpoint.pt has all that a run needs to go on, weights.pt what drawing needs;
both are read here, by runs and, from Python, by load().
"""
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import torch

from settings import resolve
from utils import FIXED_BITS, fail

WEIGHTS = ("script", "settings", "data", "command", "best")  # of these weights.pt consists
KEPT = (*WEIGHTS, "judge", "step", "curve", "pictures", "train_seconds", "eval_seconds", "running",
        "began_from")  # and checkpoint.pt of these, and of what training changes


def read(path, script):
    """A checkpoint.pt or weights.pt of a chapter, as a dict; ValueError, with why, if not."""
    alone = Path(path).name == "weights.pt"
    parts = {*WEIGHTS, "left_out"} if alone else {*KEPT, "parts", "rng"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files: we say it ourselves, below
            state = torch.load(path, map_location="cpu", weights_only=True)
        state.setdefault("began_from", None)  # older runs do not say
        if zipfile.ZipFile(path).testzip() or not parts <= set(state):
            raise ValueError("damaged")
    except Exception as error:  # torch.load raises a dozen kinds for a bad file
        raise ValueError(f"{path} is truncated or is not a checkpoint ({type(error).__name__}); "
                         "train anew, or choose another --out.") from None
    if state["script"] != script:
        raise ValueError(f"{path} is of {state['script']}.py, not of {script}.py; choose another "
                         "--out.")
    return state


def random_states(device, library=torch):
    """The state of the CPU's random numbers and of the device's, if that is another, a dict. With
    two cards: of the one that trains, not of the first. library: torch, or who answers for it."""
    states = {"cpu": library.get_rng_state()}
    if device.type != "cpu":
        which = [device] * (device.type == "cuda")  # Apple's has no second
        states[device.type] = getattr(library, device.type).get_rng_state(*which)
    return states


def set_random_states(states, device, library=torch):
    """The reverse of random_states(); a run may go on elsewhere, where only the CPU's is known."""
    library.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        which = [device] * (device.type == "cuda")
        getattr(library, device.type).set_rng_state(states[device.type], *which)


def find(folder):
    """The weights in a run's folder: checkpoint.pt, else weights.pt. FileNotFoundError if neither
    is there."""
    for name in ("checkpoint.pt", "weights.pt"):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise FileNotFoundError(f"{folder} has neither checkpoint.pt nor weights.pt: train first, or "
                            "say where the run is.")


def read_start(folder, script, npz):
    """What a run with --start-from (and --data) begins from: the other run, a dict; a word on
    it, for metrics.json; and its settings, but for the seed: by the same one all batches of that
    run would come once more."""
    try:
        path = find(folder)
        start = read(path, script)
        if not start["best"]:
            raise ValueError(f"{path} was not evaluated yet: it has no best weights.")
        if start["data"] not in FIXED_BITS and not npz:
            raise ValueError(f"{path} was trained on {start['data']}: give --data, too.")
    except (OSError, ValueError) as error:
        fail(f"--start-from {folder}: {error}")
    about = {"file": str(path), **{key: start[key] for key in ("command", "data")},
             "step": start["best"]["step"]}
    return start, about, {**start["settings"], "seed": (start["settings"]["seed"] + 1) % 2**32}


def load_start(parts, start, began_from, data):
    """Its weights into all networks of `parts`: the best, or, if there are several networks, their
    last. All else is new: optimizers, averages of losses, the rate's schedule. data: the name of
    what they are trained on now."""
    if start["data"] != data:
        print(f"!!! the weights come from {start['data']}: if they have seen images that are in "
              f"the test set of {data}, its figures are too good.")
    networks = {k: part for k, part in parts.items() if isinstance(part, torch.nn.Module)
                and any(True for _ in part.parameters())}  # gan.py's history is none
    last = start.get("parts", {}) if len(networks) > 1 else {}
    for name, network in networks.items():
        try:
            network.load_state_dict(last.get(name, start["best"]["weights"]))
        except RuntimeError:
            fail(f"{began_from['file']} has not all weights of this model, or others: start from a "
                 "folder that has a checkpoint.pt, and leave sizes as they are.")


def load(file, settings, variants, build, folder=None):
    """A trained model on the CPU, ready to use: the weights that were best on validation.

    file, settings, variants, build: a chapter's __file__, SETTINGS, VARIANTS and build(). folder: a
    run's, such as "runs/vae"; by default the run that ships along. Raises FileNotFoundError, or
    ValueError if the file is damaged, another chapter's or other code's.
    """
    file = Path(file)
    path = find(folder or file.parent / "samples" / file.stem)
    state = read(path, file.stem)
    if not state["best"]:
        raise ValueError(f"{path} was not evaluated yet: it has no best weights.")
    s = SimpleNamespace(**resolve(settings, variants, {}, state["settings"]))
    model = build(s, s.image_size)
    model = getattr(model, "average", model)  # of gan.py and diffusion.py this is what draws
    left_out = tuple(state.get("left_out", ()))
    try:
        missing, foreign = model.load_state_dict(state["best"]["weights"], strict=False)
    except RuntimeError as error:  # another size
        missing, foreign = [], [error]
    if foreign or not all(name.startswith(left_out) for name in missing):
        raise ValueError(f"{path} does not fit {file.name} as it is now.")
    if missing:
        warnings.warn(f"{path} has no {', '.join(left_out)}, which drawing does not need: what "
                      "else needs it finds random numbers there", stacklevel=3)
    return model.eval()
