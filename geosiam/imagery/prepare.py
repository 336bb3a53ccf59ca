"""Open a pair of scenes: all checks and decisions, before any result is computed."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from geosiam.errors import SceneRefusedError
from geosiam.imagery.alignment import (
    align,
    check_resolution,
    check_transformable,
    displaced,
    footprint,
    unwrap_longitude,
)
from geosiam.imagery.aoi import AreaOfInterest
from geosiam.imagery.bands import choose_channels, names_its_colors
from geosiam.imagery.displacement import estimate_field
from geosiam.imagery.grid import Window
from geosiam.imagery.masks import settle_nodata
from geosiam.imagery.normalization import PLAIN, Unit, choose_stretches, estimate_radiometry
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair import ScenePair
from geosiam.imagery.pair_report import (
    PairReport,
    warnings_on_bands,
    warnings_on_extent,
    warnings_on_levels,
    warnings_on_radiometry,
    warnings_on_resolution,
    warnings_on_shift,
    warnings_on_storage,
)
from geosiam.imagery.reader import AlignedReader
from geosiam.imagery.registration import DEFAULT_POLICY, NO_SHIFT, improves
from geosiam.imagery.resampling import DisplacedReader
from geosiam.imagery.sampling import sample_overlap
from geosiam.imagery.scene import checked_grid, environment
from geosiam.imagery.scene_info import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from geosiam.imagery.bands import Channels
    from geosiam.imagery.displacement import DisplacementField, FieldEstimate
    from geosiam.imagery.normalization import RadiometricNormalization, Stretch
    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.registration import RegistrationPolicy, Shift
    from geosiam.imagery.sampling import Sample
    from geosiam.imagery.scene import Scene

    Estimate = Callable[[], FieldEstimate | None]
    EstimateSource = Callable[[Mapping[str, Any], Estimate], FieldEstimate | None]

_MAX_PIXELS = 10**13  # of the before scene, which sets the size of the score raster


def estimated_now(_inputs: Mapping[str, Any], estimate: Estimate) -> FieldEstimate | None:
    """Return an estimate of the displacement that is made now, whatever it depends on."""
    return estimate()


def open_pair(
    before: SceneLike,
    after: SceneLike,
    *,
    options: PairOptions = PairOptions(),
    estimates: EstimateSource = estimated_now,
) -> ScenePair:
    """Check two scenes and decide how they are read.

    Parameters
    ----------
    before, after
        Paths, also of folders or patterns of tiles, URLs that GDAL reads, open rasterio datasets, or georeferenced
        DataArrays.
    options
        How the scenes are read.
    estimates
        Returns an estimate of the displacement, given all that it depends on and a function that makes it.

    Raises
    ------
    InputError
        A scene cannot be used; the subclass says why, and the message names the scene, the fact and the remedy.
    """
    with contextlib.ExitStack() as on_failure:
        scenes = [on_failure.enter_context(contextlib.closing(open_scene(scene))) for scene in (before, after)]
        with environment():
            pair = PairBuilder(scenes[0], scenes[1], options, estimates=estimates).build()
        on_failure.pop_all()  # the pair closes its scenes
    return pair


@dataclass(frozen=True)
class _View:
    """Readers of the pair for one correction of the shift, and the sample that was read with them."""

    before: AlignedReader
    after: AlignedReader
    overlap: Window
    sample: Sample


@dataclass(frozen=True)
class _Registered:
    """The view in which the pair is read, after the decision about its misregistration.

    Parameters
    ----------
    view
        The view, corrected or not.
    shift
        Shift estimated before any correction; None if it cannot be estimated.
    remaining
        Shift that remains in the view; None if it cannot be estimated.
    local
        Estimate of the displacement from place to place; None if there is none.
    """

    view: _View
    shift: Shift | None
    remaining: Shift | None
    local: FieldEstimate | None = None

    @property
    def misfit(self) -> Shift | None:
        """The shift that remains; where there are too few patches to estimate it, that of the local matches."""
        is_known = self.remaining is not None and self.remaining.trustworthy
        if is_known or self.local is None or isinstance(self.view.after, DisplacedReader):
            return self.remaining
        return self.local.shift if self.local.agreement >= DEFAULT_POLICY.min_agreement else self.remaining

    @property
    def displacement(self) -> DisplacementField | None:
        """The total displacement of the after scene, whether it is applied or not."""
        if self.local is None:
            return None
        if isinstance(self.view.after, DisplacedReader):
            return self.view.after.field
        return self.local.field.plus(*self.view.after.alignment.shift)


class PairBuilder:
    """Check two scenes and decide how they are read, for :func:`open_pair`.

    Parameters
    ----------
    before, after
        The two scenes.
    options
        How the scenes are read.
    policy
        Which misregistration is corrected.
    estimates
        As of :func:`open_pair`.

    Raises
    ------
    InputError
        The scenes cannot be compared.
    """

    def __init__(
        self,
        before: Scene,
        after: Scene,
        options: PairOptions,
        policy: RegistrationPolicy = DEFAULT_POLICY,
        estimates: EstimateSource = estimated_now,
    ) -> None:
        self.options = options
        self.policy = policy
        self.estimates = estimates
        self.scenes = before, after
        self.grid = checked_grid(before)
        if self.grid.width * self.grid.height > _MAX_PIXELS:
            fact = f"has {self.grid.height} x {self.grid.width} pixels, more than {_MAX_PIXELS:.0e}"
            raise SceneRefusedError(before.name, fact, "cut out a part of it: gdal_translate -projwin ... IN OUT")
        self.after_grid = unwrap_longitude(checked_grid(after), self.grid)
        check_transformable(after.name, self.after_grid, self.grid)
        skip = options.on_error == "skip"
        self.warnings = [
            line
            for scene, nodata in zip(self.scenes, options.nodata_of_scenes, strict=True)
            for line in settle_nodata(scene, nodata, skip_unreadable=skip)
        ]
        handles = before.handle(), after.handle()
        by_color = all(names_its_colors(handle) for handle in handles)
        self.channels = (
            choose_channels(before.name, handles[0], options.bands_of_scenes[0], by_color=by_color),
            choose_channels(after.name, handles[1], options.bands_of_scenes[1], by_color=by_color),
        )
        self.aoi = AreaOfInterest.read(options.aoi, self.grid) if options.aoi is not None else None
        self._unshifted: tuple[AlignedReader, AlignedReader] | None = None

    def build(self) -> ScenePair:
        """Return the pair.

        Raises
        ------
        InputError
            The scenes have no valid pixel in common, or cannot be decoded.
        """
        view = self._view(NO_SHIFT)
        if view is None:
            raise SceneRefusedError(
                self.scenes[1].name,
                f"has no valid pixel in common with {self.scenes[0].name}",
                "check nodata values and masks, or mark where the data are with `aoi`",
            )
        self.infos = describe(self.scenes[0]), describe(self.scenes[1])  # before what depends on the content
        stretches = choose_stretches(self._dtypes(), (view.sample.before, view.sample.after), self._units())
        registered = self._register(view, stretches)
        view = registered.view
        radiometry = estimate_radiometry(*view.sample.pixels(stretches), self.options.radiometry)
        report = self._report(registered, stretches, radiometry)
        readers = view.before, view.after
        return ScenePair(
            self.grid, view.overlap, *readers, stretches, radiometry, self.aoi, report, registered.displacement
        )

    # -- registration ------------------------------------------------------------------------------------------------

    def _register(self, view: _View, stretches: tuple[Stretch, Stretch]) -> _Registered:
        """Correct the misregistration of a view as far as that is wanted and helps."""
        shift = view.sample.shift(stretches)
        if self.options.register == "none":
            return _Registered(view, shift, shift)
        registered = self._correct_shift(_Registered(view, shift, shift), shift, stretches)
        if self.options.register == "shift":
            return registered
        return self._correct_displacement(registered, stretches)

    def _correct_shift(
        self, unchanged: _Registered, shift: Shift | None, stretches: tuple[Stretch, Stretch]
    ) -> _Registered:
        """Correct one shift of the whole scene if that is wanted and helps."""
        view, requested = unchanged.view, self.options.register == "shift"
        if self.policy.is_far(shift):
            shift = self._refine_shift(shift, stretches)
            unchanged = replace(unchanged, shift=shift)
        if requested and (objection := self.policy.objection(shift)) is not None:
            self.warnings.append(objection)
        resampled = view.after.alignment.offset is None
        correction = self.policy.correction(shift, requested=requested, resampled=resampled)
        if shift is None or correction == NO_SHIFT:
            return unchanged
        if not requested and (moved := self._move_patches(view, correction)) is not None:
            return _Registered(moved, shift, shift.without(*correction))
        moved = self._view(correction)
        if moved is None:
            return unchanged
        remaining = moved.sample.shift(stretches)
        return _Registered(moved, shift, remaining) if requested or improves(remaining, shift) else unchanged

    def _correct_displacement(self, registered: _Registered, stretches: tuple[Stretch, Stretch]) -> _Registered:
        """Correct the displacement from place to place if that is wanted or helps."""
        requested = self.options.register == "field"
        rows, cols = registered.view.overlap.shape
        if not requested and rows * cols > self.policy.max_field_px:
            self.warnings.append("a bend is not looked for in a scene of this size; `register=field` does so")
            return registered
        local = self._estimate_field(registered.view, stretches)
        unreliable = registered.shift is None or not registered.shift.trustworthy
        if local is not None and unreliable and local.shift.patches >= self.policy.min_nodes:
            registered = self._correct_local_shift(registered, local, stretches)
            local = registered.local
        if local is None:
            if requested:
                self.warnings.append("the displacement of the scenes cannot be estimated and is not corrected")
            return registered
        if requested or local.may_improve(self.policy):
            local = self._estimate_field(registered.view, stretches, local) or local
        registered = replace(registered, local=local)
        if not requested and not local.improves(self.policy):
            return registered
        field = local.field.plus(*registered.view.after.alignment.shift)
        moved = self._view(registered.view.after.alignment.shift, replace(field, applied=True))
        if moved is None or not (requested or moved.sample.correlation() > registered.view.sample.correlation()):
            return registered
        return replace(registered, view=moved, remaining=moved.sample.shift(stretches))

    def _correct_local_shift(
        self, registered: _Registered, local: FieldEstimate, stretches: tuple[Stretch, Stretch]
    ) -> _Registered:
        """Correct one shift on which the local matches agree, if there are too few patches to estimate it from."""
        view, shift = registered.view, local.shift
        unchanged = replace(registered, local=local)
        resampled = view.after.alignment.offset is None
        correction = self.policy.correction(shift, requested=False, resampled=resampled)
        moved = None if correction == NO_SHIFT else self._view(correction)
        if moved is None:
            return unchanged
        remaining = self._estimate_field(moved, stretches)
        if remaining is None or not improves(remaining.shift, shift):
            return unchanged
        return _Registered(moved, shift, remaining.shift, remaining)

    def _estimate_field(
        self, view: _View, stretches: tuple[Stretch, Stretch], coarse: FieldEstimate | None = None
    ) -> FieldEstimate | None:
        estimate = partial(
            estimate_field,
            view.before,
            view.after,
            view.overlap,
            stretches,
            coarse=coarse,
            skip_unreadable=self.options.on_error == "skip",
            workers=self.options.workers,
        )
        inputs = {
            "scenes": [asdict(replace(info, name="")) for info in self.infos],
            "channels": [channels.to_dict() for channels in self.channels],
            "alignment": repr(view.after.alignment),
            "overlap": asdict(view.overlap),
            "stretches": [asdict(stretch) for stretch in stretches],
            "options": [self.options.nodata, self.options.on_error],
            "coarse": None if coarse is None else coarse.field.checksum,
        }
        return self.estimates(inputs, estimate)

    def _refine_shift(self, shift: Shift, stretches: tuple[Stretch, Stretch]) -> Shift:
        """Estimate a far shift again from patches of the same ground: the first ones have little in common."""
        whole = shift.rounded()
        view = self._view((whole.rows, whole.cols))
        remaining = None if view is None else view.sample.shift(stretches)
        return whole + remaining if remaining is not None and remaining.trustworthy else shift

    def _move_patches(self, view: _View, correction: tuple[float, float]) -> _View | None:
        """Return the view after a short correction, from the patches read before; None if they do not suffice."""
        if view.after.alignment.offset is None or not self.policy.fits_patches(correction):
            return None
        sample = view.sample.moved(int(correction[0]), int(correction[1]))
        if sample is None or sample.correlation() <= view.sample.correlation():
            return None
        before, after = self._readers(correction)
        return _View(before, after, self._overlap(correction), sample)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _view(self, shift: tuple[float, float], field: DisplacementField | None = None) -> _View | None:
        """Return the view in which a shift (rows, cols) is corrected, or a field which includes it.

        It is None if the scenes share no valid pixel then.
        """
        before, after = self._readers(shift)
        overlap = self._overlap(shift)
        if field is not None:
            alignment = displaced(after.alignment, palette=after.channels.table is not None)
            after = DisplacedReader(after.scene, after.channels, alignment, field)
            overlap = self._overlap(shift, math.ceil(field.longest))
        skip = self.options.on_error == "skip"
        sample = sample_overlap(before, after, overlap, self.aoi, skip_unreadable=skip, workers=self.options.workers)
        return None if sample is None else _View(before, after, overlap, sample)

    def _readers(self, shift: tuple[float, float]) -> tuple[AlignedReader, AlignedReader]:
        before, after = self.scenes
        palette = self.channels[1].table is not None
        alignment = align(self.after_grid, self.grid, palette=palette, shift=shift)
        check_resolution((before.name, after.name), (self.grid, self.after_grid), alignment)
        if self._unshifted is not None:
            return self._unshifted[0], self._unshifted[1].with_alignment(alignment)
        self._unshifted = (
            AlignedReader(before, self.channels[0], align(self.grid, self.grid)),
            AlignedReader(after, self.channels[1], alignment),
        )
        return self._unshifted

    def _overlap(self, shift: tuple[float, float], margin: int = 0) -> Window:
        margin = max(margin, math.ceil(math.hypot(*shift)))
        overlap = footprint(self.after_grid, self.grid)
        if overlap is not None and margin:  # the correction may move the scene there
            overlap = overlap.grown(margin).intersection(Window(0, self.grid.height, 0, self.grid.width))
        if overlap is not None and self.aoi is not None:
            overlap = overlap.intersection(self.aoi.bounds())
        if overlap is None:
            raise SceneRefusedError(
                self.scenes[1].name, f"does not overlap {self.scenes[0].name}", "choose two scenes of the same place"
            )
        return overlap

    # -- values ------------------------------------------------------------------------------------------------------

    def _dtypes(self) -> tuple[str, str]:
        before, after = (
            "uint8" if channels.table is not None else scene.handle().dtypes[channels.indexes[0] - 1]
            for scene, channels in zip(self.scenes, self.channels, strict=True)
        )
        return before, after

    def _units(self) -> tuple[Unit, Unit]:
        before, after = (_unit(scene, channels) for scene, channels in zip(self.scenes, self.channels, strict=True))
        if before != after:
            self.warnings.append("the scenes store values in different units; their scale and offset are applied")
        return before, after

    # -- report ------------------------------------------------------------------------------------------------------

    def _report(
        self, registered: _Registered, stretches: tuple[Stretch, Stretch], radiometry: RadiometricNormalization
    ) -> PairReport:
        view, shift, remaining = registered.view, registered.shift, registered.remaining
        overlap, alignment = view.overlap, view.after.alignment
        infos = self.infos
        units = [_unit(scene, channels) for scene, channels in zip(self.scenes, self.channels, strict=True)]
        rows, cols = overlap.shape
        overlap_fraction = rows * cols / (self.grid.width * self.grid.height)
        local = None if registered.local is None else registered.local.to_dict(registered.displacement)
        return PairReport(
            before=infos[0],
            after=infos[1],
            before_bands=self.channels[0].to_dict(),
            after_bands=self.channels[1].to_dict(),
            alignment=alignment.reason,
            resampling=alignment.resampling,
            scaling={"before": asdict(stretches[0]), "after": asdict(stretches[1])},
            radiometry=radiometry.to_dict(),
            overlap=(overlap.row_start, overlap.row_stop, overlap.col_start, overlap.col_stop),
            overlap_fraction=round(overlap_fraction, 4),
            valid_fraction=round(view.sample.valid_fraction, 4),
            shift=None if shift is None else asdict(shift),
            moved_px=alignment.shift,
            shift_px=round(remaining.length, 3) if remaining is not None and remaining.trustworthy else None,
            displacement=local,
            warnings=(
                *self.warnings,
                *warnings_on_bands(infos, self.channels, same_unit=units[0] == units[1]),
                *warnings_on_levels(infos, self._dtypes(), view.sample),
                *warnings_on_resolution(alignment),
                *warnings_on_storage((view.before, view.after)),
                *warnings_on_extent(overlap_fraction),
                *warnings_on_radiometry(radiometry, self.options.radiometry),
                *warnings_on_shift(registered.misfit, alignment.shift, local, register=str(self.options.register)),
            ),
        )


def _unit(scene: Scene, channels: Channels) -> Unit:
    if channels.table is not None:
        return PLAIN
    dataset, bands = scene.handle(), [index - 1 for index in channels.indexes]
    return Unit.of([dataset.scales[band] for band in bands], [dataset.offsets[band] for band in bands])
