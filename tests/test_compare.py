"""compare.py and tables.py: what is published is what the committed files say; odd runs, draws and
scores are named, and the rest is compared all the same; planted heaps get the scores they must."""
import functools
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CHAPTERS, ROOT

import compare
import judge
import pictures
import tables
import utils

SAMPLES = ROOT / "samples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
PAGE = (SAMPLES / "comparison.md").read_text(encoding="utf-8")


def read(path):
    return Path(path).read_text(encoding="utf-8")


def published():
    """(runs, scores, floors) of the committed files."""
    runs, left_out = compare.find_runs([SAMPLES])
    assert left_out == []
    scores = {run.folder: compare.read_scores(run) for run in runs}
    return runs, scores, compare.read_floors(SAMPLES / "comparison_floors.json", "mnist")


def blocks_of(runs, scores, floors):
    return tables.page_blocks(runs, scores, floors, compare.read_sampling(), [])


def of_published(text):
    """A page without the lines on what unpublished chapters can do: of those nothing is asked."""
    names = set(CHAPTERS) - {run.model for run in published()[0]}
    return "\n".join(line for line in text.splitlines()
                     if not any(line.startswith(f"| `{name}.py` |") for name in names))


def made_anew(path, runs, blocks):
    """A page of README and docs/ with its tables made anew."""
    return tables.put(read(path), compare.readme_blocks(runs, blocks, path.parent))


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(read(path)), **values}), encoding="utf-8")


def drop(path, key):
    kept = {k: v for k, v in json.loads(read(path)).items() if k != key}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.fixture
def runs_folder(tmp_path):
    """Three of the published runs, as if they had been trained here."""
    for name in ("vae", "transformer_ar", "gan"):
        shutil.copytree(SAMPLES / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of all that compare.py reads and writes, for processes that change it."""
    copy = tmp_path_factory.mktemp("tree")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    for name in ("data", "docs", "experiments", "results", "samples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(
            "weights.pt", "MNIST", "*.npy", "checkpoint.pt", "__pycache__"))
    shutil.copy(ROOT / "README.md", copy)
    return copy


def process(tree, *words):
    """python words, in that copy -> what it wrote, both streams; its exit code has to be 0."""
    done = subprocess.run([sys.executable, *words], cwd=tree, capture_output=True, text=True,
                          encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# ------------------------------------------------------------------------------- what is published


def test_tables_of_all_pages_are_what_the_files_say():
    runs, scores, floors = published()
    blocks = blocks_of(runs, scores, floors)
    assert of_published(tables.put(PAGE, blocks)) == of_published(PAGE)
    for path in PAGES:
        assert made_anew(path, runs, blocks) == read(path), path
    for name in blocks:
        assert tables.MARK.format(name) in PAGE, name
    for name in ("digits", "chapters"):
        assert tables.MARK.format(name) in README
    for name in ("beside published figures", "quality of draws", "drawing"):
        assert tables.MARK.format(name) in read(ROOT / "docs" / "results.md")


@pytest.mark.parametrize("change", ["nats", "score", "minutes"])
def test_a_figure_that_is_another_would_be_seen(change):
    """Control for the test above, and for that of the galleries."""
    runs, scores, floors = published()
    run = next(run for run in runs if run.folder.name == "vae")
    if change == "nats":
        run.metrics["test_nats"] += 0.01
    elif change == "minutes":
        run.metrics["train_seconds"] += 6
    else:
        scores[run.folder]["binarized"]["frechet"] += 0.01
    blocks = blocks_of(runs, scores, floors)
    assert tables.put(PAGE, blocks) != PAGE
    assert any(made_anew(path, runs, blocks) != read(path) for path in PAGES)
    assert tables.gallery(run, scores[run.folder]) != read(run.folder / "README.md")


def test_every_published_run_has_its_scores_and_its_chapter_a_default_run():
    """And of class-conditional runs a label is worth something, and is obeyed (95 % were hoped for:
    two of six are below, as the lecture says)."""
    runs, scores, floors = published()
    assert all(scores.values()) and set(floors) == {"real training digits", "independent pixels"}
    for chapter in {run.model for run in runs}:
        assert any(run.default for run in runs if run.model == chapter), chapter
    assert any(run.conditional for run in runs)
    for run in runs:
        if run.conditional:
            assert scores[run.folder]["label_agreement"] > 0.9
            if run.metrics["test_nats"] is not None:
                assert run.metrics["marginal_nats"] > run.metrics["test_nats"]
                assert run.metrics["bayes_accuracy"] > 0.9


def test_galleries_are_what_the_files_say():
    runs, scores, _ = published()
    for name, text in tables.galleries(runs, scores).items():
        assert read(SAMPLES / name) == text, name
        assert tables.MADE in text
    pages = {path.parent.name for path in SAMPLES.glob("*/README.md")}
    assert pages == {run.folder.name for run in runs}  # and none of a run that is gone


def test_every_published_picture_has_a_sentence_and_a_place():
    runs, scores, _ = published()
    for run in runs:
        page, shown = read(run.folder / "README.md"), tables.pictures_of(run)
        inside = {path.name for path in run.folder.iterdir() if path.suffix in (".png", ".gif")}
        assert set(shown) == inside and "samples.png" in inside
        for picture, sentence in shown.items():
            assert f"## {picture}\n\n{sentence}\n\n![{picture}]({picture})" in page
            assert len(sentence) > 40 and sentence.rstrip(")")[-1] in ".?!", sentence
            assert f"]({run.folder.name}/{picture})" in read(SAMPLES / "README.md")


def test_a_picture_without_a_sentence_is_told(runs_folder, fails):
    run = compare.read_run(runs_folder / "vae")
    assert tables.pictures_of(run)
    (runs_folder / "vae" / "riddle.png").write_bytes(b"")
    fails(lambda: tables.pictures_of(run), "vae/riddle.png", "ABOUT", "vae.py")


def test_a_gallery_has_figures_command_and_how_to_draw(runs_folder):
    run = compare.read_run(runs_folder / "vae")
    text = tables.gallery(run, compare.read_scores(run))
    for word in ("# VAE\n", "```\npython vae.py\n```", f"≤ {run.metrics['test_nats']:.2f} (bound",
                 "python vae.py --sample-only --out runs/vae", "(../../vae.py)", "(../README.md)"):
        assert word in text
    (runs_folder / "vae" / "weights.pt").unlink()
    assert "sample-only" not in tables.gallery(run, None)
    assert "| — | — | — |" in tables.gallery(run, None)  # without scores


@pytest.mark.usefixtures("sketches")
def test_only_the_published_runs_go_to_the_published_page(runs_folder):
    page, mine = compare.PUBLISHED_PAGE, Path("runs/comparison.md")
    assert compare.page_of([SAMPLES]).resolve() == page and compare.is_published([SAMPLES])
    for folders in ([SAMPLES / "vae"], [SAMPLES, "runs"], [SAMPLES / "vae", SAMPLES / "gan"]):
        assert compare.page_of(folders) == mine and not compare.is_published(folders)
    assert compare.page_of(["runs", SAMPLES]) == compare.page_of(["runs/vae", SAMPLES]) == mine
    compare.main(["runs/vae", str(SAMPLES / "gan")])
    assert "| GAN |" in read(mine) and read(page) == PAGE and read(ROOT / "README.md") == README


@pytest.mark.slow
def test_everything_published_is_made_anew_by_one_command(tree):
    """In a copy: tables and galleries that are out of date come right, and nothing else changes."""
    texts = {path: read(path) for path in (tree / "README.md", *(tree / "docs").glob("*.md"),
                                           *(tree / "samples").rglob("*.md"))}
    for path, text in texts.items():
        path.write_text(text.replace(" (exact) |", " (wrong) |"), encoding="utf-8")
    page = tree / "samples" / "comparison.md"
    assert read(page) != texts[page] != read(tree / "README.md")
    (tree / "samples" / "vae" / "README.md").unlink()  # one that is not there yet
    plots = sorted((tree / "samples").glob("comparison_*.png"))
    for plot in plots:
        plot.write_bytes(b"")
    process(tree, "compare.py", "samples")
    for path, text in texts.items():
        # weights.pt were not copied: the galleries do without the lines about them.
        weights = (SAMPLES / path.parent.name / "weights.pt").exists()
        expected = text[:text.index("\n\nIts weights ship")] + text[text.index("\n\n## "):] \
            if weights and path.parent.parent.name == "samples" else text
        assert of_published(read(path)) == of_published(expected), path
    assert len(plots) == 4 and all(plot.stat().st_size > 1000 for plot in plots)


@pytest.mark.slow
def test_a_copied_chapter_is_taken_up(tree):
    """Its runs are compared, and it is in the table of abilities; one that is gone is told."""
    text = read(ROOT / "vae.py").replace('"VAE"', '"Copied"')
    (tree / "zz_copy.py").write_text(text.replace('"order": 5', '"order": 11'), encoding="utf-8")
    for name, model in (("a", "zz_copy"), ("b", "zz_gone")):
        (tree / "runs" / name).mkdir(parents=True)
        shutil.copy(tree / "samples" / "vae" / "metrics.json", tree / "runs" / name)
        edit(tree / "runs" / name / "metrics.json", model=model, command=f"python {model}.py")
    said, page = process(tree, "compare.py"), read(tree / "runs" / "comparison.md")
    nats = json.loads(read(tree / "runs" / "a" / "metrics.json"))["test_nats"]
    assert f"| Copied | ≤ {nats:.2f} (bound" in page and "| `zz_copy.py` | bound |" in page
    assert "runs/b/metrics.json is of zz_gone.py, which is no chapter: known are made" in said
    assert "ebm, zz_copy." in said and "neither draws nor weights" in said
    (tree / "zz_copy.py").unlink()


# ----------------------------------------------------------------------------------------- odd runs


@pytest.mark.slow
def test_runs_are_compared(runs_folder, capsys):
    compare.main([])
    text = read(runs_folder / "comparison.md")
    vae = json.loads(read(runs_folder / "vae" / "metrics.json"))
    assert f"≤ {vae['test_nats']:.2f} (bound" in text and "no likelihood" in text
    assert "transformer" in text and text.rstrip().endswith("Nothing.\n<!-- end -->")
    for picture in ("digits", "curves", "plane", "time"):
        assert (runs_folder / f"comparison_{picture}.png").exists()
    assert "| GAN |" in capsys.readouterr().out
    compare.main(["runs/vae", "--out", "elsewhere/a.md"])
    text = read("elsewhere/a.md")
    assert "transformer, words" not in text.split("## Abilities")[0]
    assert "](a_curves.png)" in text and Path("elsewhere/a_curves.png").exists()
    assert read(ROOT / "README.md") == README  # only the published page goes there


@pytest.mark.usefixtures("sketches")
def test_an_estimate_is_called_one_and_shows_its_interval(runs_folder):
    path = runs_folder / "vae" / "metrics.json"
    nats = json.loads(read(path))["test_nats"]
    edit(path, likelihood="estimate", nats_interval=[nats - 0.25, nats + 0.5])
    digest = compare.digest_of(json.loads(read(path)))  # so its scores stay, and nothing is drawn
    edit(path.with_name("scores.json"), metrics=digest)
    compare.main([])
    text = read(runs_folder / "comparison.md")
    assert f"{nats:.2f} (estimate, {nats - 0.25:.2f} … {nats + 0.5:.2f})" in text
    assert "| VAE | estimate |" in text and f"≤ {nats:.2f}" not in text


@pytest.mark.usefixtures("sketches")
def test_what_stands_around_the_marks_stays(runs_folder):
    compare.main([])
    path = runs_folder / "comparison.md"
    path.write_text(read(path).replace("# All runs", "# My own words\n\n# All runs"),
                    encoding="utf-8")
    before = read(path)
    compare.main([])
    assert read(path) == before and "My own words" in before
    compare.main(["runs/gan"])
    assert "My own words" in read(path) and "| VAE |" not in read(path)


def half(path):
    path.write_text(read(path)[:500], encoding="utf-8")


NOT_OURS = "not what a chapter writes"
ODD = {  # what is done to metrics.json, and words of the sentence
    "no metrics": (Path.unlink, "no metrics.json"),
    "half of a file": (half, NOT_OURS),
    "a list": (lambda m: m.write_text("[1]"), NOT_OURS),
    "nats that are not finite": (lambda m: edit(m, test_nats=float("nan")), NOT_OURS),
    "no nats": (lambda m: edit(m, test_nats=None), NOT_OURS),
    "another binarization": (lambda m: edit(m, binarization="threshold at 0.5"),
                             "another binarization (threshold at 0.5)"),
    "another data set": (lambda m: edit(m, data="mnist_5k"), "trained on mnist_5k"),
    "another judge": (lambda m: edit(m, judge="0123456789abcdef"), "another data/judge.pt"),
    "a data set that is none": (lambda m: edit(m, data="cifar"), NOT_OURS),
    "another script": (lambda m: edit(m, model="nothing"), "nothing.py"),
    "no binarization": (lambda m: drop(m, "binarization"), NOT_OURS),
    "no settings": (lambda m: edit(m, settings={}), NOT_OURS),
    "a setting that is none": (lambda m: edit(m, settings={
        **json.loads(read(m))["settings"], "hue": 1}), NOT_OURS),
    "a size of zero": (lambda m: edit(m, settings={
        **json.loads(read(m))["settings"], "width": 0}), NOT_OURS),
    "a list for a variant": (lambda m: edit(m, variant=["z2"]), NOT_OURS),
    "no variant": (lambda m: edit(m, variant=None), NOT_OURS),
    "conditional, but not by its settings": (lambda m: edit(m, conditional=True), NOT_OURS),
    "another likelihood": (lambda m: edit(m, likelihood="perhaps"), NOT_OURS),
    "no likelihood, and nats": (lambda m: edit(m, likelihood="none"), NOT_OURS),
    "an estimate without its interval": (lambda m: edit(m, likelihood="estimate"), NOT_OURS),
    "an interval of something else": (lambda m: edit(
        m, likelihood="estimate", nats_interval=[1.0, 2.0]), NOT_OURS),
    "an interval with no end": (lambda m: edit(
        m, likelihood="estimate", nats_interval=[1.0, math.nan]), NOT_OURS),
    "no number of draws": (lambda m: drop(m, "iw_samples"), NOT_OURS),
    "a huge number": (lambda m: edit(m, parameters=10**400), NOT_OURS),
    "a command that is none": (lambda m: edit(m, command=7), NOT_OURS),
    "no curve": (lambda m: edit(m, curve=[]), NOT_OURS),
    "a curve of something else": (lambda m: edit(m, curve=[{"seconds": 1.0}]), NOT_OURS),
    "passes without a distance": (lambda m: edit(m, speed={"ddpm": [[1, 0.5]]}), NOT_OURS),
}


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_run_is_left_out_with_a_sentence_and_the_others_are_not(runs_folder, name):
    do, words = ODD[name]
    do(runs_folder / "vae" / "metrics.json")
    runs, left_out = compare.find_runs(["runs/gan", "runs/vae", "runs/transformer_ar"])
    assert [run.name for run in runs] == ["transformer, words of 2×2 pixels", "GAN"]
    assert len(left_out) == 1 and words in left_out[0] and "vae" in left_out[0]
    assert left_out[0].isprintable()


@pytest.mark.usefixtures("sketches")
def test_all_odd_runs_at_once_do_not_keep_the_others_from_the_page(runs_folder, capsys):
    for k, (do, _) in enumerate(ODD.values()):
        shutil.copytree(runs_folder / "vae", runs_folder / f"odd{k}")
        do(runs_folder / f"odd{k}" / "metrics.json")
    shutil.rmtree(runs_folder / "vae")
    compare.main([*map(str, sorted(runs_folder.iterdir())), "runs/none"])
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == len(ODD) + 1 and all("compare.py: left out: " in line for line in said)
    assert any("runs/none is no folder" in line for line in said)
    text = read(runs_folder / "comparison.md")
    assert "| GAN |" in text and "| transformer, words of 2×2 pixels |" in text
    assert "| VAE |" not in text and all(words in text for _, words in ODD.values())


def leaves(parsed, place=()):
    """Places of all values in nested dicts and lists."""
    if isinstance(parsed, (dict, list)) and parsed:
        items = parsed.items() if isinstance(parsed, dict) else enumerate(parsed)
        for key, value in items:
            yield from leaves(value, (*place, key))
    yield place


GONE = object()
ODD_VALUES = (GONE, None, "x|y\n$z$", [], {}, -1, 0, True, float("nan"), 10**400, "\ud800")


def changed(text, place, value):
    parsed = json.loads(text)
    holder = parsed
    for key in place[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return parsed


def changes(usual, many):
    """(place, value) for each value of a parsed file: so many odd ones for each, taken in turn."""
    values = itertools.cycle(ODD_VALUES)
    for place in leaves(usual):
        if place:
            yield from ((place, value) for value in itertools.islice(values, many))


@pytest.mark.slow
@pytest.mark.parametrize("name, many", [("vae", 4), ("gan_conditional", 2),
                                        ("transformer_ar_conditional", 2)])
def test_whatever_value_is_changed_a_run_is_compared_or_left_out(runs_folder, name, many):
    """Each value of metrics.json, by something odd: it is a sentence, or a page that can be
    written; never anything else."""
    folder, other = runs_folder / name, compare.read_run(runs_folder / "gan")
    shutil.copytree(SAMPLES / name, folder, dirs_exist_ok=True)
    usual = json.loads(read(folder / "metrics.json"))
    del usual["curve"][2:], usual["versions"]
    text, compared, left_out = json.dumps(usual), 0, 0
    for place, value in changes(usual, many):
        content = json.dumps(changed(text, place, value))
        (folder / "metrics.json").write_text(content, encoding="utf-8")
        try:
            run = compare.read_run(folder)
        except compare.LeftOut as reason:
            assert str(reason).startswith(folder.as_posix()), (place, value)
            left_out += 1
            continue
        compared += 1
        page = blocks_of([run, other], {}, {})
        for line in itertools.chain(*page.values()):
            line.encode("utf-8", "replace")
        assert len({len(row(line)) for line in page["all models"]}) == 1, (place, value)
        # Of a row of the curve it shows these two.
        if place[0] == "curve" and (len(place) < 3 or place[2] in ("seconds", run.key)):
            tables.plot_curves(folder / "curves.png", [run, other])
    assert compared > 10 and left_out > 50


@pytest.mark.slow
def test_whatever_value_is_changed_scores_are_shown_or_none():
    """Each value of scores.json, by something odd: no scores, or such as can be shown."""
    name = "vae_conditional"
    shutil.copytree(SAMPLES / name, "run")
    run, text = compare.read_run("run"), read(SAMPLES / name / "scores.json")
    usual, shown = json.loads(text), 0
    for place, value in changes(usual, len(ODD_VALUES)):
        content = json.dumps(changed(text, place, value))
        Path("run/scores.json").write_text(content, encoding="utf-8")
        scores = compare.read_scores(run)
        if scores is not None:
            shown += 1
            blocks_of([run], {run.folder: scores}, {"a floor": {"nats": None, **scores}})
            tables.gallery(run, scores)
    assert 10 < shown < 200


def row(line):
    """Cells of a line of a table."""
    return re.split(r"(?<!\\)\|", line.strip().strip("|"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_with_bars_line_ends_and_foreign_bytes_break_no_table(runs_folder, capsys):
    names = ["a|b", "a\nb", "$a_b^c$", "<b>", "a`b"]
    names += [os.fsdecode(b"a\xff")] * (sys.platform != "darwin")
    for name in names:
        shutil.copytree(runs_folder / "vae", runs_folder / name)
    compare.main([])
    text = read(runs_folder / "comparison.md")
    assert "a\\|b" in text and "a\\nb" in text and "a|b" not in text.replace("\\|", "")
    for part in text.split("<!-- made by compare.py: ")[1:]:
        rows = [line for line in part.splitlines() if line.startswith("|")]
        assert len({len(row(line)) for line in rows}) <= 1, part[:40]
    assert sum("VAE (runs/" in line for line in text.splitlines()) >= len(names)
    (runs_folder / "a|b" / "metrics.json").write_text("[]")
    runs, left_out = compare.find_runs(["runs"])
    assert len(runs) == 2 + len(names) and left_out[0].isprintable()
    runs[1].metrics["command"] = "python vae.py --out 'a|b\nc'"
    for block in blocks_of(runs, {}, {}).values():
        assert len({len(row(line)) for line in block if line.startswith("|")}) <= 1


def test_older_runs_that_were_moved_aside_are_not_looked_for(runs_folder, capsys):
    shutil.copytree(runs_folder / "vae", runs_folder / "vae.1")
    shutil.copytree(runs_folder / "vae", runs_folder / "vae_beta0.5")  # whose name ends so, too
    runs, _ = compare.find_runs(["runs"])
    assert [run.folder.name for run in runs] == ["transformer_ar", "vae", "vae_beta0.5", "gan"]
    assert "runs/vae.1" in capsys.readouterr().out
    both, _ = compare.find_runs(["runs/vae", "runs/vae.1"])  # but named, and told apart by a name
    assert [run.name for run in both] == ["VAE (runs/vae)", "VAE (runs/vae.1)"]


def test_a_run_that_is_named_twice_is_compared_once(runs_folder):
    assert len(compare.find_runs(["runs/vae", "runs", "runs/vae"])[0]) == 3


def test_no_runs(fails, tmp_path):
    fails(lambda: compare.main([]), "no finished run in runs", "python vae.py")
    (tmp_path / "runs" / "vae").mkdir(parents=True)
    fails(lambda: compare.main([]), "no finished run")
    fails(lambda: compare.main(["nowhere"]), "no finished run in nowhere")


def test_unknown_flags_are_told(runs_folder, fails):
    for flags in (["--score", "a.npy"], ["--train-judge"], ["--ou", "a.md"], ["--out"]):
        fails(lambda: compare.main(flags), "see python compare.py --help")
    assert not (runs_folder / "comparison.md").exists()


def test_a_page_of_somebody_else_is_not_overwritten(runs_folder, fails):
    Path("thesis.md").write_text("precious")
    fails(lambda: compare.main(["--out", "thesis.md"]), "not made by compare.py")
    assert read("thesis.md") == "precious"


def test_a_page_that_cannot_be_written_is_found_before_the_work(runs_folder, fails, capsys):
    """A folder, a place below a file, a page that is no text, a mark that lost its end."""
    for name in ("vae", "gan"):
        (runs_folder / name / "scores.json").unlink()  # so there is something to be drawn
    Path("bytes.md").write_bytes(b"\xff\xfe")
    Path("torn.md").write_text(f"{tables.MARK.format('digits')}\nmy words", encoding="utf-8")
    for out, words in (("runs", "cannot be read or written"), ("bytes.md", "cannot be read or"),
                       ("runs/vae/metrics.json/a.md", "cannot be read or written"),
                       ("torn.md", tables.END)):
        fails(lambda: compare.main(["--out", out]), words)
    assert not list(Path(".").glob("*.png")) and not list(runs_folder.glob("*.png"))
    assert "sample-only" not in capsys.readouterr().out
    assert "my words" in read("torn.md")


def test_a_mark_without_an_end_is_told(fails):
    mark, end = tables.MARK, tables.END
    text = f"{mark.format('digits')}\nmy words\n{mark.format('minutes')}\n{end}"
    fails(lambda: tables.put(text, {"digits": ["a"]}), "digits", end)
    assert tables.put(text, {"minutes": ["a"]}).endswith(f"\na\n{end}")
    assert tables.put(text, {"quality": ["a"]}) == text


def test_links_of_a_block_are_moved_with_it():
    moved = tables.moved({"a": ["![b](c.png) [d](../e/f.md#g) [h](https://i.j)"]}, ROOT / "samples",
                         ROOT / "docs")
    assert moved == {"a": ["![b](../samples/c.png) [d](../e/f.md#g) [h](https://i.j)"]}


# ------------------------------------------------------------------------------------ odd draws


@pytest.mark.parametrize("array", [
    np.zeros((5000, 14, 14), np.float32), np.full((5000, 28, 28), 7.0), np.float32(3),
    np.zeros((5000, 28, 28), int), np.full((5000, 28, 28), np.nan), np.array(["a"] * 3),
    np.zeros((3, 28, 28), complex)], ids=lambda array: f"{array.dtype}{array.shape}")
def test_odd_arrays_are_no_draws(array):
    np.save("samples.npy", array)
    with pytest.raises(compare.LeftOut, match="samples.npy holds .* delete it"):
        compare.read_array(Path("samples.npy"))


@pytest.mark.parametrize("labels", [np.zeros((2, 2), int), np.float32(3), np.full(50, -1),
                                    np.full(50, 10), np.zeros(50)])
def test_odd_labels_are_no_labels(labels):
    np.save("labels.npy", labels)
    with pytest.raises(compare.LeftOut, match="labels.npy holds"):
        compare.read_array(Path("labels.npy"))


def test_odd_files_are_no_arrays():
    Path("samples.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(compare.LeftOut, match="not a readable .npy file"):
        compare.read_array(Path("samples.npy"))
    np.save("samples.npy", np.array([{"a": 1}], dtype=object))  # a pickle may run code
    with pytest.raises(compare.LeftOut, match="not a readable .npy file"):
        compare.read_array(Path("samples.npy"))
    np.savez("a.npz", x=np.zeros(3))
    Path("a.npz").replace("samples.npy")
    with pytest.raises(compare.LeftOut, match="samples.npy holds NpzFile"):
        compare.read_array(Path("samples.npy"))


@pytest.mark.usefixtures("sketches")
def test_a_run_with_odd_draws_is_not_scored_and_the_rest_is(runs_folder, capsys):
    array = np.full((50, 28, 28), 7.0)
    np.save(runs_folder / "gan/samples.npy", array)
    (runs_folder / "gan/scores.json").write_text("[]")
    compare.main([])
    err, text = capsys.readouterr().err, read(runs_folder / "comparison.md")
    assert "not scored: runs/gan/samples.npy holds float64 (50, 28, 28)" in err
    assert "Traceback" not in err
    rows = {cells[0].strip(): cells for cells in
            map(row, text.split("## Digits")[0].splitlines()) if len(cells) > 9}
    assert [cell.strip() for cell in rows["GAN"][7:10]] == ["—", "—", "—"]
    assert float(rows["VAE"][7]) > 0 and "samples.npy holds" in text.split("## Left out")[1]
    assert np.array_equal(np.load(runs_folder / "gan/samples.npy"), array)


@pytest.mark.usefixtures("sketches")
def test_draws_of_another_data_set_are_not_scored(runs_folder, capsys):
    """Runs on the full set, and only the small one is here: scores would be of other digits."""
    (runs_folder / "gan/scores.json").unlink()
    np.save(runs_folder / "gan/samples.npy", np.zeros((5000, 28, 28), np.float32))
    compare.main(["runs/gan"])
    assert "not scored: draws are not scored without mnist," in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", (SAMPLES / "vae/samples.png").read_bytes()[:300],
                                     (SAMPLES / "vae/kl.png").read_bytes()],
                         ids=["empty", "cut", "too small"])
def test_odd_pictures_are_left_out(runs_folder, content):
    assert tables.digits_of(compare.read_run(runs_folder / "vae"), 16).shape == (16, 1, 28, 28)
    (runs_folder / "vae/samples.png").write_bytes(content)
    run = compare.read_run(runs_folder / "vae")
    small = tables.digits_of(run, 64)
    assert small is None or small.shape == (64, 1, 28, 28)
    tables.plot_mosaic("mosaic.png", [run])


def test_no_picture_is_no_digits(runs_folder):
    (runs_folder / "vae/samples.png").unlink()
    run = compare.read_run(runs_folder / "vae")
    assert tables.digits_of(run, 16) is None
    tables.plot_mosaic("mosaic.png", [run])
    assert not Path("mosaic.png").exists()


def test_draws_that_are_not_plain_ones_of_this_run_do_not_count(runs_folder):
    run = compare.read_run(runs_folder / "vae")
    x, path = np.zeros((6000, 28, 28), np.float32), run.folder / "samples.json"
    assert run.has_means and compare.read_draws(run.folder, run) is None  # none at all
    np.save(run.folder / "samples.npy", x)
    assert compare.read_draws(run.folder, run) is None  # without its means
    np.save(run.folder / "means.npy", x)
    assert compare.read_draws(run.folder, run) is not None
    step = run.metrics["best_step"]
    for odd in ({"step": step - 1}, {"step": step, "temperature": 0.8}, {"step": step, "label": 3},
                {}, []):
        path.write_text(json.dumps(odd))
        assert compare.read_draws(run.folder, run) is None
    path.write_text(json.dumps({"step": step}))
    assert compare.read_draws(run.folder, run) is not None
    run.conditional = True
    assert compare.read_draws(run.folder, run) is None  # without labels
    np.save(run.folder / "labels.npy", np.full(6000, 3))
    assert compare.read_draws(run.folder, run) is None  # threes alone
    np.save(run.folder / "labels.npy", np.arange(6000) % 10)
    images, labels, means = compare.read_draws(run.folder, run)
    assert images.shape == means.shape == (6000, 1, 28, 28) and labels[13] == 3
    np.save(run.folder / "means.npy", x[:5999])
    assert compare.read_draws(run.folder, run) is None
    for name in ("samples", "means"):
        np.save(run.folder / f"{name}.npy", x[:5500])
    np.save(run.folder / "labels.npy", np.arange(5500) % 10)
    assert compare.read_draws(run.folder, run) is None  # too few to choose from
    run.conditional = False
    assert compare.read_draws(run.folder, run) is not None


# ----------------------------------------------------------------------------------------- scores


class Eye:
    """In place of the judge: ten pixels of the first row are the class, and 20 others are seen."""

    def features(self, x):
        return torch.cat([x[:, 0, 0, :10], x[:, 0, 10:20, 5]], dim=1)

    def last(self, features):
        return features[:, :10]


def heap(n, seed, on=0.5):
    """Bits of n images, uint8: noise with that share of pixels on; its class in its first row."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, 1, 28, 28, generator=generator) < on).to(torch.uint8)
    classes = torch.arange(n) % 10
    x[:, 0, 0, :10] = torch.eye(10, dtype=torch.uint8)[classes]
    return x, classes


def made_up(n=300):
    """Data in which nothing is like anything else: test bits half on, grey test images darker,
    training images darker still, validation white; and of the training labels more are 0, and fewer
    1, than a tenth."""
    data = SimpleNamespace(name="mnist", train_labels=torch.arange(n) % 10)
    data.train_labels[1:50:10] = 0
    data.x_test, data.test_labels = heap(n, 1)
    data.test = heap(n, 2, 0.3)[0] * 200
    data.train = heap(n, 3, 0.1)[0] * 255
    data.val, data.x_val = torch.full_like(data.test, 255), torch.ones_like(data.x_test)
    return data


def planted(folder, model, draws, means=None, labels=None):
    """A run whose draws are these, as many times over as are asked for; its scores by the Eye."""
    shutil.copytree(SAMPLES / model, folder, ignore=shutil.ignore_patterns("*.pt", "scores.json"))
    run, many = compare.read_run(folder), 6000 if labels is not None else 5000
    for name, x in (("samples", draws), ("means", means), ("labels", labels)):
        if x is not None:
            x = x.repeat(-(-many // len(x)), *[1] * (x.ndim - 1))[:many]
            x = x if name == "labels" else x[:, 0].float()
            np.save(run.folder / f"{name}.npy", x.numpy())
    scores = compare.score_run(run, lambda: (Eye(), made_up()))
    assert compare.read_scores(run) == scores  # kept, and read again
    return scores


def test_draws_are_scored_beside_the_binarized_test_digits():
    data = made_up()
    scores = planted("same", "transformer_ar", data.x_test)
    binarized = scores["binarized"]
    assert binarized["frechet"] < 0.02
    assert binarized["precision"] == 1 and binarized["recall"] > 0.95
    assert scores["grey"] is None and scores["label_agreement"] is None
    assert binarized["shares"] == pytest.approx([0.1] * 10, abs=0.001)
    for name, other in (("val", data.x_val), ("train", data.train // 255)):  # controls
        assert planted(name, "transformer_ar", other)["binarized"]["frechet"] > 0.5


def test_means_are_scored_beside_the_grey_test_digits():
    data = made_up()
    scores = planted("same", "vae", data.x_test, data.test / 255)
    assert scores["grey"]["frechet"] < 0.02 and scores["binarized"]["frechet"] < 0.02
    scores = planted("other", "vae", data.test.sign(), data.x_test)  # control
    assert scores["grey"]["frechet"] > 0.3 and scores["binarized"]["frechet"] > 0.1


def test_grey_draws_are_scored_grey_and_after_a_coin_a_pixel():
    """Draws of 0.5 everywhere become bits that are on half the time, as the test bits are; darker
    ones do not, and lighter ones would not if coins were upside down."""
    data = made_up()
    grey = data.x_test.float().clone()
    grey[:, 0, 1:] = 0.5
    scores = planted("half", "gan", grey)
    assert scores["binarized"]["frechet"] < 0.1 < scores["grey"]["frechet"]
    assert planted("same", "gan", data.test / 255)["grey"]["frechet"] < 0.02
    for name, level in (("dark", 0.2), ("light", 0.8)):
        grey[:, 0, 1:] = level
        scores = planted(name, "gan", grey)
        # (level − ½)² a pixel from the means, and a little from the variances: ten such pixels.
        assert scores["binarized"]["frechet"] == pytest.approx(10 * (0.3 ** 2 + 0.1 ** 2), abs=0.1)


def test_labels_are_asked_for_as_often_as_in_training_and_agreement_is_counted():
    """The judge reads every digit but the threes, which are drawn as sevens."""
    data = made_up()
    labels, draws = torch.arange(300) % 10, data.x_test.clone()
    draws[labels == 3] = draws[labels == 7]
    scores = planted("a", "transformer_ar_conditional", draws, labels=labels)
    count = torch.bincount(data.train_labels, minlength=10).double() / len(data.train_labels)
    assert scores["label_agreement"] == pytest.approx(1 - count[3].item(), abs=1e-3)
    shares = scores["binarized"]["shares"]
    assert shares[:3] == pytest.approx(count[:3].tolist(), abs=1e-3) and shares[3] == 0
    assert count[0] > 0.115 and count[1] < 0.085
    assert shares[7] == pytest.approx((count[3] + count[7]).item(), abs=1e-3)
    assert scores["label_agreement_grey"] is None
    grey = draws.float() * 0.9
    scores = planted("b", "vae_conditional", draws, grey, labels)
    assert scores["label_agreement_grey"] == pytest.approx(1 - count[3].item(), abs=1e-3)


def test_floors_are_of_training_digits_and_of_independent_coins(monkeypatch):
    """Against sums over pixels, written another way, on data in which a mistake shows."""
    data = made_up()
    monkeypatch.setattr(compare, "DRAWS", 200)
    floors = compare.score_floors(Eye(), data)
    real, coins = floors["real training digits"], floors["independent pixels"]
    network, generator, rows = Eye(), torch.Generator().manual_seed(0), []
    for k in range(compare.HEAPS):  # means over heaps by chance
        heap = data.train[torch.randperm(300, generator=generator)[:200]]
        bits = torch.from_numpy(utils.fixed_bits(heap, 3 + k))
        rows.append((judge.scores(network, bits, data.x_test),
                     judge.scores(network, heap, data.test)))
    for name, of in (("binarized", 0), ("grey", 1)):
        for key in ("frechet", "precision", "recall"):
            values = [row[of][key] for row in rows]
            assert real[name][key] == pytest.approx(sum(values) / len(values))
        shares = [sum(row[of]["shares"][digit] for row in rows) / len(rows) for digit in range(10)]
        assert real[name]["shares"] == pytest.approx(shares)
    assert len({round(row[0]["frechet"], 3) for row in rows}) > 4  # each is another
    assert real["nats"] is None and real["binarized"]["frechet"] > 0.5  # not the test digits
    assert real["label_agreement"] == real["label_agreement_grey"] == 1
    p = (data.train.double().mean(dim=0, keepdim=True) / 255).clamp(0.001, 0.999)
    expected = torch.nn.functional.binary_cross_entropy(
        p.expand(len(data.x_test), 1, 28, 28), data.x_test.double(), reduction="sum")
    assert coins["nats"] == pytest.approx(expected.item() / len(data.x_test))
    a = judge.judged(network, data.x_test)[0]
    means = a.mean(dim=0) - network.features(p)[0]
    assert coins["binarized"]["frechet"] >= means.square().sum() - 0.3
    assert coins["grey"] is None and coins["label_agreement"] is None


@pytest.mark.slow
def test_independent_pixels_of_the_small_set_are_about_as_bad_as_those_of_the_full_one():
    floor = compare.score_floors(Eye(), utils.load_mnist())["independent pixels"]
    assert 190 < floor["nats"] < 220
    kept = compare.read_floors(SAMPLES / "comparison_floors.json", "mnist")
    assert 200 < kept["independent pixels"]["nats"] < 210
    assert kept["independent pixels"]["binarized"]["precision"] < 0.1


def test_kept_scores_are_of_this_run_by_this_judge(runs_folder):
    run = compare.read_run(runs_folder / "gan")
    path, kept = run.folder / "metrics.json", run.folder / "scores.json"
    assert compare.read_scores(run) is not None
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as git may have it on Windows
    assert compare.read_scores(compare.read_run(run.folder)) is not None
    for change in ({"judge": "another"}, {"draws": 4999}, {"metrics": "another"}, {"grey": 3}):
        before = read(kept)
        edit(kept, **change)
        assert compare.read_scores(run) is None, change
        kept.write_text(before, encoding="utf-8")
    assert compare.read_scores(run) is not None
    edit(path, seed=1)
    assert compare.read_scores(compare.read_run(run.folder)) is None  # another run


def test_kept_floors_are_of_this_data_by_this_judge():
    ships, mine = SAMPLES / "comparison_floors.json", Path("floors.json")
    assert compare.read_floors(Path("none"), "mnist") == compare.read_floors(ships, "mnist")
    assert compare.read_floors(Path("none"), "mnist_5k") is None
    shutil.copy(ships, mine)
    edit(mine, data="mnist_5k")
    assert compare.read_floors(mine, "mnist_5k") is not None
    for change in ({"judge": "another"}, {"draws": 4999}, {"heaps": 1}, {"floors": {}}):
        before = read(mine)
        edit(mine, **change)
        assert compare.read_floors(mine, "mnist_5k") is None, change
        mine.write_text(before, encoding="utf-8")
    assert compare.judge_digest() == json.loads(read(ships))["judge"]


def test_scores_that_cannot_be_kept_are_shown_all_the_same(capsys):
    folder = Path("full")
    data = made_up()
    shutil.copytree(SAMPLES / "transformer_ar", folder)
    (folder / "scores.json").unlink()
    (folder / "scores.json.part").mkdir()  # so that nothing can be written there
    np.save(folder / "samples.npy", data.x_test.repeat(17, 1, 1, 1)[:5000, 0].float().numpy())
    scores = compare.score_run(compare.read_run(folder), lambda: (Eye(), data))
    assert scores["binarized"]["precision"] == 1 and not (folder / "scores.json").exists()
    assert "scores.json cannot be written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("sketches")
def test_missing_draws_are_drawn_by_the_chapters_own_command(capsys, monkeypatch):
    """From training to the page, on the small set: a process of its own draws from a copy, the
    judge that ships along scores, and what is scored is kept."""
    monkeypatch.setattr(compare, "HEAPS", 1)  # of real digits, whose scores take longest
    monkeypatch.setattr(compare, "DRAWS", 1000)
    vae = CHAPTERS["vae"]
    vae.main([*vae.ABOUT["small"].split(), "--steps", "2", "--batch-size", "16", "--conditional",
              "--out", "runs/told"])
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    compare.main([])
    out = capsys.readouterr().out
    command = "python vae.py --sample-only --num-samples 1200 --out (a copy of runs/told)"
    assert command in out
    assert all(path.read_bytes() == content for path, content in before.items())
    scores = json.loads(read("runs/told/scores.json"))
    assert scores["grey"]["frechet"] > 20 and scores["binarized"]["frechet"] > 20  # two steps
    assert 0 < scores["label_agreement"] < 0.5 and scores["label_agreement_grey"] is not None
    floors = json.loads(read("runs/comparison_floors.json"))
    assert floors["data"] == "mnist_5k"
    floor = floors["floors"]["real training digits"]
    assert floor["binarized"]["frechet"] < 3 and floor["label_agreement"] > 0.98
    page = read("runs/comparison.md")
    assert f"| {scores['binarized']['frechet']:.2f} |" in page
    compare.main([])  # the scores are kept: nothing has to be drawn
    assert "sample-only" not in capsys.readouterr().out and read("runs/comparison.md") == page


@pytest.mark.usefixtures("sketches")
def test_no_room_to_draw_in_is_told_and_the_rest_is_compared(runs_folder, capsys, monkeypatch):
    (runs_folder / "gan/scores.json").unlink()
    monkeypatch.setattr(tempfile, "tempdir", str(runs_folder / "nowhere"))
    compare.main([])
    assert "not scored: runs/gan: its digits could not be drawn (" in capsys.readouterr().err
    text = read(runs_folder / "comparison.md")
    assert "| GAN |" in text and "| VAE |" in text


@pytest.mark.slow
def test_a_chapter_that_cannot_draw_is_told(runs_folder, capsys):
    """What its command says is said; and where there is nothing to draw with, that."""
    (runs_folder / "gan/scores.json").unlink()
    (runs_folder / "gan/weights.pt").write_bytes(b"no weights")
    run, words = compare.read_run("runs/gan"), "digits could not be drawn .*truncated or is not a"
    with pytest.raises(compare.LeftOut, match=words):
        compare.sample_anew(run)
    (runs_folder / "gan/weights.pt").unlink()
    with pytest.raises(compare.LeftOut, match="neither draws nor weights"):
        compare.sample_anew(run)


# ------------------------------------------------------------------------------ pictures of runs


def painted(monkeypatch, plot, *of):
    """What a picture is made of, before it is pixels: of each of its axes {label: points [(x, y),
    …]}. Lines without a label have one that begins with "_"."""
    figures = []
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "save_figure", lambda path, figure: figures.append(figure))
        plot("a.png", *of)
    axes = [{line.get_label(): [tuple(point) for point in line.get_xydata()] for line in ax.lines}
            for figure in figures for ax in figure.axes]
    tables.plt.close("all")
    return axes


def points(axes):
    return {point for line in axes.values() for point in line}


def of_folder(runs, name):
    return next(run for run in runs if run.folder.name == name)


def test_curves_are_of_what_runs_recorded(runs_folder, monkeypatch):
    runs, _ = compare.find_runs(["runs"])
    for run in runs:
        run.metrics["curve"] = [{"seconds": seconds, run.key: value}
                                for seconds, value in ((0, 200), (60, 90), (180, 85.5))]
    nats, distances = painted(monkeypatch, tables.plot_curves, runs)
    assert nats["VAE"] == distances["GAN"] == [(1, 90), (3, 85.5)]  # in minutes; 0 has no logarithm
    assert "GAN" not in nats and "VAE" not in distances
    levels = {y for _, y in points(nats)} - {90, 85.5}
    assert levels == {81.45, 79.17} and {y for _, y in points(distances)} == {90, 85.5}
    table = "\n".join(tables.published_table(published()[0]))
    assert all(f"| {nats}" in table for nats in levels)
    of_folder(runs, "vae").metrics["curve"][-1]["val_nats"] = 85.6  # control
    assert painted(monkeypatch, tables.plot_curves, runs)[0]["VAE"] == [(1, 90), (3, 85.6)]


def test_what_is_read_from_results_is_what_stands_there():
    """Ratios of flows, of a model of as many weights alone; means of heaps, and their spreads."""
    runs = published()[0]
    inverse, heaps = (json.loads(read(ROOT / "results" / f"{name}.json"))
                      for name in ("inverse", "heaps"))
    for name in ("flow", "tarflow"):
        ratio = inverse[name]["obvious"] / inverse[name]["fast"]
        assert tables.ratio_of(of_folder(runs, name), {}) == f"{ratio:.0f}×"
        assert tables.ratio_of(of_folder(runs, f"{name}_conditional"), {}) == "—"
    assert tables.ratio_of(of_folder(runs, "flow_2levels"), {}) == "—"
    distances = np.array([row["frechet"] for row in heaps["gan_long"]])
    row, = (line for line in tables.heaps_table(runs) if line.startswith("| GAN, width 32 |"))
    assert f"| {len(distances)} | {distances.mean():.2f} ± {distances.std(ddof=1):.2f} |" in row
    assert len(tables.heaps_table(runs)) == 2 + sum(not name[0].isdigit() for name in heaps)


def test_pictures_of_many_runs_name_few():
    """Of each chapter, with nats and without, the first and the longest; a dozen are all named."""
    runs = published()[0]
    shown = {run.folder.name for run in tables.chosen(runs)}
    assert {"made", "made_long", "wavenet", "flow", "flow_2levels", "diffusion_masked", "gan_long",
            "diffusion_long"} <= shown and len(shown) <= 24 < len(runs)
    assert not any(run.conditional for run in tables.chosen(runs))
    assert "pixelcnn_long" in shown and not {"pixelcnn_original", "pixelcnn_rnn"} & shown
    for name in ("pixelcnn_rnn", "pixelcnn_conditional"):
        of_folder(runs, name).metrics["train_seconds"] = 1e6
    shown = {run.folder.name for run in tables.chosen(runs)}
    assert "pixelcnn_rnn" in shown and not {"pixelcnn_original", "pixelcnn_conditional"} & shown
    assert tables.chosen(runs[:12]) == runs[:12] != tables.chosen(runs[:13])


@pytest.mark.slow
def test_drawing_times_are_of_what_files_say(monkeypatch):
    """Of the committed files, read apart; then of a planted run, with controls."""
    runs, scores, floors = published()
    axes, = painted(monkeypatch, tables.plot_times, runs, scores, floors, compare.read_sampling())
    for run in tables.chosen(runs):
        m, score = (json.loads(read(run.folder / f"{name}.json")) for name in ("metrics", "scores"))
        assert (m["sample_seconds_64"], score["binarized"]["frechet"]) in points(axes)
    passes = json.loads(read(SAMPLES / "diffusion" / "metrics.json"))["speed"]["ddpm"]
    assert [(seconds, distance) for _, seconds, distance in passes] in axes.values()
    run = of_folder(runs, "made")
    run.metrics["sample_seconds_64"], scores[run.folder]["binarized"]["frechet"] = 0.5, 2.25
    timed = {"made.py": {"obvious": 32.0, "parameters": run.metrics["parameters"]}}

    def shown():
        return points(painted(monkeypatch, tables.plot_times, runs, scores, floors, timed)[0])

    assert {(0.5, 2.25), (32, 2.25)} <= shown()
    timed["made.py"]["parameters"] += 1  # the timing of another model
    assert (0.5, 2.25) in shown() and (32, 2.25) not in shown()
    del scores[run.folder]
    assert (0.5, 2.25) not in shown()


def test_passes_are_of_the_sampler_that_a_run_draws_with():
    runs, scores, _ = published()
    run = of_folder(runs, "diffusion")
    for sampler in ("ddpm", "ddim"):
        run.metrics["settings"]["sampler"] = sampler
        (*_, passes), = tables.times_of([run], scores, {})
        assert passes == run.metrics["speed"][sampler]
    two = tables.times_of([run, of_folder(runs, "diffusion_long")], scores, {})
    assert [len(passes) for *_, passes in two] == [7, 0]  # one line a chapter


def test_the_loss_is_shown_against_steps_and_minutes(monkeypatch):
    curve = [{"step": 10, "seconds": 60, "train_nats": 99.0, "val_nats": 101.0},
             {"step": 20, "seconds": 180, "train_nats": 90.0, "val_nats": 95.0}]
    steps, minutes = painted(monkeypatch, pictures.plot_loss, curve)
    assert steps == {"train": [(10, 99), (20, 90)], "val": [(10, 101), (20, 95)]}
    assert minutes == {"train": [(1, 99), (3, 90)], "val": [(1, 101), (3, 95)]}
    curve = [{**row, "train_nats": None, "val_frechet": row["val_nats"]} for row in curve]
    assert painted(monkeypatch, pictures.plot_loss, curve)[1] == {"val": [(1, 101), (3, 95)]}


def test_completions_show_what_is_given_and_draws_of_that_digit(monkeypatch):
    """Of a model that paints what is not given in the brightness of the label it is told."""
    class Painter:
        def sample(self, n, y, generator, x, known):
            return torch.where(known, x, (y / 10).view(n, 1, 1, 1))

    rows, known = [], torch.zeros(4, 4, dtype=torch.bool)
    known[:2] = True
    monkeypatch.setattr(pictures, "labelled_rows", lambda path, added, **_: rows.extend(added))
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([7, 2, 9])
    pictures.plot_completions("a.png", Painter(), x, y, known)
    assert len(rows) == 3
    for (_, images), digit, k in zip(rows, x, y):
        hidden = torch.cat([torch.tensor([0.5]), (k / 10).repeat(8)]).view(9, 1, 1, 1)
        assert torch.equal(images[0], digit)
        assert torch.equal(images[1:], torch.where(known, digit, hidden))
        assert not torch.equal(images[1], digit)  # control: something is hidden


def test_names_are_moved_apart_and_no_further():
    places = tables.apart([9, 3, 3, 3, 0], 1)
    assert places == pytest.approx([9, 4, 3, 2, 0], abs=0.01)
    assert tables.apart([5, 3], 1).tolist() == [5, 3]


# ------------------------------------------------------------------------------ weights that ship


WEIGHTS = sorted(SAMPLES.glob("*/weights.pt"))


def test_every_run_whose_weights_are_small_enough_ships_them():
    runs = {path.parent for path in SAMPLES.glob("*/metrics.json")}
    for folder in runs - {path.parent for path in WEIGHTS}:
        parameters = json.loads(read(folder / "metrics.json"))["parameters"]
        # Half precision; and samples/ stays small: of several that are as large, one ships.
        assert parameters * 2 > 6.5e6 or folder.name in (
            "flow_2levels", "flow_conditional", "flow_long", "gan_wgan-gp", "diffusion_conditional",
            "diffusion_masked", "diffusion_flow-matching", "diffusion_long", "ebm_conditional",
            "ebm_conv", "ebm_long", "pixelcnn_4levels", "pixelcnn_256levels", "pixelcnn_long",
            "transformer_ar_4levels", "transformer_ar_long", "tarflow_conditional",
            "vae_conditional", "vae_long", "vae_z2",
            "wavenet_long"), folder
    for path in WEIGHTS:
        kept, metrics = torch.load(path, weights_only=True), json.loads(
            read(path.parent / "metrics.json"))
        assert path.stat().st_size <= 6.5e6 and kept["settings"] == metrics["settings"]
        assert kept["best"]["step"] == metrics["best_step"] and kept["script"] == metrics["model"]


@functools.cache
def real_features(grey):
    """What the judge sees of the small set's test digits."""
    data = utils.load_mnist()
    return judge.judged(judge.load_judge(), data.test if grey else data.x_test)[0]


@pytest.mark.slow
@pytest.mark.parametrize("path", WEIGHTS, ids=[path.parent.name for path in WEIGHTS])
def test_shipped_weights_draw_straight_after_cloning(path):
    """Into runs/, with the chapter's own flags; what is drawn are digits, by the judge's
    features."""
    metrics = json.loads(read(path.parent / "metrics.json"))
    before = {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    CHAPTERS[metrics["model"]].main([*metrics["command"].split()[2:], "--sample-only",
                                     "--num-samples", "100"])
    x = compare.read_array(Path("runs") / path.parent.name / "samples.npy")
    network, real = judge.load_judge(), real_features(judge.is_grey(x))
    distance = judge.frechet_distance(judge.judged(network, x)[0], real)
    assert distance < (40 if "z2" in path.parent.name else 20)
    assert before == {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}  # nothing written


def test_independent_pixels_are_no_digits():
    """Control for the test above."""
    data, network = utils.load_mnist(), judge.load_judge()
    x = judge.coins((data.train.float().mean(dim=0) / 255).expand(100, 1, 28, 28))
    real = judge.judged(network, data.x_test)[0]
    assert judge.frechet_distance(judge.judged(network, x)[0], real) > 100


# --------------------------------------------------------------------------------- names, details


def described(name, **settings):
    """(name, is it plain, is it first, its name for timings) of a chapter with these settings."""
    chapter = CHAPTERS[name]
    values = compare.resolve(chapter.SETTINGS, chapter.VARIANTS, settings)
    description = compare.describe(chapter, values)
    return description["name"], description["plain"], description["first"], description["asked"]


def test_sizes_are_part_of_a_name_and_of_nothing_else():
    usual = described("transformer_ar")[0]
    assert described("transformer_ar") == (usual, True, True, "transformer_ar.py")
    wide = described("transformer_ar", width=96, depth=4)
    assert wide[:3] == (usual + ", width 96, depth 4", True, True)
    for name, settings, title in (
            ("transformer_ar", {"reach": 1, "width": 96}, usual + ", reach 1, width 96"),
            ("transformer_ar", {"patch": 1}, "transformer, single pixels"),
            ("vae", {"beta": 4.0}, "VAE, β = 4")):  # what the title says by itself is no size
        assert described(name, **settings)[:3] == (title, False, False)
    assert described("vae", width=800)[:3] == ("VAE, width 800", True, True)
    assert described("vae", z_size=2, width=800)[:3] == ("VAE, two latents, width 800", False,
                                                         False)
    assert described("pixelcnn", variant="rnn")[1:] == (True, False, "pixelcnn.py --variant rnn")
    assert described("vae", conditional=True)[0] == "class-conditional VAE"
    assert described("vae", steps=7, lr=3.0, seed=4) == described("vae")


def test_published_figures_stand_beside_their_model_and_no_other(runs_folder):
    run = compare.read_run(runs_folder / "vae")
    assert tables.published(run)[0].startswith("≤ 86.35")
    assert tables.published(SimpleNamespace(**{**vars(run), "plain": False})) == ("—", "")
    assert tables.published(SimpleNamespace(**{**vars(run), "conditional": True})) == ("—", "")


def test_each_number_of_grey_levels_is_a_scale_of_its_own():
    run = compare.read_run(SAMPLES / "flow")
    four = SimpleNamespace(**{**vars(run), "metrics": {**run.metrics, "grey_levels": 4}})
    rows = [line.split(" | ")[:3] for line in tables.grey_table([four, run])[2:]]
    assert [row[1] for row in rows] == ["256", "4"]  # sorted, so that none stands among others
    assert rows[0][2] == rows[1][2] == f"{run.metrics['grey_bits_per_dim']:.3f} (exact)"


def test_a_timing_is_of_a_model_of_just_that_size(runs_folder):
    run = compare.read_run(runs_folder / "transformer_ar")
    timed = {"transformer_ar.py": {"fast": 0.5, "obvious": 10.0,
                                   "parameters": run.metrics["parameters"]}}
    assert tables.ratio_of(run, timed) == "20×" and tables.ratio_of(run, {}) == "—"
    timed["transformer_ar.py"]["parameters"] += 1
    assert tables.ratio_of(run, timed) == "—"


def test_runs_of_one_name_are_told_apart(runs_folder):
    folder, metrics = runs_folder, json.loads(read(runs_folder / "vae" / "metrics.json"))
    commands = {"vae": "python vae.py", "long": "python vae.py --steps=50000",
                "longer": "python vae.py --lr 1e-3 --steps 60000",
                "again": "python vae.py --steps 50000"}
    for name, command in commands.items():
        (folder / name).mkdir(exist_ok=True)
        steps = int(re.split("[ =]", command)[-1]) if "steps" in command else 15000
        (folder / name / "metrics.json").write_text(json.dumps(
            {**metrics, "command": command, "steps": steps, "lr": 0.001}), encoding="utf-8")
    runs, _ = compare.find_runs([folder / name for name in commands])
    where = {run.folder.name: run.name.replace(folder.as_posix(), "runs") for run in runs}
    assert where == {"vae": "VAE", "longer": "VAE, rate 0.001, 60,000 steps",
                     "long": "VAE, 50,000 steps (runs/long)",
                     "again": "VAE, 50,000 steps (runs/again)"}


def test_runs_on_the_data_set_that_most_have_are_compared(runs_folder):
    """Of as many on both: the full one."""
    edit(runs_folder / "vae" / "metrics.json", data="mnist_5k")
    assert len(compare.find_runs(["runs/vae", "runs/gan"])[0]) == 1
    assert compare.find_runs(["runs/vae", "runs/gan"])[0][0].model == "gan"
    assert compare.find_runs(["runs/vae"])[0][0].model == "vae"
    edit(runs_folder / "gan" / "metrics.json", data="mnist_5k")
    runs, left_out = compare.find_runs(["runs"])
    assert {run.model for run in runs} == {"vae", "gan"} and "transformer_ar" in left_out[0]


def test_digits_are_chosen_as_often_as_in_the_data():
    labels = torch.arange(6000) % 10
    shares = torch.tensor([0.0987, 0.1124, 0.0993, 0.1022, 0.0974, 0.0904, 0.0986, 0.1044, 0.0975,
                           0.0991], dtype=torch.double)
    chosen = compare.as_often(labels, shares / shares.sum(), 5000)
    assert len(set(chosen.tolist())) == 5000
    assert (torch.bincount(labels[chosen]) / 5000 - shares).abs().max() < 1e-3


def test_digits_are_cut_from_a_grid_as_they_were_put_there(tmp_path):
    x = (torch.rand(80, 1, 28, 28) * 255).round() / 255
    pictures.save_grid(tmp_path / "samples.png", x)
    plain, conditional = (SimpleNamespace(folder=tmp_path, conditional=c) for c in (False, True))
    assert torch.allclose(tables.digits_of(plain, 16), x[:16], atol=1 / 255)
    assert torch.allclose(tables.digits_of(conditional, 10), x[::8], atol=1 / 255)
    assert tables.digits_of(plain, 81) is None


def test_what_a_run_had_after_some_minutes():
    curve = [{"seconds": s, "val_nats": v} for s, v in
             ((5, 200.0), (50, 90.0), (70, 95.0), (130, 85.0))]
    nats = [tables.at_minute(curve, "val_nats", t) for t in (0.05, 0.5, 1, 2, 3)]
    assert nats == [None, 200.0, 90.0, 90.0, None]
