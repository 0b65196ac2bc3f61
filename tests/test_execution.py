"""Notebooks are run with checked parameters, whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from execute import ExecutionError, main, read_parameters
from nbformat import v4

PARAMETERS = 'name = "a"\nrate = 0.5\nsteps = [1, 2]\nlimit: int | None = 4\nflag = False'
Make = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Make:
    """Write a notebook and a parameter file, and return the command line that runs them."""

    def make(code: str = "print(name, rate)", values: str = "{}", tags: int = 1) -> list[str]:
        tagged = [
            v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}) for _ in range(tags)
        ]
        notebook = v4.new_notebook(cells=[*tagged, v4.new_code_cell(code)])
        nbformat.write(notebook, tmp_path / "mini.ipynb")
        (tmp_path / "values.yml").write_text(f"mini: {values}\nother: {{}}\n")
        paths = [str(tmp_path / "mini.ipynb"), str(tmp_path / "out" / "mini.ipynb")]
        return [*paths, "--parameters", str(tmp_path / "values.yml"), "--cwd", str(tmp_path)]

    return make


def test_a_good_run_leaves_the_executed_notebook_and_the_list_of_what_it_wrote(
    command: Make, tmp_path: Path
) -> None:
    code = "from pathlib import Path\nPath('products/x.txt').write_text(f'{name} {rate} {limit}')"
    (tmp_path / "products").mkdir()
    old = tmp_path / "products" / "old.txt"
    old.touch()
    os.utime(old, (1, 1))
    arguments = command(code, "{rate: 1, limit: null}")
    arguments += ["--set", "name=1", "--products", str(tmp_path / "products")]
    assert main(arguments) == 0
    assert (tmp_path / "products" / "x.txt").read_text() == "1 1 None"
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["mini.ipynb", "mini.written"]
    written = (out / "mini.written").read_text().splitlines()
    assert written == [str(tmp_path / "products" / "x.txt")]


def test_a_failing_cell_is_one_line_and_keeps_the_copy_but_not_the_output(
    command: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("print('so far')\nraise ValueError('no\\nsuch thing')")) == 1
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert "mini.ipynb: In [2] failed: ValueError: no such thing" in message
    part = tmp_path / "out" / "mini.part.ipynb"
    assert str(part) in message
    assert "so far" in part.read_text()
    assert not (tmp_path / "out" / "mini.ipynb").exists()


def test_a_failing_run_leaves_an_earlier_output_alone(command: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mini.ipynb").write_text("earlier")
    assert main(command("1 / 0")) == 1
    assert (tmp_path / "out" / "mini.ipynb").read_text() == "earlier"


def test_a_cell_that_takes_too_long_and_a_kernel_that_dies_are_one_line(
    command: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command("import time\ntime.sleep(60)"), "--timeout", "1"]) == 1
    assert "a cell took longer than 1 s" in capsys.readouterr().err
    assert main(command("import os\nos._exit(1)")) == 1
    assert "the kernel died" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{rat: 1.0}", "has no parameter 'rat'; it has: name, rate, steps, limit, flag"),
        ("{rate: 1e-3}", "rate of"),
        ("{rate: 1e-3}", "is the str '1e-3', expected float (YAML wants a point in it: 1.0e-03)"),
        ("{rate: null}", "is null, expected float"),
        ("{name: 3}", "is the int 3, expected str"),
        ("{limit: 2.5}", "is the float 2.5, expected int or null"),
        ("{limit: true}", "is the bool True, expected int or null"),
        ("{flag: 1}", "is the int 1, expected bool"),
        ("{steps: 3}", "is the int 3, expected list"),
        ("{steps: [1, 2.5]}", "contains the float 2.5, expected every element to be int"),
        ("3", "no section 'mini'; there are: mini, other"),
        ("{", "not YAML"),
    ],
)
def test_bad_parameters_are_named(
    values: str, expected: str, command: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(values=values)) == 1
    message = capsys.readouterr().err.strip()
    assert expected in message
    assert "values.yml" in message
    assert message.count("\n") == 0


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("nam=1", "has no parameter 'nam'"), ("rate", "name=value"), ("rate=fast", "expected float")],
)
def test_bad_settings_are_named(
    setting: str, expected: str, command: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(), "--set", setting]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("tags", [0, 2])
def test_exactly_one_parameters_cell(
    tags: int, command: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tags=tags)) == 1
    assert f"{tags} cells are tagged 'parameters'" in capsys.readouterr().err


def test_missing_files_are_named(
    command: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook, *rest = command()
    assert main([notebook + "x", *rest]) == 1
    assert "no such notebook" in capsys.readouterr().err
    (tmp_path / "values.yml").unlink()
    assert main([notebook, *rest]) == 1
    assert "no such parameter file" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["import os", "x = y", "x.y = 1", "x: thing = 1", "x = "])
def test_the_parameters_cell_takes_literals_only(line: str, tmp_path: Path) -> None:
    cell = v4.new_code_cell(line, metadata={"tags": ["parameters"]})
    nbformat.write(v4.new_notebook(cells=[cell]), tmp_path / "bad.ipynb")
    with pytest.raises(ExecutionError, match="takes lines `name = literal`"):
        read_parameters(tmp_path / "bad.ipynb")
