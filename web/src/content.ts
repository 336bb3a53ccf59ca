/** The content of the page, which Python (geosiam/report/content.py) embedded as JSON. */

export type Verdict = "confirmed" | "rejected" | "unsure";
export type Extent = [left: number, bottom: number, right: number, top: number];

export interface Pair {
  name: string;
  status: string;
  error: string | null;
  plane: number | null;
  facts: [label: string, value: string][];
  run?: string;
  threshold?: number;
  count?: number;
  area?: number;
  strongest?: number | null;
  shift?: number | null;
  warnings?: string[];
  note?: string | null;
  extent?: Extent;
  step?: number;
  overview?: { picture: string; extent: Extent };
}

/** Columns: the i-th number of each belongs to the i-th anomaly. Those with cards come first. */
interface Columns {
  pair: number[];
  id: number[];
  mean: number[];
  max: number[];
  area: number[];
  cells: number[];
  nodata: boolean[];
  review: (Verdict | null)[];
  /** Number of the color, weak to strong. */
  color: number[];
  /** Polygons of rings of coordinates, each the difference from the one before, in steps of the pair. */
  rings: (number[][][] | null)[];
  /** Longitude and latitude. */
  at: ([number, number] | null)[];
}

/** Pictures of the i-th anomaly by their names in the page, or a note why there are none. */
export interface Card {
  note?: string;
  before?: string;
  after?: string;
  scores?: string;
  outline?: string;
  meters?: number;
}

export interface Content {
  format: 1;
  title: string;
  created: string;
  version: string;
  colors: string[];
  verdicts: Verdict[];
  total: number;
  planes: { name: string; earth: boolean }[];
  pairs: Pair[];
  unmatched: { scene: string; reason: string }[];
  anomalies: Columns;
  cards: Card[];
}

const text = (id: string): string => document.getElementById(id)?.textContent ?? "";

export const content: Content = JSON.parse(text("content"));
export const notices: string = text("notices");

export function pairOf(anomaly: number): Pair {
  return content.pairs[content.anomalies.pair[anomaly] ?? 0] as Pair;
}

/** Name of an anomaly: its pair, and its id in the GeoPackage. */
export function nameOf(anomaly: number): string {
  return `${pairOf(anomaly).name} #${content.anomalies.id[anomaly]}`;
}

export function picture(name: string): string {
  const element = document.getElementById(name);
  return `data:${element?.dataset.kind};base64,${element?.textContent}`;
}
