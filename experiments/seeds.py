"""Does it work every time? A chapter's default run, or one with flags, with five seeds, whole.

    python experiments/seeds.py CHAPTER [flags of it] [--seeds 0 1 2 3 4] [--data-dir data]
    python experiments/seeds.py ebm --variant conv

Writes runs/seeds/<name of the run>.json: test scores of each (5,000 draws), in the order of the
seeds. Runs that are finished are not run again; several processes may share the work. A script to
run, not a test; its files are committed as results/seeds/, and tests/test_experiments.py asks of
them what README and chapters claim.
"""
import json
from pathlib import Path

from fit import command_line, mnist, values

import settings
import utils

KEPT = ("seed", "test_frechet", "test_precision", "test_recall", "test_shares",
        "test_frechet_binary", "best_step", "steps", "train_seconds", "threads", "command")


def main():
    parser = command_line(__doc__, allow_abbrev=False)
    parser.add_argument("chapter", choices=settings.chapters())
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--data-dir", default="data")
    args, flags = parser.parse_known_args()
    chapter = settings.chapters()[args.chapter]
    wanted = vars(values(chapter, flags))
    folder = Path("runs/seeds") / settings.run_name(
        args.chapter, chapter.SETTINGS, chapter.VARIANTS, wanted)
    mnist(parser, args.data_dir)

    def finished():
        """metrics.json of the runs of these settings; another seed is no other setting."""
        rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))]
        alike = {**wanted, "seed": 0}.items()  # older files have a few settings less
        return [row for row in rows if {**row["settings"], "seed": 0}.items() <= alike]

    for seed in args.seeds:
        if seed not in [row["seed"] for row in finished()]:
            chapter.main([*flags, "--seed", str(seed), "--out", str(folder / str(seed)),
                          "--data-dir", args.data_dir])
        if not set(KEPT) <= set(finished()[0]):
            utils.fail(f"{folder}: runs with nats of bits have no scores of grey draws, and these "
                       "are what seeds.py compares.")
    rows = finished()
    text = json.dumps([{key: row[key] for key in KEPT} for row in rows], indent=1) + "\n"
    utils.write_atomically(folder.with_suffix(".json"), text.encode())
    for row in rows:
        shares = row["test_shares"]
        print(f"seed {row['seed']}: Fréchet {row['test_frechet']:.2f}, "
              f"precision {row['test_precision']:.3f}, recall {row['test_recall']:.3f}, "
              f"shares {100 * min(shares):.1f} to {100 * max(shares):.1f} %")


if __name__ == "__main__":
    main()
