/** The verdicts: kept in this browser as they are given, handed out as a file that `geosiam review` reads. */

import { computed, signal } from "@preact/signals";
import { content, pairOf, type Verdict } from "./content";

type Given = ReadonlyMap<number, Verdict | null>;

/** What was decided here, by anomaly; null: a verdict of the GeoPackage was taken back. */
export const given = signal<Given>(new Map());
/** Whether the browser keeps verdicts when the page is closed. */
export const kept = signal(true);

const cards = content.cards.length;
const past: [anomaly: number, verdict: Verdict | null | undefined][] = [];

const keyOf = (run: string): string => `geosiam:verdicts:${run}`;

export function verdictOf(anomaly: number): Verdict | null {
  const own = given.value.get(anomaly);
  return own === undefined ? (content.anomalies.review[anomaly] ?? null) : own;
}

export const counts = computed(() => {
  const count: Record<Verdict, number> = { confirmed: 0, rejected: 0, unsure: 0 };
  for (let anomaly = 0; anomaly < cards; anomaly++) {
    const verdict = verdictOf(anomaly);
    if (verdict) count[verdict]++;
  }
  return { ...count, reviewed: count.confirmed + count.rejected + count.unsure, all: cards };
});

export const reviewedByPair = computed(() => {
  const count = content.pairs.map(() => ({ reviewed: 0, cards: 0 }));
  for (let anomaly = 0; anomaly < cards; anomaly++) {
    const own = count[content.anomalies.pair[anomaly] ?? 0];
    if (!own) continue;
    own.cards++;
    if (verdictOf(anomaly)) own.reviewed++;
  }
  return count;
});

export function give(anomaly: number, verdict: Verdict | null): void {
  past.push([anomaly, given.value.get(anomaly)]);
  put(anomaly, verdict);
}

/** Take back what was decided last; return which anomaly it was about. */
export function undo(): number | null {
  const last = past.pop();
  if (!last) return null;
  put(...last);
  return last[0];
}

function put(anomaly: number, verdict: Verdict | null | undefined): void {
  const next = new Map(given.value);
  if (verdict === undefined || (verdict === (content.anomalies.review[anomaly] ?? null) && !next.has(anomaly))) {
    next.delete(anomaly);
  } else {
    next.set(anomaly, verdict);
  }
  given.value = next;
  keep(pairOf(anomaly).run ?? "");
}

function byPolygon(run: string): Record<string, Verdict | null> {
  const own = [...given.value].filter(([anomaly]) => pairOf(anomaly).run === run);
  return Object.fromEntries(own.map(([anomaly, verdict]) => [String(content.anomalies.id[anomaly]), verdict]));
}

function keep(run: string): void {
  try {
    localStorage.setItem(keyOf(run), JSON.stringify(byPolygon(run)));
  } catch {
    kept.value = false; // a private window, or a full one
  }
}

/** Read what this browser kept of these very runs, also from a page that was made before this one. */
export function recall(): void {
  const found = new Map<number, Verdict | null>();
  const memory = new Map<string, Record<string, unknown>>();
  for (let anomaly = 0; anomaly < cards; anomaly++) {
    const run = pairOf(anomaly).run ?? "";
    if (!memory.has(run)) memory.set(run, remembered(run));
    const verdict = memory.get(run)?.[String(content.anomalies.id[anomaly])];
    if (verdict === null || content.verdicts.includes(verdict as Verdict)) {
      found.set(anomaly, verdict as Verdict | null);
    }
  }
  given.value = found;
}

function remembered(run: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(keyOf(run)) ?? "{}");
    return value && typeof value === "object" ? (value as Record<string, unknown>) : {};
  } catch {
    kept.value = false;
    return {};
  }
}

/** Another tab with the same runs decided something. */
export function follow(event: StorageEvent): void {
  if (event.key?.startsWith(keyOf(""))) recall();
}

export function asFile(): string {
  const pairs = content.pairs.flatMap(({ name, run }) => (run ? [{ name, run, verdicts: byPolygon(run) }] : []));
  const file = {
    format: "geosiam verdicts",
    version: content.format,
    page: content.title,
    exported: new Date().toISOString(),
    pairs: pairs.filter((pair) => Object.keys(pair.verdicts).length > 0),
  };
  return `${JSON.stringify(file, null, 2)}\n`;
}

export function exportFile(): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asFile()], { type: "application/json" }));
  link.download = "verdicts.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
