"""README, chapters and committed results say the same, and every command in README is one that works."""
import importlib
import json
import re
import shlex

import afternoon
import pytest
import robustness
import test_compare
import test_runs
from conftest import CHAPTERS, ROOT

import compare
import utils

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, flags=re.S)
COMMANDS = [line.split("#")[0].split("&&")[-1].strip() for block in BLOCKS for line in block.splitlines()]
RESULTS = sorted((ROOT / "samples").glob("*/metrics.json"))


class Parsed(Exception):
    """Raised in place of a run: the flags were understood."""


def parses(command, monkeypatch):
    python, script, *flags = shlex.split(command)
    assert python == "python"
    if script == "-m":
        return flags == ["pytest"]
    assert (ROOT / script).is_file()
    if script.startswith("tests/"):
        return not flags

    def parsed(*args, **kwargs):
        raise Parsed

    with monkeypatch.context() as m:
        m.setattr(utils, "Run", parsed)
        m.setattr(compare, "read_images", parsed)
        m.setattr(compare, "compare", parsed)
        try:
            importlib.import_module(script[:-3]).main(flags)
        except Parsed:
            return True
        except SystemExit as stop:
            return stop.code == 0  # --help


def test_every_command_in_the_readme_parses(monkeypatch, capsys):
    assert len(COMMANDS) >= 8 and "python vae.py" in COMMANDS and "python -m pytest" in COMMANDS
    for command in COMMANDS + re.findall(r"`(python \w+\.py[^`]*)`", README):
        command = command.replace(" N", " 8")
        assert parses(command, monkeypatch), command
    assert not parses("python vae.py --colour red", monkeypatch)  # control
    assert not parses("python vae.py --steps zero", monkeypatch)


def test_every_link_in_the_readme_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 5
    for link in links:
        assert (ROOT / link).exists(), link


def row_of(metrics, readme):
    """The README's table row for a committed run, by its command."""
    return next((line for line in readme.splitlines() if line.startswith("|") and line.endswith(f"`{metrics['command']}` |")), None)


def is_told(metrics, readme):
    row = row_of(metrics, readme)
    wanted = [f"{metrics['parameters']:,}", f"{metrics['train_seconds'] / 60:.1f} min"]
    if metrics["likelihood"] == "none":
        wanted += ["no likelihood", f"{metrics['test_frechet']:.2f}", f"{metrics['test_precision']:.2f}", f"{metrics['test_recall']:.2f}"]
    else:
        wanted += [f"{metrics['test_nats']:.2f}", f"{metrics['bits_per_dim']:.4f}", metrics["likelihood"]]
    return row is not None and all(word in row for word in wanted)


@pytest.mark.parametrize("path", RESULTS, ids=[path.parent.name for path in RESULTS])
def test_readme_and_committed_results_agree(path):
    metrics = json.loads(path.read_text())
    assert is_told(metrics, README)
    figure = "test_frechet" if metrics["likelihood"] == "none" else "test_nats"
    assert not is_told({**metrics, figure: metrics[figure] + 0.02}, README)  # control
    assert metrics["data"] == "mnist" and metrics["seed"] == 0
    assert ".." not in metrics["command"] and "data-dir" not in metrics["command"]
    for picture in ("samples", "progress", "loss"):
        assert (path.parent / f"{picture}.png").stat().st_size > 1000


@pytest.mark.parametrize("script", list(CHAPTERS))
def test_a_chapter_says_what_its_default_run_reached(script):
    metrics = json.loads((ROOT / "samples" / script / "metrics.json").read_text())
    text = importlib.import_module(script).__doc__
    reached = text[text.index("Reached"):text.index("Left out")]
    figures = (f"{metrics['test_frechet']:.2f}", "no likelihood") if metrics["likelihood"] == "none" else \
        (f"{metrics['test_nats']:.2f}", f"{metrics['bits_per_dim']:.4f}", metrics["likelihood"])
    for word in (*figures, f"{metrics['train_seconds'] / 60:.1f} minutes", f"seed {metrics['seed']}", "2 cores"):
        assert word in reached, word


def afternoon_of(script):
    """The last section of a chapter's notes, about long runs, as one line without the comment marks; empty if there is none."""
    text = (ROOT / f"{script}.py").read_text(encoding="utf-8")
    found = re.search(r"^# Given an afternoon\..*?(?=^# -{20})", text, flags=re.S | re.M)
    return " ".join(found[0].replace("\n#", " ").split()) if found else ""


AFTERNOONS = sorted((ROOT / "samples" / "afternoon").glob("*.json"))


def is_told_of_an_afternoon(text, rows, metrics):
    """Does the text have each candidate's figures with its minutes, and command, figure and minutes of the long run, if there is one?"""
    wanted = [f"{row['score']:.2f} ({row['seconds'] / 60:.1f})" for row in rows]
    if metrics:
        figure = metrics["test_frechet"] if metrics["likelihood"] == "none" else metrics["test_nats"]
        wanted += [metrics["command"], f" {figure:.2f} ", f"{metrics['train_seconds'] / 60:.1f} minutes"]
    return all(word in text for word in wanted)


@pytest.mark.parametrize("path", AFTERNOONS, ids=[path.stem for path in AFTERNOONS])
def test_a_chapter_says_what_an_afternoon_brings(path):
    text, rows = afternoon_of(path.stem), json.loads(path.read_text())
    wanted = {f"python {path.stem}.py {' '.join([*flags, '--steps', str(steps)])}"
              for flags, short in afternoon.CANDIDATES[path.stem].values() for steps in (short, 3 * short)}
    assert wanted == {row["command"] for row in rows} and path.with_suffix(".png").stat().st_size > 1000
    long = ROOT / "samples" / f"{path.stem}_long" / "metrics.json"
    metrics = json.loads(long.read_text()) if long.exists() else None
    assert metrics or path.stem == "wavenet"  # it has none: among convolutions pixelcnn.py has
    assert is_told_of_an_afternoon(text, rows, metrics)
    assert not is_told_of_an_afternoon(text, [{**rows[0], "score": rows[0]["score"] + 0.02}], metrics)  # control
    if not metrics:
        return
    figure = "test_frechet" if metrics["likelihood"] == "none" else "test_nats"
    for change in ({figure: metrics[figure] + 0.02}, {"train_seconds": metrics["train_seconds"] + 6}, {"command": metrics["command"] + "0"}):
        assert not is_told_of_an_afternoon(text, rows, {**metrics, **change})  # controls


def has_table(text, rows, chapter):
    return "\n".join("#     " + line if line else "#" for line in robustness.table(chapter, rows)) in text


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_says_how_robust_it_is(chapter):
    text = (ROOT / f"{chapter}.py").read_text(encoding="utf-8")
    rows = [row for path in (ROOT / "samples" / "robustness").glob("*.json") for row in json.loads(path.read_text())]
    mine = [row for row in rows if robustness.MODELS[row["model"]][0] == chapter]
    for model in [model for model, (name, *_) in robustness.MODELS.items() if name == chapter]:
        found = {row["change"]: row for row in mine if row["model"] == model}
        for change in robustness.CHANGES:
            assert robustness.plan(model, change)[0].items() <= found[change].items()  # of the settings as they are today
            assert robustness.kept(found[change], found["default"])
        worse = {**found["default"], "score": found["default"]["score"] * (2.01 if chapter == "gan" else 1) + 3.01 * (chapter != "gan")}
        assert not robustness.kept(worse, found["default"]) and not robustness.kept({**worse, "score": None}, found["default"])  # controls
    assert has_table(text, rows, chapter)
    for row in mine:
        assert not has_table(text, [{**r, "score": r["score"] + 0.02} if r is row else r for r in rows], chapter)  # control


def test_readme_says_how_robust_the_chapters_are():
    files = [json.loads(path.read_text()) for path in (ROOT / "samples" / "robustness").glob("*.json")]
    rows = [(row, found[0]) for found in files for row in found]
    assert all(found[0]["change"] == "default" for found in files) and {row["model"] for row, _ in rows} == set(robustness.MODELS)
    gans = [(row["score"] / default["score"], row["least_share"]) for row, default in rows if "least_share" in row]
    nats = max(row["score"] - default["score"] for row, default in rows if "least_share" not in row)
    text = " ".join(README.split())
    assert f"For each of {len(files)} models" in text and f"of the usual length: {len(rows)} runs with the untouched ones." in text
    assert f"Of those with nats the worst ends {nats:.1f} nats above the untouched one of its model" in text
    assert f"the worst has {max(ratio for ratio, _ in gans):.1f} times the untouched one's distance, and the rarest digit {100 * min(share for _, share in gans):.1f} %" in text


def test_nothing_is_left_to_fill_in():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), *(ROOT / "samples").glob("*.md")]:
        assert "@@" not in path.read_text(encoding="utf-8"), path


def test_readme_counts_what_is_tried():
    found = json.loads((ROOT / "samples" / "kills.json").read_text())
    assert set(found) == set(CHAPTERS) and all(f["kills"] == 20 and f["broken"] == 0 and f["same"] for f in found.values())
    kills, writing = (sum(f[key] for f in found.values()) for key in ("kills", "while_writing"))
    assert f"Of {kills} kills {writing} came while a checkpoint was being written. Broken checkpoints: 0." in README
    assert f"{len(test_runs.BAD_FLAGS)} wrong command lines, 3 kinds" in README and f"tried on {len(test_compare.ODD)} kinds of odd runs" in README
    each = len(test_runs.BAD_FLAGS) + 3 + 2 * 12 + 4 + 5
    assert f"{each} mistakes, {len(CHAPTERS) * each} in all" in README


def test_requirements_are_what_the_scripts_import():
    required = {re.split("[>=<]", line)[0] for line in (ROOT / "requirements.txt").read_text().split()}
    assert required == {"torch", "torchvision", "numpy", "matplotlib", "tqdm", "pytest"}


def test_samples_stay_small():
    assert sum(p.stat().st_size for p in (ROOT / "samples").rglob("*") if p.is_file()) < 25e6
    assert (ROOT / "data" / "mnist_5k.npz").stat().st_size < 1e6
