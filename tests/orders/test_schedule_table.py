"""`armd config`: YAML on stdout, and on stderr a table of what is trained on when."""

from pathlib import Path

import yaml
from typer.testing import CliRunner, Result

from armd_dist.cli.main import app

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def run(*overrides: str) -> Result:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["config", str(QUICKSTART), *overrides])
    assert result.exit_code == 0, result.stderr
    return result


def rows(result: Result) -> list[list[str]]:
    """The table's lines, cut where two blanks meet."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    assert lines[0].split()[:4] == ["steps", "share", "phase", "rho"]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[2:]]


def test_settings_on_stdout_and_nothing_else() -> None:
    result = run("orders.block_sizes=[1,2]")
    assert yaml.safe_load(result.stdout)["orders"]["block_sizes"] == [1, 2]
    assert "shuffled" not in result.stdout
    assert "hidden_size" not in result.stderr


def test_schedule_of_the_quickstart() -> None:
    found = rows(run())
    assert found[0] == ["1 to 220", "27.5 %", "left_to_right", "left to right", "0.0002"]
    assert found[1] == ["221 to 295", "9.38 %", "progressive", "2", "50 % left to right,", "0.00343"]
    assert found[2] == ["50 % in 2 shuffled segments"]
    assert found[-1] == ["601 to 800", "25 %", "strided", "strided, 1, 2 or 4 streams", "0.000868"]
    assert len(found) == 2 + 2 * 4


def test_linear_growth_takes_one_row() -> None:
    found = rows(run("orders.rho_growth=linear", "orders.rho_max=12", "orders.rho_counts=window"))
    assert found[1][:4] == ["221 to 493", "34.1 %", "progressive", "2 to 11"]
    assert found[3][:4] == ["494 to 600", "13.4 %", "progressive", "12"]
    assert found[2] == ["50 % shuffled inside windows of 2 to 11"]


def test_mixture() -> None:
    told = run("orders.mixture={left_to_right: 1, block_diffusion: 3}", "orders.block_length=16").stderr
    assert "25 % left to right" in told
    assert "75 % block diffusion, windows of 16" in " ".join(told.split())


def test_denoiser_trains_on_masked_tokens() -> None:
    denoiser = ("model.network=denoiser", "orders.strided_from=null")
    assert rows(run(*denoiser))[0][:4] == ["1 to 800", "100 %", "masked_diffusion", "masked tokens, 1 to all of them"]
    assert "masked tokens, 1 to 16 of each window" in " ".join(run(*denoiser, "orders.block_length=16").stderr.split())
