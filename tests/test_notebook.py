"""docs/notebook.md says what it says: its blocks, run in a real kernel."""
import re

import nbclient
import nbformat
import pytest
from conftest import ROOT

import pictures
import utils


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(tmp_path):
    images = utils.load_mnist().test / 255
    (tmp_path / "folder").mkdir()
    for name, i in (("mine", 0), ("other", 1), ("folder/a", 2), ("folder/b", 3)):
        pictures.save_image(tmp_path / f"{name}.png", images[i, 0])
    pictures.save_image(tmp_path / "folder" / "upside_down.png", images[2, 0].flip(0))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(
        encoding="utf-8"), re.S)
    assert len(blocks) == 7
    start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})"
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, [start, *blocks])])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = ["".join(out["text"] for out in cell.outputs if out.get("name") == "stdout")
            for cell in notebook.cells]
    nats, grey = map(float, re.findall(r"([\d.]+) nats of", said[3]))
    assert 30 < nats < 250 and 200 < grey < 1500
    assert float(re.search(r"([\d.]+)%", said[4])[1]) > 99
    for name in ("draws", "futures", "walk"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    ranked = said[7].split()
    assert set(ranked[1::2]) == {"a.png", "b.png", "upside_down.png"}
    assert list(map(float, ranked[::2])) == sorted(map(float, ranked[::2]))
    assert ranked[-1] == "upside_down.png"
