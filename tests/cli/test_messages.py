"""Messages of the library name options by their Python fields; the command line shows them as its flags."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import re
import shlex
import threading
from pathlib import Path

import click
import pytest

from geosiam.errors import OptionError
from geosiam_cli import messages, options, output
from geosiam_cli.main import COMMANDS, cli, main
from geosiam_cli.messages import long_name, with_flags


def load(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def parsed(command: click.Command, words: str, name: str) -> object:
    """Return what click's parser makes of an option, before anything is checked or converted."""
    return command.make_parser(click.Context(command)).parse_args(shlex.split(words))[0][name]


ALL_OPTIONS = [
    pytest.param(load(name), option, id=f"{name}-{option.name}")
    for name in COMMANDS
    for option in load(name).params
    if isinstance(option, click.Option) and not option.count
]


# --- every option of every command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "option"), ALL_OPTIONS)
def test_every_field_becomes_the_option_that_sets_it(command: click.Command, option: click.Option) -> None:
    spelling = with_flags(f"`{option.name}`", command)
    assert spelling == long_name(option)
    assert spelling.startswith("--")
    text = f"a.tif: `{option.name}` is 3; leave out `{option.name}`, not `no_such_field`"
    assert with_flags(text, command) == f"a.tif: {spelling} is 3; leave out {spelling}, not no_such_field"


@pytest.mark.parametrize(("command", "option"), ALL_OPTIONS)
def test_what_the_message_says_can_be_typed(command: click.Command, option: click.Option) -> None:
    name = option.name
    if option.is_flag:
        assert parsed(command, with_flags(f"`{name}=True`", command), name) is True
        spelling = with_flags(f"`{name}=False`", command)
        assert spelling == f"no {long_name(option)}" or parsed(command, spelling, name) is False
    elif option.nargs > 1:
        values = ("my scene.tif", "x/y", "3")[: option.nargs]
        assert parsed(command, with_flags(f"`{name}={values}`", command), name) == values
        assert with_flags(f"`{name}=None`", command) == f"no {long_name(option)}"
    else:
        for value, word in (("0.5", "0.5"), ('"skip"', "skip"), ("'my scene.tif'", "my scene.tif"), ("x/y", "x/y")):
            expected = [word] if option.multiple else word
            assert parsed(command, with_flags(f"`{name}={value}`", command), name) == expected
        many = parsed(command, with_flags(f"`{name}=(4, 3)`", command), name)
        assert many == (["4", "3"] if option.multiple else "4,3")
        assert with_flags(f"`{name}=None`", command) == f"no {long_name(option)}"


@pytest.mark.parametrize(
    ("command", "module", "library"),
    [
        ("detect", "geosiam.options", "DetectOptions"),
        ("batch", "geosiam.batch.api", "BatchOptions"),
        ("train", "geosiam.training.api", "TrainingOptions"),
        ("report", "geosiam.report", "ReportOptions"),
        ("paper", "geosiam.paper.workbench", "PaperOptions"),
    ],
)
def test_every_field_of_the_library_has_a_flag(command: str, module: str, library: str) -> None:
    fields = dataclasses.fields(getattr(importlib.import_module(module), library))
    assert fields
    for field in fields:
        assert with_flags(f"`{field.name}`", load(command)).startswith("--")


# --- spellings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("detect", "`aoi` is empty", "--valid-area is empty"),
        ("detect", "use `smooth=False`", "use --no-smooth"),
        ("detect", "consider `smooth=True`", "consider --smooth"),
        ("detect", "consider `register=field`", "consider --register field"),
        ("detect", "use `restart=True` or `restart=False`", "use --restart or --resume"),
        ("detect", 'choose another `output`, or `on_error="skip"`', "choose another --output, or --on-error skip"),
        ("detect", "`project` needs `scores`", "--qgz needs --scores"),
        ("detect", "`before` equals `after`", "BEFORE equals AFTER"),
        ("vectorize", "`scores` is empty; `threshold=0.5`", "SCORES is empty; --threshold 0.5"),
        ("evaluate", "`model` or `baseline`; another `out`", "--model or --baseline; another --out"),
        ("train", "`scenes=(BEFORE, AFTER)`", "--scenes BEFORE --scenes AFTER"),
        ("train", '`anomaly=("color=70,100 size=8",)`', '--anomaly "color=70,100 size=8"'),
        ("train", "choose another `out`", "choose another --output"),
        ("vectorize", "`register=True` and `scheduler`", "register=True and scheduler"),
        ("detect", "`precision=int8`, `aoi=/data/a (1).gpkg`", '--precision int8, --valid-area "/data/a (1).gpkg"'),
        ("batch", "leave out `before`", "leave out --before"),
        ("detect", "the file `a b.tif` of 'x', `", "the file `a b.tif` of 'x', `"),
    ],
)
def test_spellings(command: str, text: str, expected: str) -> None:
    assert with_flags(text, load(command)) == expected


@pytest.mark.parametrize("path", ["/data/`bands`/a.tif", "/data/a`bands`.tif", "`bands`.tif", "x/`bands=1`/`aoi`.gpkg"])
def test_backquotes_in_a_path_stay(path: str) -> None:
    text = f"{path}: does not exist; check `bands`, (`aoi`) and `register`"
    expected = f"{path}: does not exist; check --bands, (--valid-area) and --register"
    assert with_flags(text, load("detect")) == expected


def test_without_a_command_only_the_backquotes_go() -> None:
    assert with_flags("use `register=False`", None) == "use register=False"


# --- where messages appear ------------------------------------------------------------------------------------------


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch):
    """Add a command ``probe`` with the options of ``detect`` that does what the test says."""

    def add(action) -> None:
        @options.command("probe", examples=[])
        @options.library_options(*options.POLYGONS, *options.COMPARISON, *options.EXECUTION)
        @options.json_output
        def command(given_values: dict) -> None:  # noqa: ARG001 - takes the options of detect
            """Do what the test says."""
            action()

        monkeypatch.setitem(cli.commands, "probe", command)

    return add


def raise_option_error() -> None:
    raise OptionError("`min_area`", "is below `threshold`", "use `smooth=False`")


def test_errors_name_flags(probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(raise_option_error)
    assert main(["probe"]) == 3
    text = "--min-area: is below --threshold; use --no-smooth"
    assert capsys.readouterr() == ("", f"geosiam: error: {text}\n")
    assert main(["probe", "--json"]) == 3
    out, err = capsys.readouterr()
    assert err == f"geosiam: error: {text}\n"
    error = json.loads(out)["error"]
    assert error["message"] == text
    assert [error[part] for part in ("subject", "fact", "remedy")] == text.replace(": ", "; ", 1).split("; ")


def test_log_lines_name_flags_in_threads_too(probe, capsys: pytest.CaptureFixture[str]) -> None:
    def log() -> None:
        logging.getLogger("geosiam.pipeline").warning("moved by %d rows; `register=none` disables it", 3)
        worker = threading.Thread(target=logging.getLogger("geosiam.x").warning, args=("use `workers=2`",))
        worker.start()
        worker.join()

    probe(log)
    assert main(["probe"]) == 0
    assert capsys.readouterr().err == (
        "geosiam: warning: moved by 3 rows; --register none disables it\ngeosiam: warning: use --workers 2\n"
    )


@pytest.mark.parametrize("key", sorted(output._MESSAGE_KEYS))
def test_messages_in_results_name_flags_and_nothing_else_is_changed(
    key: str, probe, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/data/`threshold`.tif"
    probe(lambda: output.result({"summary": {key: ["use `threshold=0.5`"], "path": path, "file": Path(path)}}))
    assert main(["probe", "--json"]) == 0
    expected = {"summary": {key: ["use --threshold 0.5"], "path": path, "file": path}}
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["probe"]) == 0
    assert "use --threshold 0.5" in capsys.readouterr().out


def test_warnings_of_results_name_flags(probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(lambda: output.warn(["misregistered by 3 px; consider `register=shift`"]))
    assert main(["probe"]) == 0
    assert capsys.readouterr().err == "geosiam: warning: misregistered by 3 px; consider --register shift\n"


# --- end to end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "flag"),
    [
        (["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--min-area", "3"], "--min-area"),
        (["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--simplify", "much"], "--simplify"),
        (["score", "a.tif", "b.tif", "-o", "s.tif", "--radiometry", "magic"], "--radiometry"),
    ],
)
def test_refused_options_are_named_as_they_were_typed(
    args: list[str], flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*args, "--json"]) == 3
    out, err = capsys.readouterr()
    assert err.startswith(f"geosiam: error: {flag}")
    assert err.count("\n") == 1
    assert "`" not in err + out
    assert json.loads(out)["error"]["subject"].startswith(flag)


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_defaults_in_words_and_each_option_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert not re.search(r"default: \(|x[<>]=?\d|\.\.\.[|\]]|--aoi|--licence", text)
    assert not re.search(r"anew|so many|as often as wanted|metres", text)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["detect", "a", "b", "-o", "x", "--aoi", "area.gpkg"], {"aoi": "area.gpkg"}),
        (["train", "-o", "x", "--licence", "MIT"], {"license": "MIT"}),
    ],
)
def test_second_spellings_work(args: list[str], expected: dict) -> None:
    parameters = load(args[0]).make_context(args[0], args[1:]).params
    assert parameters | expected == parameters


def test_listed_values_are_those_of_the_library() -> None:
    from geosiam.network.weights import available_models
    from geosiam.options import DetectOptions
    from geosiam.training.recipes import RECIPES

    detect = {option.name: option for option in load("detect").params}
    train = {option.name: option for option in load("train").params}
    assert set(train["recipe"].metavar.split("|")) == {*RECIPES, "target"}
    assert all(card.name in detect["model"].help for card in available_models())
    for name in ("radiometry", "on_error", "score_type"):
        for value in detect[name].metavar.split("|"):
            assert getattr(DetectOptions(**{name: value}), name) == value
    assert messages.long_name(detect["aoi"]) == "--valid-area"
