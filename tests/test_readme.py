"""README against the code: its commands exist, its configs load, its table is the one in the result files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import VERBS
from common.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_and_file_a_page_names_exists(page):
    text = page.read_text()
    for name in re.findall(r"(?:configs|benchmarks|docs|tests|perception|deploy|common)/[\w./]+\.(?:py|md)", text):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_verb_of_the_readme_is_a_verb_and_every_verb_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^tutelage ([a-z-]+)", text, re.MULTILINE))
    assert named <= set(VERBS)
    assert set(VERBS) <= named


def test_the_configs_that_the_readme_trains_load():
    text = (ROOT / "README.md").read_text()
    configs = set(re.findall(r"configs/[\w/]+\.py", text))
    assert len(configs) >= 4
    for name in configs:
        assert load_config(ROOT / name).model


def test_the_help_of_every_verb_prints():
    for verb in VERBS:
        done = subprocess.run(
            [sys.executable, "-m", "common.cli", verb, "--help"], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        assert done.returncode == 0, f"{verb}: {done.stderr}"
        assert f"tutelage {verb}" in done.stdout


def decimals(text: str) -> set[str]:
    """The numbers with a decimal point, as they are written."""
    return set(re.findall(r"(?<![\d.,])[\d,]*\.\d+(?![\d.])", text))


def measured_rows() -> list[list[str]]:
    """The cells of the rows of README's table under "Measured"."""
    section = re.search(r"^## Measured$(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section, 'README has no heading "## Measured"'
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]  # below the head and its rule


def test_every_measured_figure_stands_in_the_result_file_that_its_row_links():
    rows = measured_rows()
    assert rows, 'the table under "Measured" is empty'
    for what, figure, source in rows:
        results = re.findall(r"\]\((benchmarks/results/[\w.]+\.md)\)", source)
        assert results, f"{what!r} links no file of benchmarks/results: {source}"
        written = "\n".join((ROOT / name).read_text() for name in results)
        assert re.search(r"\d", figure), f"{what!r} has no figure: {figure}"
        missing = decimals(figure) - decimals(written)
        assert not missing, f"{what!r}: {sorted(missing)} not in {', '.join(results)}"


def test_every_result_file_names_the_script_that_wrote_it():
    files = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    assert files
    for file in files:
        commands = re.findall(r"^ {4}.*python (?:-m )?([\w./]+)", file.read_text(), re.MULTILINE)
        assert commands, f"{file.name} does not say which command wrote it"
        for name in commands:
            paths = (ROOT / name, ROOT / (name.replace(".", "/") + ".py"))
            assert any(path.is_file() for path in paths), f"{file.name} names {name}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_runs_from_simulation_to_report(tmp_path):
    sizes = ["--scenes", "4", "--val-scenes", "1", "--warm-up", "60", "--iterations", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "perception.demo", "--work-dir", str(tmp_path), *sizes],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = (tmp_path / "report.md").read_text()
    assert report.count("| baseline") == report.count("| expert") == report.count("| apprentice") == 1
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", report):
        assert (tmp_path / picture).is_file()
