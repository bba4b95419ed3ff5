"""README, docs/, CONTRIBUTING and docstrings: commands work, links lead somewhere, figures are
those of the committed files, and the house is as it is drawn.

Evidence is asked only of chapters that are published: those with a run in samples/."""
import ast
import hashlib
import json
import math
import re
import runpy
import shlex
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHAPTERS, ROOT, values

import compare
import gan
import judge
import settings
import utils

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         ROOT / "data" / "README.md", ROOT / "samples" / "comparison.md"]
GALLERIES = [ROOT / "samples" / "README.md", *sorted((ROOT / "samples").glob("*/README.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in PAGES + GALLERIES}
README = TEXTS["README.md"]
RUNS = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "samples").glob("*/metrics.json"))}
PUBLISHED = [name for name in CHAPTERS if name in {run["model"] for run in RUNS.values()}]
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


def read(place):
    return (ROOT / place).read_text(encoding="utf-8")


def results(name):
    return json.loads(read(f"results/{name}"))


def one_line(text):
    return " ".join(text.split())


# --------------------------------------------------------------------------------------- commands


def blocks(text):
    """What stands in a page between lines of three backticks."""
    return re.findall(r"^```\n(.*?)^```", text, flags=re.S | re.M)


def commands_of_page(text):
    """All commands in blocks and between backticks."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.S | re.M))
    parts = [part.split(" #")[0].strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("python ")]


def commands_of_script(text):
    """Those that begin a line of its docstring or of a comment: up to what is said of them."""
    lines = re.findall(r"^(?:Run)?[# ]+(python \S+\.py.*)$", text, flags=re.M)
    short = r"python \S+\.py(?: (?!-)[\w./]+(?=  |$| …))?(?: --[\w-]+(?: (?!-)[\w./-]+)?)*"
    return [re.match(short, line.split("  ")[0])[0] for line in lines]


def complaint(words, capsys, monkeypatch):
    """What a script says of these words and of a flag that does not exist: only the latter, if it
    understood the rest. So it begins no work."""
    script, *flags = words
    flags = [flag for flag in flags if flag != "--help"] + ["--zz-none"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        if script.startswith("experiments/"):
            monkeypatch.setattr(sys, "argv", [script, *flags])
            runpy.run_path(str(ROOT / script), run_name="__main__")
        else:
            sys.modules[script[:-3]].main(flags)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1].split("error: ")[1].split(" (see")[0]


def is_understood(command, capsys, monkeypatch):
    python, script, *flags = shlex.split(command)
    if script == "-m":
        files = [word for word in flags if "/" in word]
        return flags[0] in ("pytest", "venv") and all((ROOT / file).exists() for file in files)
    if not (ROOT / script).is_file():
        return False
    alone = "unrecognized arguments: --zz-none"
    if complaint([script, *flags], capsys, monkeypatch) != alone:
        return False
    if script[:-3] not in CHAPTERS or "--help" in flags:
        return True
    try:  # flags that do not go together
        chapter = CHAPTERS[script[:-3]]
        args, chosen, _ = settings.parse(script[:-3], "", chapter.SETTINGS, chapter.VARIANTS, flags)
        then = {} if args.resume or args.sample_only else None
        settings.resolve(chapter.SETTINGS, chapter.VARIANTS, chosen, then)
    except SystemExit:
        return False
    return True


def ready(command):
    """With a word for each that stands for one; the chapter to be written has wavenet's flags."""
    for name, word in (("mymodel", "wavenet"), (" N", " 8"), ("OTHER_CHECKOUT", "."), (" …", "")):
        command = re.sub(rf"{re.escape(name)}\b" if name != " …" else " …", word, command)
    return command


@pytest.mark.parametrize("place", list(TEXTS))
def test_every_command_on_a_page_is_understood(place, capsys, monkeypatch):
    """By the parser of the script that it names."""
    commands = dict.fromkeys(map(ready, commands_of_page(TEXTS[place])))
    assert commands or place in ("docs/troubleshooting.md", "docs/notebook.md", "samples/README.md")
    for command in commands:
        assert is_understood(command, capsys, monkeypatch), command


def test_readme_and_docs_have_the_commands_one_needs():
    commands = commands_of_page(README)
    for command in ("python vae.py", "python -m pytest", 'python -m pytest -m "not slow"',
                    "python compare.py samples", "python vae.py --sample-only --num-samples N"):
        assert command in commands
    assert len(commands_of_page(TEXTS["docs/flags.md"])) >= 20


def test_a_command_that_is_wrong_is_noticed(capsys, monkeypatch):
    """Control for the tests above and below."""
    for command in ("python vae.py --colour red", "python vae.py --steps zero", "python no.py",
                    "python vae.py --label 3", "python made.py --cell gru", "python compare.py -x",
                    "python experiments/robustness.py --lots", "python -m pytest tests/test_no.py",
                    "python vae.py --sample-only draws", "python wavenet.py --depth 3"):
        assert not is_understood(command, capsys, monkeypatch), command
    assert is_understood("python experiments/robustness.py --list", capsys, monkeypatch)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_in_a_script_is_understood(script, capsys, monkeypatch):
    text = read(f"{script}.py")
    commands = commands_of_script(text)
    assert commands or script not in (*PUBLISHED, "judge", "compare")
    if script in PUBLISHED:
        assert f"python {script}.py" in commands
    for command in map(ready, commands):
        assert is_understood(command, capsys, monkeypatch), command
    for name, metrics in RUNS.items():  # each published run that the text names by its command
        if name.endswith("_long") and metrics["model"] == script:
            assert metrics["command"] in commands


@pytest.mark.parametrize("script", sorted(p.stem for p in (ROOT / "experiments").glob("*.py")
                                          if p.stem not in ("ablate", "fit")))
def test_an_experiment_has_the_flags_that_it_says(script, capsys, monkeypatch):
    """All that its docstring names in the line with its command, and the other way round."""
    text = ast.get_docstring(ast.parse(read(f"experiments/{script}.py")))
    usage = re.search(rf"^    python experiments/{script}.py(.*)$", text, flags=re.M)[1]
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "experiments" / f"{script}.py"), run_name="__main__")
    said = capsys.readouterr().out.split("options:")[1]
    assert set(re.findall(r"--[\w-]+", usage)) == set(
        re.findall(r"^  (?:-\w, )?(--[\w-]+)", said, flags=re.M)) - {"--help"}


# ------------------------------------------------------------------------------------------ links


def anchors(text):
    """Names of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```\n.*?^```", "", text, flags=re.S | re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def broken(text, folder):
    """Links of a page that lead nowhere."""
    dead_links = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        path = folder / target
        if link.startswith("http"):
            continue
        if not path.exists() or (anchor and anchor not in anchors(
                text if not target else path.read_text(encoding="utf-8"))):
            dead_links.append(link)
    return dead_links


@pytest.mark.parametrize("place", list(TEXTS))
def test_every_link_leads_somewhere(place):
    text, folder = TEXTS[place], (ROOT / place).parent
    assert re.search(r"\]\([^)]+\)", text) or place == "CONTRIBUTING.md"
    assert broken(text, folder) == []
    for link in ("no.md", "#no-such-heading", f"{ROOT.as_posix()}/README.md#no"):  # controls
        assert broken(f"{text}\n[a]({link})", folder) == [link]


def test_readme_leads_to_all_pages():
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md",
                 ROOT / "samples" / "README.md", ROOT / "samples" / "comparison.md"):
        assert f"]({page.relative_to(ROOT).as_posix()}" in README, page


# ---------------------------------------------------------------------------------------- figures


def row_of(metrics, text):
    """The table row of a run, by its command."""
    ends = f"`{metrics['command']}` |"
    rows = [line for line in text.splitlines() if line.startswith("|") and line.endswith(ends)]
    return rows[0] if len(rows) == 1 else None


def is_told(metrics, text):
    row = row_of(metrics, text)
    wanted = [f"{metrics['parameters']:,}", f"{metrics['train_seconds'] / 60:.1f} min"]
    if metrics["likelihood"] == "none":
        of_levels = "grey_bits_per_dim" in metrics
        wanted += [f"{metrics['grey_bits_per_dim']:.3f} bits/dim of " if of_levels
                   else "no likelihood", f"{metrics['test_frechet']:.2f}",
                   f"{metrics['test_precision']:.2f}", f"{metrics['test_recall']:.2f}"]
    else:
        wanted += [f"{metrics['test_nats']:.2f} (" + metrics["likelihood"] + "," * (
            metrics["likelihood"] != "exact"), f"{metrics['bits_per_dim']:.4f}"]
    return row is not None and all(word in row for word in wanted)


def figure_of(metrics):
    return "test_frechet" if metrics["likelihood"] == "none" else "test_nats"


@pytest.mark.parametrize("name", list(RUNS))
def test_readme_and_committed_runs_agree(name):
    metrics, folder = RUNS[name], ROOT / "samples" / name
    assert is_told(metrics, README) and f"](samples/{name})" in row_of(metrics, README)
    figure = figure_of(metrics)
    assert not is_told({**metrics, figure: metrics[figure] + 0.02}, README)  # control
    assert metrics["data"] == "mnist" and metrics["seed"] == 0
    assert ".." not in metrics["command"] and "data-dir" not in metrics["command"]
    for picture in ("samples", "progress", "loss"):
        assert (folder / f"{picture}.png").stat().st_size > 1000
    assert metrics["versions"]["torch"].startswith(re.search(r"torch (\d+\.\d+)", README)[1])
    if metrics["likelihood"] != "none":
        bits = metrics["test_nats"] / (784 * math.log(2))
        assert metrics["bits_per_dim"] == pytest.approx(bits)


@pytest.mark.parametrize("chapter", PUBLISHED)
def test_a_chapter_says_what_its_default_run_reached(chapter):
    metrics, text = RUNS[chapter], CHAPTERS[chapter].__doc__
    reached = text[text.index("Reached"):text.index("Left out")]
    figures = (f"{metrics['test_frechet']:.2f}", "no likelihood") \
        if metrics["likelihood"] == "none" else (
        f"{metrics['test_nats']:.2f}", f"{metrics['bits_per_dim']:.4f}", metrics["likelihood"])
    assert metrics["command"] == f"python {chapter}.py"
    for word in (*figures, f"{metrics['train_seconds'] / 60:.1f} minutes",
                 f"seed {metrics['seed']}", "2 cores", f"samples/{chapter}/metrics.json"):
        assert word in one_line(reached), word


@pytest.mark.parametrize("chapter", PUBLISHED)
def test_a_chapter_names_its_gallery(chapter):
    line, = re.findall(r"^Gallery +(.*)$", CHAPTERS[chapter].__doc__, flags=re.M)
    page = re.match(r"samples/\w+/README\.md", line)[0]
    assert page == f"samples/{chapter}/README.md" and (ROOT / page).is_file()


def figures(text):
    """Numbers with a decimal point in a text, as they are written."""
    return set(re.findall(r"(?<![\d.])\d+\.\d+(?!\d|\.\d)", text))


def told_of_files():
    """Figures of README and docs/ that stand in no table, each from its file or its formula."""
    seeds, leaks = results("seeds/gan.json"), {
        row["name"]: row["val_nats"] for row in results("ablations/made.json")}
    span = [(min(row[key] for row in seeds), max(row[key] for row in seeds))
            for key in ("test_frechet", "test_frechet_binary", "test_precision", "test_recall")]
    numbers = {f"{value:.2f}" for pair in span for value in pair}
    numbers |= {f"{leaks[name]:.1f}" for name in ("no masks", "output mask >=", "LayerNorm")}
    robust = [json.loads(path.read_text(encoding="utf-8"))
              for path in (ROOT / "results" / "robustness").glob("*.json")]
    nats = [row["score"] - rows[0]["score"] for rows in robust for row in rows
            if "least_share" not in row]
    gans = [(row["score"] / rows[0]["score"], row["least_share"]) for rows in robust for row in rows
            if "least_share" in row]
    numbers |= {f"{max(nats):.1f}", f"{max(ratio for ratio, _ in gans):.1f}",
                f"{100 * min(share for _, share in gans):.1f}"}
    for heaps in results("heaps.json").values():
        distances = [row["frechet"] for row in heaps]
        numbers |= {f"{statistics.mean(distances):.2f}", f"{statistics.stdev(distances):.2f}"}
    floors = json.loads(read("samples/comparison_floors.json"))["floors"]["real training digits"]
    numbers |= {f"{100 * floors['label_agreement_grey']:.1f}", f"{math.log(10):.1f}",
                f"{100 * floors['label_agreement']:.1f}", f"{math.sqrt(2):.1f}",
                f"{floors['binarized']['frechet']:.2f}",
                f"{RUNS['ebm_conditional']['test_frechet']:.2f}"}
    scores = json.loads(read("samples/ebm_conditional/scores.json"))
    numbers |= {f"{scores['binarized']['frechet']:.2f}"}
    numbers |= {f"{max(RUNS[name]['parameters'] for name in RUNS) / 1e6:.1f}"}  # million weights
    return numbers


# Figures that are no result of ours: of papers and their sources, versions, and examples in flags;
# and times of one day, which no file has (bench_batches.py prints some of them).
QUOTED = {"README.md": {"3.10", "2.14", "3.0", "0.1", "1.1", "5.0"}, "CONTRIBUTING.md": set(),
          "docs/results.md": {"86.77", "80.72", "88.40", "88.04", "86.64", "84.78", "543.4",
                              "2.04", "1.89", "1.06", "1.05", "0.99", "0.62", "1.08", "1.04",
                              "1.02"},
          "docs/questions.md": {"0.15", "0.62", "2.04", "0.2", "0.5", "0.6", "1.1", "1.8", "4.6"},
          "docs/flags.md": {"0.002", "0.8"}, "docs/troubleshooting.md": set()}


@pytest.mark.parametrize("place", list(QUOTED))
def test_figures_of_a_page_are_figures_of_tables_or_files(place):
    prose = re.sub(r"<!-- made by compare.py: .*?<!-- end -->", "", TEXTS[place], flags=re.S)
    assert figures(prose) - told_of_files() - QUOTED[place] == set()
    assert figures(prose + " 12.34") - told_of_files() - QUOTED[place] == {"12.34"}  # control


def test_whole_numbers_of_the_readme_are_right():
    """What is a normal loss; the discriminators that its table does not count."""
    text, floors = one_line(README), json.loads(read("samples/comparison_floors.json"))["floors"]
    assert f"{784 * math.log(2):.0f} is a model that knows nothing (784 fair coins)" in text
    assert f"{floors['independent pixels']['nats']:.0f} is 784 independent coins" in text
    curve = RUNS["vae"]["curve"]
    fifth = min(curve, key=lambda row: abs(row["step"] - RUNS["vae"]["steps"] / 5))
    assert f"{fifth['val_nats']:.0f} is this VAE after a fifth of its run" in text
    leaks = {row["name"]: row["val_nats"] for row in results("ablations/made.json")}
    leaks = [leaks[name] for name in ("no masks", "output mask >=", "LayerNorm")]
    assert "has leaks at {:.1f}, {:.1f} and {:.1f} nats".format(*leaks) in text
    sizes = []
    for flags in ("", "--conditional", "--width 32"):
        players = gan.build(values(gan, flags))
        sizes.append(sum(p.numel() for p in players.D.parameters()))
    assert ("the discriminator has {:,} more; {:,} more with `--conditional`, and {:,} in the "
            "long run").format(*sizes) in text


def test_flags_page_says_which_chapters_have_no_depth_and_no_weights():
    text = one_line(TEXTS["docs/flags.md"])
    without = [name for name in PUBLISHED if "depth" not in CHAPTERS[name].SETTINGS]
    assert f"{' and '.join(without)} have no --depth" in text
    weights = list((ROOT / "samples").glob("*/weights.pt"))
    assert f"{sum(p.stat().st_size for p in weights) / 1e6:.0f} MB in all" in text
    missing = set(RUNS) - {path.parent.name for path in weights}
    shipped = set(RUNS) - missing
    assert {RUNS[name]["model"] for name in shipped} == set(PUBLISHED)  # of each chapter some run
    models = {(RUNS[name]["model"], RUNS[name]["variant"]) for name in missing}
    assert models == {("made", "masks"), ("diffusion", "masked"), ("diffusion", "gaussian"),
                      ("diffusion", "flow-matching"), ("flow", ""), ("transformer_ar", ""),
                      ("pixelcnn", "gated"), ("ebm", "conv"), ("ebm", "residual"), ("vae", ""),
                      ("wavenet", ""), ("gan", ""), ("tarflow", "")}
    assert {"flow", "diffusion", "ebm", "ebm_rbm"} <= shipped


# ---------------------------------------------------------------- what one pastes, and what CI runs


def test_the_two_lines_to_paste():
    lines = [block.strip() for block in blocks(README)]
    for line in ("pip install -r requirements.txt && python vae.py",
                 "pip install -r requirements-dev.txt && python -m pytest"):
        assert line in lines
    assert README.index("## Two lines to paste") < README.index("## The chapters")


def test_continuous_integration_runs_what_the_readme_says():
    """.ci/run takes README's line; the workflow runs .ci/run, and the fast tests elsewhere."""
    script, workflow = read(".ci/run"), read(".github/workflows/tests.yml")
    pattern = re.search(r"grep -m1 -E '([^']+)' README.md", script)[1]
    line, = [line for line in README.splitlines() if re.search(pattern, line)]
    assert line in [block.strip() for block in blocks(README)]
    assert "ruff check ." in script and "set -euo pipefail" in script
    assert "- run: .ci/run" in workflow and 'python -m pytest -m "not slow"' in workflow
    assert all(system in workflow for system in ("ubuntu", "windows", "macos"))
    oldest = re.search(r"Python (\d\.\d+) or newer", README)[1]
    assert f'["{oldest}"' in workflow
    for word in (".ci/run", ".github/workflows/tests.yml", "ruff check ."):
        assert word in TEXTS["CONTRIBUTING.md"]


def imported(path):
    """Top-level names of all that a script imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.slow
def test_requirements_are_what_the_scripts_import():
    """PIL is Pillow, without which neither torchvision nor matplotlib is installed."""
    def required(name):
        return {re.split("[>=<]", line)[0] for line in read(name).splitlines()}

    scripts = [*ROOT.glob("*.py"), *(ROOT / "experiments").glob("*.py")]
    ours = {path.stem for path in scripts} | sys.stdlib_module_names | {"PIL"}
    needed = set().union(*map(imported, scripts)) - ours - {"pytest"}  # by experiments/mutations.py
    assert required("requirements.txt") == needed
    assert needed == {"torch", "torchvision", "numpy", "matplotlib", "tqdm"}
    assert required("requirements-dev.txt") == {"-r requirements.txt", "pytest",
                                                 "pytest-xdist", "ruff", "nbclient", "ipykernel",
                                                 "scikit-learn"}
    tests = set().union(*map(imported, (ROOT / "tests").glob("*.py"))) - ours
    mine = {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert tests - mine <= needed | {"pytest", "nbclient", "nbformat"}  # nbclient brings nbformat


# --------------------------------------------------------------------------------------- the house


TREE = next(block for block in blocks(README) if "compare.py, tables.py" in block)


def test_the_tree_names_what_is_there():
    """Scripts and folders, each once; a chapter as soon as it is published."""
    names = [name for line in TREE.splitlines() for name in
             re.split(r", ", re.split(r"\s{2,}", line)[0])]
    for name in names:
        assert (ROOT / name).exists(), name
    assert len(set(names)) == len(names)
    shared = {f"{name}.py" for name in SCRIPTS if name not in CHAPTERS}
    folders = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir()
               and path.name[0] != "." and path.name not in ("runs", "venv", "__pycache__")}
    assert set(names) == shared | folders | {f"{name}.py" for name in PUBLISHED}
    assert len(TREE.splitlines()) <= 10


def test_the_reading_order_has_every_published_chapter():
    table = README.split("## How to read a chapter")[1].split("## ")[0]
    assert re.findall(r"^\| \[`(\w+)\.py`\]\((?:\w+)\.py\) \|", table, flags=re.M) == PUBLISHED
    for name in PUBLISHED:
        lecture = re.search(r"^Lecture +Berkeley CS294-158, lectures? (\d[^,]*?): [a-z]",
                            CHAPTERS[name].__doc__, flags=re.M)[1]
        assert re.search(rf"\({name}\.py\) \| {re.escape(lecture)}, ", table), name


def test_scoring_takes_as_long_as_readme_says():
    """Minutes, rounded up: all runs but those of three chapters; the three."""
    minutes = {"usual": [], "long": []}
    for run in RUNS.values():
        long = run["model"] in ("flow", "diffusion", "ebm")
        minutes["long" if long else "usual"].append(run["eval_seconds"] / 60)
    most = {key: math.ceil(max(values)) for key, values in minutes.items()}
    words = ("no one two three four five six seven eight nine ten eleven twelve thirteen "
             "fourteen").split()
    assert (f"takes up to {words[most['usual']]} minutes more, "
            f"{words[math.floor(min(minutes['long']))]} to {words[most['long']]} for `flow.py`, "
            "`diffusion.py` and `ebm.py` (`eval_seconds`" in README)


MOST = {"README.md": 180, "utils.py": 350, "runner.py": 445, "compare.py": 500, "tables.py": 700,
        "settings.py": 220, "pictures.py": 250, "weights.py": 135, "own_data.py": 105,
        "draws.py": 80, "streams.py": 55}


@pytest.mark.parametrize("name", list(MOST))
def test_what_nobody_has_to_read_is_small(name):
    assert len(read(name).splitlines()) <= MOST[name]


def test_the_model_comes_early(chapter):
    name = chapter.__name__
    lines = read(f"{name}.py").splitlines()
    first = next(i for i, line in enumerate(lines, 1) if line.startswith("class "))
    assert first < 250


def test_a_long_chapter_says_where_one_may_stop(chapter):
    text = read(f"{chapter.__name__}.py")
    said = re.search("^Sittings  ", chapter.__doc__, flags=re.M) is not None
    assert said == ("# Here the first sitting ends." in text)
    assert said or len(text.splitlines()) <= 1000


def wrapped(text):
    """Lines over 100 columns that end in the middle of a paragraph. Blocks and tables may."""
    text = re.sub(r"^```\n.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"<!-- made by compare.py: .*?<!-- end -->", "", text, flags=re.S)
    prose = re.compile(r"[^|#\-*\d!<\s]|\*\*|\*\w")  # what begins a line of its own does not
    lines = text.splitlines()
    return [a for a, b in zip(lines, lines[1:])
            if len(a) > 100 and not a.startswith(("|", "#")) and prose.match(b)]


@pytest.mark.parametrize("place", list(TEXTS))
def test_pages_are_wrapped_where_github_wraps_them(place):
    """A paragraph is one line, or its lines end before column 100."""
    assert wrapped(TEXTS[place]) == []
    assert wrapped(f"{'a ' * 60}\nand on.") and not wrapped(f"{'a ' * 40}\nand on.")  # controls


# ------------------------------------------------------------------------------------------- data


def test_the_readme_of_the_data_is_right():
    text = one_line(TEXTS["data/README.md"])
    small = ROOT / "data" / "mnist_5k.npz"
    assert hashlib.sha256(small.read_bytes()).hexdigest() in text
    with np.load(small) as arrays:
        assert arrays["images"].shape == (5000, 28, 28) and arrays["labels"].shape == (5000,)
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
        assert np.bincount(arrays["labels"]).tolist() == [500] * 10
    data = utils.load_mnist()
    sizes = [len(data.train), len(data.val), len(data.test)]
    assert "{:,} / {:,} / {:,} (train, validation, test)".format(*sizes) in text
    for name, (size, _) in utils.MNIST_FILES.items():
        assert f"| `{name}` | {size:,} |" in text
    floor = json.loads(read("samples/comparison_floors.json"))["floors"]["real training digits"]
    assert f"{100 * floor['label_agreement_grey']:.2f} % of the grey test digits right" in text
    assert f"{100 * floor['label_agreement']:.2f} % of the binarized ones" in text
    assert "the `Judge` of [`judge.py`](../judge.py)" in text and hasattr(judge, "Judge")
    assert judge.JUDGE == ROOT / "data" / "judge.pt" and "`python judge.py --train`" in text
    assert all(f"{100 * floor[key]:.2f}" in judge.__doc__
               for key in ("label_agreement", "label_agreement_grey"))
    assert not {"utils.Judge", "--train-judge", "--score"} & set(text.split())


def test_what_ships_stays_small():
    """30 MB, most of it weights and pictures."""
    size = sum(p.stat().st_size for p in (ROOT / "samples").rglob("*") if p.is_file()
               and p.suffix != ".npy" and p.name != "checkpoint.pt")
    assert size <= 30e6
    assert (ROOT / "data" / "mnist_5k.npz").stat().st_size < 1e6
    assert (ROOT / "data" / "judge.pt").stat().st_size < 1e6


def everything():
    """All texts that ship."""
    for path in ROOT.rglob("*"):
        place = path.relative_to(ROOT)
        if path.suffix in (".py", ".md", ".json", ".toml", ".txt", ".yml", "") and path.is_file() \
                and place.parts[0] not in (".git", "runs", "venv", ".venv", ".pytest_cache",
                                           ".ruff_cache", "shared") and "MNIST" not in place.parts:
            yield place.as_posix(), path.read_text(encoding="utf-8", errors="replace")


def test_nothing_is_left_to_fill_in_and_no_machine_is_named():
    """No mark of something to come, and no path of the machine that a figure was measured on."""
    words = ["@" * 2] + [f"/{name}/" for name in ("work", "tmp", "root", "home", "Users")]
    texts = dict(everything())
    assert {"README.md", "vae.py", ".ci/run", "samples/vae/metrics.json"} <= set(texts)
    for place, text in texts.items():
        for word in words:
            assert word not in text, (place, word)


def test_old_names_are_gone():
    """Flags, files and folders as they were called before the house was rebuilt."""
    old = ["samples/" + "robustness", "samples/" + "afternoon", "samples/" + "kills.json",
           "--train-" + "judge", "compare.py --" + "score", "utils." + "Run", "utils." + "Judge",
           "tests/" + "ablate", "tests/" + "robustness", "samples/" + "sampling.json"]
    for place, text in everything():
        if not place.startswith("tests/"):  # where some are tried, and refused
            for word in old:
                assert word not in text, (place, word)


def test_whoever_adds_a_chapter_is_told_all_keys():
    """CONTRIBUTING has each key of ABOUT that a chapter uses, and each part of a Setting."""
    text = TEXTS["CONTRIBUTING.md"]
    for chapter in CHAPTERS.values():
        for key in set(chapter.ABOUT) - {"cases"}:
            assert f'`"{key}"`' in text, key
    for name in ("least", "most", "choices", "word", "only", "drawing"):
        assert f"`{name}" in text, name
    assert 'line `ABOUT = {`' in text and "\nABOUT = {" in read("wavenet.py")
    assert compare.PUBLISHED_PAGE == Path(ROOT / "samples" / "comparison.md")
