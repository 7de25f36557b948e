"""The tutorials' pictures: as their script draws them, whole in themselves, and shown where they belong."""

import json
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PICTURES = NOTEBOOKS / "pictures"
DRAWN = runpy.run_path(str(PICTURES / "draw.py"))["PICTURES"]
SVG = "{http://www.w3.org/2000/svg}"
LOADS = re.compile(
    r"href|src|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg\")|<(?:script|style|image|foreignObject)"
)


def test_each_file_is_drawn_and_nothing_else_lies_there() -> None:
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(DRAWN)
    assert {path.suffix for path in PICTURES.iterdir() if path.is_file()} == {".py", ".svg"}


@pytest.mark.parametrize("name", DRAWN)
def test_a_file_is_what_the_script_draws(name: str) -> None:
    """After a change: python notebooks/pictures/draw.py."""
    assert (PICTURES / f"{name}.svg").read_text(encoding="utf-8") == DRAWN[name]().svg()


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_told_is_legible_and_loads_nothing(name: str) -> None:
    written = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    root = ET.fromstring(written)
    assert root.tag == f"{SVG}svg"
    assert not LOADS.search(written)

    told = root.get("aria-labelledby", "").split()
    assert [root.find(f"{SVG}{tag}").get("id") for tag in ("title", "desc")] == told
    assert all(len(root.find(f"{SVG}{tag}").text) > 10 for tag in ("title", "desc"))

    assert all(float(text.get("font-size")) >= 12 for text in root.iter(f"{SVG}text"))
    ground = root.find(f"{SVG}rect")  # drawn first, over the whole picture: no page shows through
    assert (ground.get("width"), ground.get("fill")) == (f"{float(root.get('width')) - 1:g}", "#f8fafc")


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_tutorial_begins_with_its_picture(notebook: Path) -> None:
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    alt, shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", first)[-1]
    assert shown == f"pictures/{notebook.stem}.svg"
    assert (NOTEBOOKS / shown).exists()
    assert len(alt) > 40
    assert first.rstrip().endswith(f"({shown})")
