"""Does gan.py work every time? Its default run with five seeds, whole.

    python tests/seeds_gan.py [--seeds 0 1 2 3 4] [--data-dir data]

Writes runs/seeds_gan/seeds.json: test scores of each (5,000 draws), in the order of the seeds. Runs that are finished are not run again; several
processes may share the work. A script to run, not a test; the file is committed as samples/gan/seeds.json, and tests/test_gan.py
asks of it what README and chapter claim.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import gan  # noqa: E402

KEPT = ("seed", "test_frechet", "test_precision", "test_recall", "test_shares", "test_frechet_binary", "best_step", "steps", "train_seconds", "threads", "command")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    folder = Path("runs/seeds_gan")
    gan.draw_pictures = lambda *args: None  # the figures only
    for seed in args.seeds:
        if not (folder / str(seed) / "metrics.json").exists():
            gan.main(["--seed", str(seed), "--out", str(folder / str(seed)), "--data-dir", args.data_dir])
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))]
    (folder / "seeds.json").write_text(json.dumps([{key: row[key] for key in KEPT} for row in rows], indent=1) + "\n")
    for row in rows:
        print(f"seed {row['seed']}: Fréchet {row['test_frechet']:.2f}, precision {row['test_precision']:.3f}, recall {row['test_recall']:.3f}, "
              f"shares {100 * min(row['test_shares']):.1f} to {100 * max(row['test_shares']):.1f} %")


if __name__ == "__main__":
    main()
