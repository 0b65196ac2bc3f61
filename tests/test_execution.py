"""Notebooks are run whole or not at all, and never twice at once."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from execute import main
from nbformat import v4

PARAMETERS = 'name = "a"\nrate = 0.5\nsteps = [1, 2]\nlimit: int | None = 4\nflag = False'
Make = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Make:
    """Write a notebook, and return the command line that runs it with some values."""

    def make(code: str = "print(name, rate)", **values: object) -> list[str]:
        tagged = v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        notebook = v4.new_notebook(cells=[tagged, v4.new_code_cell(code)])
        nbformat.write(notebook, tmp_path / "mini.ipynb")
        paths = [str(tmp_path / "mini.ipynb"), str(tmp_path / "out" / "mini.ipynb")]
        (tmp_path / "values.json").write_text(json.dumps(values))
        return [*paths, "--values", str(tmp_path / "values.json"), "--cwd", str(tmp_path)]

    return make


def test_a_good_run_leaves_the_executed_notebook_and_the_list_of_what_it_wrote(
    command: Make, tmp_path: Path
) -> None:
    code = "from pathlib import Path\nPath('products/x.txt').write_text(f'{name} {rate} {limit}')"
    (tmp_path / "products").mkdir()
    old = tmp_path / "products" / "old.txt"
    old.touch()
    os.utime(old, (1, 1))
    arguments = command(code, rate=1, limit=None, name="1")
    arguments += ["--products", str(tmp_path / "products")]
    assert main(arguments) == 0
    assert (tmp_path / "products" / "x.txt").read_text() == "1 1 None"
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "mini.ipynb",
        "mini.part.lock",
        "mini.written",
    ]
    written = (out / "mini.written").read_text().splitlines()
    assert written == [str(tmp_path / "products" / "x.txt")]


def test_a_failing_cell_is_one_line_keeps_the_copy_and_leaves_an_earlier_output_alone(
    command: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "mini.ipynb"
    output.parent.mkdir()
    output.write_text("earlier")
    assert main(command("print('so far')\nraise ValueError('no\\nsuch thing')")) == 1
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert "mini.ipynb: In [2] failed: ValueError: no such thing" in message
    part = output.with_name("mini.part.ipynb")
    assert str(part) in message
    assert "so far" in part.read_text()
    assert output.read_text() == "earlier"


def test_a_cell_that_takes_too_long_and_a_kernel_that_dies_are_one_line(
    command: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command("import time\ntime.sleep(60)"), "--timeout", "1"]) == 1
    assert "a cell took longer than 1 s" in capsys.readouterr().err
    assert main(command("import os\nos._exit(1)")) == 1
    assert "the kernel died" in capsys.readouterr().err


def test_two_processes_do_not_execute_the_same_copy(
    command: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / "mini.part.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(command()) == 1
    assert "an earlier run, which was killed, still executes it" in capsys.readouterr().err
    assert not (tmp_path / "out" / "mini.ipynb").exists()
    assert main(command()) == 0


def test_a_missing_notebook_is_named(command: Make, capsys: pytest.CaptureFixture[str]) -> None:
    notebook, *rest = command()
    assert main([notebook + "x", *rest]) == 1
    assert "No such file or directory" in capsys.readouterr().err
