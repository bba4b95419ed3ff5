"""samples/comparison.md: each figure of its prose is that of the run that its sentence names.

A figure is a number with a decimal point. LECTURE has all of them, each in its sentence's own words
and computed from the files of that run; and numbers in words where they can be counted. QUOTED has
those of others, which are what the chapters say is published."""
import math
import re
import statistics

from conftest import CHAPTERS, ROOT
from test_notes import (
    BLIND,
    FLOOR,
    GAPS,
    OPEN,
    RUNS,
    error,
    figures,
    gap,
    minutes,
    passes,
    results,
    scores,
)

PAGE = (ROOT / "samples" / "comparison.md").read_text(encoding="utf-8")
PROSE = " ".join(re.sub(
    r"<!-- made by compare.py: .*?<!-- end -->", "", PAGE, flags=re.S).split())
BITS = FLOOR["binarized"]

# ------------------------------------------------------------------------------- what is looked up

WORDS = dict(enumerate("no one two three four five six seven eight nine ten eleven twelve thirteen "
                       "fourteen fifteen".split()))
WORDS.update({17: "seventeen", 18: "eighteen", 20: "twenty", 23: "twenty-three", 26: "twenty-six",
              28: "twenty-eight", 30: "thirty", 31: "thirty-one",
              38: "thirty-eight", 53: "fifty-three", 75: "seventy-five", 77: "seventy-seven"})


def nats(run):
    return RUNS[run]["test_nats"]


def frechet(run, pixels="binarized"):
    return scores(run, pixels)["frechet"]


def precision(run):
    return scores(run)["precision"]


def recall(run):
    return scores(run)["recall"]


def seconds(run):
    return RUNS[run]["sample_seconds_64"]


def weights(run):
    return RUNS[run]["parameters"]


def each(value, *runs):
    return [value(run) for run in runs]


def ends(values):
    return min(values), max(values)


def given(claim, value):
    """A value that is told with a claim: without that, one that no sentence has."""
    return value if claim else "?" if isinstance(value, str) else math.nan


def both(*values):
    """The figure of several runs, if they have the same."""
    return given(len({f"{value:.2f}" for value in values}) == 1, values[0])


def seen(run, *until):
    """The best validation nats up to a minute, or of all of the run."""
    return min(row["val_nats"] for row in RUNS[run]["curve"]
               if row["seconds"] <= 60 * min(until, default=math.inf))


def at(run, step):
    """Validation nats at the evaluation that is nearest to a step."""
    return min(RUNS[run]["curve"], key=lambda row: abs(row["step"] - step))["val_nats"]


def agreed(run):
    """How often the judge reads the digit that was asked for, in percent."""
    return 100 * scores(run, "label_agreement")


def marginal(run):
    return RUNS[run]["marginal_nats"]


ENCODER = results("results/encoder.json")["val"]


def word(value):
    return WORDS.get(round(value), "?")


def spoken(run):
    """A run's minutes in words, which may be 8 % off."""
    n = min(WORDS, key=lambda n: abs(minutes(run) - n))
    return given(abs(minutes(run) - n) <= 0.08 * n, WORDS[n])


def in_order(runs, key):
    return sorted(runs, key=key) == list(runs)


def nearest(runs, n):
    """Those with the smallest distances."""
    return sorted(runs, key=frechet)[:n]


def span_of_seeds(name):
    """Of three seeds in a table of robustness: how far apart are their nats?"""
    least, most = ends([row["score"] for row in results(f"results/robustness/{name}.json")
                        if row["change"] in ("default", "seed 1", "seed 2")])
    return most - least


PLAIN = [run for run in RUNS if not RUNS[run]["conditional"]]
TOLD = {run: run[:-len("_conditional")] for run in RUNS if RUNS[run]["conditional"]}
EXACT = [run for run in PLAIN if RUNS[run]["likelihood"] == "exact"]
ONE_ORDER = [run for run in EXACT if RUNS[run]["model"] != "flow"
             and RUNS[run]["settings"].get("order") != "agnostic"]
GROUPS = [runs.split() for runs in (  # as the sentence has them
    "transformer_ar_long pixelcnn_long", "transformer_ar pixelcnn wavenet_long",
    "wavenet made_rnn pixelcnn_rnn", "pixelcnn_original")]
WITH_NATS = [run for run in TOLD if "marginal_nats" in RUNS[run]]
USUAL = [run for run in RUNS if not run.endswith("_long")]
BEST = ["diffusion", "diffusion_long", "gan", "gan_long", "transformer_ar_long"]
NEAR_GANS = ["diffusion", "diffusion_long", "transformer_ar_long", "ebm_long"]
OBEYING = [f"{name}_conditional" for name in (
    "gan", "diffusion", "ebm", "transformer_ar", "vae", "pixelcnn", "wavenet", "flow", "tarflow",
    "made")]
SEEDS = results("results/seeds/ebm_conv.json")
LOW, HIGH = ends([row["test_frechet_binary"] for row in SEEDS])

LECTURE = [
    ("({} grey pixels of 10,000 have another level then)",
     word(10_000 * (1 - RUNS["flow"]["round_trip_levels"]))),
    # Likelihood and quality
    ("(times {:.2f}, in bits)", 1 / math.log(2)),
    ("And of the {} exact models that draw pixel by pixel, or word by word, in one order, {} fall "
     "into {} groups that either figure ranks alike: the long runs of transformer and Gated "
     "PixelCNN ({:.2f} and {:.2f} nats, distances of {:.2f} and {:.2f}); transformer, Gated "
     "PixelCNN and the long WaveNet ({:.2f} to {:.2f}, {:.2f} to {:.2f}); WaveNet, LSTM and Row "
     "LSTM ({:.2f} to {:.2f}, {:.2f} to {:.2f}); and the original PixelCNN ({:.2f}, {:.2f}).",
     word(len(ONE_ORDER)), word(len(sum(GROUPS, []))), given(all(
         max(each(value, *better)) < min(each(value, *worse)) - least
         for better, worse in zip(GROUPS, GROUPS[1:]) for value, least in ((nats, 0.7),
                                                                           (frechet, 0.25))),
         word(len(GROUPS))),
     *(end for group in GROUPS[:3] for value in (nats, frechet)
       for end in ends(each(value, *group))), *(each(value, *GROUPS[3])[0] for value in (
           nats, frechet))),
    ("seeds move the nats of short runs by up to {:.1f}", max(map(span_of_seeds, (
        "wavenet", "made_rnn", "transformer_ar", "pixelcnn", "pixelcnn_rnn",
        "pixelcnn_original")))),
    ("with 5,000 draws in place of 200 they are {:.1f} lower already (on validation images",
     *(a[0] - b[0] for a, b in [[ENCODER["bound_200"], ENCODER["bound_5000"]]])),
    ("The Row LSTM predicts real digits better ({:.2f} nats against {:.2f})",
     *each(nats, "pixelcnn_rnn", "made")),
    ("its Fréchet distance is {:.2f}, MADE's {:.2f}. MADE's long run stands {} nats behind WaveNet "
     "({:.2f} and {:.2f}), and draws as near as it ({:.2f} and {:.2f})",
     *each(frechet, "pixelcnn_rnn", "made"), word(round(nats("made_long") - nats("wavenet"))),
     *each(nats, "made_long", "wavenet"), *each(frechet, "made_long", "wavenet")),
    ("The RBM, too: {} nats behind WaveNet (by an estimate), and its draws are no farther ({:.2f})",
     word(round(nats("ebm_rbm") - nats("wavenet"))),
     given(frechet("ebm_rbm") < frechet("wavenet"), frechet("ebm_rbm"))),
    ("{} seeds of the smoothed energy move its distance (binarized) by {} of the smallest: {:.2f} "
     "is further than that from {:.2f}, and {:.2f} is not from {:.2f}",
     word(len(SEEDS)).capitalize(), given(
         1.45 < HIGH / LOW < 1.55 and frechet("pixelcnn_rnn") > 1.5 * frechet("made")
         and frechet("wavenet") < 1.5 * frechet("made_long"), "half"),
     *each(frechet, "pixelcnn_rnn", "made", "wavenet", "made_long")),
    ("diffusion {:.2f} after {} minutes and {:.2f} after {}, the GAN {:.2f} after {} and {:.2f} "
     "after {}, where the best exact model, after {}, has {:.2f}. Among these {} we", *(
         value(run) for run in BEST[:-1] for value in (frechet, spoken)),
     spoken(BEST[-1]), given(nearest(EXACT, 1) == BEST[-1:], frechet(BEST[-1])),
     given(set(nearest(PLAIN, len(BEST))) == set(BEST), word(len(BEST)))),
    ("come nearest: transformer and energy on a base {:.2f}, the GAN {:.2f}, where 5,000 training "
     "digits, which are real, have {:.2f} (the mean of {} random heaps",
     both(*each(frechet, "transformer_ar_conditional", "ebm_conditional")),
     given(nearest(RUNS, 3)[-1] == "gan_conditional", frechet("gan_conditional")),
     BITS["frechet"], word(results("samples/comparison_floors.json")["heaps"])),
    ("its recall is {:.2f}, where training digits have {:.2f}, and the judge reads the digit that "
     "was asked for in {:.1f} %, of real digits in {:.1f} %", recall("gan_conditional"),
     BITS["recall"], agreed("gan_conditional"), 100 * FLOOR["label_agreement"]),
    ("at most log 100 = {:.1f} worse", math.log(100)),
    ("MADE is further than that, {:.1f} nats, from the Gated PixelCNN",
     given(nats("made") - nats("pixelcnn") > math.log(100), nats("made") - nats("pixelcnn"))),
    ("the RBM has the GAN's {:.2f} and {:.2f}, and a distance of {:.2f} where the GAN has {:.2f}; "
     "the long transformer has a precision of {:.2f}, a recall of {:.2f}, and about the GAN's "
     "distance ({:.2f})", both(*each(precision, "gan", "ebm_rbm")),
     both(*each(recall, "gan", "ebm_rbm")), *each(frechet, "ebm_rbm", "gan"),
     *(value("transformer_ar_long") for value in (precision, recall, frechet))),
    ("The {} exact models of one order have a recall of {:.2f} to {:.2f}", word(len(ONE_ORDER)),
     *ends(each(recall, *ONE_ORDER))),
    ("they pay in precision, {:.2f} to {:.2f},", *ends(each(precision, *ONE_ORDER))),
    # Autoregressive models; passes
    ("and pays: {:.2f} nats in an order that begins with the left half ({:.2f} in a random one, "
     "{:.2f} as a mixture of eight random ones), where reading order has {:.2f}",
     RUNS["made_agnostic_8masks"]["left_half_first_nats"],
     statistics.mean(RUNS["made_agnostic_8masks"]["mask_nats"]),
     *each(nats, "made_agnostic_8masks", "made")),
    ("from one z | {:.3f} s, {:.3f} s |", *each(seconds, "vae", "gan")),
    ("MADE {:.3f} s, transformer {:.3f} s, flow {:.3f} s",
     *each(seconds, "made", "transformer_ar", "flow")),
    ("fewer hidden pixels | {:.3f} s, {:.3f} s |",
     *each(seconds, "diffusion", "diffusion_masked")),
    ("how long that is | {:.3f} s, {:.3f} s |", *each(seconds, "ebm_rbm", "ebm_conv")),
    ("{:.2f} is the mean of −log p over all orders", nats("diffusion_masked")),
    ("with masks on its weights: {:.2f} as such a mean.)",
     statistics.mean(RUNS["made_agnostic_8masks"]["mask_nats"])),
    ("Only the VAEs draw sooner than the GANs, and much worse: {:.2f} and {:.2f} against {:.2f} "
     "and {:.2f}", *each(frechet, "vae", "vae_long", "gan", "gan_long")),
    ("(diffusion, the larger transformer, the larger energy on a base), takes {:.3f} to {:.3f} s, "
     "and they {:.3f} and {:.3f} s", *ends(each(seconds, *NEAR_GANS)),
     *each(seconds, "gan", "gan_long")),
    # Four ways to one chain rule
    ("After five minutes the larger transformer is at {:.2f}, and the usual one at {:.2f}",
     seen("transformer_ar_long", 5), seen("transformer_ar", 5)),
    ("The gated PixelCNN has {:,} weights and {:.2f} nats, MADE {:,} and {:.2f}",
     weights("pixelcnn"), nats("pixelcnn"), weights("made"), nats("made")),
    ("and is no better than MADE ({:.2f})",
     given(nats("pixelcnn_original") > nats("made"), nats("pixelcnn_original"))),
    ("it sees {} times as many images a second", word(
        passes("made") / minutes("made") / passes("pixelcnn") * minutes("pixelcnn"))),
    ("after {} minutes, it stands at {:.2f}; the gated PixelCNN has passed that within two "
     "({:.2f})", spoken("made"), seen("made"), seen("pixelcnn", 2)),
    ("after one minute ({:.2f}) it is where the original ends after {:.1f} ({:.2f})",
     seen("pixelcnn", 1), minutes("pixelcnn_original"), seen("pixelcnn_original")),
    ("The blind spot alone cost {:.1f} nats in short runs (of an earlier version, by Adam), where "
     "the whole runs are {} apart",
     statistics.mean(BLIND) - statistics.mean(OPEN),
     word(nats("pixelcnn_original") - nats("pixelcnn"))),
    ("**The transformer ends where the gated PixelCNN does**, at {:.2f} nats and {:.2f}, sooner: "
     "after {} minutes instead of {}, with {} of its steps, each of as many images, and {} times "
     "the weights", *each(nats, "transformer_ar", "pixelcnn"),
     *each(spoken, "transformer_ar", "pixelcnn"),
     given(5 * passes("transformer_ar") == 4 * passes("pixelcnn"), "four fifths"),
     word(weights("transformer_ar") / weights("pixelcnn"))),
    ("is behind ({:.2f} after as many steps, the PixelCNN {:.2f};",
     *(at(run, 7500 // 5) for run in ("transformer_ar", "pixelcnn"))),
    ("goes on to {:.2f} in {} minutes, a wider PixelCNN to {:.2f} in {} (on one thread)",
     *(value(run) for run in ("transformer_ar_long", "pixelcnn_long") for value in (nats, spoken))),
    ("the former is of {} times as many weights", word(3.36e6 / weights("pixelcnn"))),
    # A VAE
    ("Grey means have a Fréchet distance of {:.2f} to grey digits, binarized draws one of {:.2f} "
     "to", frechet("vae", "grey"), frechet("vae")),
    ("neither is near real digits ({:.2f} and {:.2f})",
     *(FLOOR[pixels]["frechet"] for pixels in ("grey", "binarized"))),
    ("Its nats are a bound, ≤ {:.2f},", nats("vae")),
    ("(recall {:.2f}), at the price of ≤ {:.2f} nats", recall("vae_z2"), nats("vae_z2")),
    # A flow
    ("exact likelihood: {:.2f} nats of bits after {:.1f} minutes, about as many as the LSTM's",
     given(abs(nats("flow_2levels") - nats("made_rnn")) < 0.3, nats("flow_2levels")),
     minutes("flow_2levels")),
    ("and {:.3f} bits/dim of grey levels", RUNS["flow"]["grey_bits_per_dim"]),
    ("our Gated PixelCNN has {:.3f}, after {:.1f} minutes (and its draws are worse: a distance of "
     "{:.2f} where the flow has {:.2f})", RUNS["pixelcnn_256levels"]["grey_bits_per_dim"],
     minutes("pixelcnn_256levels"), frechet("pixelcnn_256levels"), frechet("flow")),
    ("Its draws, {:.2f}, are not as near as the gated PixelCNN's ({:.2f}), and far from "
     "diffusion's after as many minutes ({:.2f}); told the digit it has {:.2f}",
     *each(frechet, "flow", "pixelcnn", "diffusion", "flow_conditional")),
    ("the flow of bits has no shades, and {:.2f}", frechet("flow_2levels")),
    ("After {:.1f} minutes it has a bound of {:.3f} bits/dim, above what the flow of splines has "
     "exactly, and its draws, at {:.2f}, are farther; with a {} of its weights", minutes("tarflow"),
     given(RUNS["tarflow"]["grey_bits_per_dim"] > RUNS["flow"]["grey_bits_per_dim"],
           RUNS["tarflow"]["grey_bits_per_dim"]),
     given(frechet("tarflow") > frechet("flow"), frechet("tarflow")),
     given(6.5 < weights("flow") / weights("tarflow") < 7.5, "seventh")),
    ("Told the digit, draws are at {:.2f}. Drawing 64 takes {:.3f} s",
     frechet("tarflow_conditional"), seconds("tarflow")),
    ("where our GAN has {} and our VAE {}",
     *(RUNS[run]["settings"]["z_size"] for run in ("gan", "vae"))),
    # A GAN
    ("has a distance of {:.2f} binarized and {:.2f} grey, the default {:.2f} and {:.2f}.",
     *(frechet(run, pixels) for run in ("gan_long", "gan") for pixels in ("binarized", "grey"))),
    ("One network, one pass, all pixels: {:.3f} s", seconds("gan")),
    ("Recall is {:.2f} binarized, where exact models of one order have {:.2f} to {:.2f} and real "
     "training digits {:.2f}; told the digit, precision rises to {:.2f} and recall falls to "
     "{:.2f}", both(*each(recall, "gan", "gan_long")), *ends(each(recall, *ONE_ORDER)),
     BITS["recall"], precision("gan_conditional"), recall("gan_conditional")),
    ("in any of {} seeds, nor", word(len(results("results/seeds/gan.json")))),
    ("The Wasserstein variant, after {:.1f} minutes, is at {:.2f}",
     minutes("gan_wgan-gp"), frechet("gan_wgan-gp")),
    # Diffusion
    ("After {:.1f} minutes its draws have a distance of {:.2f} (binarized; precision {:.2f}, "
     "recall {:.2f}), after {} of {:.2f}", minutes("diffusion"), frechet("diffusion"),
     precision("diffusion"), recall("diffusion"), spoken("diffusion_long"),
     frechet("diffusion_long")),
    ("50 passes, {:.2f} s for 64 digits, where the GAN takes {:.3f} s",
     *each(seconds, "diffusion", "gan")),
    ("with guidance, it has {:.2f} (precision {:.2f}, recall {:.2f})",
     *(value("diffusion_conditional") for value in (frechet, precision, recall))),
    # Energies
    ("from both sides: {:.2f} nats, between {:.2f} and {:.2f}", nats("ebm_rbm"),
     *RUNS["ebm_rbm"]["nats_interval"]),
    ("It gains about {} nat", given(
        word(RUNS["ebm"]["base_nats"] - nats("ebm")) == "one", "a")),
    ("noise: {:.2f} (binarized) and {:.2f} (grey), in {:.1f} minutes; in each of {} seeds every "
     "digit is {:.0f} to {:.0f} %", frechet("ebm_conv"), frechet("ebm_conv", "grey"),
     minutes("ebm_conv"), word(len(SEEDS)), *ends([
         100 * share for row in SEEDS for share in row["test_shares"]])),
    # A label
    ("A label holds at most log 10 = {:.1f} nats", math.log(10)),
    ("{} of {} in one direction hardly;", word(sum(
        marginal(run) < nats(TOLD[run]) for run in WITH_NATS)), word(len(WITH_NATS))),
    ("It is right for {:.1f} to {:.1f} % of the test digits",
     *ends([100 * RUNS[run]["bayes_accuracy"] for run in WITH_NATS])),
    ("is right in {:.1f} % of binarized digits", 100 * FLOOR["label_agreement"]),
    ("for 95 %, and {} of {} stay below: {}", word(sum(agreed(run) < 95 for run in TOLD)),
     word(len(TOLD)), given([run for run in OBEYING if agreed(run) < 95] == OBEYING[-4:],
                            "WaveNet, flow, TarFlow and MADE")),
    # Beside published figures
    ("all but the long runs take {} to {} minutes", *map(word, ends(each(minutes, *USUAL)))),
    ("{} pass over the training set to {} and a half (convolutions, recurrences, transformer), {} "
     "and a half (flow), {} (TarFlow), {} (GAN, smoothed energy), {} (energy on a base), {} "
     "(diffusion), {} (MADE; {} in all orders), {} (VAE), {:.0f} (RBM)", *(
         word(least_or_most - half) for half, least_or_most in zip((0, 0.5), ends(each(passes, *(
             run for run in USUAL if RUNS[run]["model"] in ("wavenet", "pixelcnn", "transformer_ar")
             or run == "made_rnn"))))), *(word(both(*each(passes, *runs.split()))) for runs in (
             "flow flow_2levels", "tarflow", "gan ebm_conv", "ebm", "diffusion", "made",
             "made_agnostic_8masks", "vae")), passes("ebm_rbm")),
    ("The transformer, larger, goes from {:.2f} nats in {:.1f} minutes to {:.2f} in {:.1f}", *(
        value(run) for run in ("transformer_ar", "transformer_ar_long")
        for value in (nats, minutes))),
    ("validation images cost {:.1f} nats more, after the short run {:.1f} (10,000 of each; either "
     "difference ± {:.1f})", *(
         GAPS[run]["val"][0] - GAPS[run]["train"][0] for run in ("transformer_ar_long",
                                                                "transformer_ar")),
     error(10_000)),
    ("The Gated PixelCNN, half as wide again, goes from {:.2f} to {:.2f} in {:.1f} minutes on one "
     "thread, WaveNet likewise from {:.2f} to {:.2f} in {:.1f}", *(
         value for run in ("pixelcnn", "wavenet") for value in (
             nats(run), nats(f"{run}_long"), minutes(f"{run}_long")))),
    ("MADE goes from {:.2f} to {:.2f} in {:.1f} minutes,", *each(nats, "made", "made_long"),
     minutes("made_long")),
    ("its training images are {:.1f} nats ahead of validation images by then", gap("made_long")),
    ("The VAE goes from ≤ {:.2f} in {:.1f} minutes to ≤ {:.2f} in {:.1f} (on a faster machine), "
     "and its gap {} as well",
     *(value(run) for run in ("vae", "vae_long") for value in (nats, minutes)),
     given(gap("vae_long") > gap("vae"), "grows")),
    ("The GAN's distance (grey) falls from {:.2f} to {:.2f}",
     *(frechet(run, "grey") for run in ("gan", "gan_long"))),
    ("diffusion's falls from {:.2f} to {:.2f}",
     *(frechet(run, "grey") for run in ("diffusion", "diffusion_long"))),
    ("twice as wide, goes from {:.2f} to {:.2f} in {:.1f} minutes", *each(nats, "ebm", "ebm_long"),
     minutes("ebm_long")),
    ("is told in {} chapters (*Given an afternoon*)", word(
        len(list(ROOT.glob("results/afternoon/*.json"))))),
]

QUOTED = [  # words, and the chapters that have their figures
    ("81.45 and 79.17 are published figures (PixelCNN and ImageGPT", "pixelcnn transformer_ar"),
    ("others have published 81.50 and 81.45", "pixelcnn"),
    ("Published, after up to hundreds of epochs: 79.17, and 78.61 with convolutions between the "
     "attention, against 81.50", "transformer_ar pixelcnn"),
    ("bounds of 1.06 (RealNVP), 1.05 (Glow) and 0.97 (Residual Flow)", "flow"),
    ("Glow, at 1.05, draws no pixel alone", "flow"),
    ("published figures of energies, 79.6 to 80.5,", "ebm"),
    ("where 79.17 and 78.61 are published", "transformer_ar"),
    ("below the 84.87 published for a larger one in a random order", "made"),
]


# --------------------------------------------------------------------------------------- compared


def compared(claims, text=PROSE):
    """(claims that the text does not have, each once and with no word of another's; figures of the
    text that no claim has)."""
    unsaid = []
    for words in claims:
        if text.count(words) != 1:
            unsaid.append(words)
        text = text.replace(words, "|")
    return unsaid, figures(text)


def changed(form, values):
    """The same with one value off by two in its last place, or with another word; of each."""
    specs = re.findall(r"\{(.*?)\}", form)
    for i, (spec, value) in enumerate(zip(specs, values)):
        places = int((re.findall(r"\.(\d)f", spec) or [0])[0])
        other = f"not {value}" if isinstance(value, str) else value + 2 * 10 ** -places
        yield form.format(*values[:i], other, *values[i + 1:])


# ------------------------------------------------------------------------------------------- tests


CLAIMS = [form.format(*values) for form, *values in LECTURE] + [words for words, _ in QUOTED]


def test_a_sentence_has_the_figures_of_the_run_that_it_names():
    assert compared(CLAIMS)[0] == []
    for form, *values in LECTURE:
        assert figures(form) == [], form  # all are computed
        assert form.count("{") == len(values), form
        for words in changed(form, values):
            assert words not in PROSE, words  # control


def test_no_figure_of_the_lecture_is_unclaimed():
    assert len(figures(PROSE)) > 100 and compared(CLAIMS)[1] == []
    assert compared(CLAIMS, f"{PROSE} It has 12.34 nats.")[1] == ["12.34"]  # controls
    for words in CLAIMS:
        assert compared([other for other in CLAIMS if other != words])[1] == figures(words)


def test_quoted_figures_are_those_that_chapters_have():
    for words, chapters in QUOTED:
        published = " ".join(" ".join(part) for name in chapters.split()
                             for part in CHAPTERS[name].ABOUT["published"].values())
        assert figures(words) and set(figures(words)) <= set(figures(published)), words
