"""The frame of the command line: help, options, exit codes and the entry in the documents of every command."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from geosiam.errors import IncompleteRunError, OutputError, SceneNotFoundError
from geosiam_cli import main, options, output
from geosiam_cli.batch import BATCH_OPTIONS
from geosiam_cli.main import COMMANDS, cli
from geosiam_cli.messages import long_name
from geosiam_cli.train import TRAINING_OPTIONS

ROOT = Path(__file__).parent.parent.parent
REFUSED = SceneNotFoundError("after.tif", "there is no such file", "check the path")


def load(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main.main(args)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Add a command ``fake`` that does what the test says."""

    def add(action) -> None:
        def body() -> None:
            """Do what the test says."""
            action()

        command = options.command("fake", examples=["geosiam fake"])(options.json_output(body))
        monkeypatch.setitem(cli.commands, "fake", command)

    return add


def raising(error: BaseException):
    def action() -> None:
        raise error

    return action


# --- the process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [None, "2"])
def test_the_program_ends_with_the_code_and_leaves_numpy_one_thread_unless_told(wanted: str | None) -> None:
    pytest.importorskip("threadpoolctl")
    script = """
import atexit
from geosiam_cli import main
def command():
    import numpy, threadpoolctl
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"]
    print(*{pool["num_threads"] for pool in pools})
    return 3
main.main = command
atexit.register(print, "ended")
main.program()
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    told = {} if wanted is None else {"OPENBLAS_NUM_THREADS": wanted}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | told, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.split() in ([wanted or "1", "ended"], ["ended"])  # without OpenBLAS there is nothing to limit


# --- help and documents ---------------------------------------------------------------------------------------------


def test_the_group_lists_every_command_with_its_whole_summary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    listed = out[out.index("Commands:") : out.index("Examples:")].splitlines()[1:]
    assert code == 0
    assert [line.split()[0] for line in listed if line.strip()] == list(COMMANDS)
    assert "..." not in "".join(listed)  # click cuts what does not fit into 80 columns


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_explanation_and_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"geosiam {name}" in out[out.index("Examples:") :]
    assert "\n\n" in load(name).help  # a summary and something after it
    assert all(option.help for option in load(name).params if isinstance(option, click.Option) and not option.hidden)


def words(line: str) -> list[str]:
    """Return the words of a command, without where its output goes."""
    return shlex.split(re.split(r" >>? ", line)[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_parse(name: str) -> None:
    examples = [line.strip() for line in load(name).epilog.splitlines() if line.strip().startswith("geosiam ")]
    assert examples
    for example in examples:
        _, command, *args = words(example)
        assert command == name
        load(name).make_context(name, args)  # raises a usage error where the example is wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_reference_with_all_its_options(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = text.split(f"## `geosiam {name}")[1].split("\n## ")[0]
    common = {"--verbose", "--quiet", "--json"}
    names = {long_name(o) for o in load(name).params if isinstance(o, click.Option) and not o.hidden} - common
    assert [option for option in sorted(names) if option not in section] == []
    assert f"geosiam {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def documented_commands() -> list[str]:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/cli.md")]
    shell = [block for text in texts for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    lines = {line.split("#")[0].strip() for block in shell for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith("geosiam "))


@pytest.mark.parametrize("line", documented_commands())
def test_commands_in_the_documents_parse(line: str) -> None:
    _, name, *args = words(line)
    load(name).make_context(name, args)


@pytest.mark.parametrize(
    ("command", "names", "module", "library"),
    [
        ("detect", options.LIBRARY_OPTIONS, "geosiam.pipeline", "DetectOptions()"),
        ("batch", BATCH_OPTIONS, "geosiam.batch.api", "BatchOptions()"),
        ("train", TRAINING_OPTIONS, "geosiam.training.api", "TrainingOptions(out=None)"),
    ],
)
def test_stated_defaults_are_those_of_the_library(command: str, names: dict, module: str, library: str) -> None:
    defaults = eval(library, vars(importlib.import_module(module)))
    switches = {
        "report": ("no-report", "report"),
        "restart": ("resume", "restart"),
        "smooth": ("no-smooth", "smooth"),
        "freeze_encoder": ("train-encoder", "freeze-encoder"),
    }
    stated = {p.name: p.show_default for p in load(command).params if isinstance(p, click.Option)}
    for name in names:
        default = getattr(defaults, name)
        if name in switches:
            assert stated[name] == switches[name][default]
        elif default not in (None, ()):
            assert stated[name] == str(default)


# --- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED, 3),
        (OutputError("out.gpkg", "the folder is not writable", "choose another"), 3),
        (IncompleteRunError("out.tif", "2 of 90 windows failed", "run it again"), 4),
    ],
)
def test_errors_on_purpose_are_one_line_on_stderr(
    error: Exception, code: int, fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(raising(error))
    assert run(capsys, "fake") == (code, "", f"geosiam: error: {error}\n")


def test_errors_are_an_object_on_stdout_with_json(fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(REFUSED))
    code, out, err = run(capsys, "fake", "--json")
    assert err == f"geosiam: error: {REFUSED}\n"
    assert json.loads(out)["error"] == {
        "kind": "SceneNotFoundError",
        "message": str(REFUSED),
        "subject": "after.tif",
        "fact": "there is no such file",
        "remedy": "check the path",
        "exit_code": code,
    }


@pytest.mark.parametrize("error", [RuntimeError("boom"), EOFError("boom"), OSError("boom")])
def test_anything_unexpected_is_a_bug_to_report(error: Exception, fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(error))
    code, out, err = run(capsys, "fake", "--json")
    assert code == 1
    assert "Traceback" in err
    assert "please report it" in err.splitlines()[-1]
    assert json.loads(out)["error"]["message"] == "boom"


def test_an_interrupt_is_one_line(fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(KeyboardInterrupt()))
    code, out, err = run(capsys, "fake")
    assert (code, out, err.strip()) == (130, "", "geosiam: interrupted")


@pytest.mark.parametrize(
    "args",
    [
        ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--no-such-option"],
        ["detect", "a.tif", "-o", "x.gpkg"],
        ["detect", "a.tif", "b.tif"],
        ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--bands", "1,z"],
        ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--bands", "0,1"],
        ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--threshold", "0"],
        ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--threshold", "much"],
        ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--workers", "0"],
        ["train", "--recipe", "survey"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_exits_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert "Usage: geosiam" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("geosiam, version ")


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "geosiam_cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in error


# --- options --------------------------------------------------------------------------------------------------------


def test_only_given_options_reach_the_library() -> None:
    seen = {}

    @options.command("probe", examples=[])
    @options.library_options("threshold", "min_area", *options.COMPARISON)
    def probe(given_values: dict) -> None:
        """Remember."""
        seen.update(given_values)

    probe.main(["--bands", "4,3,2", "--threshold", "0.25", "--no-register"], standalone_mode=False)
    assert seen == {"bands": (4, 3, 2), "threshold": 0.25, "register": "none"}
    seen.clear()
    probe.main(["--threshold", "auto"], standalone_mode=False)
    assert seen == {"threshold": "auto"}


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (["--register"], "shift"),  # as in earlier versions
        (["--register", "--threshold", "0.3"], "shift"),
        (["--threshold", "0.3", "--register"], "shift"),
        (["--register", "field", "--threshold", "0.3"], "field"),
        (["--register=none"], "none"),
        (["--no-register"], "none"),
        (["--threshold", "0.3"], None),
    ],
)
def test_registration_is_a_mode_and_was_a_switch(arguments: list[str], mode: str | None) -> None:
    seen = {}

    @options.command("probe", examples=[])
    @options.library_options("threshold", *options.COMPARISON)
    def probe(given_values: dict) -> None:
        """Remember."""
        seen.update(given_values)

    probe.main(arguments, standalone_mode=False)
    assert seen.get("register") == mode
    assert seen.get("threshold") == (0.3 if "--threshold" in arguments else None)


def test_the_switch_of_earlier_versions_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "detect", "--help")
    assert code == 0
    assert "--register" in out
    assert "auto|none|shift|field" in "".join(out.split())
    assert "--no-register" not in out


def test_an_unknown_mode_of_registration_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "detect", "a.tif", "b.tif", "-o", "x.gpkg", "--register", "affine")
    assert (code, out) == (3, "")
    assert err == "geosiam: error: --register 'affine': is not known; use auto, none, shift, field\n"


# --- results --------------------------------------------------------------------------------------------------------


def test_results_are_lines_or_json(fake, capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "path": Path("a.tif"),
        "numbers": (1, 2.5),
        "share": float("nan"),
        "fits": True,
        "scenes": {"before": [{"bands": 3}]},
    }
    fake(lambda: output.result(value))
    _, out, _ = run(capsys, "fake")
    assert out.splitlines() == [
        "path     a.tif",
        "numbers  1, 2.5",
        "share    -",
        "fits     yes",
        "scenes",
        "  before",
        "    bands  3",
    ]
    _, out, _ = run(capsys, "fake", "--json")
    assert json.loads(out) == value | {"path": "a.tif", "numbers": [1, 2.5], "share": None}


def test_results_with_names_are_paragraphs(fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda: output.result([{"name": "survey"}, {"name": "paper"}]))
    assert run(capsys, "fake") == (0, "name  survey\n\nname  paper\n", "")


def test_warnings_of_the_library_are_logged(fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda: output.warn(["after.tif was warped"]))
    assert run(capsys, "fake") == (0, "", "geosiam: warning: after.tif was warped\n")


def test_results_of_numpy_are_plain(fake, capsys: pytest.CaptureFixture[str]) -> None:
    np = pytest.importorskip("numpy")
    fake(lambda: output.result("a.tif", as_json={"mean": np.float32(0.5), "shift": np.arange(2)}))
    assert run(capsys, "fake") == (0, "a.tif\n", "")
    assert json.loads(run(capsys, "fake", "--json")[1]) == {"mean": 0.5, "shift": [0, 1]}


@pytest.mark.parametrize(("args", "expected"), [(["fake"], "3 polygons\n"), (["fake", "-q"], ""), (["-q", "fake"], "")])
def test_notes_go_to_stderr_unless_quiet(
    args: list[str], expected: str, fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(lambda: output.note("3 polygons"))
    assert run(capsys, *args) == (0, "", expected)


def test_a_nodata_value_for_both_scenes_or_for_each() -> None:
    assert [options.nodata(text) for text in ("0", "none", "-9999,none", "none,1e20")] == [
        0.0, "none", (-9999.0, "none"), ("none", 1e20),
    ]  # fmt: skip
    for wrong in ("", "0,", "1,2,3", "black"):
        with pytest.raises(click.BadParameter, match="neither a number nor none"):
            options.nodata(wrong)
