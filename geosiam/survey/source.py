"""Whatever a survey is given as, its plan: a manifest, folders, a STAC document, one template for many dates."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.survey.manifest import read_manifest
from geosiam.survey.pairing import pair_folders, pair_series, pair_with_template
from geosiam.survey.scenes import described, scenes_in, shapes_of
from geosiam.survey.stac import is_stac, read_stac

if TYPE_CHECKING:
    from geosiam.survey.pairs import SurveyPlan
    from geosiam.survey.scenes import SurveyScene


def plan_survey(
    source: str | os.PathLike[str],
    after: str | os.PathLike[str] | None = None,
    *,
    before: str | os.PathLike[str] | None = None,
    pattern: str | None = None,
    asset: str | None = None,
) -> SurveyPlan:
    """Find out which scenes are to be compared; nothing of them but their headers is read.

    Parameters
    ----------
    source
        A manifest (CSV, TSV, JSON, Parquet), a folder of scenes, or a STAC document (path or URL).
    after
        Folder of after-scenes, where `source` is the folder of before-scenes.
    before
        One template scene, to compare with every scene of `source`.
    pattern
        How file names in folders say place and date; see :func:`~geosiam.survey.scenes.scenes_in`.
    asset
        Which asset of STAC items to take; see :func:`~geosiam.survey.stac.read_stac`.

    Raises
    ------
    InputError
        The source cannot be used, or there is no pair in it.
    """
    given = os.fspath(source)
    is_folder = "://" not in given and Path(given).is_dir()
    if after is not None:
        if before is not None:
            raise OptionError("two folders", "were given together with one before-scene", "leave out one of them")
        plan = pair_folders(scenes_in(given, pattern), scenes_in(after, pattern))
    elif is_folder or is_stac(given):
        scenes = scenes_in(given, pattern) if is_folder else read_stac(given, asset)
        plan = pair_series(scenes) if before is None else pair_with_template(_template(before), scenes)
    elif before is not None:
        raise OptionError(given, "is a manifest, which names its before-scenes itself", "leave out --before")
    else:
        plan = read_manifest(given)
    if not plan.pairs and not plan.faults:
        raise SceneRefusedError(given, _nothing(plan), "see docs/batch.md on how scenes are paired")
    return _sized(plan)


def _template(before: str | os.PathLike[str]) -> SurveyScene:
    path = os.fspath(before)
    remote = "://" in path or path.startswith("/vsi")
    (scene,) = described([path if remote else os.path.abspath(path)])  # noqa: PTH100 - may be a pattern of tiles
    return scene


def _sized(plan: SurveyPlan) -> SurveyPlan:
    """Look up the sizes that the source did not tell."""
    unknown = [pair.before for pair in plan.pairs if pair.shape is None]
    shapes = dict(zip(unknown, shapes_of(unknown), strict=True))
    return replace(plan, pairs=tuple(replace(p, shape=p.shape or shapes.get(p.before)) for p in plan.pairs))


def _nothing(plan: SurveyPlan) -> str:
    reasons = "; ".join(f"{Path(lonely.scene).name}: {lonely.reason}" for lonely in plan.unpaired[:3])
    return f"has no two scenes that belong together ({reasons or 'it is empty'})"
