"""Modules that are imported while something else goes on."""

import subprocess
import sys

from geosiam.runtime import prefetch_imports

SLOW = """
import sys, time
time.sleep(0.3)
done = True
"""


def run(folder, code):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_caller_goes_on_and_the_module_is_there_in_the_end(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    code = """
import sys
from geosiam.runtime import prefetch_imports
with prefetch_imports("slow"):
    assert not hasattr(sys.modules.get("slow"), "done")
assert sys.modules["slow"].done
"""
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr


def test_who_needs_it_sooner_waits_for_all_of_it(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    code = """
from geosiam.runtime import prefetch_imports
with prefetch_imports("slow"):
    import slow
    assert slow.done
"""
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr


def test_who_needs_a_broken_one_learns_of_it(tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('out of order')")
    code = """
from geosiam.runtime import prefetch_imports
with prefetch_imports("broken"):
    pass
import broken
"""
    done = run(tmp_path, code)
    assert "out of order" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1


def test_nothing_is_started_for_what_is_there():
    with prefetch_imports("json", "sys"):
        pass
