"""compare.py: the published tables are what the committed files say; odd runs are named and the others compared all the same."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import compare
import utils

SAMPLES = ROOT / "samples"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (SAMPLES / "comparison.md").read_text(encoding="utf-8")
EXACT = ("made", "wavenet", "pixelcnn", "transformer_ar")


def published():
    """(runs, scores, floors) of the committed files."""
    runs, left_out = compare.find_runs([SAMPLES])
    assert left_out == []
    scores = {run.folder: compare.read_scores(run) for run in runs}
    return runs, scores, compare.read_floors(SAMPLES / "comparison.md", "mnist")


def blocks_of(runs, scores, floors):
    return compare.page_blocks(runs, scores, floors, compare.read_sampling(), [])


# ------------------------------------------------------------------------------------- the published page


def test_readme_and_page_are_what_the_files_say():
    runs, scores, floors = published()
    blocks = blocks_of(runs, scores, floors)
    assert compare.put(README, compare.readme_blocks(runs, blocks)) == README and compare.put(PAGE, blocks) == PAGE
    for name in ("digits", "chapters", "quality of draws", "drawing"):
        assert compare.MARK.format(name) in README
    for name in blocks:
        assert compare.MARK.format(name) in PAGE, name


@pytest.mark.parametrize("change", ["nats", "score", "minutes"])
def test_a_figure_that_is_another_would_be_seen(change):
    """Control for the test above."""
    runs, scores, floors = published()
    run = next(run for run in runs if run.folder.name == "vae")
    if change == "nats":
        run.metrics["test_nats"] += 0.01
    elif change == "minutes":
        run.metrics["train_seconds"] += 6
    else:
        scores[run.folder]["binarized"]["frechet"] += 0.01
    blocks = blocks_of(runs, scores, floors)
    assert compare.put(PAGE, blocks) != PAGE and compare.put(README, compare.readme_blocks(runs, blocks)) != README


def test_every_published_run_has_its_scores_and_every_chapter_is_there():
    runs, scores, floors = published()
    assert all(scores.values()) and set(floors) == {"real training digits", "independent pixels"}
    for chapter in compare.CHAPTERS:
        mine = [run for run in runs if run.model == chapter]
        assert any(run.default for run in mine) and any(run.conditional for run in mine), chapter
    for run in runs:  # a label is worth something, and is obeyed
        if run.conditional:
            assert scores[run.folder]["label_agreement"] >= 0.95
            if run.metrics["test_nats"] is not None:
                assert run.metrics["marginal_nats"] > run.metrics["test_nats"] and run.metrics["bayes_accuracy"] > 0.9


def figures(text):
    """Numbers with a decimal point in a text, as they are written."""
    return set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", text))


def test_figures_of_the_lecture_are_figures_of_the_tables():
    prose, tables = PAGE, ""
    for part in re.findall(r"<!-- made by compare.py: .*?<!-- end -->", PAGE, flags=re.S):
        prose, tables = prose.replace(part, ""), tables + part
    quoted = figures("".join(re.findall(r"\(quoted: .*?\)", prose, flags=re.S)))  # of other people, with their source
    assert len(figures(prose)) > 20
    assert figures(prose) - figures(tables) - quoted == set()
    assert figures("and 12.34 more") - figures(tables)  # control


def test_links_of_the_page_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if not link.startswith("http")]
    assert len(links) >= 10
    for link in links:
        assert (SAMPLES / link).exists(), link


# -------------------------------------------------------------------------------------------- odd folders


@pytest.fixture
def runs_folder(tmp_path):
    """Three of the published runs, as if they had been trained here."""
    for name in ("vae", "transformer_ar", "gan"):
        shutil.copytree(SAMPLES / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_runs_are_compared(runs_folder, capsys):
    compare.main([])
    text = (runs_folder / "comparison.md").read_text(encoding="utf-8")
    vae = json.loads((runs_folder / "vae/metrics.json").read_text())
    assert f"≤ {vae['test_nats']:.2f} (bound" in text and "no likelihood" in text and "transformer" in text
    for picture in ("digits", "curves", "plane"):
        assert (runs_folder / f"comparison_{picture}.png").exists()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == README  # only the published page goes there
    compare.main(["runs/vae", "--out", "elsewhere/a.md"])
    assert "transformer, words" not in Path("elsewhere/a.md").read_text(encoding="utf-8").split("## Abilities")[0]


def test_what_stands_around_the_marks_stays(runs_folder):
    compare.main([])
    path = runs_folder / "comparison.md"
    path.write_text(path.read_text(encoding="utf-8").replace("# All runs", "# My own words\n\n# All runs"), encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    compare.main([])
    assert path.read_text(encoding="utf-8") == before and "My own words" in before
    compare.main(["runs/gan"])
    assert "My own words" in path.read_text(encoding="utf-8") and "| VAE |" not in path.read_text(encoding="utf-8")


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


ODD = {
    "no metrics": (lambda run: (run / "metrics.json").unlink(), "no metrics.json"),
    "half of a file": (lambda run: (run / "metrics.json").write_text((run / "metrics.json").read_text()[:500]), "not what a chapter writes"),
    "a list": (lambda run: (run / "metrics.json").write_text("[1]"), "not what a chapter writes"),
    "nats that are not finite": (lambda run: edit(run / "metrics.json", test_nats=float("nan")), "not what a chapter writes"),
    "no nats": (lambda run: edit(run / "metrics.json", test_nats=None), "not what a chapter writes"),
    "another binarization": (lambda run: edit(run / "metrics.json", binarization="threshold at 0.5"), "another binarization (threshold at 0.5)"),
    "another data set": (lambda run: edit(run / "metrics.json", data="mnist_5k"), "trained on mnist_5k"),
    "another script": (lambda run: edit(run / "metrics.json", model="flow"), "flow.py"),
}


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_run_is_left_out_and_the_others_are_compared(runs_folder, capsys, name):
    do, words = ODD[name]
    do(runs_folder / "vae")
    compare.main(["runs/gan", "runs/vae", "runs/transformer_ar"])
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and words in said[0] and "vae" in said[0] and "Traceback" not in said[0]
    text = (runs_folder / "comparison.md").read_text(encoding="utf-8")
    assert "| GAN |" in text and "| transformer, words of 2×2 pixels |" in text and "| VAE |" not in text and words in text


@pytest.mark.parametrize("array", [np.zeros((5000, 14, 14), np.float32), np.full((5000, 28, 28), 7.0), np.zeros((5000, 28, 28), int), np.float32(3),
                                   np.full((5000, 28, 28), np.nan)])
def test_odd_samples_are_not_scored_and_the_rest_is(runs_folder, capsys, array):
    np.save(runs_folder / "gan/samples.npy", array)
    compare.main([])
    assert "not scored" in (err := capsys.readouterr().err) and "samples.npy holds" in err and "Traceback" not in err
    assert "| GAN | no likelihood |" in (runs_folder / "comparison.md").read_text(encoding="utf-8")  # without scores
    assert np.array_equal(np.load(runs_folder / "gan/samples.npy"), array, equal_nan=array.dtype.kind == "f")


def test_a_samples_file_that_is_cut(runs_folder, capsys):
    (runs_folder / "gan/samples.npy").write_bytes(b"\x93NUMPY\x01\x00")
    compare.main([])
    assert "not a readable .npy file" in capsys.readouterr().err


def test_older_runs_that_were_moved_aside_are_not_looked_for(runs_folder):
    (runs_folder / "vae").rename(runs_folder / "vae.1")
    assert [run.folder.name for run in compare.find_runs(["runs"])[0]] == ["transformer_ar", "gan"]
    assert [run.folder.name for run in compare.find_runs(["runs/vae.1"])[0]] == ["vae.1"]  # but may be named


def test_no_runs(fails, tmp_path):
    fails(lambda: compare.main([]), "no finished run in runs", "python vae.py")
    (tmp_path / "runs" / "vae").mkdir(parents=True)
    fails(lambda: compare.main([]), "no finished run")
    fails(lambda: compare.main(["nowhere"]), "no finished run in nowhere")


def test_flags_that_do_not_go_together(runs_folder, fails):
    for flags in (["runs", "--score", "a.npy"], ["runs", "--train-judge"], ["--score", "a.npy", "--train-judge"], ["--out", "a.md", "--score", "a.npy"]):
        fails(lambda: compare.main(flags), "one of the three")
    fails(lambda: compare.main(["--json", "a.json"]), "--score")


def test_a_page_of_somebody_else_is_not_overwritten(runs_folder, fails):
    Path("thesis.md").write_text("precious")
    fails(lambda: compare.main(["--out", "thesis.md"]), "not made by compare.py")
    assert Path("thesis.md").read_text() == "precious"
    fails(lambda: compare.main(["--out", "runs"]), "cannot be read or written")


# ---------------------------------------------------------------------------------------- draws and scores


def test_missing_draws_are_drawn_by_the_chapters_own_command(monkeypatch, capsys):
    """From training to the page, on the small set, with real processes for the draws."""
    import gan
    import vae
    monkeypatch.setattr(compare, "DRAWS", 200)
    for module, flags in ((vae, []), (vae, ["--conditional"]), (gan, [])):
        module.main(["--steps", "3", "--batch-size", "16", *flags])
    compare.main([])
    out = capsys.readouterr().out
    assert "python vae.py --sample-only --num-samples 200 --out runs/vae" in out
    assert "python vae.py --sample-only --num-samples 240 --out runs/vae_conditional" in out
    for name, grey in (("vae", True), ("vae_conditional", True), ("gan", True)):
        found = json.loads(Path(f"runs/{name}/scores.json").read_text())
        assert (found["grey"] is not None) is grey and found["binarized"]["frechet"] > 0 and (found["label_agreement"] is None) is ("cond" not in name)
    before = Path("runs/comparison.md").read_text(encoding="utf-8")
    for path in Path("runs").rglob("*.npy"):
        path.unlink()  # the scores are kept: nothing has to be drawn
    compare.main([])
    assert "sample-only" not in capsys.readouterr().out and Path("runs/comparison.md").read_text(encoding="utf-8") == before


def test_kept_scores_are_of_this_run_and_these_draws(runs_folder):
    run = compare.read_run(runs_folder / "gan")
    assert compare.read_scores(run) is not None
    np.save(run.folder / "samples.npy", np.zeros((5000, 28, 28), np.float32))
    assert compare.read_scores(run) is None  # other draws
    (run.folder / "samples.npy").unlink()
    edit(run.folder / "metrics.json", seed=1)
    assert compare.read_scores(run) is None  # another run


def test_draws_of_one_digit_only_do_not_count(runs_folder):
    run = compare.read_run(runs_folder / "vae")
    run.conditional = True
    x = np.zeros((6000, 28, 28), np.float32)
    for name in ("samples", "means"):
        np.save(run.folder / f"{name}.npy", x)
    np.save(run.folder / "labels.npy", np.full(6000, 3))
    assert compare.read_draws(run) is None
    np.save(run.folder / "labels.npy", np.arange(6000) % 10)
    assert compare.read_draws(run) is not None


def test_as_often():
    labels, shares = torch.arange(6000) % 10, torch.tensor([0.0987, 0.1124, 0.0993, 0.1022, 0.0974, 0.0904, 0.0986, 0.1044, 0.0975, 0.0991])
    some = compare.as_often(labels, shares.double() / shares.sum(), 5000)
    assert len(set(some.tolist())) == 5000
    assert (torch.bincount(labels[some]) / 5000 - shares).abs().max() < 1e-3


def test_digits_are_cut_from_a_grid_as_they_were_put_there(tmp_path):
    x = (torch.rand(80, 1, 28, 28) * 255).round() / 255
    utils.save_grid(tmp_path / "samples.png", x)
    from types import SimpleNamespace
    assert torch.allclose(compare.digits_of(SimpleNamespace(folder=tmp_path, conditional=False), 16), x[:16], atol=1 / 255)
    column = compare.digits_of(SimpleNamespace(folder=tmp_path, conditional=True), 10)
    assert torch.allclose(column, x[::8], atol=1 / 255)


def test_independent_pixels_are_scored_exactly():
    """Against the sum over pixels of the cross entropy, written another way."""
    data = utils.load_mnist("data")
    found = compare.score_floors(utils.load_judge(), data)["independent pixels"]
    p = (data.train.double().mean(dim=0, keepdim=True) / 255).clamp(0.001, 0.999)
    expected = torch.nn.functional.binary_cross_entropy(p.expand(len(data.x_test), 1, 28, 28), data.x_test.double(), reduction="sum") / len(data.x_test)
    assert found["nats"] == pytest.approx(expected.item()) and 190 < found["nats"] < 220
    assert found["binarized"]["precision"] < 0.1


def test_at_minute():
    curve = [{"seconds": s, "val_nats": v} for s, v in ((5, 200.0), (50, 90.0), (70, 95.0), (130, 85.0))]
    assert [compare.at_minute(curve, "val_nats", t) for t in (0.05, 0.5, 1, 2, 3)] == [None, 200.0, 90.0, 90.0, None]
