"""The command line: what is typed, what holds, what is refused. With the toy chapter (toy.py)."""
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy
from conftest import values

import settings
from settings import Setting


def holds(flags=""):
    return values(toy, flags)


def test_what_holds_is_the_default_the_variants_then_what_was_typed():
    plain, fancy, typed = holds(), holds("--variant fancy"), holds("--variant fancy --steps 7")
    assert (plain.steps, plain.width, plain.lr) == (120, 3, 0.05)
    assert (plain.seed, plain.conditional) == (0, False)
    assert (fancy.steps, fancy.width, fancy.lr) == (80, 4, 0.05)
    assert (typed.steps, typed.width) == (7, 4)
    assert holds("--steps 120 --variant fancy").steps == 120  # typed, though it is the usual one


def test_a_checkpoint_goes_before_defaults_and_behind_what_was_typed():
    then = vars(holds("--variant fancy --width 9 --lr 0.5"))
    resolved = settings.resolve(toy.SETTINGS, toy.VARIANTS, {"seed": 3}, then)
    assert (resolved["variant"], resolved["width"]) == ("fancy", 9)
    assert (resolved["lr"], resolved["steps"]) == (0.5, 80)
    assert resolved["seed"] == 3
    del then["beta"]  # made before there was such a setting
    assert settings.resolve(toy.SETTINGS, toy.VARIANTS, {}, then)["beta"] == 1.0


@pytest.mark.parametrize("flags, name", [
    ("", "toy"), ("--conditional", "toy_conditional"), ("--variant fancy", "toy_fancy"),
    ("--width 5", "toy_width5"), ("--variant fancy --width 4", "toy_fancy"),
    ("--variant fancy --width 3 --conditional", "toy_fancy_width3_conditional"),
    ("--beta 0.5 --steps 2", "toy_beta0.5"), ("--beta 1e-7", "toy_beta1e-07"),
])
def test_the_name_of_a_run_says_what_is_unusual(flags, name):
    chosen = vars(holds(flags))
    assert settings.run_name("toy", toy.SETTINGS, toy.VARIANTS, chosen) == name


BAD = [
    ("--steps 0", "--steps"), ("--steps 1.5", "--steps"), ("--steps", "--steps"),
    ("--steps " + "1" * 400, "--steps"), ("--batch-size 0", "--batch-size"), ("--lr 0", "--lr"),
    ("--lr -1", "--lr"), ("--lr nan", "--lr"), ("--lr inf", "--lr"), ("--lr x", "--lr"),
    ("--seed -1", "--seed"), ("--seed 4294967296", "--seed"), ("--num-samples 0", "--num-samples"),
    ("--label 10", "--label"), ("--label 3", "--sample-only"), ("--device cuda:99", "--device"),
    ("--device toaster", "toaster"), ("--device cpu:", "cpu:"), ("--device cpu:x", "cpu:x"),
    ("--colour", "--colour"), ("--step 3", "--step"), ("--width 0", "--width"),
    ("--width 51", "at most 50"), ("--width wide", "--width"), ("--beta -1", "--beta"),
    ("--variant odd", "--variant"), ("--frills 3", "--variant fancy"),
    ("--temperature 0 --sample-only", "--temperature"), ("--temperature 2", "--sample-only"),
    ("--resume --sample-only", "one of them"), ("--resume", "--resume"),
    ("--sample-only --out new", "--sample-only"), ("--sample-only --out " + "n" * 300, "found no"),
    ("--out " + "n" * 300, "cannot be written"), ("--out file", "cannot be written"),
    ("--out file/a", "cannot be written"), ("--out full", "not from a run"),
    ("--data-dir file", "is a file"), ("--batch-size 4001", "4000"), ("--width 13", "bad luck"),
]


@pytest.mark.parametrize("flags, word", BAD, ids=[flags[:40] for flags, _ in BAD])
def test_a_mistake_is_answered_by_one_sentence(fails, tmp_path, flags, word):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    fails(lambda: toy.main(flags.split()), word)
    assert (tmp_path / "file").read_text() == "precious"
    assert [p.read_text() for p in (tmp_path / "full").iterdir()] == ["precious"]


def test_a_line_without_a_mistake_is_none(tmp_path):
    """Control of the test above: beside the same file and the same folder."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    toy.main(["--steps", "2", "--out", "fine"])
    assert Path("fine/metrics.json").exists()


@pytest.mark.parametrize("text, code", [
    ("toy.py: an error: bad luck", 2), ("error: bad luck", 2), ("Some error: bad luck", 2),
    ("toy.py: error: bad luck\nand more", 2), ("toy.py: error: bad luck", 1), ("", 2),
    ("toy.py: error: first\ntoy.py: error: bad luck", 2),
    ("Traceback (most recent call last):\ntoy.py: error: bad luck", 2)])
def test_what_is_not_one_sentence_is_noticed(fails, text, code):
    """Controls of `fails`, in conftest.py, by which all tests of mistakes judge."""
    def ends(text, code):
        print(text, file=sys.stderr)
        raise SystemExit(code)

    with pytest.raises(AssertionError):
        fails(lambda: ends(text, code), "bad luck")
    fails(lambda: ends("training: 3 of 4\rtoy.py: error: bad luck", 2), "bad luck")


def test_numbers_that_are_allowed():
    assert Setting(3, "").read("1") == 1 and Setting(0.5, "").read("1e-9") == 1e-9
    assert Setting(0.5, "", least=0).read("0") == 0 and Setting(3, "", least=0).read("0") == 0
    for setting, text in ((Setting(0.5, ""), "0"), (Setting(3, ""), "0"), (Setting(3, "", 2), "1"),
                          (Setting(0.5, "", most=1), "1.1"), (Setting(0.5, ""), "one")):
        with pytest.raises(settings.argparse.ArgumentTypeError):
            setting.read(text)


def test_devices(monkeypatch):
    assert settings.pick_device("cpu") == torch.device("cpu")
    device = settings.pick_device("auto").type
    assert device == ("cuda" if torch.cuda.is_available() else
                      "mps" if torch.backends.mps.is_available() else "cpu")


def test_chapters_are_found_and_not_listed(monkeypatch, fails):
    """That one which is copied to a new name is found, too, and in its order, is tried in a copy of
    the scripts: test_a_copied_chapter_is_taken_up_by_all_that_measures, test_experiments.py."""
    chapters = settings.chapters()
    assert {"made", "vae", "gan"} <= set(chapters) and not {"toy", "utils"} & set(chapters)
    order = [chapter.ABOUT["order"] for chapter in chapters.values()]
    assert order == sorted(order)
    for key in ("order", "title", "published", "abilities", "variants", "small"):
        with monkeypatch.context() as without:
            without.delitem(chapters["vae"].ABOUT, key)
            fails(settings.chapters, f'vae.py: ABOUT has no "{key}"')


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as stop:
        toy.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "length of training (default: 120; with --variant fancy: 80)" in text
    assert "with --variant fancy: of the fancy one (default: 2)" in text
    assert "with --sample-only: divides the logits" in text


def test_every_setting_can_be_typed():
    """A flag for each line of SETTINGS, whose value arrives."""
    for name, setting in toy.SETTINGS.items():
        if setting.choices:
            text = setting.choices[-1]
        else:
            text = str(type(setting.default)(setting.default * 2))
        flags = [settings.flag(name), text] + ["--variant", "fancy"] * bool(setting.only)
        flags += ["--sample-only"] * setting.drawing
        _, typed, _ = settings.parse("toy", "", toy.SETTINGS, toy.VARIANTS, flags)
        assert SimpleNamespace(**typed).__dict__[name] == type(setting.default)(text)


def test_the_line_is_kept_as_it_was_typed():
    args, _, command = settings.parse("toy", "", toy.SETTINGS, toy.VARIANTS,
                                      ["--out", "a b", "--lr", "1e-3"])
    assert command == "python toy.py --out 'a b' --lr 1e-3" and args.out == "a b"
    assert not Path("runs").exists()


def test_a_flag_may_be_for_several_variants_and_for_drawing_only(fails):
    table = {"variant": Setting("a", "which", choices=("a", "b", "c")),
             "clip": Setting(1.0, "length", only=("variant", "a", "b")),
             "paths": Setting(5, "paths", only=("variant", "a", "b"), drawing=True)}

    def hold(words, then=None):
        _, chosen, _ = settings.parse("toy", "", table, {}, words.split())
        return settings.resolve(table, {}, chosen, then)

    assert hold("--variant b --clip 2")["clip"] == 2
    fails(lambda: hold("--variant c --clip 2"), "--clip is for --variant a or b", "add that")
    # What a run of another variant would not hear when it draws is refused then, too.
    draw = "--sample-only --paths 7"
    assert hold(draw, {"variant": "b"})["paths"] == 7
    fails(lambda: hold(draw, {"variant": "c"}), "--paths is for --variant a or b", "leave --paths")
    # A checkpoint holds all settings: one that nobody typed is refused to nobody.
    assert hold("", {"variant": "c", "paths": 5, "clip": 1.0})["variant"] == "c"
    text = settings.make_parser("toy", "", table, {}).format_help()
    words = " ".join(text.split())
    assert "with --variant a or b: length" in words
    assert "with --sample-only and --variant a or b: paths" in words
