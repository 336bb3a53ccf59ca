"""One synthetic scene, any window of which can be rendered.

The scene is drawn in tiles of a fixed lattice. A tile depends on the configuration and its position only: everything
in it is a function of the position, and what reaches in from outside (crowns, shadows, leaning roofs) is drawn in a
margin. So a scene of any size can be rendered in the memory of a tile.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from geosiam.imagery.grid import Window
from geosiam.synthesis import light, noise
from geosiam.synthesis.blocks import BlockContent, Builder
from geosiam.synthesis.changes import Change, choose_changes
from geosiam.synthesis.ground import Positions, ground_ids, node_spacing
from geosiam.synthesis.layout import Plan
from geosiam.synthesis.materials import Palette
from geosiam.synthesis.things import Canvas, Thing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geosiam.synthesis.light import Flight
    from geosiam.synthesis.materials import LandscapeName

TILE = 512  # pixels; a multiple of 8, so that compression blocks meet at tile borders
_TALLEST = 12.0  # meters; things of this height cast the longest shadows
_LONGEST_SHADOW_PX = 320
_DEEPEST = 1.2  # meters; pits are as deep, or a few pixels deep in coarse scenes
_DEEPEST_PX = 3
_PROBE = 4.0  # meters between the positions at which the blocks around a window are looked up


class SyntheticScene:
    """A synthetic place, photographed at two dates.

    Parameters
    ----------
    seed
        Seed of the place and of the changes.
    landscape
        Name of the landscape.
    gsd
        Meters per pixel.
    shape
        Rows and columns.
    flights
        Conditions of the first and of the second date.
    objects
        Number of changes.
    shift
        Misregistration: rows and columns by which the second date is too far down and right.
    changes
        The changes; None: as many as `objects` says, where there is room.
    """

    def __init__(
        self, *, seed: int, landscape: LandscapeName, gsd: float, shape: tuple[int, int],
        flights: tuple[Flight, Flight], objects: int, shift: tuple[float, float],
        changes: Sequence[Change] | None = None,
    ) -> None:  # fmt: skip
        self.seed, self.gsd, self.shape, self.flights, self.shift = seed, gsd, shape, flights, shift
        self.plan = Plan(seed, landscape, gsd, (shape[1] * gsd, shape[0] * gsd))
        self.content = lru_cache(maxsize=1024)(self._content)
        self.changes: list[Change] = (
            choose_changes(self.plan, self.content, count=objects, gsd=gsd, shape=shape, seed=seed, flights=flights)
            if changes is None
            else list(changes)
        )
        self._extents = np.array([(c.thing.x, c.thing.y, c.thing.reach) for c in self.changes]).reshape(-1, 3).T
        lowest = min(np.tan(np.radians(f.sun_elevation)) for f in flights)
        self._reach = min(int(np.ceil(_TALLEST / gsd / lowest)), _LONGEST_SHADOW_PX)
        self._ceiling = np.float32(self._reach * lowest)
        self._bounds = float(self._ceiling), max(_DEEPEST / gsd, _DEEPEST_PX)

    def render(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return both dates, uint8 (3, rows, cols) each, for any window inside the scene."""
        dates = np.empty((2, 3, *window.shape), np.uint8)
        for row in range(window.row_start // TILE, -(-window.row_stop // TILE)):
            for col in range(window.col_start // TILE, -(-window.col_stop // TILE)):
                tile = Window(row * TILE, (row + 1) * TILE, col * TILE, (col + 1) * TILE)
                part = tile.intersection(window)
                assert part is not None
                target, source = _relative(part, window), _relative(part, tile)
                dates[(slice(None), slice(None), *target.slices)] = self._tile(tile)[
                    (slice(None), slice(None), *source.slices)
                ]
        return dates[0], dates[1]

    def heights(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the exact heights of both dates in meters above the ground, float32 (rows, cols), for any window."""
        static = self._empty_canvas(window, Palette(self.gsd))
        for thing in self._things(window):
            static.draw(thing)
        dates = []
        for date in (False, True):
            maps = static.ids.copy(), static.height.copy(), static.bumps, static.walls.copy()
            canvas = Canvas(window, self.gsd, static.palette, *maps)
            for index in self._changes_near(window):
                if (self.changes[index].kind == "added") == date:
                    canvas.draw(self.changes[index].thing)
            dates.append(canvas.height)
        return dates[0], dates[1]

    def _content(self, i: int, j: int) -> BlockContent:
        return Builder(self.plan, self.plan.block(i, j), self.gsd).build()

    def _tile(self, tile: Window) -> NDArray[np.uint8]:
        """Return both dates of one tile, uint8 (2, 3, TILE, TILE)."""
        edge = light.margin(self.shift)
        # Whole steps between nodes, so that the ground is the same whether a flight leans or not.
        step, margins = node_spacing(self.gsd), light.lean_margin(self.flights, self._bounds)
        core = _expanded(tile, *(edge + 1 + step * -(-margin // step) for margin in margins))
        padded, inner = self._with_shadow_margin(core)
        palette = Palette(self.gsd)
        ground = ground_ids(self.plan, self.content, palette, Positions.of_window(self.plan, core, self.gsd), self.gsd)
        static = self._empty_canvas(padded, palette)
        for thing in self._things(padded):
            static.draw(thing)
        texture = self._texture(core)
        out = np.empty((2, 3, TILE, TILE), np.uint8)
        for date in range(2):
            maps = static.ids.copy(), static.height.copy(), static.bumps, static.walls.copy()
            canvas = Canvas(padded, self.gsd, palette, *maps)
            for index in self._changes_near(padded):
                if (self.changes[index].kind == "added") == bool(date):
                    canvas.draw(self.changes[index].thing)
            out[date] = self._date(date, canvas, ground, tile=tile, core=core, inner=inner, texture=texture)
        return out

    def _changes_near(self, window: Window) -> NDArray[np.intp]:
        """Return the indices of the changes that may reach into a window."""
        x, y, reach = self._extents
        left, right = window.col_start * self.gsd - reach, window.col_stop * self.gsd + reach
        top, bottom = window.row_start * self.gsd - reach, window.row_stop * self.gsd + reach
        return np.flatnonzero((left < x) & (x < right) & (top < y) & (y < bottom))

    def _with_shadow_margin(self, core: Window) -> tuple[Window, tuple[slice, slice]]:
        """Return the core expanded toward both suns, and the slices of the core in it."""
        steps = np.array([flight.toward_sun for flight in self.flights]) * (self._reach + 2)
        up, left = np.ceil(np.maximum(-steps, 0).max(axis=0)).astype(int)
        down, right = np.ceil(np.maximum(steps, 0).max(axis=0)).astype(int)
        padded = _expanded(core, int(up), int(down), int(left), int(right))
        return padded, _relative(core, padded).slices

    def _empty_canvas(self, window: Window, palette: Palette) -> Canvas:
        bumps = noise.smooth(window, max(2, round(0.8 / self.gsd)), self.seed + 11)
        nothing = np.full(window.shape, -1, np.int16)
        height = np.zeros(window.shape, np.float32)
        return Canvas(window, self.gsd, palette, nothing, height, bumps, nothing.copy())

    def _things(self, window: Window) -> list[Thing]:
        """Return the things that may reach into a window, in an order that does not depend on the window."""
        x0, x1 = window.col_start * self.gsd - 8, window.col_stop * self.gsd + 8
        y0, y1 = window.row_start * self.gsd - 8, window.row_stop * self.gsd + 8
        # The samples are so dense that no block with things in the window falls between them.
        x, y = np.meshgrid(np.arange(x0, x1 + _PROBE, _PROBE), np.arange(y0, y1 + _PROBE, _PROBE))
        p, q = self.plan.to_plan(x, y)
        blocks = np.unique(np.floor(np.stack([p / self.plan.pitch[0], q / self.plan.pitch[1]])).reshape(2, -1), axis=1)
        things = [
            thing
            for i, j in blocks.T.astype(int)
            for thing in self.content(int(i), int(j)).things
            if x0 - thing.reach < thing.x < x1 + thing.reach and y0 - thing.reach < thing.y < y1 + thing.reach
        ]
        # Flat things first: a driveway must not cover a car.
        return sorted(things, key=lambda thing: thing.kind != "ground")

    def _texture(self, window: Window) -> tuple[NDArray[np.float32], ...]:
        """Return blend noise, pixel grain and broad brightness of a window, the same on both dates."""
        gsd, seed = self.gsd, self.seed
        fine = noise.smooth(window, max(2, round(0.5 / gsd)), seed + 21)
        blend = fine + noise.smooth(window, max(3, round(3.2 / gsd)), seed + 22)
        blend += np.float32(1.2) * noise.smooth(window, max(5, round(13 / gsd)), seed + 23)
        grain = (
            noise.uniform(window, seed + 24) + noise.smooth(window, 2, seed + 25) * np.float32(0.35) - np.float32(0.5)
        )
        return blend, grain, noise.smooth(window, max(8, round(45 / gsd)), seed + 26)

    def _date(
        self,
        date: int,
        canvas: Canvas,
        ground: NDArray[np.int16],
        *,
        tile: Window,
        core: Window,
        inner: tuple[slice, slice],
        texture: tuple[NDArray[np.float32], ...],
    ) -> NDArray[np.uint8]:
        """Return the photograph of one date from its maps of the ground (core): uint8 (3, TILE, TILE)."""
        flight = self.flights[date]
        height = np.minimum(canvas.height * np.float32(1 / self.gsd), self._ceiling)
        drawn = canvas.ids[inner]
        ids = np.where(drawn >= 0, drawn, ground).astype(np.intp)  # the type that numpy looks up fastest
        blend, grain, broad = texture
        relief = canvas.palette.column("relief").take(ids)
        surface = height[inner] + relief * (canvas.bumps[inner] * np.float32(1.5) + grain * np.float32(2.0))
        sun = np.ones_like(surface)
        sun[1:-1, 1:-1] = light.sunlight(surface, flight)
        shadow = light.shaded(height, inner, self._reach, flight)
        palette = canvas.palette.weathered(flight.weathering, self.seed + date)
        edge = light.margin(self.shift)
        start = (core.col_start + edge + 1.5) * self.gsd, (core.row_start + edge + 1.5) * self.gsd
        albedo = self._albedo(palette, ids, flight.season, (blend, grain, broad), start)
        planes, view = [*albedo, sun, shadow], _expanded(tile, edge, edge, edge, edge)
        if flight.off_nadir:
            walls = np.where(canvas.walls[inner] >= 0, canvas.walls[inner], ids)
            planes = self._leaning(planes, (height[inner], walls), palette, flight, windows=(view, core))
        else:
            planes = [plane[_relative(view, core).slices] for plane in planes]
        return light.photograph(
            planes[:3],
            planes[3],
            planes[4],
            flight,
            window=tile,
            shift=self.shift if date else (0.0, 0.0),
            seed=self.seed + 101 * (date + 1),
            edge=edge,
        )

    def _leaning(
        self,
        planes: list[NDArray[np.float32]],
        maps: tuple[NDArray[np.float32], NDArray[np.intp]],
        palette: Palette,
        flight: Flight,
        *,
        windows: tuple[Window, Window],
    ) -> list[NDArray[np.float32]]:
        """Return reflectance, sun and shadow as a camera sees them that does not look straight down.

        ``maps`` are heights in pixels and the materials of walls; ``windows`` are that of the photograph, and that of
        the planes and the maps.
        """
        view, core = windows
        x = (np.arange(view.col_start, view.col_stop) + 0.5) * self.gsd
        y = (np.arange(view.row_start, view.row_stop) + 0.5) * self.gsd
        lean = flight.lean(x[None, :], y[:, None])
        height, walls = np.maximum(maps[0], np.float32(-self._bounds[1])), maps[1]
        surface = light.visible_surface(height, _relative(view, core).slices, lean, flight.tangent, self._bounds)
        ids = walls[surface.walls]
        built = palette.column("vegetation")[ids] == 0  # crowns have no walls: their rim is seen from the side
        where = tuple(index[built] for index in np.nonzero(surface.is_facade))
        first, second = palette.colors(flight.season)
        colors = ((first + second) / 2)[ids[built]]
        planes = [surface.sampled(plane) for plane in planes]
        for plane, wall in zip(planes, (*colors.T, flight.sun_on_facades(lean)[where], 0.0), strict=True):
            plane[where] = wall
        return planes

    def _albedo(
        self,
        palette: Palette,
        ids: NDArray[np.intp],
        season: float,
        texture: tuple[NDArray[np.float32], ...],
        start: tuple[float, float],
    ) -> list[NDArray[np.float32]]:
        """Return linear reflectance of red, green and blue; rows begin at ``start`` (x, y in meters)."""
        blend, grain, broad = texture
        right, down, phase, strength = palette.row_waves(*start)
        first, second = palette.colors(season)
        mixed = blend * palette.column("mix").take(ids) + np.float32(0.5)
        rows = np.arange(ids.shape[0], dtype=np.float32)[:, None]
        cols = np.arange(ids.shape[1], dtype=np.float32)[None, :]
        if strength.any():
            wave = right.take(ids) * cols
            wave += down.take(ids) * rows
            wave += phase.take(ids)
            np.sin(wave, out=wave)
            wave *= strength.take(ids)
            mixed += wave
        np.clip(mixed, 0, 1, out=mixed)
        bright = grain * palette.column("grain").take(ids)
        bright *= 3
        bright += np.float32(1)
        bright += broad * np.float32(0.05)
        bands = []
        for low, high in zip(first.T.copy(), second.T.copy(), strict=True):
            band = (high - low).take(ids)
            band *= mixed
            band += low.take(ids)
            band *= bright
            bands.append(band)
        return bands


def _expanded(window: Window, up: int, down: int, left: int, right: int) -> Window:
    return Window(window.row_start - up, window.row_stop + down, window.col_start - left, window.col_stop + right)


def _relative(window: Window, origin: Window) -> Window:
    """Return a window relative to the corner of another one."""
    r, c = origin.row_start, origin.col_start
    return Window(window.row_start - r, window.row_stop - r, window.col_start - c, window.col_stop - c)
