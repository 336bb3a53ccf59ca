"""What each command hands to the library and prints of its result; the library itself is a stand-in here."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from geosiam.provenance import UnreadableBlock
from geosiam.results import VectorizeResult
from geosiam_cli.main import main


@dataclass
class Library:
    """Stands in for one function of the library: remembers its arguments and returns what it was told to."""

    result: object
    args: tuple = ()
    keywords: dict = field(default_factory=dict)

    def __call__(self, *args: object, **keywords: object) -> object:
        self.args, self.keywords = args, keywords
        for name in ("on_progress", "on_step"):
            if name in keywords:
                keywords.pop(name)(*((1, 2) if name == "on_progress" else (1, 2, 0.5)))
        return self.result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """Put a module of stand-ins where the library has its own."""

    def put(module: str, **names: object) -> None:
        fake = ModuleType(module)
        vars(fake).update(names)
        parent, _, child = module.rpartition(".")
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setattr(importlib.import_module(parent), child, fake, raising=False)

    return put


SUMMARY = {"warnings": ["after.tif was warped"], "seconds": 1.5}


def test_detect(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {"polygons_path": Path("x.gpkg"), "scores_path": Path("x.tif")}
    content = {"polygons": "x.gpkg", "scores": "x.tif", "count": 3, "summary": SUMMARY}
    figures = {"count": 3, "threshold": 0.5, "warnings": SUMMARY["warnings"], "unreadable": (), "project_path": None}
    figures |= {"displacement_path": Path("d.tif"), "dz_path": None}
    detect = Library(SimpleNamespace(**paths, **figures, to_dict=lambda: content))
    stand_in("geosiam.options", DetectOptions=dict)
    stand_in("geosiam.pipeline", detect=detect)

    args = ["detect", "a.tif", "b.tif", "-o", "x.gpkg", "--threshold", "0.5", "--bands", "3,2,1", "--register"]
    args += ["--displacement", "d.tif"]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert detect.args == ("a.tif", "b.tif", Path("x.gpkg"))
    options = {"threshold": 0.5, "bands": (3, 2, 1), "register": "shift"}
    files = {"scores": None, "project": None, "displacement": Path("d.tif"), "dz": None}
    assert detect.keywords == {**files, "options": options}
    assert out == "x.gpkg\nx.tif\nd.tif\n"
    assert err == "geosiam: warning: after.tif was warped\n3 polygons with a score of at least 0.5\n"

    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_score(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {"scores_path": Path("s.tif"), "displacement_path": None}
    result = SimpleNamespace(**paths, warnings=(), unreadable=(), to_dict=dict)
    score = Library(result)
    stand_in("geosiam.options", ScoreOptions=dict)
    stand_in("geosiam.scoring", score_to_file=score)

    assert main(["score", "a.tif", "b.tif", "-o", "s.tif", "--precision", "bf16", "--workers", "2"]) == 0
    assert score.args == ("a.tif", "b.tif", Path("s.tif"))
    assert score.keywords == {"displacement": None, "options": {"precision": "bf16", "workers": 2}}
    assert capsys.readouterr().out == "s.tif\n"


def test_unreadable_blocks_are_listed_and_end_the_command_with_4(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    block = UnreadableBlock((0, 8), (8, 16), "b.tif: cannot be read")
    content = {"scores": "s.tif", "unreadable": [asdict(block)]}
    paths = {"scores_path": Path("s.tif"), "displacement_path": None}
    result = SimpleNamespace(**paths, warnings=(), unreadable=(block,), to_dict=lambda: content)
    score = Library(result)
    stand_in("geosiam.options", ScoreOptions=dict)
    stand_in("geosiam.scoring", score_to_file=score)

    args = ["score", "a.tif", "b.tif", "-o", "s.tif", "--on-error", "skip", "--restart", "--scheduler", "tcp://h:1"]
    assert main([*args, "--json"]) == 4
    options = {"on_error": "skip", "restart": True, "scheduler": "tcp://h:1"}
    assert score.keywords == {"displacement": None, "options": options}
    out, err = capsys.readouterr()
    assert json.loads(out) == {"scores": "s.tif", "unreadable": [json.loads(json.dumps(asdict(block)))]}
    assert err.splitlines() == [
        "geosiam: warning: no scores for rows 0-8, columns 8-16: b.tif: cannot be read",
        (
            "geosiam: error: s.tif: has 1 block(s) without scores where a scene cannot be read; "
            "repair the scene and run again"
        ),
    ]
    assert main(args) == 4
    assert capsys.readouterr().out == "s.tif\n"


def test_vectorize(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    vectorize = Library(VectorizeResult(Path("x.gpkg"), 3, 0.7))
    stand_in("geosiam.options", PolygonOptions=dict)
    stand_in("geosiam.pipeline", vectorize_to_file=vectorize)

    assert main(["vectorize", "s.tif", "-o", "x.gpkg", "--threshold", "0.7", "--min-area", "20px"]) == 0
    assert vectorize.args == ("s.tif", Path("x.gpkg"))
    assert vectorize.keywords == {"options": {"threshold": 0.7, "min_area": "20px"}}
    assert capsys.readouterr() == ("x.gpkg\n", "3 polygons with a score of at least 0.7\n")

    assert main(["vectorize", "s.tif", "-o", "x.gpkg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"polygons": "x.gpkg", "count": 3, "threshold": 0.7, "warnings": []}


def test_info(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {"to_dict": lambda: {"blocks": 4, "warnings": []}, "in_words": lambda: {"blocks": "four"}}
    inspect_pair = Library(SimpleNamespace(**contents))
    stand_in("geosiam.options", ScoreOptions=dict)
    stand_in("geosiam.inspection", inspect_pair=inspect_pair)

    assert main(["info", "a.tif", "b.tif", "--model", "paper", "--json"]) == 0
    assert inspect_pair.args == ("a.tif", "b.tif")
    assert inspect_pair.keywords == {"displacement": None, "options": {"model": "paper"}}
    assert json.loads(capsys.readouterr().out) == {"blocks": 4, "warnings": []}
    assert main(["info", "a.tif", "b.tif"]) == 0
    assert capsys.readouterr().out == "blocks  four\n"


def test_demo(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Library({"panel": Path("demo-output/panel.png"), "recall": 0.5})
    stand_in("geosiam.demo", run_demo=demo)

    assert main(["demo", "--seed", "7"]) == 0
    assert (demo.args, demo.keywords) == ((Path("demo-output"),), {"seed": 7})
    assert capsys.readouterr().out == "panel   demo-output/panel.png\nrecall  0.5\n"


def test_train(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    card = SimpleNamespace(to_dict=lambda: {"name": "mine"})
    train = Library(SimpleNamespace(weights=Path("w.safetensors"), card=card, history=()))
    stand_in("geosiam.training.api", TrainingOptions=dict, train=train)

    assert main(["train", "-o", "w.safetensors", "--data", "a", "--data", "b", "--restart", "--json"]) == 0
    assert train.args == ({"out": Path("w.safetensors"), "data": ("a", "b"), "restart": True},)
    expected = {"weights": "w.safetensors", "card": {"name": "mine"}, "history": []}
    assert json.loads(capsys.readouterr().out) == expected


def test_models(stand_in, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("name", "summary", "recipe", "data", "bands", "stride", "receptive_field", "threshold", "license")
    whole = dict.fromkeys(names, "-") | {"checksum": "0f"}
    stand_in("geosiam.network.weights", available_models=lambda: [SimpleNamespace(to_dict=lambda: whole)])

    assert main(["models"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(names)
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [whole]
