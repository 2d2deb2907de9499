"""Every command in README.md runs, in the order in which it stands there."""

import json
import re
from pathlib import Path

import pytest
from quickstarts import ROOT, Quickstart

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def test_readme_begins_with_the_two_commands() -> None:
    assert COMMANDS[:2] == ["make quickstart", "make test"]
    assert README.index("make quickstart") < README.index("![")


@pytest.mark.parametrize("command", COMMANDS[2:])
def test_command_runs(command: str, quickstart: Quickstart) -> None:
    done = quickstart.run(command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_losses_of_the_short_runs_agree(quickstart: Quickstart) -> None:
    curves = []
    for name in ("mine", "tensor", "job"):
        text = (quickstart.folder / "runs" / name / "metrics.jsonl").read_text()
        curves.append([json.loads(line)["loss"] for line in text.splitlines()])
    assert len(curves[0]) == 20
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-5)


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    if page == "README.md":
        rows = re.findall(r"^\|[^|]+\| (`.+) \|$", text, re.MULTILINE)
        for row in rows:
            folder = Path()
            for name in re.findall(r"`([\w./-]+)`", row):
                folder = Path(name).parent if "/" in name else folder
                path = ROOT / (name if "/" in name else folder / name)
                assert path.exists(), f"{row}: {name}"


def test_make_test_is_what_ci_runs() -> None:
    assert "make check\nmake test\n" in (ROOT / ".ci" / "run").read_text()
