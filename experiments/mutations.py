"""Do the tests notice mistakes? One at a time is made on purpose, and the tests are run.

    python experiments/mutations.py [--jobs 2] [--only TEXT] [--json runs/mutations.json] [--list]

Each mutation is a small, plausible slip: a sign, an index off by one, a term of an equation left
out, weights chosen on the wrong set. The tree is copied, the line is changed, and pytest runs up to
the first failure: the files whose names fit, fast tests first, then, if they pass, all others. A
mutation that survives is a test that is missing. Rows that are there are not run again. Committed
as results/mutations.json. A script to run, not a test: an hour on two cores.
"""
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fit import ROOT, command_line

import utils

FITTING = {  # tests that are asked first
    "made": ("made", "autoregressive", "chapters"), "vae": ("vae", "chapters"),
    "wavenet": ("convolutions", "autoregressive", "chapters"), "gan": ("gan", "chapters"),
    "pixelcnn": ("convolutions", "levels", "autoregressive", "chapters"),
    "transformer_ar": ("transformer", "levels", "autoregressive", "chapters"),
    "judge": ("judge", "gan", "levels"),
    "muon": ("muon",), "own_data": ("own_data",), "weights": ("weights", "runner"),
    "draws": ("runner", "weights", "data"), "compare": ("compare",), "tables": ("compare",),
    "utils": ("data", "levels", "runner"),
    "diffusion": ("diffusion", "chapters"), "flow": ("flow", "chapters"),
    "ebm": ("ebm", "chapters"),
    "settings": ("settings", "runner"),
    "runner": ("runner", "own_data", "settings", "weights", "chapters"),
    "streams": ("runner",),
    "pictures": ("compare", "chapters")}


def first_tests(file):
    """Files of tests/ that are asked first: of a chapter that is not in FITTING its own, if there
    is one, and what is tested of all."""
    usual = ("experiments",) if file.startswith("experiments/") else (file, "chapters")
    named = [f"tests/test_{name}.py" for name in FITTING.get(file, usual)]
    return [name for name in named if (ROOT / name).exists()]


LIST = Path(__file__).with_suffix(".json")
# It fails in every copy, since the line that is changed is no longer there.
NOT_ASKED = ["--deselect",
             "tests/test_experiments.py::test_the_list_of_mutations_fits_the_code"]


def all_mutations(path=LIST):
    """The list beside this script; SystemExit if one does not fit its file any more."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        count = (ROOT / f"{row['file']}.py").read_text(encoding="utf-8").count(row["before"])
        if count != 1:
            utils.fail(f"{row['file']}.py has {count} times {row['before']!r}: mend the list.")
    return rows


class FirstFailure:
    """A plugin of pytest: tests that have the file's name in theirs run first, of these and of the
    others the fast ones; the first that fails is kept by name."""

    def __init__(self, file):
        self.file, self.name = file, None

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: (Path(self.file).name not in item.nodeid,
                                     item.get_closest_marker("slow") is not None))  # stable

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.name = self.name or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


def tried(mutation):
    """Run the tests of a copy that has this mistake -> with "caught_by": a test's name, or None.

    For a process of its own, forked from one that has imported torch: the copy's modules take the
    place of ours.
    """
    file, start = mutation["file"], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "runs", "__pycache__"))
        path = tree / f"{file}.py"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(mutation["before"], mutation["after"]), encoding="utf-8")
        ours = (ROOT, ROOT / "experiments", ROOT / "tests")
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").parent in ours:
                del sys.modules[name]
        sys.path[:] = [place for place in sys.path if Path(place) not in ours]
        os.chdir(tree)
        first, failure = first_tests(file), FirstFailure(file)
        rest = [f"tests/{p.name}" for p in sorted((tree / "tests").glob("test_*.py"))
                if f"tests/{p.name}" not in first]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            for files in (first, rest):
                code = pytest.main(["-n", "0", "-x", "-q", "--no-header", *NOT_ASKED, *files],
                                   [failure])
                if code:
                    failure.name = failure.name or f"pytest ended with {code!r}"
                    break
        os.chdir("/")
    return {**mutation, "caught_by": failure.name, "seconds": round(time.monotonic() - start)}


def main():
    parser = command_line(__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="mutations whose file or words have this text")
    parser.add_argument("--json", default="runs/mutations.json")
    parser.add_argument("--list", action="store_true", help="list them, and stop")
    args = parser.parse_args()
    path = Path(args.json)
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [row for row in rows if row["caught_by"]]  # what survived is tried again
    known = [(row["file"], row["before"], row["after"]) for row in rows]
    todo = [m for m in all_mutations() if args.only in f"{m['file']}: {m['what']}"
            and (m["file"], m["before"], m["after"]) not in known]
    if args.list:
        print(*(f"{m['file']:16} {m['what']}" for m in todo), sep="\n")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start; they themselves have one thread
    with multiprocessing.get_context("fork").Pool(args.jobs, maxtasksperchild=1) as pool:
        for row in pool.imap(tried, todo, chunksize=1):
            rows.append(row)
            utils.write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
            print(f"{row['file']:16} {row['what']:48} {row['caught_by'] or 'SURVIVED'}", flush=True)
    survivors = [row for row in rows if not row["caught_by"]]
    print(f"{len(rows)} mutations, {len(survivors)} survived")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
