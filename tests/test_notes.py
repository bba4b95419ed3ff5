"""Chapters' figures: what docstring, notes, tables and exercises say is what the files say.

A figure is a number with a decimal point. In "What was measured" and in the exercises it is looked
up in the files of results/ and samples/ that its paragraph names, or, if that names none, in those
of the paragraph before (an exercise: of the heading); with a run of samples/, or with no file at
all, in the chapter's own runs. In docstring and notes it may be of any file that the chapter names.
All figures of a line of a table stand in one row of a file. What is computed from files is in
COMPUTED, with its words; what is of others, or a setting, in QUOTED. What no file has says so: "no
file is kept"."""
import ast
import collections
import functools
import json
import math
import re
import statistics

import pytest
from conftest import CHAPTERS, ROOT

RUNS = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "samples").glob("*/metrics.json"))}
FLOOR = json.loads((ROOT / "samples" / "comparison_floors.json").read_text(
    encoding="utf-8"))["floors"]["real training digits"]
GREY, BITS = FLOOR["grey"], FLOOR["binarized"]
PUBLISHED = [name for name in CHAPTERS if name in {run["model"] for run in RUNS.values()}]


# ------------------------------------------------------------------------------------ what is told


def runs_of(chapter):
    return [name for name, run in RUNS.items() if run["model"] == chapter]


def source(chapter):
    return (ROOT / f"{chapter}.py").read_text(encoding="utf-8")


def paragraphs(text):
    """Of the comments of a text: [prose, lines of the table or equation below it] each."""
    blocks, new = [], True
    for line in text.splitlines():
        body = re.sub(r"^ *#(?: ?-{20,}$)?", "", line) if line.lstrip().startswith("#") else ""
        if body.startswith("     ") and blocks:
            blocks[-1][1].append(body.strip())
            new = True
        elif not body.strip():
            new = True
        else:
            if new or re.match(r" \d+\. ", body):
                blocks.append(["", []])
            blocks[-1][0] += f" {body.strip()}" if blocks[-1][0] else body.strip()
            new = False
    return blocks


def one_line(text):
    """A text without comment marks and line ends."""
    return " ".join(re.sub(r"^ *# ", "", text, flags=re.M).split())


def parts(text):
    """Docstring and notes, "What was measured", exercises: lists of paragraphs."""
    measured, exercises = text.index("# What was measured"), text.index("# Exercises")
    docstring = ast.get_docstring(ast.parse(text)).split("\n\n")
    head = [[" ".join(part.split()), []] for part in docstring] + paragraphs(text[:measured])
    return (head, paragraphs(text[measured:exercises]),
            paragraphs(text[exercises:text.index("\nif __name__")]))


def figures(text):
    """Numbers with a decimal point, as written, each with a % behind it if it has one; without
    papers' numbers and sections, flags and constants with a Greek letter."""
    text = re.sub(r"\b\d{4}\.\d{4,5}\b|section \d\.\d|--[\w-]+ [\d., e-]*\d|"
                  r"[αβγσκδτw][₁₂]? = [\d.]+\d", "", text)
    return re.findall(r"(?<![\d.])\d+\.\d+(?!\d|\.\d)(?: %)?", text)


def with_file(prose):
    """A paragraph without what says that no file of it is kept: all of it if a bracket that has no
    figures says so, or else the sentence that does."""
    kept = re.compile("no file is kept", flags=re.I)
    if any(kept.search(part) and not figures(part) for part in re.findall(r"\([^()]*\)", prose)):
        return None
    return " ".join(part for part in re.split(r"(?<=[.!?]) (?=[A-Z(*\"])", prose)
                    if not kept.search(part))


# --------------------------------------------------------------------------------- what files have


UNTOLD = {"curve", "settings", "versions", "errors_by_noise", "train_nats", "train_score",
          "gradient_median", "last_training_loss", "val_reconstruction", "val_kl"}


def numbers(value):
    """All numbers of a file but those, which only COMPUTED tells; seconds as minutes, too."""
    if isinstance(value, dict):
        for key in value.keys() - UNTOLD:
            yield from numbers(value[key])
            if key == "train_seconds" or key == "seconds" and "score" in value:
                yield value[key] / 60
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


@functools.cache
def results(name):
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def named(text):
    """Files of results/ and runs in samples/ that are named in a text."""
    files = []
    for name in re.findall(r"(?:results|samples)/[\w/{},-]+(?:\.json)?", text):
        first, several, last = re.match(r"([^{]*)(?:\{(.*)\})?(.*)", name).groups()
        for word in (several or "").split(","):
            name = first + word + last
            run = "/".join(name.split("/")[:2])
            if name.startswith("results/robustness/"):
                files.append("results/robustness")
            elif (ROOT / run / "metrics.json").exists():
                files.append(run)
            elif name.endswith(".json"):
                files.append(name)
    return files


@functools.cache
def records(name, chapter):
    """Rows of a file, each a list of numbers; of a file of which a line of a table tells several
    rows, a single one."""
    if name == "results/robustness":
        rows = [row for rows in TURNED.values() for row in rows.values()]
        return [list(numbers([row for row in rows if f"python {chapter}.py" in row["command"]]))]
    if name.startswith("samples/") and not name.endswith(".json"):
        run = name[len("samples/"):]
        return [[*numbers(RUNS[run]), *numbers(results(f"{name}/scores.json")), ms_of_run(run)]]
    rows = results(name)
    if not name.startswith("results/ablations/"):
        return [list(numbers(rows))]
    row_numbers = [list(numbers(row)) for row in rows]
    for row, more in zip(rows, row_numbers):
        if "base_nats" in row:  # what an energy gains, and e^−2·gained, which cannot be above 1
            gained = row["base_nats"] - row["val_nats"]
            more += [abs(gained), min(1, math.exp(-2 * gained))]
    return row_numbers


@functools.cache
def as_written(name, chapter, places, percent):
    """The rows of a file as texts: numbers with so many decimals, also times 100 if with %."""
    return [{f"{factor * abs(value):.{places}f}" for value in row
             for factor in ((1, 100) if percent else (1,))} for row in records(name, chapter)]


def rows_with(figures, names, chapter, percent=False):
    """In how many rows of the files do all these figures stand?"""
    places = {figure: len(figure.rstrip(" %").partition(".")[2]) for figure in figures}
    count = 0
    for name in names:
        rows = [[figure.rstrip(" %").replace(",", "") in row for row in as_written(
            name, chapter, n, percent or "%" in figure)] for figure, n in places.items()]
        count += sum(map(all, zip(*rows)))
    return count


# ------------------------------------------------------------------------- computed, and of others


TURNED = {}  # rows of robustness.py by model and change
for path in sorted((ROOT / "results" / "robustness").glob("*.json")):
    rows = results(path.relative_to(ROOT).as_posix())
    TURNED[rows[0]["model"]] = {row["change"]: row for row in rows}
# Rows of ablations and afternoons by name; of an afternoon the short run and the long one.
ABLATED = {path.stem: {row["name"]: row for row in results(f"results/ablations/{path.name}")}
           for path in (ROOT / "results" / "ablations").glob("*.json")}
AFTERNOON = {path.stem: {} for path in (ROOT / "results" / "afternoon").glob("*.json")}
for chapter, candidates in AFTERNOON.items():
    for row in results(f"results/afternoon/{chapter}.json"):
        candidates.setdefault(row["candidate"], []).append(row)


def behind(model, change):
    """By how many nats a turned knob is behind the untouched model."""
    return TURNED[model][change]["score"] - TURNED[model]["default"]["score"]


def times(model, change):
    return TURNED[model][change]["score"] / TURNED[model]["default"]["score"]


def furthest(*models):
    return max(behind(model, change) for model in models for change in TURNED[model])


def seeds(model):
    return [TURNED[model][change]["score"] for change in ("default", "seed 1", "seed 2")]


def span(values):
    return max(values) - min(values)


def ablated(file, one, other):
    return ABLATED[file][one]["val_nats"] - ABLATED[file][other]["val_nats"]


def gain(chapter, candidate):
    """What three times the steps are worth."""
    short, long = AFTERNOON[chapter][candidate]
    return short["score"] - long["score"]


def long_behind(chapter, one, other):
    return AFTERNOON[chapter][one][1]["score"] - AFTERNOON[chapter][other][1]["score"]


def long_gap(chapter, candidate):
    """Nats of validation images less those of training images, after the longer run."""
    row = AFTERNOON[chapter][candidate][1]
    return row["score"] - row["train_score"]


def at(run, step, key):
    return next(row[key] for row in RUNS[run]["curve"] if row["step"] == step)


def in_time(run, minutes):
    """Validation nats at the last evaluation before a minute."""
    return [row for row in RUNS[run]["curve"] if row["seconds"] <= 60 * minutes][-1]["val_nats"]


def gap(run, step=None):
    """The same of a run: at a step, or of the weights that were kept."""
    step = step or RUNS[run]["best_step"]
    return at(run, step, "val_nats") - at(run, step, "train_nats")


def last(file):
    return results(f"results/pixelcnn/{file}.json")["curve"][-1]["val_nats"]


def passes(run):
    return RUNS[run]["steps"] * RUNS[run]["batch_size"] / 50_000


def ms_of_run(run):
    """Milliseconds of training an image."""
    return 1000 * RUNS[run]["train_seconds"] / RUNS[run]["steps"] / RUNS[run]["batch_size"]


def scores(run, pixels="binarized"):
    return results(f"samples/{run}/scores.json")[pixels]


def reached(run, *keys):
    """Figures of a run for which there is no likelihood."""
    return [RUNS[run][f"test_{key}"] for key in keys]


def minutes(run):
    return RUNS[run]["train_seconds"] / 60


def speed(run, sampler, steps):
    """The distance of 1,000 draws in so many steps."""
    return next(row[2] for row in RUNS[run]["speed"][sampler] if row[0] == steps)


def guided(w):
    """Distance, precision, recall."""
    return next(row[1:4] for row in RUNS["diffusion_conditional"]["guidance_scores"] if row[0] == w)


def error(n):
    """Standard error of a gap between n images and n others: an image's nats spread by 20."""
    return 20 * (2 / n) ** 0.5


# gan.py, if a tenth of p is never drawn: 2 JSD, and KL(p_G ‖ p) less that.
TWICE_JSD = 0.1 * math.log(2) + 0.9 * math.log(0.9 / 0.95) + math.log(1 / 0.95)
MISSING = math.log(1 / 0.9) - TWICE_JSD
# vae.py's smallest case, μ = ½ and σ = 1: means of log p(x|z) over q, of p(x|z) over the prior.
LOG_PX_Z = {k / 100: -2 * math.log1p(3 ** (-k / 100)) for k in range(-1000, 1001)}
NORMAL = statistics.NormalDist()
MEAN_OF_LOG = sum(NORMAL.pdf(z - 0.5) * log / 100 for z, log in LOG_PX_Z.items())
LOG_OF_MEAN = math.log(sum(NORMAL.pdf(z) * math.exp(log) / 100 for z, log in LOG_PX_Z.items()))
GAN = {name: row["frechet"] for name, row in ABLATED["gan"].items()}
CONV = [ABLATED["ebm"][name]["frechet"] for name in ("conv", "conv, seed 1")]
SHORTER = [short["score"] / long["score"] for short, long in AFTERNOON["gan"].values()]
VAE = ABLATED["vae"]
COINS = VAE["mean over pixels (beta 784)"]
WORDS_SEEDS = [ABLATED["transformer_ar"][name]["val_nats"]
               for name in ("default", "seed 1", "seed 2")]
MASKED = RUNS["diffusion_masked"]
X_HAT = RUNS["diffusion"]["errors_by_noise"]["validation images"]
# What ten steps leave to the last term of the bound (16), bits per pixel, by (17).
SNR = {t: 1 / math.tan(math.pi / 2 * t / 1000) ** 2 for t in range(100, 1001, 100)}
FIRST_TERMS = sum((SNR[t - 100] - SNR[t]) / 2 * X_HAT[round((t - 1) / 999 * 40)]
                  for t in range(200, 1001, 100)) / (784 * math.log(2))
LAST_TERM = RUNS["diffusion"]["validation_grey_bits_per_dim_by_steps"]["10"] - FIRST_TERMS
BETAS = [1e-4 + (0.02 - 1e-4) * t / 49 for t in range(50)]  # of DDPM, in 50 steps
LABEL = ("at most log 10 = {:.1f} nats", math.log(10))

SPOTS = {row["name"]: row["val_nats"]
         for row in results("results/pixelcnn/blind_spot_by_adam.json")}
BLIND, OPEN = ([SPOTS[f"gated, 1,800 steps, {what}, seed {seed}"] for seed in range(3)]
               for what in ("blind", "not blind"))
GAPS, ENCODER = results("results/gaps.json"), results("results/encoder.json")


def gaps_of(run):
    """How much dearer than training images those of validation are, how much cheaper those of the
    test set, and the standard error of either."""
    train, val, test = (GAPS[run][split] for split in ("train", "val", "test"))
    return val[0] - train[0], train[0] - test[0], math.hypot(val[1], train[1])


def away(run, heap):
    """How far the nearest training digit is: of a GAN's draws, or of test digits."""
    return GAPS[run][heap][0]


COMPUTED = {
    "made": [
        ("three of the RNN span {:.1f} nats", span(seeds("made, rnn"))),
        ("The GRU leads by {:.1f} in one run", ablated("made", "rnn", "rnn, gru")),
        ("and {:.1f} times the seconds here", ABLATED["made"]["rnn, gru"]["seconds"]
         / ABLATED["made"]["rnn"]["seconds"]),
        ("All do, the furthest by {:.1f}.", furthest("made", "made, 8 orders", "made, rnn")),
        ("one order more ({:.1f} nats) than a third ({:.1f}), and 8 orders as much either way "
         "({:.1f} and {:.1f})", *(behind(model, change) for model in ("made", "made, 8 orders")
                                  for change in ("lr * 3", "lr / 3"))),
        ("hardly minds three times the rate ({:.1f}); a third costs it {:.1f}.",
         behind("made, rnn", "lr * 3"), behind("made, rnn", "lr / 3")),
        ("gains little from time: {:.1f} nats", gain("made", "1024, one mask set")),
        ("and end {:.1f} lower in the second column",
         long_behind("made", "1024, one mask set", "1024, batch 256")),
        ("the gain from time is {:.1f}.", gain("made", "1024, batch 256, lr 0.005")),
        ("validation images cost {:.1f} nats more than training images in the first row (1,000 of "
         "each: such a gap has a standard error of {:.1f}",
         long_gap("made", "1024, one mask set"), error(1000)),
        ("narrow that gap to {:.1f} and {:.1f}, but",
         long_gap("made", "1024, dropout 0.2"), long_gap("made", "1024, 4 mask sets")),
        ("behind by {:.1f} and {:.1f} nats",
         long_behind("made", "1024, dropout 0.2", "1024, one mask set"),
         long_behind("made", "1024, 4 mask sets", "1024, one mask set")),
        ("are {:.1f} behind the row above, with a gap of {:.1f} instead of {:.1f}, and gain most "
         "from time, {:.1f}.", long_behind("made", "1024, batch 256, lr 0.005, 2 mask sets",
                                           "1024, batch 256, lr 0.005"),
         long_gap("made", "1024, batch 256, lr 0.005, 2 mask sets"),
         long_gap("made", "1024, batch 256, lr 0.005"),
         gain("made", "1024, batch 256, lr 0.005, 2 mask sets")),
        ("cost {:.1f} nats more than training images (2,500 of each, ± {:.1f}), and {:.1f} in the "
         "default run (5,000, ± {:.1f})", gap("made_long"), error(2500), gap("made"), error(5000)),
        ("cost it {:.1f} nats more than as many of training, those of the test set {:.1f} less, ± "
         "{:.1f}", *gaps_of("made_rnn")),
        ("The defaults reach {:.1f} and {:.1f}.",
         *(ABLATED["made"][name]["val_nats"] for name in ("default", "rnn"))),
        ("sigmoid(1) = {:.2f}", 1 / (1 + math.exp(-1))),
        ("takes the RNN {:.1f} ms, and MADE, with 24 times the parameters, {:.2f} ms",
         ms_of_run("made_rnn"), ms_of_run("made")),
        ("it is {:.1f} nats ahead of MADE",
         RUNS["made"]["test_nats"] - RUNS["made_rnn"]["test_nats"]),
        LABEL],
    "wavenet": [
        ("those of validation cost the default {:.1f} nats more than those of training, those of "
         "the test set {:.1f} less; each difference has a standard error of {:.1f}",
         *gaps_of("wavenet")),
        ("in this table, and {:.1f} behind in 900 steps", behind("wavenet", "lr * 3")),
        ("the furthest by {:.1f}, at a third of the rate, which costs a little more than three "
         "times the rate ({:.1f}). Half the width is {:.1f} behind; seeds differ by {:.1f}.",
         furthest("wavenet"), behind("wavenet", "lr * 3"), behind("wavenet", "width / 2"),
         span(seeds("wavenet"))),
        ("reaches {:.2f} nats on the test set, exact, in {:.1f} minutes (one thread",
         RUNS["wavenet_long"]["test_nats"], minutes("wavenet_long")),
        LABEL],
    "pixelcnn": [
        ("those of validation cost the default {:.1f} nats more than those of training, those of "
         "the test set {:.1f} less; each difference has a standard error of {:.1f}",
         *gaps_of("pixelcnn")),
        ("It ends ahead, by {:.1f} and {:.1f} nats", *(
            RUNS[run]["test_nats"] - RUNS["pixelcnn"]["test_nats"]
            for run in ("pixelcnn_original", "pixelcnn_rnn"))),
        ("after five minutes of each it leads by {:.1f} and {:.1f}", *(
            in_time(run, 5) - in_time("pixelcnn", 5)
            for run in ("pixelcnn_original", "pixelcnn_rnn"))),
        ("see each training image {:.1f} and {:.1f} times",
         passes("pixelcnn_original"), passes("pixelcnn_rnn")),
        ("v's arrow to h ({:.1f} nats), dilation ({:.1f}), K_ss ({:.1f}) and the original's "
         "position ({:.1f}).", ablated("convolutions", "gated, v tells h only once", "gated"),
         ablated("convolutions", "gated, no dilation", "gated"),
         ablated("convolutions", "row lstm, no state to state", "row lstm"),
         ablated("convolutions", "original, no position", "original")),
        ("is a loss ({:.1f}); so is Adam ({:.1f}).",
         ablated("convolutions", "gated, told where it is", "gated"),
         ablated("convolutions", "gated, Adam", "gated")),
        ("So it costs {:.1f} nats, where three seeds span {:.1f}.",
         statistics.mean(BLIND) - statistics.mean(OPEN), max(span(BLIND), span(OPEN))),
        ("at 6e-3, to {:.2f} test nats and {:.1f} on 500 validation images",
         results("results/pixelcnn/by_adam.json")["test_nats"], last("by_adam")),
        ("this one has {:.2f} and {:.1f} after 7,500", RUNS["pixelcnn"]["test_nats"],
         at("pixelcnn", 7500, "val_nats")),
        ("All do, the furthest by {:.1f}: the Row LSTM", max(
            behind(model, change) for model in ("pixelcnn", "pixelcnn, original", "pixelcnn, rnn")
            for change in TURNED[model])),
        ("the furthest by {:.1f}: the Row LSTM with a third of its rate",
         behind("pixelcnn, rnn", "lr / 3")),
        ("Three times the rate costs the gated model {:.1f}, the others {:.1f} and {:.1f}.", *(
            behind(model, "lr * 3")
            for model in ("pixelcnn", "pixelcnn, original", "pixelcnn, rnn"))),
        ("in 600 steps 8e-3 has {:.1f} nats and a third of it is {:.1f} behind; at 12e-3 three "
         "times the rate is {:.1f} behind; in 800 steps at 1e-2, {:.1f}",
         *(lambda at8, third8, _8, at12, _12, triple12, at10, _10, triple10: (
             at8, third8 - at8, triple12 - at12, triple10 - at10))(*(
                 row["score"] for row in results("results/pixelcnn/row_lstm_rates.json")))),
        ("reaches {:.2f} nats on the test set, exact, in {:.1f} minutes (one thread",
         RUNS["pixelcnn_long"]["test_nats"], minutes("pixelcnn_long")),
        ("{:.1f} validation nats for {:.1f} after 72 %",
         next(row["val_nats"] for row in results("results/pixelcnn/long_at_8e-3.json")["curve"]
              if row["step"] == 10_115), at("pixelcnn", 5419, "val_nats")),
        ("the earlier version came to {:.2f} (results/pixelcnn/long_by_adam.json)",
         results("results/pixelcnn/long_by_adam.json")["test_nats"])],
    "transformer_ar": [
        ("three seeds span {:.1f}); with one head", span(WORDS_SEEDS)),
        ("Three seeds span {:.1f} nats: differences under {:.1f} say nothing",
         span(WORDS_SEEDS), 2 * span(WORDS_SEEDS)),
        ("Adam at the same rate is {:.1f} behind, at half of it {:.1f}; a higher", *(
            ablated("transformer_ar", name, "default") for name in ("Adam", "Adam, rate 4e-3"))),
        ("{:.1f} better than with 0.02",
         ablated("transformer_ar", "positions of 0.02", "default")),
        ("All do, the furthest by {:.1f}; three seeds span {:.1f}.",
         furthest("transformer_ar"), span(seeds("transformer_ar"))),
        ("too high costs less ({:.1f} nats) than one that is too low ({:.1f})",
         behind("transformer_ar", "lr * 3"), behind("transformer_ar", "lr / 3")),
        ("it leads 96 channels by {:.1f} nats, where three seeds of its short run span {:.1f}.",
         long_behind("transformer_ar", "96 channels, 4 layers", "64 channels, 3 layers"),
         span(seeds("transformer_ar"))),
        ("are worth {:.1f} nats to it, {:.1f} to the one of 96 channels and {:.1f} to the largest",
         *(gain("transformer_ar", name) for name in AFTERNOON["transformer_ar"])),
        ("those of validation cost {:.1f} nats more than those of training in this run, and {:.1f} "
         "in the default's, those of the test set {:.1f} more and {:.1f} less. Each difference has "
         "a standard error of {:.1f}", *(
             sign * (GAPS[run][split][0] - GAPS[run]["train"][0]) for run, split, sign in (
                 ("transformer_ar_long", "val", 1), ("transformer_ar", "val", 1),
                 ("transformer_ar_long", "test", 1), ("transformer_ar", "test", -1))),
         math.hypot(GAPS["transformer_ar"]["val"][1], GAPS["transformer_ar"]["train"][1])),
        ("where this is {:.1f} (what differs", passes("transformer_ar")),
        LABEL],
    "vae": [
        ("Two seeds differ by {:.2f} nats", ablated("vae", "seed 1", "default")),
        ("(below), span {:.1f} nats: differences under {:.1f} say nothing",
         span(seeds("vae")), 2 * round(span(seeds("vae")), 1)),
        ("alone costs the default {:.1f} nats", ablated("vae", "decoder starts at 0", "default")),
        ("All do, the furthest by {:.1f}. Three seeds span {:.1f}.",
         furthest("vae"), span(seeds("vae"))),
        ("of the width by {:.1f} nats", -behind("vae", "width * 2")),
        ("better than the others, by {:.1f} and {:.1f}.",
         behind("vae", "lr / 3"), behind("vae", "lr * 3")),
        ("is behind by {:.1f} nats in equal time", long_behind("vae", "800 units", "400 units")),
        ("Three times the steps for {:.1f} nats",
         RUNS["vae"]["test_nats"] - RUNS["vae_long"]["test_nats"]),
        ("cost {:.1f} nats more than training images after the default run, and {:.1f} after this",
         gap("vae"), gap("vae_long")),
        ("784 coins pay {:.1f} nats less on validation", COINS["train_nats"] - COINS["val_nats"]),
        ("the default {:.1f} less on the test set than on validation",
         at("vae", 15000, "val_nats") - RUNS["vae"]["elbo_nats"]),
        ("gap was {:.1f} after {:.1f} passes", gap("vae", 338), 338 * 256 / 50_000),
        ("−ELBO falls by {:.1f} nats on training and by {:.1f} on validation images, and the gap "
         "from {:.1f} to {:.1f} (the default, 1,000 of each", *(
             ENCODER[split]["won"][0] for split in ("train", "val")), *(
             ENCODER["val"][by][0] - ENCODER["train"][by][0]
             for by in ("elbo_encoder", "elbo_fitted"))),
        ("−L_5000 is {:.1f} nats there, −L_200 {:.1f}:",
         *(ENCODER["val"][f"bound_{k}"][0] for k in (5000, 200))),
        ("the gap of 800 units from {:.1f} to {:.1f} (", long_gap("vae", "800 units"),
         long_gap("vae", "800 units, dropout 0.1")),
        ("reads {:.1f} after 900 steps where the default's reads {:.1f};",
         VAE["trained on grey"]["last_training_loss"], VAE["default"]["last_training_loss"]),
        ("2 and 193 with {:.1f};", 784 / 40),
        ("KL = ½ μ² = {:.3f}. Draw", 0.5**2 / 2),
        ("= 2 log ¾ = −{:.3f}, and this draw of the ELBO is −{:.3f} − {:.3f} = −{:.3f}. The mean "
         "over ε is −{:.3f} − {:.3f} = −{:.3f}. (2), summed on a fine grid of z, is log p(x) = "
         "−{:.3f}: one draw may lie above it, the mean may not, and {:.3f} nats are",
         -LOG_PX_Z[1.0], -LOG_PX_Z[1.0], 0.125, 0.125 - LOG_PX_Z[1.0], -MEAN_OF_LOG, 0.125,
         0.125 - MEAN_OF_LOG, -LOG_OF_MEAN, LOG_OF_MEAN - MEAN_OF_LOG + 0.125)],
    "gan": [
        ("Two seeds of the default differ by {:.2f},", span([GAN["default"], GAN["seed 1"]])),
        ("twice that of their mean, {:.1f},", statistics.mean([GAN["default"], GAN["seed 1"]])),
        ("Three seeds of the default loss differ by {:.2f}, of wgan-gp by {:.1f};",
         span(seeds("gan")), span(seeds("gan, wgan-gp"))),
        ("and a third makes the distance {:.1f} times as large; wgan-gp", times("gan", "lr / 3")),
        ("with a third the distance is {:.1f} times as large, with three times {:.1f}, only",
         times("gan, wgan-gp", "lr / 3"), times("gan, wgan-gp", "lr * 3")),
        ("distance by {:.1f}, and those of the others by {:.1f} to {:.1f}.",
         SHORTER[0], min(SHORTER[1:]), max(SHORTER[1:])),
        ("from {:.2f} at step 11,520 to {:.2f} at 25,920, whose weights are kept, and is {:.2f} at",
         *(at("gan_long", step, "val_frechet") for step in (11_520, 25_920, 32_000))),
        ("distance of {:.2f} on the test set, precision {:.2f}, recall {:.2f}, in {:.1f} minutes",
         *reached("gan_long", "frechet", "precision", "recall"), minutes("gan_long")),
        ("the default has {:.2f}, {:.2f} and {:.2f} in {:.1f} minutes",
         *reached("gan", "frechet", "precision", "recall"), minutes("gan")),
        ("Here: 5,000 steps of G in {:.1f} minutes reach a Fréchet distance of {:.2f}, precision "
         "{:.2f}, recall {:.2f} (", minutes("gan_wgan-gp"),
         *reached("gan_wgan-gp", "frechet", "precision", "recall")),
        ("(5,000 training digits: {:.2f}, {:.2f}, {:.2f})",
         GREY["frechet"], GREY["precision"], GREY["recall"]),
        ("training digits have {:.2f} (beside test digits", GREY["frechet"]),
        ("training digits {:.2f}: docs", BITS["frechet"]),
        ("Fréchet distance falls from {:.1f} to {:.1f}. So the losses",
         at("gan", 2835, "val_frechet"), at("gan", 14_000, "val_frechet")),
        ("falls from {:.1f} to {:.1f}. The loss is no",
         at("gan_wgan-gp", 450, "val_frechet"), at("gan_wgan-gp", 5000, "val_frechet")),
        ("a mean of {:.2f} for draws and {:.2f} for test digits (± {:.2f} each; "
         "results/gaps.json), so W is about {:.1f} or more", away("gan_wgan-gp", "draws"),
         away("gan_wgan-gp", "test"), GAPS["gan_wgan-gp"]["draws"][1],
         away("gan_wgan-gp", "draws") - away("gan_wgan-gp", "test")),
        ("a mean of {:.2f} for 5,000 draws and {:.2f} for as many test digits (± {:.2f} each;",
         away("gan", "draws"), away("gan", "test"), GAPS["gan"]["draws"][1]),
        ("with --conditional {:.2f}, nearer by {:.2f}, where the error of a difference is {:.2f}:",
         away("gan_conditional", "draws"),
         away("gan_conditional", "test") - away("gan_conditional", "draws"),
         math.hypot(GAPS["gan_conditional"]["draws"][1], GAPS["gan_conditional"]["test"][1])),
        ("digit is {:.2f} away from its draws and {:.2f} from test digits",
         away("gan_long", "draws"), away("gan_long", "test")),
        ("have the same {:.2f} and {:.2f} as draws",
         scores("ebm_rbm")["precision"], scores("ebm_rbm")["recall"]),
        ("the same {:.2f} and {:.2f} as draws of this chapter",
         scores("gan")["precision"], scores("gan")["recall"]),
        ("a distance of {:.2f} where these have {:.2f} (after a coin a pixel; vae.py has {:.2f},",
         *(scores(run)["frechet"] for run in ("ebm_rbm", "gan", "vae"))),
        ("Adam has a distance of {:.2f}, at half the rate {:.2f}, at twice {:.2f}. Muon for the "
         "matrices of both players (muon.py) has {:.2f}, at half the rate {:.2f}:", *(
             row["score"] for optimizer, rate in (
                 ("Adam", 3e-3), ("Adam", 1.5e-3), ("Adam", 6e-3), ("Muon", 3e-3),
                 ("Muon", 1.5e-3)) for row in results("results/optimizers/gan.json")
             if row["optimizer"] == optimizer and row["command"].endswith(f"--lr {rate:.6g}"))),
        ("2 log 2 = {:.3f}, and that of G, (5) below, is log 2 = {:.3f}.",
         2 * math.log(2), math.log(2)),
        ("D's loss near {:.3f} is", 2 * math.log(2)),
        ("2 KL(m ‖ p) is {:.3f} nats, 2 JSD is {:.3f},", MISSING, TWICE_JSD)],
    "flow": [
        ("with the best bound loses {:.2f} nats: {:.2f} for mass outside the cell, which the exact "
         "figure loses as well, and {:.2f} for the noise, {:.0f} an image",
         *(lambda all_of_it, outside: (
             all_of_it, outside, all_of_it - outside, 784 * (all_of_it - outside)))(
                 math.log(2 * math.pi * math.e / 12) / 2, -math.log(math.erf(math.sqrt(1.5))))),
        ("at most log 1.5 = {:.1f} nats", math.log(1.5)),
        ("Three seeds span {:.1f} nats;", ablated("flow", "seed 2", "seed 1")),
        ("fall to the end, by {:.1f} in the last tenth", at("flow_long", 5_415, "val_grey_nats")
         - at("flow_long", 6_000, "val_grey_nats"))],
    "tarflow": [
        ("−log p(u) is −{:.1f} nats and log q(u|x) {:.1f}: the flow pays {:.1f} of the {:.1f} "
         "nats, and the table {:.1f}.", *(lambda flow, q, both: (
             -flow, q, flow + q, both, both - flow - q))(
             RUNS["tarflow"]["noisy_nats"], -392 * math.log(2 * math.pi * math.e * 0.1**2),
             RUNS["tarflow"]["grey_nats"])),
        ("the furthest (half the width) by a factor of {:.1f},", times("tarflow", "width / 2"))],
    "diffusion": [
        ("An eighth of the steps costs {:.1f} nats",
         MASKED["bounds_by_steps"]["98"] - MASKED["test_nats"]),
        ("the furthest (batch / 2) by a factor of {:.1f},", times("diffusion", "batch / 2")),
        ("The three seeds span {:.2f}; from their mean, {:.2f}, only",
         span(seeds("diffusion")), statistics.mean(seeds("diffusion"))),
        ("hardly falls, {:.2f} there and {:.2f} at 24,300", *(
            at("diffusion_long", step, "val_frechet") for step in (14_700, 24_300))),
        ("distance of {:.2f} on the test set, {:.2f} after a coin a pixel, precision {:.2f}, "
         "recall {:.2f}, in {:.1f} minutes", *reached(
             "diffusion_long", "frechet", "frechet_binary", "precision", "recall"),
         minutes("diffusion_long")),
        ("the default has {:.2f}, {:.2f}, {:.2f} and {:.2f} in {:.1f} minutes", *reached(
            "diffusion", "frechet", "frechet_binary", "precision", "recall"), minutes("diffusion")),
        ("the same weights have {:.2f} and {:.2f}, the default's {:.2f} and {:.2f} (", *(
            scores(run, pixels)["frechet"] for run in ("diffusion_long", "diffusion")
            for pixels in ("grey", "binarized"))),
        ("training digits, {:.2f} and {:.2f} (", GREY["frechet"], BITS["frechet"]),
        ("Longer: {:.2f} and {:.2f} in {:.1f} minutes", *reached(
            "diffusion_long", "frechet", "frechet_binary"), minutes("diffusion_long")),
        ("guided (w = 1.25): {:.2f},", *reached("diffusion_conditional", "frechet")),
        ("a distance of {:.2f} in 25 passes, by (10) it is {:.2f}.",
         speed("diffusion", "heun", 25), speed("diffusion", "ddim", 25)),
        ("In 50 steps (9) reaches {:.2f} and (10) {:.2f}, in the long run {:.2f} and {:.2f};", *(
            speed(run, sampler, 50) for run in ("diffusion", "diffusion_long")
            for sampler in ("ddpm", "ddim"))),
        ("in 100 steps the default has {:.2f}.", speed("diffusion", "ddpm", 100)),
        ("(9) has {:.2f} and (10) {:.2f}, and ten steps ({:.2f}, {:.2f}) are better than a "
         "hundred ({:.2f}, {:.2f}; one heap each)", *(speed("diffusion_conditional", sampler, steps)
                               for steps in (50, 10, 100) for sampler in ("ddpm", "ddim"))),
        ("in ten steps (10) has {:.2f}, and {:.2f} on the arc", *(
            speed(run, "ddim", 10) for run in ("diffusion_flow-matching", "diffusion"))),
        ("the run ends at {:.2f}, the arc's at {:.2f} (", *(
            RUNS[run]["test_frechet"] for run in ("diffusion_flow-matching", "diffusion"))),
        ("precision rises from {:.2f} to {:.2f} and recall falls from {:.2f} to {:.2f} from w = 1 "
         "to 1.5, then to {:.2f} at w = 3. The distance hardly tells w = 1 ({:.2f}), 1.25 ({:.2f}) "
         "and 1.5 ({:.2f})",
         guided(1)[1], guided(1.5)[1], guided(1)[2], guided(1.5)[2], guided(3)[2],
         guided(1)[0], guided(1.25)[0], guided(1.5)[0]),
        ("{:.1f} of the variance would still", math.prod(1 - beta for beta in BETAS)),
        ("t ≤ 100 gets {:.2f} % of the draws", 100 * math.sin(math.pi / 20) ** 4),
        ("x̂ errs by {:.1f} (samples/diffusion/errors.png", X_HAT[1]),
        ("784 σ_t²/α_t² = {:.1f},", 784 * math.tan(math.pi / 2 * 0.026) ** 2),
        ("about {:.1f} are the last term of (16)", LAST_TERM),
        ("flow.py has {:.2f} bits/dim", RUNS["flow"]["grey_bits_per_dim"]),
        ("α_T is {:.2f}, so", math.cos(0.4 * math.pi))],
    "ebm": [
        ("hardly better (by {:.1f}; three seeds of the next table span {:.2f})",
         ablated("ebm", "residual", "residual, half of the steps for the base"),
         span(seeds("energy"))),
        ("All do, the furthest by {:.1f}.", furthest("energy")),
        ("cost {:.1f} nats more than training images, after the default run {:.1f} (2,000 of each, "
         "± {:.1f};", gap("ebm_long"), gap("ebm"), error(2000)),
        ("About {:.1f} of it may be the two sets", (gap("ebm_long", 360) + gap("ebm", 360)) / 2),
        ("{:.1f} nats at step 6,125 and, at step 21,125, {:.1f} nats", *(
            at("ebm_rbm", step, "val_nats") for step in (6_125, 21_125))),
        ("a transformer alone has {:.2f} nats in seven minutes",
         RUNS["transformer_ar"]["test_nats"]),
        ("Two seeds differ by {:.1f}: what is less than twice that from {:.1f}, their mean",
         span(CONV), statistics.mean(CONV))],
}

# Figures of papers and of others' code; settings; what is read off a picture, which has no file;
# and of flow.py and vae.py a share and an entropy of MNIST's own grey levels.
QUOTED = {
    "made": "84.87 86.64 79.58 0.7",
    "wavenet": "",
    "pixelcnn": "81.45 81.50 81.30 80.54 53.6 3.36 0.95",
    "transformer_ar": "79.17 78.61 0.02 0.5 0.95 6.8",
    "vae": "86.76 86.35 84.78 86.06 84.59 81.08 86.77 80.72 85.54 0.01 0.95 45.5",
    "gan": "0.02 0.5 0.999 0.50 1.38 0.75 1.35 0.73 0.31 0.17",
    "flow": "1.89 1.06 1.05 0.99 0.97 1.078 1.043 1.020 0.62 78.61 0.81 1.5 0.5",
    "tarflow": "0.05 0.15 0.1 0.3",
    "diffusion": "77.87 79.46 95.21 77.56 0.00004 0.125 0.25 0.8",
    "ebm": "79.63 80.12 80.51 0.005",
}


# ---------------------------------------------------------------------------------------- compared


def told(text):
    """(prose, lines of a table, the files that have their figures) of each paragraph."""
    head, measured, exercises = parts(text)
    for prose, lines in head:
        yield " ".join([prose, *lines]), [], [*named(text), "samples/comparison_floors.json"]
    names = []
    for prose, lines in measured:
        names = named(prose) or names
        yield prose, lines, names
    for prose, lines in exercises:
        yield prose, lines, named(exercises[0][0]) + named(prose)


def cells(line):
    """All numbers of a line of a table behind its first column; none if none is a figure."""
    rest = " | ".join(re.split(r"  +", line)[1:])
    rest = re.sub(r"\d · 10\S+", "", rest)
    return tuple(re.findall(r"\d[\d,]*(?:\.\d+)?", rest)) if figures(rest) else ()


def computed(chapter):
    return [form.format(*values) for form, *values in COMPUTED.get(chapter, [])]


def wrong(chapter, prose, lines, names):
    """Figures of a paragraph, and lines of its table, that no file has. Of lines that are alike,
    each needs a row of its own."""
    here = with_file(prose)
    if here is None:
        return []
    if not names or any(name.startswith("samples/") for name in names):
        names = [*names, *(f"samples/{run}" for run in runs_of(chapter))]
    names = list(dict.fromkeys(names))
    for words in computed(chapter):
        here = here.replace(words, "")
    alike = collections.Counter(filter(None, map(cells, lines)))
    return [figure for figure in figures(here) if figure not in QUOTED.get(chapter, "").split()
            and not rows_with([figure], names, chapter)] + [
        " ".join(line) for line, times in alike.items()
        if rows_with(line, names, chapter, percent=True) < times]


def all_wrong(chapter, text):
    """The same of all its paragraphs, each with how it begins; and what is computed otherwise."""
    faults = [(prose[:50], part) for prose, lines, names in told(text)
              for part in wrong(chapter, prose, lines, names)]
    return faults + [words for words in computed(chapter) if words not in one_line(text)]


# ------------------------------------------------------------------------------------------- tests


def is_beyond(table, one, other):
    """Do two rows of three seeds lie further apart than twice what either spans?"""
    rows = ABLATED[table][one], ABLATED[table][other]
    assert all(row["seeds"] == 3 for row in rows)
    scores = [row["val_nats" if "val_nats" in row else "frechet"] for row in rows]
    return abs(scores[0] - scores[1]) > 2 * max(row["span"] for row in rows)


def test_what_wavenets_table_carries_is_more_than_seeds_do():
    """What it calls undecided is less."""
    for name in ("one first tap", "28 first taps", "no dilation", "no residual",
                 "half the channels", "lr / 3"):
        assert is_beyond("convolutions", f"wavenet, {name}", "wavenet"), name
    assert is_beyond("convolutions", "wavenet, line, one first tap", "wavenet, one first tap")
    for name in ("Adam", "Adam, --lr 0.01", "line", "no gate", "no skip", "told where it is",
                 "no clipping", "lr * 3", "300 first taps"):
        assert not is_beyond("convolutions", f"wavenet, {name}", "wavenet"), name


def test_what_pixelcnns_table_carries_is_more_than_seeds_do():
    for name, default in (("gated, Adam", "gated"), ("gated, no dilation", "gated"),
                          ("gated, told where it is", "gated"),
                          ("gated, v tells h only once", "gated"),
                          ("original, no position", "original"),
                          ("row lstm, no state to state", "row lstm")):
        assert is_beyond("convolutions", name, default), name
    assert not is_beyond("convolutions", "gated, no gate", "gated")


def test_what_diffusions_table_carries_is_more_than_seeds_do():
    undecided = {"not told t", "no average", "lr * 3"}
    for name in ABLATED["diffusion"].keys() - {"default"}:
        assert is_beyond("diffusion", name, "default") == (name not in undecided), name
    assert len(ABLATED["diffusion"]) == 10


def test_what_tarflows_table_carries_is_more_than_seeds_do():
    undecided = {"noise 0.03", "noise 0.2"}
    for name in ABLATED["tarflow"].keys() - {"default"}:
        assert is_beyond("tarflow", name, "default") == (name not in undecided), name
    bits = [ABLATED["tarflow"][name]["bits_per_dim"] for name in (
        "default", "one block of 8 layers", "one order")]
    assert bits[2] - bits[1] < 0.1 * (bits[1] - bits[0])


@pytest.mark.parametrize("chapter", PUBLISHED)
def test_figures_of_a_chapter_are_those_of_its_files(chapter):
    assert all_wrong(chapter, source(chapter)) == []


def other(figure):
    """The same with another last digit."""
    digits = figure.rstrip(" %")
    return digits[:-1] + str((int(digits[-1]) + 1) % 10) + figure[len(digits):]


@pytest.mark.parametrize("chapter", PUBLISHED)
def test_another_digit_is_noticed(chapter):
    """Control: of each figure that is compared, one at a time; but for those that are by chance
    another figure of the same file."""
    noticed = []
    for prose, lines, names in told(source(chapter)):
        here = with_file(prose)
        if here is None or wrong(chapter, prose, lines, names):
            continue
        for figure in set(figures(here)) - set(QUOTED.get(chapter, "").split()):
            changed = prose.replace(figure, other(figure))
            noticed.append(bool(wrong(chapter, changed, lines, names)) or any(
                words in prose and words not in changed for words in computed(chapter)))
        for i, line in enumerate(lines):
            for cell in filter(figures, cells(line)):
                # From the right: the first column may have the same number, of a setting.
                changed = other(cell).join(line.rsplit(cell, 1))
                noticed.append(bool(wrong(
                    chapter, prose, [*lines[:i], changed, *lines[i + 1:]], names)))
    assert len(noticed) > 10 and sum(noticed) > 0.75 * len(noticed)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", PUBLISHED)
def test_a_paragraph_without_a_source_is_noticed(chapter):
    """Control: one that is put behind a heading; and all, if they name no file any more."""
    text = source(chapter)
    for heading in ("# What was measured\n", "# Exercises"):
        line = text[text.index(heading):].split("\n")[0]
        more = text.replace(f"{line}\n", f"{line}\n#\n# It has 12.34 nats.\n#\n")
        assert ("It has 12.34 nats.", "12.34") in all_wrong(chapter, more)
        kept = more.replace("12.34 nats.", "12.34 nats (no file is kept).")
        assert ("It has 12.34 nats.", "12.34") not in all_wrong(chapter, kept)
    if "results/" in text:
        assert len(all_wrong(chapter, text.replace("results/", ""))) > len(all_wrong(chapter, text))
