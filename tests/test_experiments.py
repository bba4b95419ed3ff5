"""experiments/ and results/: what was measured is what chapters and docs say, the scripts train as
chapters do, and a copied chapter is taken up.

Evidence is asked only of chapters that are published: those with a run in samples/."""
import ast
import concurrent.futures
import importlib
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ablate
import afternoon
import bench_sampling
import first_evaluations
import fit
import kill_and_resume
import mutations
import optimizers
import pytest
import robustness
import same_bits
import score_weights
import seeds
import torch
from conftest import (
    CHAPTERS,
    ROOT,
    checkpoint,
    same,
    small,
    train_by_main,
    values,
)

import ebm
import gan
import settings
import utils

SAMPLES, RESULTS = ROOT / "samples", ROOT / "results"
RUNS = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(SAMPLES.glob("*/metrics.json"))}
PUBLISHED = [name for name in CHAPTERS if name in {run["model"] for run in RUNS.values()}]
ABLATIONS = {path.stem: importlib.import_module(path.stem)
             for path in sorted((ROOT / "experiments").glob("ablate_*.py"))}
VARIANTS = [(script, name) for script, module in ABLATIONS.items() for name in module.VARIANTS]


def read(path):
    return Path(path).read_text(encoding="utf-8")


def rows_of(name):
    return json.loads(read(RESULTS / name))


def one_line(text):
    """A text without comment marks and line ends."""
    return " ".join(text.replace("\n#", " ").split())


def measured(chapter):
    """What a chapter says under "# What was measured"."""
    text = read(ROOT / f"{chapter}.py")
    return text[text.index("# What was measured"):text.index("# Exercises")]


def figure_of(metrics):
    """(name, value) of what a run is published for."""
    name = "test_frechet" if metrics["likelihood"] == "none" else "test_nats"
    return name, metrics[name]


# ------------------------------------------------------------------------------------ robustness


ROBUST = {path.stem: rows_of(f"robustness/{path.name}")
          for path in sorted((RESULTS / "robustness").glob("*.json"))}


def has_table(text, rows, chapter):
    lines = ("#     " + line if line else "#" for line in robustness.table(chapter, rows))
    return "\n".join(lines) in text


@pytest.mark.parametrize("chapter", PUBLISHED)
def test_a_chapter_says_how_robust_it_is(chapter):
    """Its table is what robustness.py prints of the committed rows, each of which is of the
    settings as they are today, and within what is promised."""
    text, rows = measured(chapter), [row for model_rows in ROBUST.values() for row in model_rows]
    mine = [row for row in rows if robustness.MODELS[row["model"]][0] == chapter]
    models = [model for model, (name, _) in robustness.MODELS.items() if name == chapter]
    for model in models:
        by_change = {row["change"]: row for row in mine if row["model"] == model}
        assert set(by_change) == set(robustness.CHANGES)
        for change in robustness.CHANGES:
            assert robustness.plan(model, change)[0].items() <= by_change[change].items()
            assert robustness.kept(by_change[change], by_change["default"])
        default = by_change["default"]
        far = 2.01 * default["score"] if "least_share" in default else default["score"] + 3.01
        assert not robustness.kept({**default, "score": far}, default)  # controls
        assert not robustness.kept({**default, "score": None}, default)
        if "least_share" in default:
            assert not robustness.kept({**default, "least_share": 0.019}, default)
    assert has_table(text, rows, chapter)
    for row in mine:  # controls
        other = [{**r, "score": r["score"] + 0.02} if r is row else r for r in rows]
        assert not has_table(text, other, chapter)


def test_rows_of_robustness_are_as_near_as_the_docs_say():
    rows = [(row, model_rows[0]) for model_rows in ROBUST.values() for row in model_rows]
    assert all(model_rows[0]["change"] == "default" for model_rows in ROBUST.values())
    robust = {model for model, (name, _) in robustness.MODELS.items() if name in PUBLISHED}
    assert {row["model"] for row, _ in rows} == robust
    gans = [(row["score"] / default["score"], row["least_share"])
            for row, default in rows if "least_share" in row]
    nats = max(row["score"] - default["score"] for row, default in rows
               if "least_share" not in row)
    text = one_line(read(ROOT / "docs" / "results.md"))
    for words in (f"For each of {len(ROBUST)} models",
                  f"of the usual length: {len(rows)} runs with the untouched ones.",
                  f"Of those with nats the worst ends {nats:.1f} nats above the untouched one",
                  f"the worst has {max(ratio for ratio, _ in gans):.1f} times the untouched one's "
                  "distance",
                  f"the rarest digit {100 * min(share for _, share in gans):.1f} %"):
        assert words in text, words


def test_a_row_of_robustness_changes_what_it_says():
    """One setting each, of runs of a fifth of the default's steps."""
    for model, (name, flags) in robustness.MODELS.items():
        given = values(CHAPTERS[name], flags)
        by_change = {change: values(CHAPTERS[name], robustness.plan(model, change)[1])
                     for change in robustness.CHANGES}
        usual = by_change["default"]
        assert vars(usual) == {**vars(given), "steps": given.steps // 5}
        for change, s in by_change.items():
            other = {key: value for key, value in vars(s).items() if value != vars(usual)[key]}
            what = robustness.CHANGES[change]
            if isinstance(what, int):
                assert other == {"seed": what}
            elif what:
                key, factor = what
                assert list(other) == [key]
                assert other[key] == pytest.approx(vars(usual)[key] * factor, rel=1e-5)


# ----------------------------------------------------------------- kills, seeds, weights that ship


def test_the_list_of_mutations_fits_the_code(tmp_path, fails):
    """Each has its line, once: or nobody would notice that it is no longer tried."""
    rows = mutations.all_mutations()
    scripts = {path.stem for path in ROOT.glob("*.py")} - (set(CHAPTERS) - set(PUBLISHED))
    assert len(rows) > 250 and {row["file"] for row in rows} >= scripts
    assert all(row["before"] != row["after"] for row in rows)
    for file, names in mutations.FITTING.items():
        assert mutations.first_tests(file) == [f"tests/test_{name}.py" for name in names]
    assert mutations.first_tests("zz_copy") == ["tests/test_chapters.py"]  # no test of its own yet
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps([{**rows[0], "before": "no such line"}]))
    fails(lambda: mutations.all_mutations(odd), "0 times", "mend the list")  # control


def test_mutations_are_caught_as_contributing_says():
    """Each row of the file is one of the list, as it stands there, and a test caught it."""
    def named(rows):
        return {(row["file"], row["before"], row["after"]) for row in rows}

    rows = rows_of("mutations.json")
    assert len(named(rows)) == len(rows) and named(rows) <= named(mutations.all_mutations())
    assert all(row["caught_by"] and "::" in row["caught_by"] for row in rows)
    assert f"{len(rows)} have been tried" in read(ROOT / "CONTRIBUTING.md")


def test_kills_are_as_the_docs_say():
    rows, text = rows_of("kills.json"), one_line(read(ROOT / "docs" / "troubleshooting.md"))
    assert set(rows) >= set(PUBLISHED)
    # Where kills came too soon, nothing but the beginning was ever gone on from.
    early = [name for name, row in rows.items() if row["resumed_at"][-1] < 0.2 * row["steps"]]
    assert f"first fifth before each kill: {', '.join(early) or 'none'}." in text
    assert all(row["kills"] == 20 and row["broken"] == 0 and row["same"] for row in rows.values())
    assert all(row["while_writing"] for row in rows.values())
    kills, writing = (sum(row[key] for row in rows.values()) for key in ("kills", "while_writing"))
    assert (f"Of {kills} kills {writing} came while a checkpoint was being written. Broken "
            "checkpoints: 0.") in text
    assert f"that nobody disturbed: {len(rows)} of {len(rows)}." in text


def works_every_time(rows, least=0.7, times=1.5, share=0.05):
    """What gan.py claims of five seeds; ebm.py less, of --variant conv."""
    distances = [row["test_frechet"] for row in rows]
    return (sorted(row["seed"] for row in rows) == [0, 1, 2, 3, 4]
            and max(distances) <= times * min(distances)
            and all(row["test_precision"] >= least and row["test_recall"] >= least for row in rows)
            and all(share <= min(row["test_shares"]) and max(row["test_shares"]) <= 0.2
                    for row in rows))


def check_commands(rows, chapter, flags, run):
    """Each row's is that of the published run, but for the seed."""
    for row in rows:
        words = row["command"].split()[2:]
        words = words[:words.index("--out")] if "--out" in words else words
        assert vars(values(chapter, words)) == {**vars(values(chapter, flags)), "seed": row["seed"]}
        assert row["steps"] == RUNS[run]["steps"] and set(row) == set(seeds.KEPT)


def test_five_seeds_of_the_smoothed_energy_are_as_the_chapter_claims():
    rows = rows_of("seeds/ebm_conv.json")
    distances = [row["test_frechet"] for row in rows]
    limits = 0.55, 2.5, 0.04
    assert works_every_time(rows, *limits) and max(distances) <= 5
    assert not works_every_time(rows[:4], *limits)  # controls
    assert not works_every_time([{**row, "test_recall": 0.54} for row in rows], *limits)
    check_commands(rows, ebm, "--variant conv", "ebm_conv")
    least = 100 * min(min(row["test_shares"]) for row in rows)
    most = 100 * max(max(row["test_shares"]) for row in rows)
    assert (f"Five seeds of it: {min(distances):.2f} to {max(distances):.2f}, each digit "
            f"{least:.0f} to {most:.0f} % of the draws") in one_line(ebm.__doc__)


def test_five_seeds_of_the_gan_are_as_chapter_and_docs_claim():
    rows = rows_of("seeds/gan.json")
    assert works_every_time(rows)
    assert not works_every_time(rows[:4])  # controls
    assert not works_every_time([{**row, "test_precision": 0.69} for row in rows])
    shares = [0.04] + [0.96 / 9] * 9
    assert not works_every_time([{**row, "test_shares": shares} for row in rows])
    check_commands(rows, gan, "", "gan")
    spans = {key: (min(row[key] for row in rows), max(row[key] for row in rows))
             for key in ("test_frechet", "test_frechet_binary", "test_precision", "test_recall")}
    least = 100 * min(min(row["test_shares"]) for row in rows)
    most = 100 * max(max(row["test_shares"]) for row in rows)
    low, high = spans["test_frechet"]
    assert f"Five seeds: {low:.2f} to {high:.2f}, no collapse" in one_line(gan.__doc__)
    words = ["the Fréchet distance (grey) is {:.2f} to {:.2f}", " (binarized {:.2f} to {:.2f})",
             ", precision {:.2f} to {:.2f}", ", recall {:.2f} to {:.2f}"]
    text = "".join(form.format(*spans[key]) for form, key in zip(words, spans))
    text += f", and each digit is {least:.0f} to {most:.0f} %"
    assert text in one_line(read(ROOT / "docs" / "results.md"))


def test_what_the_shipped_weights_score_is_that_of_the_runs_as_they_are():
    rows = rows_of("weights.json")
    assert set(rows) == {path.parent.name for path in SAMPLES.glob("*/weights.pt")}
    keys = {"nats": "test_nats", "−ELBO": "elbo_nats", "Fréchet distance": "test_frechet"}
    for name, row in rows.items():
        assert row["run"] == RUNS[name][keys[row["what"]]], name
        near = 0.02 * row["run"] if row["what"] == "Fréchet distance" else 0.01
        assert abs(row["run"] - row["shipped"]) < max(0.01, near), name


@pytest.mark.slow
def test_shipped_weights_are_scored_as_score_weights_says():
    """Of one run of each kind: what is measured is a figure of the model that --sample-only makes,
    here on 20 test images of the small set; and of another model it would be another one."""
    data = utils.load_mnist()
    data.x_test, data.test_labels = data.x_test[:20], data.test_labels[:20]
    for name in ("pixelcnn", "pixelcnn_conditional"):
        metrics, chapter = RUNS[name], CHAPTERS["pixelcnn"]
        model, left_out = score_weights.model_of(chapter, SAMPLES / name)
        assert left_out == ()
        what, run, shipped = score_weights.score(chapter, model, data, metrics)
        y = data.test_labels if metrics["conditional"] else None
        expected = -model.log_prob(data.x_test.float(), y).mean().item()
        assert (what, run) == ("nats", metrics["test_nats"]) and 40 < shipped < 120
        assert shipped == pytest.approx(expected, rel=1e-5)
        kept = torch.load(SAMPLES / name / "weights.pt", weights_only=True)["best"]["weights"]
        assert all(torch.equal(value.half() if value.is_floating_point() else value, kept[key])
                   for key, value in model.state_dict().items())
    model, left_out = score_weights.model_of(CHAPTERS["ebm"], SAMPLES / "ebm_rbm")
    assert left_out and all(not key.startswith(left_out) for key in torch.load(
        SAMPLES / "ebm_rbm" / "weights.pt", weights_only=True)["best"]["weights"])


# ---------------------------------------------------------------------------- published figures


@pytest.mark.parametrize("name", list(RUNS))
def test_todays_command_makes_the_published_run(name):
    """The settings of a run are those that its command has today."""
    metrics = RUNS[name]
    chapter, words = CHAPTERS[metrics["model"]], metrics["command"].split()
    assert words[:2] == ["python", f"{metrics['model']}.py"]
    args, chosen, _ = settings.parse(metrics["model"], "", chapter.SETTINGS, chapter.VARIANTS,
                                     words[2:])
    resolved = settings.resolve(chapter.SETTINGS, chapter.VARIANTS, chosen)
    # What a run does not say was not there yet, and it had what is the default now.
    for key in resolved.keys() - metrics["settings"].keys() - settings.FROM_DATA:
        assert resolved[key] == chapter.SETTINGS[key].default
    assert metrics["settings"].keys() <= resolved.keys()
    for key in metrics["settings"]:
        only = chapter.SETTINGS[key].only if key in chapter.SETTINGS else ()
        # A default may change that this variant has not (--chain-steps: ebm.py --variant conv).
        if not only or resolved[only[0]] in only[1:]:
            assert metrics["settings"][key] == resolved[key], key
    for key in ("steps", "batch_size", "lr", "seed", "conditional"):
        assert metrics[key] == resolved[key]
    assert metrics["variant"] == resolved.get("variant", "")
    folder = args.out or "runs/" + settings.run_name(
        metrics["model"], chapter.SETTINGS, chapter.VARIANTS, resolved)
    assert folder == f"runs/{name}" and metrics["data"] == "mnist" and metrics["seed"] == 0
    assert metrics["curve"][-1]["step"] == metrics["steps"] and len(metrics["curve"]) >= 15
    assert metrics["best_step"] in [row["step"] for row in metrics["curve"]]
    model = chapter.build(values(chapter, " ".join(words[2:]).split(" --out")[0]))
    counted = sum(p.numel() for p in fit.the_one_that_draws(model).parameters())
    assert counted == metrics["parameters"]


def figures(text):
    """Numbers with a decimal point in a text, as they are written."""
    return set(re.findall(r"(?<![\d.])\d+\.\d+(?!\d|\.\d)", text))


# ------------------------------------------------------------------------------------- afternoons


AFTERNOONS = [path.stem for path in sorted((RESULTS / "afternoon").glob("*.json"))]


def is_told_of_an_afternoon(text, rows, metrics):
    """Does the text have each candidate's figures with its minutes, and command, figure and minutes
    of the long run?"""
    wanted = [f"{row['score']:.2f} ({row['seconds'] / 60:.1f})" for row in rows]
    wanted += [metrics["command"], f" {figure_of(metrics)[1]:.2f} ",
               f"{metrics['train_seconds'] / 60:.1f} minutes"]
    return all(word in text for word in wanted)


@pytest.mark.parametrize("chapter", AFTERNOONS)
def test_a_chapter_says_what_an_afternoon_brings(chapter):
    """Figures of all candidates, dropout's among them, which is gone from the chapters since."""
    match = re.search(r"^# Given an afternoon\..*?(?=^# -{20}|\Z)", measured(chapter), re.S | re.M)
    text, rows = one_line(match[0]), rows_of(f"afternoon/{chapter}.json")
    wanted = {f"python {chapter}.py {' '.join([*flags.split(), '--steps', str(steps)])}"
              for flags, short in afternoon.CANDIDATES[chapter].values()
              for steps in (short, 3 * short)}
    assert wanted == {row["command"] for row in rows if "--dropout" not in row["command"]}
    assert (RESULTS / "afternoon" / f"{chapter}.png").stat().st_size > 1000
    metrics = RUNS[f"{chapter}_long"]
    assert is_told_of_an_afternoon(text, rows, metrics)
    other = [{**rows[0], "score": rows[0]["score"] + 0.02}]
    assert not is_told_of_an_afternoon(text, other, metrics)  # control
    name, figure = figure_of(metrics)
    for change in ({name: figure + 0.02}, {"train_seconds": metrics["train_seconds"] + 6},
                   {"command": metrics["command"] + "0"}):
        assert not is_told_of_an_afternoon(text, rows, {**metrics, **change})  # controls


# -------------------------------------------------------------------------------------- ablations


@pytest.mark.parametrize("script", list(ABLATIONS))
def test_committed_rows_are_of_variants_that_are_still_there(script):
    """By name and by length; what a constant said then, a flag says now."""
    module = ABLATIONS[script]
    steps = {"ablate_convolutions": 400, "ablate_diffusion": 1000, "ablate_ebm": 1800,
             "ablate_flow": 400, "ablate_gan": 1500, "ablate_made": 700,
             "ablate_tarflow": 400, "ablate_transformer": 400, "ablate_vae": 900}.get(script)
    name = {"ablate_transformer": "transformer_ar"}.get(script, script[len("ablate_"):])
    if not (RESULTS / "ablations" / f"{name}.json").exists():
        return  # nothing is published of it
    assert f"{steps}, __doc__" in read(ROOT / "experiments" / f"{script}.py")
    for row in rows_of(f"ablations/{name}.json"):
        today = ablate.command_of(module.VARIANTS[row["name"]], steps).split()
        then = row["command"].split()
        assert set(then) <= set(today), row["name"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_images", "short_chains")
@pytest.mark.parametrize("script", list(ABLATIONS))
def test_every_variant_can_be_built_and_trained(script):
    """One step each, on two images; and it is not the default in disguise: other weights, another
    model, or another setting."""
    data, module = utils.load_mnist(), ABLATIONS[script]
    weights = {}
    for name, variant in module.VARIANTS.items():
        chapter, _, build = variant
        words = ablate.command_of(variant, 1).split()[2:] + ["--batch-size", "2", "--steps", "1"]
        s = values(chapter, words)
        model, _, norms = fit.fit(chapter, s, data, build)
        assert all(torch.isfinite(p).all() for p in model.parameters()), name
        assert len(norms) in (0, 1) and not model.training
        weights[name] = (variant, {k: v.double().sum().item()
                                   for k, v in model.state_dict().items()})
        with torch.no_grad():
            model_class = type(model)
            assert all(hasattr(model_class, part) for part in ("forward", "sample"))
    for name, (variant, sums) in weights.items():
        chapter, flags, build = variant
        for other, (another, theirs) in weights.items():
            if name < other and (chapter, flags) == (another[0], another[1]):
                # Of one command: then build() has to make a difference that a step can show, or
                # the arithmetic is the same on purpose (an energy that says 0 at first has no
                # squares to weigh; flows whose last layers are 0 at first, so that matrices before
                # them have no gradient, whoever would take the step).
                if {name, other} in ({"default", "attention as written"},
                                     {"conv", "conv, squares of energies in the loss"}) \
                        or script in ("ablate_flow", "ablate_tarflow") and {name, other} == {
                            "default", "Adam"}:
                    assert sums == pytest.approx(theirs, abs=1e-3)
                else:
                    assert sums != theirs, (name, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "gan", "transformer_ar", "wavenet"])
def test_another_optimizer_takes_the_place_of_the_chapters(few_images, name):
    """By the chapter's own all bits stay; by another each matrix moves as that one says: in Lion's
    first step every weight that has a gradient moves by the rate."""
    chapter, data = CHAPTERS[name], utils.load_mnist()
    s = values(chapter, f"{chapter.ABOUT['small']} --steps 1 --batch-size 4")
    usual = fit.fit(chapter, s, data)[0]
    again = "Muon" if name in ("transformer_ar", "wavenet") else "Adam"
    by = {optimizer: fit.fit(chapter, s, data,
                             quiet=optimizers.moved_by(optimizer))[0].state_dict()
          for optimizer in {again, "Adam", "Muon", "Lion", "AdamW"}}
    assert same(by[again], usual.state_dict())
    torch.manual_seed(s.seed)
    model = chapter.build(s)
    if hasattr(model, "start_from_mean"):
        model.start_from_mean(data.train)
    start = fit.the_one_that_draws(model).state_dict()
    assert len({sum(w.double().sum().item() for w in weights.values() if w.is_floating_point())
                for weights in by.values()}) == len(by)
    if name == "vae":
        rate = s.lr / (s.steps * s.warm_up + 1)
        moves = torch.cat([(by["Lion"][key] - start[key]).abs().flatten() for key in start])
        moved = moves[moves > 0]
        assert len(moved) > 0.5 * len(moves) and ((moved - rate).abs() < 1e-3 * rate).all()


def test_several_seeds_are_a_mean_with_its_span():
    """A number that all share, as that of weights, stays what it is."""
    for score in ("val_nats", "frechet"):
        rows = [{score: value, "seconds": 3.5, "weights": 7} for value in (90.0, 91.5, 90.6)]
        row = ablate.mean_and_span(rows)
        assert row.pop(score) == pytest.approx(90.7) and row.pop("span") == 1.5
        assert row == {"seconds": 3.5, "weights": 7, "seeds": 3} and type(row["weights"]) is int


def test_one_tap_makes_the_blind_spot_and_another_does_not():
    """Of the 574 pixels before (20, 14): the 55 that the original misses, however deep."""
    pixelcnn, past = CHAPTERS["pixelcnn"], torch.arange(784) < 20 * 28 + 14
    convolutions = ABLATIONS["ablate_convolutions"]
    for build, unseen in ((pixelcnn.build, 0), (convolutions.without_tap(2), 55),
                          (convolutions.without_tap(0), 0)):
        torch.manual_seed(0)
        model = build(values(pixelcnn))
        model.last.weight.data.normal_()
        x = torch.rand(4, 1, 28, 28).round().requires_grad_()
        model.logits(x)[:, 0, 20, 14].sum().backward()
        seen = x.grad.abs().sum(dim=0).flatten() > 0
        assert (past & ~seen).sum() == unseen and not (seen & ~past).any()
        still = [conv.weight.grad.abs().amax(dim=(0, 1))[1] == 0 for conv in model.up]
        assert all(row.sum() == (build is not pixelcnn.build) for row in still)  # no step from 0


# ------------------------------------------------------------------------------- how they train
#
# That fit() gives the weights of each chapter and variant, plain and told the label, bit for bit,
# is said by test_a_run_writes_what_it_promises in test_chapters.py.


MEAN = "start_from_mean(data.train)"


@pytest.mark.usefixtures("few_images", "short_chains")
@pytest.mark.parametrize("name", [name for name in CHAPTERS if MEAN in read(ROOT / f"{name}.py")])
def test_a_main_that_begins_with_other_images_has_other_weights(name):
    """Control of that: the mean of validation, not of training."""
    flags = {"diffusion": "--variant masked", "ebm": "--variant rbm"}.get(name, "")
    words, parts = small(CHAPTERS[name], *flags.split(), "--steps", 1), []
    for of in (MEAN, "start_from_mean(data.val)"):
        train_by_main(name, [*words, "--out", of], (MEAN, of))
        parts.append(checkpoint(of)["parts"])
    assert not same(*parts)


def test_a_run_that_diverges_is_told():
    quiet = fit.Quiet(values(CHAPTERS["vae"]))
    quiet.check_finite(loss=1.0, gradient=2.0)
    assert quiet.tick(1.0) is False and quiet.step == 1 and quiet.norms == [2.0]
    for odd in (math.nan, math.inf):
        with pytest.raises(fit.Diverged) as after:
            quiet.check_finite(loss=odd)
        assert after.value.args == (2,)


# ------------------------------------------------------------------------------------- same_bits


def run_of(folder):
    """The least that is left of a run."""
    folder.mkdir()
    weights = {"w": torch.tensor([1.0, math.nan, -0.0]), "n": torch.tensor(3)}
    torch.save({"step": 2, "parts": {"model": weights}, "best": {"weights": weights, "score": 1.5},
                "pictures": [torch.zeros(2, dtype=torch.uint8)], "rng": {"cpu": torch.ones(3)},
                "curve": [{"seconds": 1.0, "val_nats": 5.0}], "train_seconds": 3.0},
               folder / "checkpoint.pt")
    metrics = {"test_nats": 5.0, "command": "python a.py", "train_seconds": 3.0, "curve": [],
               "settings": {"a": 1}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in ("a.png", "b.gif", "samples.npy", "loss.png", "weights.pt"):
        (folder / name).write_bytes(b"abc")
    return folder


def flip(x):
    """The same tensor of floats, its first number by one bit another."""
    bits, = struct.unpack("i", struct.pack("f", x[0].item()))
    other, = struct.unpack("f", struct.pack("i", bits ^ 1))
    return torch.tensor([other, *x[1:].tolist()])


def test_a_bit_that_is_another_is_noticed(tmp_path):
    a, b = run_of(tmp_path / "a"), run_of(tmp_path / "b")

    def places():
        return same_bits.differences(same_bits.result(a), same_bits.result(b))

    assert places() == [] and same_bits.files(a) == same_bits.files(b)
    usual = torch.load(b / "checkpoint.pt", weights_only=True)
    w = usual["parts"]["model"]["w"]
    for change in ({"parts": {"model": {**usual["parts"]["model"], "w": flip(w)}}},
                   {"parts": {"model": {**usual["parts"]["model"], "w": w.double()}}},
                   {"parts": {"model": {**usual["parts"]["model"], "w": w[:2]}}},
                   {"parts": {"model": {"w": w}}}, {"parts": {}}, {"step": 3},
                   {"best": {**usual["best"], "score": 1.5000001}},
                   {"rng": {"cpu": flip(usual["rng"]["cpu"])}}, {"pictures": []},
                   {"curve": [{"seconds": 1.0, "val_nats": 5.000001}]}):
        torch.save({**usual, **change}, b / "checkpoint.pt")
        assert len(places()) >= 1, change
    torch.save({**usual, "curve": [{"seconds": 9.0, "val_nats": 5.0}], "train_seconds": 9.0},
               b / "checkpoint.pt")
    assert places() == []  # clocks do not count
    metrics = json.loads(read(b / "metrics.json"))
    for change, wanted in (({"test_nats": 5.0000001}, 1), ({"entropy": 1.0}, 1),
                           ({"command": "python b.py", "settings": {}, "train_seconds": 1}, 0)):
        (b / "metrics.json").write_text(json.dumps({**metrics, **change}))
        assert len(places()) == wanted, change
    for other, wanted in (([[1, 9.0, 3.0]], 0), ([[1, 2.0, 3.1]], 1), ([[2, 2.0, 3.0]], 1)):
        for folder, rows in ((a, [[1, 2.0, 3.0]]), (b, other)):  # guesses, seconds, distance
            (folder / "metrics.json").write_text(json.dumps({**metrics, "speed": {"ddpm": rows}}))
        assert len(places()) == wanted, other
    for name, wanted in (("a.png", True), ("b.gif", True), ("samples.npy", True),
                         ("loss.png", False), ("weights.pt", False)):
        (b / name).write_bytes(b"abd")
        assert (same_bits.files(a) != same_bits.files(b)) is wanted
        (b / name).write_bytes(b"abc")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout's scripts, in which a chapter was copied to a new name."""
    copy = tmp_path_factory.mktemp("tree")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    for name in ("data", "experiments"):
        shutil.copytree(ROOT / name, copy / name,
                        ignore=shutil.ignore_patterns("MNIST", "__pycache__"))
    first = "def download_mnist(data_dir):\n"
    text = read(copy / "utils.py").replace(first, f"{first}    return 'not asked'\n")
    assert text.count("not asked") == 1
    (copy / "utils.py").write_text(text, encoding="utf-8")
    text = re.sub(r'"order": \d+', '"order": 99', read(ROOT / "wavenet.py"))
    text = text.replace('"variants": {"wavenet": ""', '"variants": {"zz": "", "zz, fast": "--lr 1"')
    assert text.count("zz, fast") == 1
    (copy / "zz_copy.py").write_text(text, encoding="utf-8")
    return copy


@pytest.mark.slow
def test_two_checkouts_are_compared_run_by_run(tree, tmp_path):
    """One that is the same, and one whose rate is by a ten-millionth another."""
    other, words = tmp_path / "other", ["vae.py", *small(CHAPTERS["vae"], "--steps", 2)]
    shutil.copytree(tree, other)
    text = read(tree / "vae.py")
    changed = text.replace("= s.lr * min(warm, left)", "= s.lr * 1.0000001 * min(warm, left)")
    assert changed != text
    (other / "vae.py").write_text(changed, encoding="utf-8")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        alike, places = pool.map(lambda two: same_bits.compare((tree, two), words), (tree, other))
    assert alike == [] and any("weight" in str(place) for place in places)
    (other / "vae.py").write_text("raise SystemExit('no luck')", encoding="utf-8")
    assert "no luck" in str(same_bits.run(other, words, tmp_path))


def test_all_chapters_and_variants_are_compared_plain_and_conditional():
    commands = same_bits.configurations()
    assert len(commands) == 2 * sum(len(c.ABOUT["variants"]) for c in CHAPTERS.values())
    for words in commands.values():
        chapter = CHAPTERS[words[0][:-len(".py")]]
        assert values(chapter, words[1:]).steps == 12
    assert sum("--conditional" in words for words in commands.values()) == len(commands) // 2


@pytest.mark.slow
def test_a_copied_chapter_is_taken_up_by_all_that_measures(tree):
    code = """if True:
        import json, sys
        sys.path[:0] = [sys.argv[1], sys.argv[1] + "/experiments"]
        import bench_sampling, fit, kill_and_resume, robustness, same_bits, utils
        rows = [{**robustness.plan(model, change)[0], "score": 80.0}
                for model in ("zz", "zz, fast") for change in robustness.CHANGES]
        chapter = robustness.CHAPTERS["zz_copy"]
        s = fit.values(chapter, chapter.ABOUT["small"] + " --steps 1 --batch-size 2")
        model, _, norms = fit.fit(chapter, s, utils.load_mnist())
        print(json.dumps({"robust": robustness.MODELS["zz, fast"], "file": chapter.__file__,
                          "table": robustness.table("zz_copy", rows), "norms": len(norms),
                          "plan": robustness.plan("zz", "width / 2")[0]["command"],
                          "bench": list(bench_sampling.models()),
                          "kills": list(kill_and_resume.CHAPTERS),
                          "bits": list(same_bits.configurations())}))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tree)], capture_output=True, text=True,
                          encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}, cwd=tree)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["robust"] == ["zz_copy", "--lr 1"] and printed["norms"] == 1
    assert Path(printed["file"]).parent == tree and "80.00, 80.00" in printed["table"][3]
    s = values(CHAPTERS["wavenet"])
    assert printed["plan"].startswith(f"python zz_copy.py --steps {s.steps // 5} --batch-size ")
    assert printed["plan"].endswith(f"--width {s.width // 2}")
    assert {"zz_copy.py", "zz_copy.py --lr 1", "wavenet.py"} <= set(printed["bench"])
    assert printed["kills"] == [*CHAPTERS, "zz_copy"]
    assert {"zz", "zz, conditional", "zz, fast, conditional", "wavenet"} <= set(printed["bits"])


# --------------------------------------------------------------------------------- kills, timings


def test_timings_are_of_autoregressive_models_as_they_are():
    """Each published chapter's default at least; and what was timed is of the sizes of today."""
    built, timed = bench_sampling.models(), rows_of("sampling.json")["models"]
    assert {f"{name}.py" for name in PUBLISHED} & set(built) <= set(timed) <= set(built)
    for name in timed:
        model = built[name]()
        assert timed[name]["parameters"] == sum(p.numel() for p in model.parameters())
        for method in ("sample", "sample_obvious", "logits"):
            assert hasattr(model, method)


@pytest.mark.slow
def test_a_timing_has_its_parts():
    s = values(CHAPTERS["made"], CHAPTERS["made"].ABOUT["small"])
    fast, one_pass, obvious, whole, share, parameters = bench_sampling.measure(
        lambda: CHAPTERS["made"].build(s), 2)
    assert 0 < fast and 0 < one_pass and whole and obvious > 50 * one_pass and 0 < share
    assert parameters == sum(p.numel() for p in CHAPTERS["made"].build(s).parameters())


@pytest.mark.parametrize("what, word", [("train", "training"), ("write", "writing"),
                                        ("end", "finished")])
def test_a_kill_says_what_it_interrupted(tmp_path, what, word):
    """Of a process that trains, one that writes its checkpoint, and one that is at its end."""
    (tmp_path / "run").mkdir()
    lines = {"train": "open('run/checkpoint.pt', 'w'); time.sleep(60)",
             "write": "open('run/checkpoint.pt', 'w'); time.sleep(0.3); "
                      "open('run/checkpoint.pt.part', 'w'); time.sleep(60)",
             "end": "open('run/checkpoint.pt', 'w')"}
    process = subprocess.Popen([sys.executable, "-c", f"import time; {lines[what]}"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    chance = SimpleNamespace(uniform=lambda low, high: 0.3 if what == "end" else low)
    assert kill_and_resume.kill(process, chance, tmp_path, False, what == "write") == word
    assert (process.wait(timeout=10) == 0) is (what == "end")


# --------------------------------------------------------------------------------------- results


def test_every_result_is_named_where_it_is_told():
    """Each file of results/ in a chapter, a page of docs/, or an experiment."""
    places = [*ROOT.glob("*.py"), ROOT / "README.md", *(ROOT / "docs").glob("*.md"),
              *(ROOT / "experiments").glob("*.py")]
    text = " ".join(one_line(read(path)) for path in places)
    for path in sorted(RESULTS.rglob("*.*")):
        name = path.relative_to(ROOT).as_posix()
        folder = path.parent.relative_to(ROOT).as_posix()
        assert name in text or f"{folder}/ " in text or path.parent.name in (
            "robustness", "afternoon") or re.search(rf"{folder}/\{{[^}}]*{path.stem}", text), name


def test_whoever_measures_says_how():
    """Each script has a docstring with its own command, and takes --help's word for it."""
    for path in sorted((ROOT / "experiments").glob("*.py")):
        text = read(path)
        assert text.startswith('"""') and "mock" not in text and "monkeypatch" not in text
        if path.stem not in ("ablate", "fit"):
            assert f"python experiments/{path.name}" in text, path
            assert text.rstrip().splitlines()[-2] == 'if __name__ == "__main__":'


@pytest.mark.parametrize("script", [
    "ablate", "afternoon", "first_evaluations", "gaps", "heaps", "optimizers", "robustness",
    "score_weights", "seeds", "singular_values"])
def test_whoever_measures_asks_for_all_of_mnist(script, monkeypatch, capsys):
    """Without --data-dir there are 5,000 digits: no figure is of those."""
    monkeypatch.setattr(sys, "argv", [script, *["made"] * (script == "seeds")])
    with pytest.raises(SystemExit):
        importlib.import_module(script).main(*[{}, "", 1, "", None, {}] * (script == "ablate"))
    assert "takes the full MNIST" in capsys.readouterr().err


def patched(text, names=r"(?:\w+\.)*(?:torch|math|nn|F)"):
    """Where a test's source puts something else into torch or math: those lines, as code."""
    for node in ast.walk(ast.parse(text)):
        into = []
        if isinstance(node, ast.Assign):
            into = [target for target in node.targets if isinstance(target, ast.Attribute)]
        elif isinstance(node, ast.Call) and node.args and re.search(
                r"\b(setattr|setitem|delattr|patch|object)$", ast.unparse(node.func)):
            into = node.args[:1]
        if any(re.match(rf"\W*(?:{names})\b", ast.unparse(target)) for target in into):
            yield ast.unparse(node)


@pytest.mark.slow
def test_no_test_patches_torch_or_math():
    """A test that does knows how a chapter calls them, and breaks when it is written otherwise."""
    for path in sorted((ROOT / "tests").glob("*.py")):
        assert not list(patched(read(path))), path
    for text in ('monkeypatch.setattr(torch, "rand", none)', "torch.optim.Adam = none",  # controls
                 'm.setattr("math.log", none)', 'setattr(torch.nn, "Linear", none)',
                 "ebm.F.log_softmax = none"):
        assert list(patched(text)), text
    assert not list(patched('m.setattr(utils, "load", none); torch.manual_seed(0); x = math.pi'))


def test_no_test_patches_a_chapter():
    """Flags, subclasses, arguments and conftest.rewritten() say what is to be otherwise."""
    names = "|".join([*CHAPTERS, "chapter", r"runner\.Run"])
    for path in sorted((ROOT / "tests").glob("*.py")):
        assert not list(patched(read(path), names)), path
    for text in ('m.setattr(ebm, "log_mean", none)', "chapter.Run = none"):  # controls
        assert list(patched(text, names)), text


def test_first_evaluations_are_told_apart_by_their_largest_difference():
    published = [{"step": 8, "train_nats": 200.0, "val_nats": 210.0},
                 {"step": 30, "train_nats": None, "val_nats": 150.0, "val_frechet": 4.0}]
    assert first_evaluations.differences(published, published)[0] == 0
    curve = [dict(published[0], val_nats=210.21), dict(published[1], val_frechet=4.1, other=9)]
    largest, where = first_evaluations.differences(curve, published)
    assert largest == pytest.approx(0.025) and where == "val_frechet at step 30"
    with pytest.raises(ValueError):  # a run that was not long enough
        first_evaluations.differences(curve[:1], published)


def test_published_runs_begin_as_the_docs_say():
    rows = rows_of("first_evaluations.json")
    assert set(rows) <= {path.parent.name for path in SAMPLES.glob("*/metrics.json")}
    for name, row in rows.items():  # or it is of a run that another has replaced
        curve = json.loads(read(SAMPLES / name / "metrics.json"))["curve"]
        assert row["steps"] == [at["step"] for at in curve[:2]], name
    near = [name for name, row in rows.items() if row["largest"] < 1e-4]
    bounds = {"flow_long": 2e-4, "ebm_conv": 0.02,
              "gan": 0.06, "gan_long": 0.06, "gan_wgan-gp": 0.06, "gan_conditional": 0.7}
    assert set(bounds) == set(rows) - set(near)
    assert all(rows[name]["largest"] < bound for name, bound in bounds.items())
    text = one_line(read(ROOT / "docs" / "results.md"))
    assert f"of {len(rows)} runs that were tried" in text and f") {len(near)} have the" in text
