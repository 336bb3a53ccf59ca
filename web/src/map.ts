/** The map: small pictures of the scenes with the polygons on them, without tiles or network. */

import Attribution from "ol/control/Attribution.js";
import ScaleLine from "ol/control/ScaleLine.js";
import Zoom from "ol/control/Zoom.js";
import {
  buffer,
  containsCoordinate,
  createEmpty,
  getCenter,
  getHeight,
  getWidth,
  intersects,
  isEmpty,
} from "ol/extent.js";
import type { FeatureLike } from "ol/Feature.js";
import Feature from "ol/Feature.js";
import MultiPolygon from "ol/geom/MultiPolygon.js";
import Point from "ol/geom/Point.js";
import { fromExtent } from "ol/geom/Polygon.js";
import ImageLayer from "ol/layer/Image.js";
import VectorLayer from "ol/layer/Vector.js";
import OpenLayersMap from "ol/Map.js";
import Projection from "ol/proj/Projection.js";
import { get as projection } from "ol/proj.js";
import Static from "ol/source/ImageStatic.js";
import VectorSource from "ol/source/Vector.js";
import CircleStyle from "ol/style/Circle.js";
import Fill from "ol/style/Fill.js";
import Stroke from "ol/style/Stroke.js";
import Style from "ol/style/Style.js";
import Text from "ol/style/Text.js";
import View from "ol/View.js";
import { content, type Pair, picture } from "./content";

const DOT_BELOW_PX = 8; // pixels on the screen below which a polygon is drawn as a dot
const VIEW_WIDTHS = 14; // width of the view of an anomaly, in widths of the anomaly
const REDUCED_MOTION = matchMedia("(prefers-reduced-motion: reduce)");

export interface Shown {
  selected: number | null;
  faint: (anomaly: number) => boolean;
}

export class PageMap {
  readonly #map: OpenLayersMap;
  readonly #polygons = new VectorSource();
  readonly #frames = new VectorSource();
  readonly #pictures = new Map<number, ImageLayer<Static>>();
  readonly #styles = content.colors.map((color) => stylesOf(color));
  #shown: Shown = { selected: null, faint: () => false };
  #plane = -1;
  /** The pair in front, and those that lie below it and are not drawn. */
  #front = -1;
  #below: ReadonlySet<number> = new Set();
  /** Whether all pairs are shown, also after the map changes its size. */
  #whole = false;

  constructor(target: HTMLElement, onPick: (anomaly: number) => void) {
    const frames = new VectorLayer({
      source: this.#frames,
      style: (f, r) => (this.#below.has(idOf(f)) ? undefined : frameStyle(f, r, this.#front < 0)),
      zIndex: 1,
      declutter: true,
    });
    const polygons = new VectorLayer({ source: this.#polygons, style: (f, r) => this.#style(f, r), zIndex: 2 });
    this.#map = new OpenLayersMap({
      target,
      layers: [frames, polygons],
      controls: [new Zoom(), new ScaleLine({ minWidth: 60 }), new Attribution({ collapsible: false })],
    });
    this.#map.on("singleclick", ({ coordinate }) => {
      const hit = this.#at(coordinate);
      if (hit !== undefined) onPick(hit);
    });
    this.#map.on(["pointerdrag", "wheel"] as never, () => {
      this.#whole = false;
    });
    this.#map.on("pointermove", ({ coordinate, dragging }) => {
      if (dragging) return;
      target.style.cursor = this.#at(coordinate) === undefined ? "" : "pointer";
    });
  }

  /** Switch to another map: the earth, or a pair that is not on it. */
  set plane(plane: number) {
    if (plane === this.#plane) return;
    this.#plane = plane;
    const earth = content.planes[plane]?.earth ?? false;
    const system = (earth && projection("EPSG:3857")) || new Projection({ code: `plane-${plane}`, units: "pixels" });
    for (const layer of this.#pictures.values()) this.#map.removeLayer(layer);
    this.#pictures.clear();
    this.#frames.clear();
    this.#polygons.clear();
    const pairs = [...content.pairs.entries()].filter(([, pair]) => pair.plane === plane);
    for (const [index, pair] of pairs) this.#addPair(index, pair, system);
    this.#polygons.addFeatures(featuresOf(new Set(pairs.map(([index]) => index))));
    for (const control of this.#map.getControls().getArray()) {
      if (control instanceof ScaleLine) control.setMap(earth ? this.#map : null);
    }
    this.#map.setView(new View({ projection: system, constrainResolution: false, showFullExtent: true }));
    this.showAll();
  }

  update(shown: Shown): void {
    this.#shown = shown;
    this.#polygons.changed();
  }

  showAll(): void {
    this.#bringForward(-1);
    this.#fit(this.#frames.getExtent() ?? createEmpty(), false);
    this.#whole = true;
  }

  showPair(pair: number): void {
    const extent = content.pairs[pair]?.extent;
    this.#bringForward(pair);
    if (extent) this.#fit(extent, true);
  }

  showAnomaly(anomaly: number): void {
    const geometry = this.#polygons.getFeatureById(anomaly)?.getGeometry();
    if (!geometry) return;
    this.#bringForward(content.anomalies.pair[anomaly] ?? -1);
    const extent = geometry.getExtent();
    const side = Math.max(getWidth(extent), getHeight(extent));
    this.#fit(buffer(extent, (side * VIEW_WIDTHS) / 2), true);
  }

  resize(): void {
    this.#map.updateSize();
    if (this.#whole) this.showAll();
  }

  /** The strongest anomaly at or near a point, from the spatial index: reading the drawn pixels would be slow. */
  #at(coordinate: number[]): number | undefined {
    const near = (this.#map.getView().getResolution() ?? 1) * DOT_BELOW_PX;
    const around = buffer([...coordinate, ...coordinate], near);
    const candidates = this.#polygons
      .getFeaturesInExtent(around)
      .filter((feature) => feature.getGeometry()?.intersectsExtent(around))
      .map(idOf)
      .filter((anomaly) => !this.#below.has(content.anomalies.pair[anomaly] ?? -1));
    const inside = new Set(this.#polygons.getFeaturesAtCoordinate(coordinate).map(idOf));
    const exact = candidates.filter((anomaly) => inside.has(anomaly));
    const best = exact.length > 0 ? exact : candidates;
    return best.length > 0 ? Math.min(...best) : undefined;
  }

  /** Show one of several overlapping pairs: the same site on several dates. */
  #bringForward(front: number): void {
    if (front === this.#front) return;
    this.#front = front;
    const extent = content.pairs[front]?.extent;
    const below = [...content.pairs.entries()].filter(
      ([index, pair]) => index !== front && pair.extent && extent && intersects(pair.extent, extent),
    );
    this.#below = new Set(below.map(([index]) => index));
    for (const [index, layer] of this.#pictures) layer.setVisible(!this.#below.has(index));
    this.#polygons.changed();
    this.#frames.changed();
  }

  #addPair(index: number, pair: Pair, system: Projection): void {
    if (pair.extent) {
      const others = sameSite(index, pair.extent);
      const frame = new Feature({ geometry: fromExtent(pair.extent), name: pair.name, others });
      frame.setId(index);
      this.#frames.addFeature(frame);
    }
    if (!pair.overview) return;
    const { picture: name, extent } = pair.overview;
    const source = new Static({ url: picture(name), imageExtent: extent, projection: system });
    const layer = new ImageLayer({ source, zIndex: 0 });
    this.#pictures.set(index, layer);
    this.#map.addLayer(layer);
  }

  #fit(extent: number[], gently: boolean): void {
    this.#whole = false;
    if (isEmpty(extent)) return;
    const options = {
      padding: [28, content.pairs.length > 1 ? 80 : 28, 28, 28],
      duration: gently && !REDUCED_MOTION.matches ? 250 : 0,
    };
    const view = this.#map.getView();
    view.cancelAnimations(); // two at once would end somewhere between
    view.fit(extent, options);
  }

  #style(feature: FeatureLike, resolution: number): Style | Style[] | undefined {
    const anomaly = idOf(feature);
    const styles = this.#styles[content.anomalies.color[anomaly] ?? 0];
    const extent = feature.getGeometry()?.getExtent();
    if (!styles || !extent || this.#below.has(content.anomalies.pair[anomaly] ?? -1)) return undefined;
    const small = Math.max(getWidth(extent), getHeight(extent)) / resolution < DOT_BELOW_PX;
    if (anomaly === this.#shown.selected) return small ? styles.selectedDot : styles.selected;
    if (this.#shown.faint(anomaly)) return small ? styles.faintDot : styles.faint;
    return small ? styles.dot : styles.polygon;
  }
}

const CENTERS = content.pairs.map((pair) => (pair.extent ? getCenter(pair.extent) : null));

/** Number of other pairs of the same place, whose centers lie in this one. */
function sameSite(index: number, extent: number[]): number {
  return CENTERS.filter((center, other) => other !== index && center && containsCoordinate(extent, center)).length;
}

function idOf(feature: FeatureLike): number {
  return feature.getId() as number;
}

function featuresOf(pairs: ReadonlySet<number>): Feature[] {
  const { pair, rings } = content.anomalies;
  const features: Feature[] = [];
  for (let anomaly = rings.length - 1; anomaly >= 0; anomaly--) {
    // the strongest last, on top
    const polygons = rings[anomaly];
    const index = pair[anomaly] ?? -1;
    const { extent, step } = content.pairs[index] ?? {};
    if (!polygons || !extent || step === undefined || !pairs.has(index)) continue;
    const decode = (ring: number[]): number[][] => decodeRing(ring, extent[0], extent[1], step);
    const feature = new Feature(new MultiPolygon(polygons.map((polygon) => polygon.map(decode))));
    feature.setId(anomaly);
    features.push(feature);
  }
  return features;
}

/** Return the coordinates of a ring from their differences. */
function decodeRing(ring: number[], left: number, bottom: number, step: number): number[][] {
  const points: number[][] = [];
  let x = 0;
  let y = 0;
  for (let i = 0; i + 1 < ring.length; i += 2) {
    x += ring[i] ?? 0;
    y += ring[i + 1] ?? 0;
    points.push([left + x * step, bottom + y * step]);
  }
  return points;
}

function stylesOf(color: string) {
  const center = (feature: FeatureLike): Point => new Point(getCenter(feature.getGeometry()?.getExtent() ?? []));
  const dot = (radius: number, alpha: string, rim: Stroke): Style =>
    new Style({
      geometry: center,
      image: new CircleStyle({ radius, fill: new Fill({ color: color + alpha }), stroke: rim }),
    });
  const polygon = (alpha: string, width: number, line = color): Style =>
    new Style({ fill: new Fill({ color: color + alpha }), stroke: new Stroke({ color: line, width }) });
  const halo = (width: number, color: string): Style => new Style({ stroke: new Stroke({ color, width }), zIndex: 2 });
  const thin = new Stroke({ color: "#0008", width: 0.8 });
  return {
    polygon: polygon("5a", 1.5),
    faint: polygon("1a", 0.8, `${color}66`),
    selected: [halo(7, "#000c"), halo(4.5, "#fff"), polygon("5a", 2)],
    dot: dot(4, "ff", thin),
    faintDot: dot(3, "40", new Stroke({ color: "#0003", width: 0.6 })),
    selectedDot: [
      dot(10, "00", new Stroke({ color: "#000c", width: 5 })),
      dot(10, "00", new Stroke({ color: "#fff", width: 3 })),
      dot(4, "ff", thin),
    ],
  };
}

/** With `all`, pairs below others are shown as well; of overlapping names only one is drawn. */
function frameStyle(feature: FeatureLike, resolution: number, all: boolean): Style[] {
  const extent = (feature as Feature).getGeometry()?.getExtent() ?? createEmpty();
  const dot = getWidth(extent) / resolution < DOT_BELOW_PX;
  const frame = dot ? dotted(extent) : FRAME;
  if (content.pairs.length < 2) return frame;
  const [left, , , top] = extent;
  const text = new Text({
    text: all && feature.get("others") > 0 ? `${feature.get("name")} +${feature.get("others")}` : feature.get("name"),
    font: "600 12px system-ui, sans-serif",
    textAlign: "left",
    textBaseline: dot ? "middle" : "bottom",
    offsetX: dot ? 16 : 0, // beside the ring around what is selected
    offsetY: dot ? 0 : -5,
    fill: new Fill({ color: "#111" }),
    stroke: new Stroke({ color: "#fffd", width: 4 }),
    overflow: true,
  });
  return [...frame, new Style({ geometry: new Point(dot ? getCenter(extent) : [left ?? 0, top ?? 0]), text })];
}

const FRAME = [
  new Style({ stroke: new Stroke({ color: "#0009", width: 3 }) }),
  new Style({ stroke: new Stroke({ color: "#fffc", width: 1 }) }),
];

function dotted(extent: number[]): Style[] {
  const image = new CircleStyle({ radius: 6, stroke: new Stroke({ color: "#777", width: 2 }) });
  return [new Style({ geometry: new Point(getCenter(extent)), image })];
}
