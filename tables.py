"""
tables.py: what compare.py shows: tables, pictures, galleries
=============================================================
Everything here is made from runs as compare.read_run() has them, and from their scores. A table is
a list of lines; a gallery is a page that shows the pictures of a run, with a sentence on each.
"""
import json
import math
import os
import re
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.transforms import Bbox
from PIL import Image

import pictures
import utils
from settings import chapters, flag


def of_results(name):
    """What an experiment has written; {} if the file is gone."""
    path = Path(__file__).parent / "results" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------


def table(head, rows):
    """Lines of a table. What would end a cell or a line is escaped."""
    lines = [" | ".join(" ".join(cell.replace("|", "\\|").splitlines()) for cell in row)
             for row in (head, *rows)]
    return [f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])]


def nats_of(metrics):
    """"85.56 (exact)", "≤ 87.32 (bound, K = 200)" or "88.9 (estimate, 88.5 … 89.3)", nats of bits;
    else "0.960 bits/dim of 256 levels (exact)", or "no likelihood"."""
    if metrics["likelihood"] == "none":
        levels = metrics.get("grey_levels", 256)
        return grey_of(metrics, f" bits/dim of {levels} levels") or "no likelihood"
    if metrics["likelihood"] == "estimate":
        low, high = metrics["nats_interval"]
        return f"{metrics['test_nats']:.2f} (estimate, {low:.2f} … {high:.2f})"
    if metrics["likelihood"] == "bound":
        by = f"{metrics['bound_steps']} steps" if "bound_steps" in metrics else \
            f"K = {metrics['iw_samples']}"
        return f"≤ {metrics['test_nats']:.2f} (bound, {by})"
    return f"{metrics['test_nats']:.2f} (exact)"


def grey_of(metrics, unit=""):
    """"0.960 (exact)" or "≤ 1.460 (bound, 10 steps)", of grey levels, the unit behind the number;
    "" if it has neither."""
    if "grey_bits_per_dim" not in metrics:
        return ""
    if "grey_bound_steps" in metrics or "grey_bound_draws" in metrics:
        by = f"{metrics['grey_bound_steps']} steps" if "grey_bound_steps" in metrics else \
            f"K = {metrics['grey_bound_draws']}"
        return f"≤ {metrics['grey_bits_per_dim']:.3f}{unit} (bound, {by})"
    return f"{metrics['grey_bits_per_dim']:.3f}{unit} (exact)"


def bits_of(nats):
    return "—" if nats is None else f"{utils.bits_per_dim(nats):.4f}"


def two(quality, *names):
    """Figures of scores with two digits, or dashes."""
    return [f"{quality[name]:.2f}" if quality else "—" for name in names]


def trained_for(metrics):
    """What a command says of how its run trained: ", 50,000 steps", or nothing."""
    words = {"batch_size": "batches of {:,}", "lr": "rate {:g}", "steps": "{:,} steps"}
    return "".join(f", {word.format(metrics[key])}" for key, word in words.items()
                   if re.search(f"{flag(key)}[ =]", metrics["command"]))


def minutes(metrics):
    return f"{metrics['train_seconds'] / 60:.1f} min"


def told(run):
    """What is behind the name of a conditional run: what its nats are."""
    has_one = run.metrics["likelihood"] != "none" or grey_of(run.metrics)
    return ", `−log p(x|y)`" if run.conditional and has_one else ""


def chapters_table(runs):
    """The table of README: nats and cost, a row a run, its command at the end."""
    rows = []
    for run in runs:
        m, nats = run.metrics, nats_of(run.metrics)
        if m["likelihood"] == "none":
            quality = two(m, "test_frechet", "test_precision", "test_recall")
            nats += "; Fréchet {}, precision {}, recall {}".format(*quality)
        rows.append([f"[`{run.model}.py`]({run.model}.py)",
                     f"[{run.name}](samples/{run.folder.name}){told(run)}", nats,
                     bits_of(m["test_nats"]), f"{m['parameters']:,}", minutes(m),
                     f"`{m['command']}`"])
    return table(("chapter", "model", "test nats", "bits/dim", "parameters", "training", "command"),
                 rows)


def all_table(runs, scores, floors, sampling):
    """Everything on one row: likelihood, cost, speed, how good draws are (binarized), and what
    others have published."""
    rows, names = [], ("frechet", "precision", "recall")
    for run in runs:
        m, quality = run.metrics, scores.get(run.folder)
        rows.append([run.name + told(run), nats_of(m), bits_of(m["test_nats"]),
                     f"{m['parameters']:,}", minutes(m), f"{m['sample_seconds_64']:.3f} s",
                     ratio_of(run, sampling), *two(quality and quality["binarized"], *names),
                     published(run)[0]])
    for name, floor in floors.items():
        nats = "—" if floor["nats"] is None else f"{floor['nats']:.2f} (exact)"
        rows.append([f"*{name}*", nats, bits_of(floor["nats"]), "—", "—", "—", "—",
                     *two(floor["binarized"], *names), "—"])
    return table(("model", "test nats", "bits/dim", "parameters", "training", "drawing 64",
                  "faster than the obvious loop", "Fréchet", "precision", "recall",
                  "published nats"), rows)


def timed_of(run, sampling):
    """What experiments/bench_sampling.py measured of the run's model, if it has timed just that."""
    timed = sampling.get(run.asked)
    same = timed and not run.conditional and timed["parameters"] == run.metrics["parameters"]
    return timed if same else None


def ratio_of(run, sampling):
    """How many times faster than the obvious loop the run's model draws, if that was timed (of
    flows by experiments/bench_inverse.py); else a dash."""
    inverse = {run.asked: of_results("inverse.json").get(run.model)}
    timed = timed_of(run, sampling) or timed_of(run, inverse)
    return f"{timed['obvious'] / timed['fast']:.0f}×" if timed else "—"


def published(run):
    """(figure, source) that others have published for this model; dashes for one with options of
    its own."""
    alike = run.plain and not run.conditional
    return run.about["published"].get(run.metrics["variant"] if alike else None, ("—", ""))


def published_table(runs):
    """Beside each model the figure that others have published, and where."""
    rows = [[run.name, nats_of(run.metrics), *published(run), f"`{run.metrics['command']}`"]
            for run in runs if published(run)[0] != "—"]
    return table(("model", "test nats", "published", "source", "command"), rows)


def grey_table(runs):
    """Likelihoods of grey levels, or bounds on them: another scale than nats of bits, and each
    number of levels has its own."""
    rows = [[run.name, run.metrics.get("grey_levels", 256), grey_of(run.metrics),
             f"`{run.metrics['command']}`"]
            for run in runs if grey_of(run.metrics) and not run.conditional]
    rows.sort(key=lambda row: -row[1])  # among those of as many levels the order of chapters stays
    return table(("model", "levels", "bits/dim", "command"), [map(str, row) for row in rows])


def quality_table(runs, scores, floors, draws):
    """Scores of so many draws, binarized and grey, and the balance of classes."""
    rows, names = [], ("frechet", "precision", "recall")
    best_first = sorted((run for run in runs if run.folder in scores), key=lambda run: (
        run.conditional, scores[run.folder]["binarized"]["frechet"]))  # told the digit: apart
    scored = [(run.name + " (grey: its means, no draws)" * run.has_means, scores[run.folder])
              for run in best_first]
    for name, quality in scored + [(f"*{name}*", floor) for name, floor in floors.items()]:
        shares = quality["binarized"]["shares"]
        rows.append([name, *two(quality["binarized"], *names),
                     f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %",
                     *two(quality["grey"], *names)])
    return table((f"{draws:,} draws of", "Fréchet (binarized)", "precision", "recall",
                  "share of each digit", "Fréchet (grey)", "precision", "recall"), rows)


def heaps_table(runs):
    """Heaps of draws from other noise (experiments/heaps.py): means, standard deviations."""
    names, keys = {run.folder.name: run.name for run in runs}, ("frechet", "precision", "recall")
    rows = sorted([statistics.mean(row["frechet"] for row in scores), names.get(name, f"*{name}*"),
                   f"{len(scores)}", *(
                       f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
                       for key in keys for values in [[row[key] for row in scores]])]
                  for name, scores in of_results("heaps.json").items() if not name[0].isdigit())
    return table(("5,000 draws of", "heaps", "Fréchet (binarized)", "precision", "recall"),
                 [row[1:] for row in rows])


def percent(value, grey=None):
    """"99.2 %", with that of grey images behind it if there is one."""
    behind = "" if grey is None else f" (grey: {100 * grey:.1f} %)"
    return "—" if value is None else f"{100 * value:.1f} %{behind}"


def conditional_table(runs, scores, floors):
    """What the label is worth, and whether it is obeyed."""
    rows, names = [], ("label_agreement", "label_agreement_grey")
    for run in runs:
        if not run.conditional:
            continue
        m, agreed = run.metrics, scores.get(run.folder, dict.fromkeys(names))
        least, never = "≤ " * (m["likelihood"] == "bound"), {
            **m["settings"], "conditional": False, "classes": 0}
        other = [r.metrics["test_nats"] for r in runs
                 if r.model == run.model and r.metrics["settings"] == never]
        nats = (m["test_nats"], m.get("marginal_nats"), *(other[:1] or [None]))
        rows.append([run.name.replace("class-conditional ", ""),
                     *("—" if value is None else f"{least}{value:.2f}" for value in nats),
                     percent(*(agreed[name] for name in names)), percent(m.get("bayes_accuracy"))])
    if rows and "real training digits" in floors:
        real = [floors["real training digits"][name] for name in names]
        rows.append(["*real test digits*", "—", "—", "—", percent(*real), "—"])
    return table(("told the digit", "−log p(x|y)", "−log ⅒ Σ_y p(x|y)",
                  "the same model, never told: −log p(x)", "judge reads the digit asked for",
                  "most probable y is the right one"), rows)


def at_minute(curve, key, minute):
    """The best figure of a curve up to a minute; None if the first evaluation came later, or the
    run had ended before."""
    if curve[-1]["seconds"] < 60 * minute:
        return None
    return min((row[key] for row in curve if row["seconds"] <= 60 * minute), default=None)


def minutes_table(runs):
    """What one has after some minutes of training, on validation."""
    rows, times = [], (0.5, 1, 2, 5, 15)
    what = {"none": "Fréchet, grey", "bound": "−ELBO", "exact": "exact", "estimate": "estimate"}
    for run in runs:
        m, s, curve, key = run.metrics, run.metrics["settings"], run.metrics["curve"], run.key
        images = 10000 if m["data"] == "mnist" else 500
        scored = s.get("eval_images", run.about.get("scored", images))
        scored = min(images, scored // s.get("num_masks", 1))
        best, so_far = min(curve, key=lambda row: row[key]), [at_minute(curve, key, t)
                                                              for t in times]
        rows.append([
            run.name + told(run),
            "levels, exact" if key == "val_grey_nats" else what[m["likelihood"]],
            "—" if m["likelihood"] == "none" else f"{scored:,}",
            f"{m['steps'] * m['batch_size'] / max(0.1, m['train_seconds']):,.0f}",
            *("—" if value is None else f"{value:.2f}" for value in so_far),
            f"{best[key]:.2f} (of {curve[-1]['seconds'] / 60:.1f} min)",
            "—" if best.get("train_nats") is None else f"{best['train_nats']:.2f}"])
    return table(("validation", "figure", "scored images", "training images a second",
                  *(f"{t:g} min" for t in times), "best of the run", "then on training images"),
                 rows)


LEVELS = {81.45: "PixelCNN", 79.17: "ImageGPT"}  # nats, published, of a GPU: docs/results.md
RECORDS = (90, 85, *LEVELS)


def record_table(runs):
    """Minutes of training after which validation was first at these nats or below: of models that
    are told no label, and come to the first of them at all."""
    rows = []
    for run in runs:
        curve = [] if run.conditional or run.key != "val_nats" else run.metrics["curve"]
        when = [next((row["seconds"] / 60 for row in curve if row["val_nats"] <= nats), None)
                for nats in RECORDS]
        if when[0] is not None:
            rows.append((when, [run.name, *("—" if t is None else f"{t:.1f}" for t in when)]))
    rows.sort(key=lambda row: [math.inf if t is None else t for t in reversed(row[0])])
    return table(("minutes of training to", *(f"{nats:g} nats" for nats in RECORDS)),
                 [cells for _, cells in rows])


def abilities_table(runs):
    """What each family can do, of which there is a run."""
    about = {name: module.ABOUT["abilities"] for name, module in chapters().items()
             if any(run.model == name for run in runs)}
    names = list(dict.fromkeys(name for abilities in about.values() for name in abilities))
    return table(("chapter", *names), [
        [f"`{model}.py`", *(abilities.get(name, "—") for name in names)]
        for model, abilities in about.items()])


def costs_table(runs, sampling):
    """What drawing costs the runs that are told no label: steps, seconds, and how many times as
    long the obvious loop takes, if that was timed."""
    return table(("drawing 64 digits", "steps a draw takes", "seconds",
                  "faster than the obvious loop"), [
        [run.name, run.about["abilities"]["steps a draw takes"],
         f"{run.metrics['sample_seconds_64']:.3f} s", ratio_of(run, sampling)]
        for run in runs if not run.conditional])


def sampling_table(sampling):
    """experiments/bench_sampling.py, as a table."""
    rows = [[f"`python {name}`", f"{m['fast']:.3f} s", f"{m['one_pass']:.4f} s",
             f"{'' if m['whole'] else '≈ '}{m['obvious']:.1f} s",
             f"{m['obvious'] / m['fast']:.0f}×", f"{100 * m['interpreter']:.0f} %"]
            for name, m in sampling.items()]
    return table(("64 digits", "fast", "one pass", "obvious", "ratio", "interpreter"), rows)


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------


def digits_of(run, n):
    """n digits of a run's samples.png, the first ones -> (n, 1, 28, 28) in [0, 1]; of a conditional
    run 0, 1, … 9, and over again. None if there is no such picture."""
    try:
        with Image.open(run.folder / "samples.png") as picture:
            grid = torch.from_numpy(np.array(picture.convert("L"))) / 255
    except (OSError, ValueError, SyntaxError):  # Pillow raises these for files that are cut
        return None
    # As pictures.save_grid() writes them: 2 × 28 and a frame of 4.
    rows, columns = (grid.shape[0] - 4) // 60, (grid.shape[1] - 4) // 60
    if rows * columns < n:
        return None
    digits = [grid[4 + 60 * r:60 + 60 * r:2, 4 + 60 * c:60 + 60 * c:2]
              for r in range(rows) for c in range(columns)]
    if run.conditional:
        digits = [digits[r * columns + c] for c in range(columns) for r in range(rows)]
    return torch.stack(digits)[:n, None]


def plot_mosaic(path, runs, n=16):
    """A row of digits for each run, the first ones of its samples.png: none is chosen."""
    rows = [(run.name, digits_of(run, n)) for run in runs]
    rows = [(name, digits) for name, digits in rows if digits is not None]
    if rows:
        pictures.labelled_rows(path, rows)


def chosen(runs):
    """The runs that a picture names: all, if they are a dozen at most. Of more, those that are told
    no label, and of each chapter (with nats, and without) the first and the one that trained
    longest."""
    groups = {}
    for run in runs:
        if not run.conditional:
            groups.setdefault((run.model, run.key), []).append(run)
    shown = {run.folder for group in groups.values() for run in (
        group[0], max(group, key=lambda run: run.metrics["train_seconds"]))}
    return [run for run in runs if run.folder in shown] if len(runs) > 12 else runs


def curves_of(runs, key):
    """What plot_curves() shows: a list of (run, minutes of training, validation)."""
    curves = [(run, [row for row in run.metrics["curve"] if row["seconds"] > 0])  # a log axis
              for run in chosen(runs) if run.key == key]
    return [(run, [row["seconds"] / 60 for row in curve], [row[key] for row in curve])
            for run, curve in curves if curve]


def apart(values, gap):
    """Falling numbers (n,), moved as little as it takes until they are about `gap` apart."""
    values = np.array(values, dtype=float)
    for _ in range(500):
        more = np.maximum(gap + values[1:] - values[:-1], 0) / 2
        values[:-1] += more
        values[1:] -= more
    return values


def plot_curves(path, runs):
    """Validation nats against minutes of training, with published levels, and for models without a
    likelihood the Fréchet distance. A colour a chapter; a solid line is its first run."""
    panels = [(curves_of(runs, key), *style) for key, *style in (
        ("val_nats", "validation nats per image", 5.5, LEVELS, 2, 14),
        ("val_frechet", "Fréchet distance (grey, validation)", 3.5, {}, 100, 6))]
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        return
    heights = [height for _, _, height, *_ in panels]
    figure, axes = plt.subplots(len(panels), squeeze=False, figsize=(6, sum(heights)), sharex=True,
                                gridspec_kw={"height_ratios": heights, "hspace": 0.08})
    longest = max(minutes[-1] for curves, *_ in panels for _, minutes, _ in curves)
    for ax, (curves, label, _, levels, below, above) in zip(axes[:, 0], panels):
        low = min(min(values) for _, _, values in curves)
        low, high = max(0, low - below), low + above  # the first evaluations would flatten the rest
        ax.set(xscale="log", xlim=(longest / 100, longest), ylim=(low, high), ylabel=label)
        for nats, name in levels.items():
            ax.axhline(nats, color="black", linewidth=0.7)
            ax.annotate(f"published: {name}, {nats}", (0.01, nats), fontsize=8, va="bottom",
                        xycoords=("axes fraction", "data"), annotation_clip=True)
        first = {run.model: run for run, _, _ in reversed(curves)}
        curves.sort(key=lambda curve: -curve[2][-1])
        ends = [min(values[-1], high) for _, _, values in curves]
        places = apart([ax.transLimits.transform((0, end))[1] for end in ends], 13 / ax.bbox.height)
        for (run, minutes, values), end, place in zip(curves, ends, places):
            ax.plot(minutes, values, "-" if run is first[run.model] else "--", label=run.name,
                    color=f"C{run.order}", linewidth=1.3, marker="o", markersize=3, markevery=[-1])
            # Names stand to the right of all curves, each with a thin line to its end.
            ax.annotate(run.name + " (−ELBO)" * (run.metrics["likelihood"] == "bound"),
                        (minutes[-1], end), (1.03, place), textcoords="axes fraction", fontsize=8,
                        va="center", color=f"C{run.order}", arrowprops={
                            "arrowstyle": "-", "color": f"C{run.order}", "linewidth": 0.5,
                            "relpos": (0, 0.5)})
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.grid(alpha=0.3)
    axes[0, 0].set_title("a colour a chapter; solid: its first run", fontsize=8, loc="left")
    axes[-1, 0].set_xlabel("minutes of training (log)")
    pictures.save_figure(path, figure)


def plot_plane(path, runs, scores, floors):
    """Likelihood against quality of draws: a dot a run that has both and is within 8 nats of the
    best; the others are lines or words."""
    points = [(run, run.metrics["test_nats"], scores[run.folder]["binarized"]["frechet"])
              for run in runs if run.folder in scores and not run.conditional]
    best = min((x for _, x, _ in points if x is not None), default=0)
    dots = [(run, x, y) for run, x, y in points if x is not None and x <= best + 8]
    far = [f"{run.name}: {x:.1f} nats, {y:.1f}" for run, x, y in points
           if x is not None and x > best + 8]
    lines = [(run.name, y) for run, x, y in points if x is None]
    lines += [(name, floor["binarized"]["frechet"]) for name, floor in floors.items()
              if floor["nats"] is None]
    figure, ax = plt.subplots(figsize=(9, 5.5))
    for run, x, y in dots:
        ax.plot(x, y, "o", color=f"C{run.order}")
    for _, y in lines:
        ax.axhline(y, color="grey", linewidth=0.7)
    ax.set(yscale="log", xlim=(best - 1.5, best + 8),
           xlabel="test nats (exact, a bound, or an estimate): lower is better",
           ylabel="Fréchet distance, binarized (log): lower is better",
           title="further right: " + "; ".join(far) if far else None)
    ax.title.set_fontsize(8)
    ax.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    boxes = boxes_of(ax, [(x, y) for _, x, y in dots])
    sides = [(x, ha, va) for x, ha in ((0.99, "right"), (0.01, "left")) for va in ("bottom", "top")]
    for name, y in lines:  # above or below its line, at the right end if there is room
        for x, ha, va in sides:
            word = ax.annotate(f"{name} (no nats): {y:.2f}", (x, y), fontsize=8, ha=ha, va=va,
                               xycoords=("axes fraction", "data"))
            box = word.get_window_extent()
            if (x, ha, va) == sides[-1] or not box.padded(-1).count_overlaps(boxes):
                break
            word.remove()
        boxes.append(box)
    name_dots(ax, dots, boxes)
    pictures.save_figure(path, figure)


def boxes_of(ax, places):
    """Boxes, in pixels, that names must not cover: of dots at these places (x, y)."""
    return [Bbox([place, place]).padded(6) for place in map(ax.transData.transform, places)]


def name_dots(ax, dots, boxes):
    """Names of runs beside their dots (run, x, y). A name goes where it covers none of the boxes
    and no other name, and stays inside; to the last place if there is none."""
    places = [(dx, dy) for dy in (3, -11, 14, -22, 26, -30, 40, -42) for dx in (5, -5)]
    for run, x, y in dots:
        for dx, dy in places:
            word = ax.annotate(run.name, (x, y), xytext=(dx, dy), textcoords="offset points",
                               fontsize=8, ha="left" if dx > 0 else "right",
                               color=f"C{run.order}", bbox={
                                   "facecolor": "white", "edgecolor": "none", "pad": 0.5,
                                   "alpha": 0.8})
            box = word.get_window_extent()
            if box.x0 > ax.bbox.x0 and box.x1 < ax.bbox.x1 \
                    and not box.padded(-1).count_overlaps(boxes):
                break
            if (dx, dy) != places[-1]:
                word.remove()
        boxes.append(box)
        if abs(dy) > 11:  # a name that had to move away: a thin line to its dot
            ax.annotate("", (x, y), xytext=(dx, dy + 4), textcoords="offset points", arrowprops={
                "arrowstyle": "-", "color": f"C{run.order}", "linewidth": 0.5})


def times_of(runs, scores, sampling):
    """What plot_times() shows: a list of (run, seconds for 64 digits, Fréchet distance of draws,
    binarized; seconds by the obvious loop, or None; passes). passes: of a chapter's first run, if
    it draws in as many as one likes, rows of (passes, seconds for 64 digits, another distance)."""
    runs, times = chosen(runs), []
    first = {run.model: run for run in reversed(runs)}
    for run in runs:
        m, timed, speed = run.metrics, timed_of(run, sampling), run.metrics.get("speed", {})
        passes = speed.get(m["settings"].get("sampler"), next(iter(speed.values()), []))
        if run.folder in scores and m["sample_seconds_64"] > 0:  # a log axis
            times.append((run, m["sample_seconds_64"], scores[run.folder]["binarized"]["frechet"],
                          timed and timed["obvious"], passes if run is first[run.model] else []))
    return times


def plot_times(path, runs, scores, floors, sampling):
    """How good draws are against how long 64 of them take: a dot a run, a circle where the obvious
    loop would be, and squares for numbers of passes."""
    times = times_of(runs, scores, sampling)
    if not times:
        return
    real = [floor["binarized"]["frechet"] for floor in floors.values() if floor["nats"] is None]
    distances = [distance for _, _, distance, _, _ in times] + real
    high = 2.5 * max(distances)
    figure, ax = plt.subplots(figsize=(9, 7.5))
    ax.set(xscale="log", yscale="log", xlabel="seconds to draw 64 digits (log): lower is better",
           ylabel="Fréchet distance (log): lower is better",
           yticks=[digit * 10.0**k for k in range(-1, 3) for digit in (1, 2, 5)])
    ax.set_ylim(0.7 * min(distances), high)
    circles = {"marker": "o", "linewidth": 0.8, "markerfacecolor": "white"}
    squares = {**circles, "marker": "s", "markersize": 4, "linestyle": ":"}
    ax.plot([], [], "o", color="grey", label="draws of a run, binarized")
    ax.plot([], [], color="grey", label="the same draws by the obvious loop", **circles)
    ax.plot([], [], color="grey", label="diffusion in so many passes: another distance\n"
            "(fewer draws, beside validation digits)", **squares)
    ax.legend(fontsize=8, loc="upper left")
    for y in real:
        ax.axhline(y, color="grey", linewidth=0.7)
        ax.annotate("real training digits", (0.01, y), xycoords=("axes fraction", "data"),
                    fontsize=8, va="bottom")
    places, words, above = [], [], []
    for run, seconds, distance, obvious, passes in times:
        color, shown = f"C{run.order}", [(x, distance) for x in (seconds, obvious) if x]
        ax.plot(*zip(*shown), color=color, **circles)
        ax.plot(seconds, distance, "o", color=color, zorder=3)
        ax.plot([x for _, x, _ in passes], [y for _, _, y in passes], color=color, **squares)
        places += shown + [(x, y) for _, x, y in passes]
        words += [ax.annotate(f"{n:g}", (x, y), xytext=(-4, -3), textcoords="offset points",
                              fontsize=8, color=color, ha="right", va="top")
                  for n, x, y in passes if y < high]
        above += [f"{run.name} in {n:g} pass{'es' * (n > 1)}: {y:.0f}"
                  for n, _, y in passes if y >= high]
    ax.set_title("further up: " + "; ".join(above) if above else None, fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    figure.draw_without_rendering()  # now the axes stay as they are
    boxes = boxes_of(ax, places) + [word.get_window_extent() for word in words]
    name_dots(ax, [dot for *dot, _, _ in times], boxes)
    pictures.save_figure(path, figure)


def plot_page(out, runs, scores, floors, sampling):
    """All pictures of the page `out`, beside it."""
    with plt.rc_context({"text.parse_math": False}):  # a folder may have a $ in its name
        plot_mosaic(out.with_name(f"{out.stem}_digits.png"), runs)
        plot_curves(out.with_name(f"{out.stem}_curves.png"), runs)
        plot_plane(out.with_name(f"{out.stem}_plane.png"), runs, scores, floors)
        plot_times(out.with_name(f"{out.stem}_time.png"), runs, scores, floors, sampling)


# --------------------------------------------------------------------------------------------------
# Galleries
# --------------------------------------------------------------------------------------------------

# What to look for in pictures that several chapters paint; their own are in ABOUT["pictures"].
SENTENCES = {
    "samples.png": "The first draws from a fixed seed, none chosen (of a class-conditional model a "
                   "row for each digit, 0 to 9): are they digits, and of all kinds?",
    "sampling.gif": "Sixteen digits appearing in the order in which the model draws; grey is what "
                    "is not drawn yet, and what is drawn never changes again.",
    "completion_top.png": "A test digit, its upper half, and eight draws of the rest: the strokes "
                          "that are given should go on, in different ways where they leave it "
                          "open.",
    "completion_left.png": "The same with the left half given: who draws row by row knows, at a "
                           "pixel, only what is above it and left of it, not the strokes further "
                           "down, so look for some that do not meet, most easily in rows of the "
                           "digit 1 (a model of all orders knows the whole half).",
    "surprise.png": "Where the bits are: the mean over the test set (the bar beside it is for it "
                    "alone), and four digits, from 0 to 5 bits, with what each of their pixels (or "
                    "words) costs; edges are dear, what is inside of a stroke or far from it is "
                    "nearly free.",
    "sight.png": "What six logits look at: yellow where the gradient is large, dark where it is "
                 "small (log₁₀, from −3 to 1), white where it is exactly 0. White has to be the "
                 "pixel itself (red) and all that is drawn after it; if more is white, the model "
                 "knows less than it may. (MADE: below it an untrained one of another order.)",
    "progress.png": "Draws from the same noise at each evaluation, the last at the bottom: see "
                    "when strokes come, and when they make digits.",
    "loss.png": "Training and validation, in nats or in Fréchet distance to validation digits "
                "(the axis says which), against steps and minutes: see whether they part, and "
                "whether they still fall at the end.",
}


MADE = "*Made by `python compare.py samples`.*"  # at the end of a gallery: not to be edited


def pictures_of(run):
    """A run's pictures, {file: sentence}: first draws, then the chapter's own, last the training.
    SystemExit if one has no sentence."""
    sentences, files = {**SENTENCES, **run.about.get("pictures", {})}, sorted(
        path.name for path in run.folder.iterdir() if path.suffix in (".png", ".gif"))
    for name in set(files) - set(sentences):
        utils.fail(f"{run.place}/{name} has no sentence that says what to look for: give it one, "
                   f"in ABOUT[\"pictures\"] of {run.model}.py.")
    order = ["samples.png", "sampling.gif", *run.about.get("pictures", {}), *SENTENCES]
    return {name: sentences[name] for name in dict.fromkeys(order) if name in files}


def gallery(run, quality):
    """README.md of a published run's folder, as text. quality: its scores, or None."""
    m, name = run.metrics, run.folder.name
    figures = [nats_of(m) + told(run), bits_of(m["test_nats"]), f"{m['parameters']:,}", minutes(m),
               f"{m['sample_seconds_64']:.3f} s",
               *two(quality and quality["binarized"], "frechet", "precision", "recall")]
    lines = [f"# {run.name[0].upper()}{run.name[1:]}", "",
             f"A run of [`{run.model}.py`](../../{run.model}.py), which explains the model, its "
             "pictures and its figures. See also [all galleries](../README.md) and "
             "[all runs side by side](../comparison.md).", "", "```", m["command"], "```", "",
             *table(("test nats", "bits/dim", "parameters", "training", "drawing 64 digits",
                     "Fréchet", "precision", "recall"), [figures]), "",
             "All figures, the curve, the seed and the machine are in [metrics.json](metrics.json)."
             " Fréchet distance, precision and recall are of 5,000 draws, binarized "
             "([scores.json](scores.json)); [judge.py](../../judge.py) says what they are."]
    if (run.folder / "weights.pt").exists():
        lines += ["", "Its weights ship along. This draws with them (or with your own, of a run "
                  "that has this name), into `runs/`:", "", "```",
                  f"python {run.model}.py --sample-only --out runs/{name}", "```"]
    for file, sentence in pictures_of(run).items():
        lines += ["", f"## {file}", "", sentence, "", f"![{file}]({file})"]
    return "\n".join([*lines, "", MADE, ""])


def galleries(runs, scores):
    """All galleries: {path in samples/: text}, one a run, and the page that leads to them."""
    rows = []
    for run in runs:
        name = run.folder.name
        links = [f"[{file.split('.')[0].replace('_', ' ')}]({name}/{file})"
                 for file in pictures_of(run)]
        rows.append([f"[`{run.model}.py`](../{run.model}.py)", f"[{run.name}]({name}/README.md)",
                     nats_of(run.metrics) + told(run), ", ".join(links)])
    lines = ["# Galleries", "",
             "The pictures of each published run, with a sentence on what to look for. A run's "
             "name leads to its page, which has its command and its figures, too; "
             "[comparison.md](comparison.md) has all of them side by side.", "",
             *table(("chapter", "run", "test nats", "pictures"), rows), "", MADE, ""]
    pages = {f"{run.folder.name}/README.md": gallery(run, scores.get(run.folder)) for run in runs}
    return {"README.md": "\n".join(lines), **pages}


# --------------------------------------------------------------------------------------------------
# Pages: tables go between marks, and what stands around the marks stays
# --------------------------------------------------------------------------------------------------

MARK = "<!-- made by compare.py: {} -->"
END = "<!-- end -->"


def put(text, blocks):
    """Text with each of its marked blocks (name: list of lines) made anew. A block without marks in
    the text is not written."""
    for name, lines in blocks.items():
        mark = MARK.format(name)
        if mark in text:
            before, rest = text.split(mark, 1)
            inside, end, after = rest.partition(END)
            if not end or MARK.split("{")[0] in inside:
                utils.fail(f"the block {name!r} has no {END}: put it back, or delete the mark.")
            text = before + mark + "\n" + "\n".join(lines) + "\n" + END + after
    return text


def blank(blocks):
    """A page with marks for all blocks, for a folder that has none yet."""
    lines = ["# All runs, side by side", "", "Made by `python compare.py`; what the figures mean "
             "stands in `judge.py` and the published comparison.", ""]
    for name in blocks:
        lines += [f"## {name[0].upper()}{name[1:]}", "", MARK.format(name), END, ""]
    return "\n".join(lines)


def page_blocks(runs, scores, floors, sampling, left_out, stem="comparison", draws=5000):
    """All tables and pictures of a page, by name."""
    return {
        "all models": all_table(runs, scores, floors, sampling),
        "digits": [f"![The first digits of each run]({stem}_digits.png)"],
        "beside published figures": published_table(runs),
        "grey levels": grey_table(runs),
        "minutes": [*minutes_table(runs), "",
                    f"![Validation nats against minutes]({stem}_curves.png)"],
        "records": record_table(runs),
        "likelihood and quality": [f"![Likelihood against quality of draws]({stem}_plane.png)"],
        "quality and time": [f"![Quality of draws against drawing time]({stem}_time.png)"],
        "quality of draws": quality_table(runs, scores, floors, draws),
        "told the digit": conditional_table(runs, scores, floors),
        "drawing": sampling_table(sampling),
        "costs": costs_table(runs, sampling),
        "abilities": abilities_table(runs),
        "left out": [f"- {reason}" for reason in left_out] or ["Nothing."],
    }


def moved(blocks, here, there):
    """Blocks of a page in the folder `here`, with links that start at the folder `there`."""
    def link(match):
        return f"]({Path(os.path.relpath(Path(here) / match[1], there)).as_posix()})"
    return {name: [re.sub(r"\]\(([^):]+)\)", link, line) for line in lines]
            for name, lines in blocks.items()}
