"""
compare.py: all models side by side, and what is published of them
==================================================================
A likelihood says how well a model predicts real digits; it says nothing of a model that has none,
and little of how samples look. So models are compared by both here: by their nats, and by what
judge.py says of 5,000 draws of each, grey and after one coin a pixel (of a VAE its means, too).

Run       python compare.py                    all runs in runs/, into runs/comparison.md
          python compare.py FOLDER …           these runs, or all in a folder; writes
                                               comparison.md beside the first, or --out
          python compare.py samples            the published runs: samples/comparison.md, all
                                               galleries, and the tables of README.md and docs/
Reads     of each run metrics.json, samples.png, and 5,000 plain draws in samples.npy. Where draws
          are missing, or too few, it has the chapter's own command draw from a copy of the run
          (--sample-only); the scores are kept in the run's scores.json. What there is to know of a
          model (its name, what it can do, what others have published) its chapter says: ABOUT.
"""
import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import tables
import utils
from judge import coins, is_grey, judge_digest, judged, load_judge, mean_scores
from judge import scores as judge_scores
from settings import COMMON, FROM_DATA, Parser, chapters, defaults, flag, resolve

ROOT = Path(__file__).resolve().parent
PUBLISHED_PAGE = ROOT / "samples" / "comparison.md"
DRAWS, HEAPS = 5000, 8  # of each model, as scores hang on the size; and how many of real digits

# --------------------------------------------------------------------------------------------------
# Reading runs. What tables will format is checked here, where it is read.
# --------------------------------------------------------------------------------------------------


class LeftOut(Exception):
    """A run that cannot be compared, or not scored, and why: one clear sentence."""


def printable(text):
    """Text for one line of a page: names of folders may hold line ends, and bytes of no letter."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def check(true, why):
    if not true:
        raise ValueError(why)


def check_numbers(figures, *names, least=-1e12):
    """ValueError if one of these values of a dict is no number, or not finite."""
    for name in names:
        check(type(figures[name]) in (int, float) and least <= figures[name] < 1e12, name)


def moved_aside(folder):
    """Is this runs/vae.1, where a newer run moved the older one of runs/vae?"""
    return bool(re.search(r"\.\d+$", folder.name)) and folder.with_name(folder.stem).is_dir()


def find_runs(folders):
    """Folders of runs -> (runs, left out): a list of runs in the order of the tables, and a list of
    sentences. folders: each a run, or a folder that holds some. Of the latter older runs that were
    moved aside are not taken, but they may be named."""
    places, runs, left_out = [], [], []
    for folder in map(Path, folders):
        inside = [] if (folder / "metrics.json").exists() else sorted(
            {path.parent for name in ("metrics.json", "checkpoint.pt")
             for path in folder.glob(f"*/{name}")})
        places += [p for p in inside if not moved_aside(p)] or [folder]
        aside = ", ".join(p.as_posix() for p in inside if moved_aside(p))
        if aside:
            print(f"older runs that were moved aside are not compared: {aside}")
    for folder in dict.fromkeys(places):
        try:
            runs.append(read_run(folder))
        except LeftOut as reason:
            left_out.append(printable(reason))
    # The full set, if there are as many of both.
    data = max(("mnist", "mnist_5k"), key=[run.data for run in runs].count)
    left_out += [f"{run.place} was trained on {run.data}, and what it is compared with on {data}: "
                 "nats of two data sets cannot be compared." for run in runs if run.data != data]
    runs = [run for run in runs if run.data == data]
    # Two of one name: first by how long they trained, if that was typed; else by their folders.
    for more in (lambda run: tables.trained_for(run.metrics), lambda run: f" ({run.place})"):
        names, words = [run.name for run in runs], [more(run) for run in runs]
        for run, name, word in zip(runs, names, words):
            others = {other for other, its in zip(words, names) if its == name}
            run.name += word * (len(others) > 1)
    return sorted(runs, key=lambda run: (run.order, not run.first, not run.default,
                                         run.folder.name)), left_out


def read_run(folder):
    """A run's folder -> a namespace: its metrics.json, and what tables call it; LeftOut, with the
    reason, if it is none that can be compared."""
    folder, path, place = Path(folder), Path(folder) / "metrics.json", Path(folder).as_posix()
    if not folder.is_dir():
        raise LeftOut(f"{place} is no folder: name one that a chapter has written, like runs/vae.")
    if not path.is_file():
        raise LeftOut(f"{place} has no metrics.json: it is no run, or one that is not finished "
                      "(--resume goes on).")
    known = chapters()
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        model, likelihood = metrics["model"], metrics["likelihood"]
        if model not in known:
            raise LeftOut(f"{path.as_posix()} is of {model}.py, which is no chapter: known are "
                          f"{', '.join(known)}.")
        if metrics.get("labels") is not None:
            raise LeftOut(f"{place} is of {metrics['data']}: these tables are of MNIST's digits.")
        if likelihood != "none" and metrics["binarization"] != utils.BINARIZATION:
            raise LeftOut(f"{path.as_posix()} has another binarization ({metrics['binarization']})"
                          ": its nats are of another data set.")
        if metrics.get("judge") not in (None, judge_digest()):
            raise LeftOut(f"{path.as_posix()} is judged by another data/judge.pt: another scale.")
        digest, key = digest_of(metrics), check_metrics(metrics)
        named = describe(known[model], metrics["settings"])
    except LeftOut:
        raise
    except Exception as error:  # a JSON file may hold anything
        raise LeftOut(f"{path.as_posix()} is not what a chapter writes ({type(error).__name__}: "
                      f"{str(error)[:100]}): train anew.") from None
    return SimpleNamespace(
        folder=folder, place=printable(place), metrics=metrics, digest=digest, key=key, model=model,
        order=list(known).index(model), data=metrics["data"], conditional=metrics["conditional"],
        default=metrics["command"] == f"python {model}.py", **named)


def check_metrics(metrics):
    """ValueError and the like if tables could not format it. -> what its curve is of. Settings that
    the chapter has got since then have their defaults, as with --resume."""
    chapter, likelihood = chapters()[metrics["model"]], metrics["likelihood"]
    then, every = metrics["settings"], {**chapter.SETTINGS, **COMMON}
    check(set(COMMON) <= set(then) - FROM_DATA <= set(every), "settings are not the chapter's")
    settings = resolve(chapter.SETTINGS, chapter.VARIANTS, {}, then)
    for name, setting in every.items():
        value, usual = settings[name], type(setting.default)
        check(type(value) in (usual, int if usual is float else usual)
              and value in (setting.choices or [value]), f"setting {name}")
        if usual in (int, float):
            setting.read(str(value))
    metrics["settings"] = settings
    check(likelihood in ("exact", "bound", "estimate", "none"), f"likelihood {likelihood}")
    check((metrics["conditional"], metrics["variant"])
          == (settings["conditional"], settings.get("variant", "")), "conditional or variant")
    check((likelihood == "none") == (metrics["test_nats"] is None), "likelihood and test_nats")
    if likelihood == "estimate":
        low, high = metrics["nats_interval"]
        check_numbers({"low": low, "high": high}, "low", "high")
        check(low <= metrics["test_nats"] <= high, "nats_interval")
    check(isinstance(metrics["command"], str) and metrics["data"] in ("mnist", "mnist_5k"), "data")
    key, figures = "val_nats", {"test_nats"}
    if likelihood == "none":
        key, figures = ("val_frechet" if "val_frechet" in metrics["curve"][0] else "val_grey_nats",
                        {"test_frechet", "test_precision", "test_recall"})
    check_numbers(metrics, *figures, *set(metrics) & {
        "marginal_nats", "bayes_accuracy", "grey_levels", "grey_bits_per_dim", "grey_bound_steps"})
    hangs_on = "bound_steps" if "bound_steps" in metrics else "iw_samples"
    check_numbers(metrics, "parameters", "train_seconds", "sample_seconds_64", "best_step", "steps",
                  "batch_size", "lr", *[hangs_on] * (likelihood == "bound"), least=0)
    for row in itertools.chain(*metrics.get("speed", {}).values()):
        check_numbers(row, 0, 1, 2, least=1e-9)
    check(metrics["curve"], "curve")
    for row in metrics["curve"]:
        check_numbers(row, "seconds", least=0)
        check_numbers(row, key, *["train_nats"] * (row.get("train_nats") is not None))
    return key


def describe(chapter, settings):
    """-> a dict: the run's name for tables; plain: is it that model, of whatever size (of which its
    title says nothing)? first: of the main variant, too; asked: its name in sampling.json."""
    usual = defaults(chapter.SETTINGS, chapter.VARIANTS, settings)
    unusual = [name for name, s in chapter.SETTINGS.items()
               if s.word and not s.drawing and settings[name] != usual[name]]
    title = chapter.ABOUT["title"](SimpleNamespace(**settings))
    sizes = [name for name in unusual if chapter.SETTINGS[name].word == name + "{}" and title ==
             chapter.ABOUT["title"](SimpleNamespace(**{**settings, name: usual[name]}))]
    title = "class-conditional " * settings["conditional"] + title
    plain = set(unusual) <= {"variant", *sizes}
    return {"name": ", ".join([title] + [f"{size} {settings[size]:g}" for size in sizes]),
            "about": chapter.ABOUT, "plain": plain, "first": plain and "variant" not in unusual,
            "asked": " ".join([f"{chapter.__name__}.py"]
                              + [f"{flag(name)} {settings[name]}" for name in unusual]),
            # Does it toss coins whose probabilities are worth a look? (Run.write_samples())
            "has_means": any(hasattr(part, "sample_means") for part in vars(chapter).values())}


def digest_of(parsed):
    """A name for what a JSON file says, whatever its line ends are."""
    return hashlib.sha256(json.dumps(parsed, sort_keys=True).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------
# Draws and their scores
# --------------------------------------------------------------------------------------------------


def read_array(path):
    """samples.npy, means.npy or labels.npy, as a tensor; LeftOut if it is not what it should be."""
    advice = "delete it, and it is drawn anew."
    try:
        x = np.load(path, allow_pickle=False)
    except Exception as error:  # np.load raises half a dozen kinds for a file that is cut
        raise LeftOut(f"{path.as_posix()} is not a readable .npy file ({type(error).__name__}): "
                      f"{advice}") from None
    labels, good = path.name == "labels.npy", isinstance(x, np.ndarray)
    good = good and x.dtype.kind in ("iu" if labels else "f") and x.ndim == (1 if labels else 3)
    good = good and (labels or x.shape[1:] == (28, 28))
    if not good or not (x.min(initial=0) >= 0 and x.max(initial=0) <= (9 if labels else 1)):  # nan
        raise LeftOut(f"{path.as_posix()} holds {getattr(x, 'dtype', type(x).__name__)} "
                      f"{getattr(x, 'shape', '')}, not "
                      f"{'labels (N,)' if labels else 'draws (N, 28, 28) in [0, 1]'}: {advice}")
    return torch.from_numpy(x.astype(np.int64) if labels else x.astype(np.float32)[:, None])


def read_draws(folder, run):
    """The draws in a folder: images (N, 1, 28, 28), labels asked for (N,) or None, means or None.
    None if there are not enough, or if they are no plain draws of this run: of one digit only, at a
    temperature, or of the weights of another step. LeftOut if they are no draws."""
    arrays = {name: read_array(folder / f"{name}.npy") for name in ("samples", "means", "labels")
              if (folder / f"{name}.npy").exists()}
    with contextlib.suppress(OSError, ValueError, TypeError):
        options = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        if set(options) != {"step"} or options["step"] != run.metrics["best_step"]:
            return None
    wanted = ["samples"] + ["means"] * run.has_means + ["labels"] * run.conditional
    if not set(wanted) <= set(arrays):
        return None
    n, labels = len(arrays["samples"]), arrays["labels"] if run.conditional else None
    if any(len(x) != n for x in arrays.values()) or n < DRAWS * (5 + run.conditional) // 5:
        return None
    if run.conditional and torch.bincount(labels, minlength=10).min() < n // 10:
        return None
    return arrays["samples"], labels, arrays.get("means")


def sample_anew(run):
    """Have the chapter's own command line draw, in another folder. -> as read_draws()."""
    weights = next(filter(Path.is_file, (run.folder / "checkpoint.pt", run.folder / "weights.pt")),
                   None)
    nothing = f"{run.place}: nothing to score, since"
    if weights is None:
        raise LeftOut(f"{nothing} it has neither draws nor weights to draw with.")
    n = DRAWS * (5 + run.conditional) // 5  # of these more, to choose from: see as_often()
    command = [f"{run.model}.py", "--sample-only", "--num-samples", str(n), "--out"]
    print(f"python {' '.join(command)} (a copy of {run.place})", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(weights, folder)
        done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:], folder],
                              capture_output=True, text=True, encoding="utf-8", errors="replace",
                              env={**os.environ, "PYTHONIOENCODING": "utf-8"})
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise LeftOut(f"{nothing} its digits could not be drawn ({reason})")
        drawn = read_draws(Path(folder), run)
    if drawn is None:
        raise LeftOut(f"{nothing} its weights are not those of its metrics.json.")
    return drawn


def as_often(labels, shares, n):
    """Which n of images with these labels (N,) have each digit as often as shares (10,) says. ->
    indices (n,). A conditional model draws the digits it is asked for. Ten alike would be another
    mixture than MNIST's, and cost it distance."""
    count = (shares * n).floor().long()
    count[:n - count.sum()] += 1
    return torch.cat([(labels == k).nonzero()[:count[k], 0] for k in range(10)])


def check_scores(kept):
    """Scores that were kept, if they are what score_run() or score_floors() writes; ValueError and
    the like if not."""
    for pixels in ("binarized", "grey"):
        if pixels == "binarized" or kept[pixels] is not None:
            check_numbers(kept[pixels], "frechet", least=1e-9)  # its axis is logarithmic
            check_numbers(kept[pixels], "precision", "recall", least=0)
            check(len(kept[pixels]["shares"]) == 10, "shares")
            check_numbers(kept[pixels]["shares"], *range(10), least=0)
    check_numbers(kept, *[name for name in ("label_agreement", "label_agreement_grey", "nats")
                          if kept.get(name) is not None])
    return kept


def read_scores(run):
    """The scores kept in the run's folder, if they are of this run, by this judge; else None."""
    with contextlib.suppress(Exception):  # a JSON file may hold anything
        kept = json.loads((run.folder / "scores.json").read_text(encoding="utf-8"))
        if (kept["metrics"], kept["draws"], kept["judge"]) == (run.digest, DRAWS, judge_digest()):
            return check_scores({name: kept[name] for name in (
                "binarized", "grey", "label_agreement", "label_agreement_grey")})


def keep(path, content):
    """Write scores to a JSON file. One that cannot be kept is shown all the same."""
    with contextlib.suppress(SystemExit):  # write_atomically() has said why
        utils.write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def score_run(run, judge_and_data):
    """The scores of a run's draws: binarized and grey (None if it draws none), by judge.scores(),
    and how often the judge reads the digit that was asked for (None if none was). Kept in
    scores.json. judge_and_data(): called once there are draws."""
    try:
        images, labels, means = read_draws(run.folder, run) or sample_anew(run)
    except OSError as error:  # a full disk, say
        raise LeftOut(f"{run.place}: its digits could not be drawn ({error})") from None
    judge, data = judge_and_data()
    grey, bits = (images, coins(images)) if is_grey(images) else (means, images)
    result = dict.fromkeys(("binarized", "grey", "label_agreement", "label_agreement_grey"))
    if labels is not None:
        shares = torch.bincount(data.train_labels, minlength=10).double() / len(data.train_labels)
        chosen = as_often(labels, shares, DRAWS)
        bits, labels, grey = bits[chosen], labels[chosen], None if grey is None else grey[chosen]
        for key, x in (("label_agreement", bits), ("label_agreement_grey", grey)):
            if x is not None:
                result[key] = (judged(judge, x)[1] == labels).double().mean().item()
    result["binarized"] = judge_scores(judge, bits[:DRAWS], data.x_test)
    if grey is not None:
        result["grey"] = judge_scores(judge, grey[:DRAWS], data.test)
    keep(run.folder / "scores.json",
         {"metrics": run.digest, "judge": judge_digest(), "draws": DRAWS, **result})
    return result


def score_floors(judge, data):
    """Two references: training digits (random heaps: about the best to hope for), and coins."""
    generator = torch.Generator().manual_seed(0)
    grey = [data.train[torch.randperm(len(data.train), generator=generator)[:DRAWS]]
            for _ in range(HEAPS)]
    bits = [torch.from_numpy(utils.fixed_bits(heap, 3 + k)) for k, heap in enumerate(grey)]
    right = [(judged(judge, x)[1] == data.test_labels).double().mean().item()
             for x in (data.x_test, data.test)]
    real = {"nats": None, "binarized": mean_scores(judge, bits, data.x_test),
            "grey": mean_scores(judge, grey, data.test),
            "label_agreement": right[0], "label_agreement_grey": right[1]}
    mean = (data.train.double().mean(dim=(0, 1)) / 255).clamp(0.001, 0.999)  # no pixel is never on
    x = data.x_test.double()
    nats = -(x * mean.log() + (1 - x) * (1 - mean).log()).sum(dim=(1, 2, 3)).mean().item()
    draws = coins(mean.float().expand(DRAWS, 1, 28, 28), seed=1)
    independent = {"nats": nats, "binarized": judge_scores(judge, draws, data.x_test),
                   "grey": None, "label_agreement": None, "label_agreement_grey": None}
    return {"real training digits": real, "independent pixels": independent}


def read_floors(path, data):
    """The floors that are kept beside a page, or ship along, of this data and judge; else None."""
    wanted = DRAWS, HEAPS, data, judge_digest()
    for place in (path, PUBLISHED_PAGE.with_name("comparison_floors.json")):
        with contextlib.suppress(Exception):  # a JSON file may hold anything
            kept = json.loads(place.read_text(encoding="utf-8"))
            if (kept["draws"], kept["heaps"], kept["data"], kept["judge"]) == wanted:
                return {name: check_scores({"nats": None, **kept["floors"][name]})
                        for name in ("real training digits", "independent pixels")}


def read_sampling():
    """What experiments/bench_sampling.py measured, by command; empty if the file is gone."""
    path = ROOT / "results" / "sampling.json"
    try:
        models = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}
        for timed in models.values():
            check_numbers(timed, "fast", "obvious", "one_pass", "interpreter", least=1e-9)
            check_numbers(timed, "parameters")
            check("whole" in timed, "whole")
        return models
    except Exception as error:  # a JSON file may hold anything
        utils.fail(f"{path} is not what experiments/bench_sampling.py writes ({error!r}).")


# --------------------------------------------------------------------------------------------------
# Publishing
# --------------------------------------------------------------------------------------------------


def readme_blocks(runs, blocks, folder):
    """The blocks for README.md, or for a page in another folder: its own table, and the page's."""
    blocks = {"chapters": tables.chapters_table(runs), "heaps": tables.heaps_table(runs),
              **tables.moved(blocks, PUBLISHED_PAGE.parent, ROOT)}
    return tables.moved(blocks, ROOT, folder)


def publish(runs, scores, blocks):
    """What `compare.py samples` writes besides its page: galleries, tables of README and docs/."""
    pages = {PUBLISHED_PAGE.parent / name: text
             for name, text in tables.galleries(runs, scores).items()}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        pages[path] = tables.put(path.read_text(encoding="utf-8"),
                                 readme_blocks(runs, blocks, path.parent))
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            utils.write_atomically(path, text.encode())
    print("wrote the galleries, and the tables of README.md and docs/")


def page_of(folders):
    """Where a comparison of these folders goes: beside the first run, or into the folder of runs.
    `compare.py samples` alone writes the published page; what else would end there goes to runs/.
    """
    first = Path(folders[0]).resolve()
    page = (first.parent if (first / "metrics.json").exists() else first) / "comparison.md"
    if page == PUBLISHED_PAGE and not is_published(folders):
        return Path("runs/comparison.md")
    return Path(os.path.relpath(page)) if page.is_relative_to(Path.cwd()) else page


def is_published(folders):
    return [Path(folder).resolve() for folder in folders] == [PUBLISHED_PAGE.parent]


def open_page(out, blocks):
    """The text that a page has, or a blank one. SystemExit if it cannot be written, or is somebody
    else's: found out now, and not after the work."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = out.read_text(encoding="utf-8") if out.exists() else tables.blank(blocks)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except (OSError, ValueError) as error:
        utils.fail(f"the page {out} cannot be read or written "
                   f"({getattr(error, 'strerror', None) or error}); choose another with --out.")
    if tables.MARK.split("{")[0] not in text:
        utils.fail(f"{out} exists and was not made by compare.py; choose another page with --out.")
    tables.put(text, blocks)  # are all marks there?
    return text


def compare(folders, out, data_dir):
    """Read, draw, score and write: all of it."""
    folders = folders or ["runs"]
    runs, left_out = find_runs(folders)
    for reason in left_out:
        print(f"compare.py: left out: {reason}", file=sys.stderr)
    if not runs:
        utils.fail(f"no finished run in {', '.join(map(str, folders))}: train one first, with "
                   "python vae.py, or name folders that have a metrics.json (the published ones: "
                   "python compare.py samples).")
    out, sampling, data_name = Path(out or page_of(folders)), read_sampling(), runs[0].data
    text = open_page(out, tables.page_blocks(runs, {}, {}, sampling, []))
    load = functools.cache(lambda: (load_judge(), utils.load_mnist(data_dir)))

    def judge_and_data():  # only if something has to be scored
        if load()[1].name != data_name:
            raise LeftOut(f"draws are not scored without {data_name}, on which the runs were "
                          f"trained: --data-dir {data_dir} does not have it.")
        return load()

    scores, kept_floors = {}, out.with_name(f"{out.stem}_floors.json")
    for run in runs:
        try:
            scores[run.folder] = read_scores(run) or score_run(run, judge_and_data)
        except LeftOut as reason:
            left_out.append(printable(reason))
            print(f"compare.py: not scored: {left_out[-1]}", file=sys.stderr)
    floors = read_floors(kept_floors, data_name)
    if floors is None:
        floors = {}
        with contextlib.suppress(LeftOut):
            floors = score_floors(*judge_and_data())
            keep(kept_floors, {"data": data_name, "judge": judge_digest(), "draws": DRAWS,
                               "heaps": HEAPS, "floors": floors})
    tables.plot_page(out, runs, scores, floors, sampling)
    blocks = tables.page_blocks(runs, scores, floors, sampling, left_out, out.stem, DRAWS)
    utils.write_atomically(out, tables.put(text, blocks).encode("utf-8", "replace"))
    print(*blocks["all models"], f"wrote {out}", sep="\n")
    if out.resolve() == PUBLISHED_PAGE and is_published(folders) and not left_out:
        publish(runs, scores, blocks)


def main(argv=None):
    parser = Parser(prog="compare.py", allow_abbrev=False,
                    description="Compare runs of all chapters, side by side.")
    parser.add_argument("runs", nargs="*", metavar="FOLDER",
                        help="runs to compare, or folders that hold runs (default: runs)")
    parser.add_argument("--out", metavar="FILE.md",
                        help="where it goes (default: comparison.md beside the first run)")
    parser.add_argument("--data-dir", default="data",
                        help="folder that has, or gets, MNIST/raw (default: %(default)s)")
    args = parser.parse_args(argv)
    compare(args.runs, args.out, args.data_dir)


if __name__ == "__main__":
    utils.start(main)
