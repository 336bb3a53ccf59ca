"""Whatever ends a run early, what comes out in the end is what an undisturbed run gives, or one clear line."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from same_result import assert_same

from geosiam.errors import OutputError, SceneUnreadableError
from geosiam.imagery import reader, scene_info
from geosiam.inference import scorer
from geosiam.inference.scorer import Scorer
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.scores import writer
from geosiam.scores.working_file import Journal
from geosiam.scores.writer import ScoreRasterWriter
from geosiam.scoring import score_to_file
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

CONFIG = SyntheticConfig(height=811, width=930, seed=5, objects=15)
BLOCK_PX = 64  # many blocks in a small scene
HERE = os.getpid()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    return write_pair_tiles(CONFIG, tmp_path_factory.mktemp("pair"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "BLOCK_PX", BLOCK_PX)
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.1)


@pytest.fixture(scope="module")
def undisturbed(scenes: SyntheticPaths) -> Path:
    folder = scenes.before.parent / "undisturbed"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "BLOCK_PX", BLOCK_PX)
        detect(scenes.before, scenes.after, folder / "a.gpkg")
    return folder / "a.gpkg"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- SIGKILL --------------------------------------------------------------------------------------------------------

# Imports take seconds, so one process does them and forks a runner for each run that is asked for.
RUNNERS = """
import os, sys
from geosiam.scores import writer
from geosiam.inference import scorer
scorer.BLOCK_PX, writer.FLUSH_SECONDS = int(sys.argv[4]), 0.02
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
for _ in sys.stdin:
    if not (runner := os.fork()):
        detect(*sys.argv[1:4], options=DetectOptions(workers=2))
        os._exit(0)
    print(runner, flush=True)
    print(os.waitpid(runner, 0)[1], flush=True)
"""


@dataclass
class Runners:
    """Processes that do the same run again and again."""

    process: subprocess.Popen

    def run(self, kill_after: float = 60.0) -> bool:
        """Start a run, kill it after a number of seconds, and return whether it was finished before."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        runner = int(self.process.stdout.readline())
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline and Path(f"/proc/{runner}").exists():
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(runner, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        assert status in (0, signal.SIGKILL)
        return status == 0


@contextlib.contextmanager
def runners(*args: object):
    command = [sys.executable, "-c", RUNNERS, *map(str, args), str(BLOCK_PX)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Runners(process)
        process.stdin.close()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="watches processes through /proc")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_result_is_that_of_an_undisturbed_run(
    kills: int, scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.gpkg"
    chance = random.Random(kills)
    with runners(scenes.before, scenes.after, output) as made:
        start = time.monotonic()
        assert made.run()
        whole = time.monotonic() - start
        for path in tmp_path.iterdir():
            path.unlink()
        killed, resumed = 0, 0
        while killed < kills:
            if made.run(kill_after=chance.uniform(0.2, 1) * whole):
                assert_same(output, undisturbed)
                output.unlink()
            else:
                killed += 1
                resumed += (tmp_path / ".a.tif.partial.json").exists()
        assert resumed > 0
        assert made.run()
    assert_same(output, undisturbed)
    assert names(tmp_path) == ["a.gpkg", "a.qml", "a.tif"]


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------

COMMAND_LINE = """
import sys, time
from geosiam.scores import writer
from geosiam.inference import scorer
scorer.BLOCK_PX, writer.FLUSH_SECONDS = int(sys.argv[1]), 0.0
score_block, pause = scorer.Scorer.score_block, float(sys.argv[2])
scorer.Scorer.score_block = lambda *args: time.sleep(pause) or score_block(*args)
from geosiam_cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def command_line(*args: object, pause_s: float = 0.0) -> list[str]:
    """Return a command line that takes a rest before each block, so that a busy machine cannot miss it at work."""
    return [sys.executable, "-c", COMMAND_LINE, str(BLOCK_PX), str(pause_s), *map(str, args)]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = ("detect", scenes.before, scenes.after, "-o", tmp_path / "a.gpkg", "--workers", 1)
    slowly = command_line(*arguments, pause_s=0.2)
    with subprocess.Popen(slowly, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while (journal := Journal.load(tmp_path / ".a.tif.partial.json")) is None or not journal.finished.any():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    kept, interrupted = filter(None, err.splitlines())
    assert "blocks are scored and kept; the same command resumes the run" in kept
    assert interrupted == "geosiam: interrupted"
    assert names(tmp_path) == [".a.tif.partial.json", ".a.tif.partial.npz", ".a.tif.partial.tif"]

    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, check=True)
    assert "resuming an interrupted run" in done.stderr
    assert_same(tmp_path / "a.gpkg", undisturbed)


# --- interrupted within this process --------------------------------------------------------------------------------


def stop_after(blocks: int):
    left = iter(range(blocks - 1))

    def on_progress(_done: int, _total: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return on_progress


def interrupted(scenes: SyntheticPaths, output: Path, blocks: int = 40, **options: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_to_file(
            scenes.before, scenes.after, output, options=DetectOptions(**options), on_progress=stop_after(blocks)
        )


def test_only_what_is_missing_is_scored_again(
    scenes: SyntheticPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(scenes, tmp_path / "a.tif", blocks=40)
    assert "40 of 195 blocks are scored and kept" in caplog.text
    scored = []
    whole = Scorer.score_block
    monkeypatch.setattr(Scorer, "score_block", lambda *args: scored.append(args[2].index) or whole(*args))
    seen = []
    score_to_file(
        scenes.before,
        scenes.after,
        tmp_path / "a.tif",
        options=DetectOptions(workers=1, threshold=0.9),  # what does not matter to the scores may change
        on_progress=lambda *numbers: seen.append(numbers),
    )
    assert sorted(scored) == list(range(40, 195))
    assert seen[0] == (811 * 930 * 41 // 195, 811 * 930)
    assert seen[-1] == (811 * 930, 811 * 930)


def test_another_run_is_refused_until_it_is_told_to_restart(
    scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path
) -> None:
    interrupted(scenes, tmp_path / "a.tif")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refused(saying: str, after: Path = scenes.after, **options: object) -> None:
        with pytest.raises(OutputError, match=saying) as caught:
            score_to_file(scenes.before, after, tmp_path / "a.tif", options=DetectOptions(**options))
        assert caught.value.remedy == "start from scratch with `restart=True`, or choose another output"

    refused("another model", model="paper")
    refused("another choice of bands, nodata, registration or radiometry", bands=(3, 2, 1))
    refused("another device or precision", precision="bf16" if scoring_is_fp32() else "fp32")
    refused("another after scene", after=scenes.before)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept

    detect(scenes.before, scenes.after, tmp_path / "a.gpkg", options=DetectOptions(restart=True))
    assert_same(tmp_path / "a.gpkg", undisturbed)


def scoring_is_fp32() -> bool:
    import torch

    from geosiam.inference.torch_engine import choose_device, choose_precision

    return choose_precision("auto", choose_device("auto")) == torch.float32


def test_a_run_whose_sources_were_exported_again_is_not_resumed(scenes: SyntheticPaths, tmp_path: Path) -> None:
    after = Path(shutil.copy(scenes.after, tmp_path / "after.tif"))
    rasterio.shutil.copy(after, tmp_path / "after.vrt", driver="VRT")
    through = SyntheticPaths(scenes.before, tmp_path / "after.vrt", scenes.truth)
    interrupted(through, tmp_path / "a.tif")
    with rasterio.open(after, "r+") as file:
        file.write(file.read()[:, ::-1])
    with pytest.raises(OutputError, match="was started with another after scene"):
        score_to_file(scenes.before, tmp_path / "after.vrt", tmp_path / "a.tif")


def test_a_run_of_scenes_without_any_sign_of_their_version_begins_again(
    scenes: SyntheticPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scene_info, "_file_fingerprint", lambda _: "")
    interrupted(scenes, tmp_path / "a.tif")
    done = []
    score_to_file(scenes.before, scenes.after, tmp_path / "a.tif", on_progress=lambda *progress: done.append(progress))
    assert (
        "starting again, because nothing tells whether the before scene or the after scene has changed" in caplog.text
    )
    assert done[0][0] < done[-1][1] / 4
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert raster.read_masks(1).any()


def test_an_interruption_of_the_vectorising_costs_no_scoring(
    scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("geosiam.polygons.writer.write_polygons", interrupt)
        with pytest.raises(KeyboardInterrupt):
            detect(scenes.before, scenes.after, tmp_path / "a.gpkg")
    monkeypatch.setattr(Scorer, "score_block", interrupt)
    detect(scenes.before, scenes.after, tmp_path / "a.gpkg")
    assert_same(tmp_path / "a.gpkg", undisturbed)
    assert names(tmp_path) == ["a.gpkg", "a.qml", "a.tif"]


def test_without_a_score_raster_there_are_no_polygons(
    scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raster is completed while polygons are cut; a disk that is full by then takes neither."""

    def full(*_: object) -> None:
        time.sleep(0.5)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ScoreRasterWriter, "_to_cog", full)
        with pytest.raises(OutputError, match=r"a\.tif: cannot be written .*No space left"):
            detect(scenes.before, scenes.after, tmp_path / "a.gpkg")
    assert not [name for name in names(tmp_path) if not name.startswith(".")]
    detect(scenes.before, scenes.after, tmp_path / "a.gpkg")
    assert_same(tmp_path / "a.gpkg", undisturbed)


def test_an_output_has_one_writer(scenes: SyntheticPaths, tmp_path: Path) -> None:
    caught = []

    def start_another(_done: int, _total: int) -> None:
        if not caught:
            with pytest.raises(OutputError, match="is being written by another run") as error:
                score_to_file(scenes.before, scenes.after, tmp_path / "a.tif", options=DetectOptions(restart=True))
            caught.append(error)

    score_to_file(scenes.before, scenes.after, tmp_path / "a.tif", on_progress=start_another)
    assert caught
    assert names(tmp_path) == ["a.qml", "a.tif"]


# --- a full disk ----------------------------------------------------------------------------------------------------

FULL_DISK = """
import subprocess, sys
from pathlib import Path
from geosiam.scores import writer
from geosiam.inference import scorer
scorer.BLOCK_PX, writer.FLUSH_SECONDS = int(sys.argv[1]), 0.0
from geosiam.errors import OutputError
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
disk = Path(sys.argv[4])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk], check=True)
filler, seen = disk / "filler", []

def fill_the_disk_midway(done, total):
    seen.append(done)
    if done > total / 2 and not filler.exists():
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break

def attempt(**options):
    seen.clear()
    try:
        detect(*sys.argv[2:4], disk / "a.gpkg", options=DetectOptions(**options), on_progress=fill_the_disk_midway)
    except OutputError as error:
        print(error)
    print(len(seen), sorted(path.name for path in disk.iterdir()))

attempt()
filler.unlink()
subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
filler.touch()
attempt()
subprocess.run(["cp", "-r", disk, sys.argv[5]], check=True)
"""


def test_a_full_disk_ends_the_run_in_one_line_and_room_lets_it_go_on(
    scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path
) -> None:
    """On a file system of 512 kB, mounted where only the other process sees it."""
    (tmp_path / "disk").mkdir()
    alone = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no right to mount a small file system")
    script = [
        sys.executable,
        "-c",
        FULL_DISK,
        str(BLOCK_PX),
        scenes.before,
        scenes.after,
        tmp_path / "disk",
        tmp_path / "copy",
    ]
    done = subprocess.run([*alone, *script], capture_output=True, text=True, check=True)
    error, left, *finished = done.stdout.splitlines()
    assert error.startswith(f"{tmp_path / 'disk' / 'a.tif'}: cannot be written (")
    assert "No space left on device" in error
    assert left.endswith("['.a.tif.partial.json', '.a.tif.partial.npz', '.a.tif.partial.tif', 'filler']")
    assert finished[-1].endswith("['a.gpkg', 'a.qml', 'a.tif', 'filler']")
    assert int(finished[-1].split()[0]) < 195
    assert_same(tmp_path / "copy" / "a.gpkg", undisturbed)


# --- inputs that go bad ---------------------------------------------------------------------------------------------


def copied(scenes: SyntheticPaths, folder: Path) -> SyntheticPaths:
    folder.mkdir()
    for path in (scenes.before, scenes.after, scenes.truth):
        shutil.copy2(path, folder)
    return SyntheticPaths(*(folder / path.name for path in (scenes.before, scenes.after, scenes.truth)))


def test_a_scene_that_vanishes_midway_is_one_line_and_the_run_goes_on_when_it_is_back(
    scenes: SyntheticPaths, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CACHE_BYTES", 2_000_000)  # of a smaller scene all is decoded at the beginning
    ours = copied(scenes, tmp_path / "in")
    content, times = ours.after.read_bytes(), ours.after.stat()
    out = tmp_path / "out"
    out.mkdir()

    def cut(done: int, total: int) -> None:
        if done > total / 4:
            os.truncate(ours.after, 1000)

    with pytest.raises(SceneUnreadableError, match=r"after.tif: cannot be read at rows .* truncated or corrupt"):
        detect(ours.before, ours.after, out / "a.gpkg", on_progress=cut)
    assert names(out) == [".a.tif.partial.json", ".a.tif.partial.npz", ".a.tif.partial.tif"]

    ours.after.write_bytes(content)
    os.utime(ours.after, ns=(times.st_atime_ns, times.st_mtime_ns))
    detect(ours.before, ours.after, out / "a.gpkg")
    assert_same(out / "a.gpkg", undisturbed)


def spoil_a_tile(path: Path) -> tuple[int, int]:
    """Overwrite the last tile of a tiled GeoTIFF with noise; return its first row and column."""
    with rasterio.open(path) as dataset:
        (height, width), (rows, cols) = dataset.block_shapes[0], dataset.shape
        i, j = (rows - 1) // height, (cols - 1) // width
        start, size = (int(dataset.get_tag_item(f"BLOCK_{what}_{j}_{i}", "TIFF", 1)) for what in ("OFFSET", "SIZE"))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(0).randbytes(size))
    return i * height, j * width


def test_a_corrupt_tile_ends_the_run_or_leaves_a_hole_that_is_listed(scenes: SyntheticPaths, tmp_path: Path) -> None:
    ours = copied(scenes, tmp_path / "in")
    row, col = spoil_a_tile(ours.after)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SceneUnreadableError, match=r"after.tif: cannot be read at rows"):
        score_to_file(ours.before, ours.after, out / "a.tif")
    assert names(out) == []

    done = detect(ours.before, ours.after, out / "a.gpkg", options=DetectOptions(on_error="skip", register=False))
    assert done.unreadable
    assert done.unreadable[0].reason.startswith(f"{ours.after}: cannot be read at rows")
    with rasterio.open(out / "a.tif") as raster:
        missing = raster.read(1) == raster.nodata
    expected, side = np.zeros_like(missing), load_model().card.stride
    for block in done.unreadable:
        rows, cols = (slice(start // side, -(-stop // side)) for start, stop in (block.rows, block.cols))
        expected[rows, cols] = True
    np.testing.assert_array_equal(missing, expected)
    assert missing[-(-row // side) :, -(-col // side) :].all()
    assert not missing[: (row - 128) // side].any()
    assert names(out) == ["a.gpkg", "a.qml", "a.tif"]


def test_holes_exit_with_4_and_are_listed(scenes: SyntheticPaths, tmp_path: Path) -> None:
    ours = copied(scenes, tmp_path / "in")
    spoil_a_tile(ours.after)
    command = command_line("score", ours.before, ours.after, "-o", tmp_path / "a.tif", "--on-error", "skip")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, f"{tmp_path / 'a.tif'}\n")
    *listed, last = done.stderr.splitlines()
    assert listed
    assert all(line.startswith("geosiam: warning: no scores for rows ") for line in listed)
    assert last == (
        f"geosiam: error: {tmp_path / 'a.tif'}: has {len(listed)} block(s) without scores where a scene "
        "cannot be read; repair the scene and run again"
    )
