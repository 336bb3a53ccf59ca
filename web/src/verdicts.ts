/** The verdicts: stored in this browser at once, and exported as a file that `geosiam review` reads. */

import { computed, signal } from "@preact/signals";
import { content, pairOf, type Verdict } from "./content";

type Decisions = ReadonlyMap<number, Verdict | null>;

/** Verdicts given on this page, by anomaly; null: a verdict of the GeoPackage was cleared. */
export const decisions = signal<Decisions>(new Map());
/** Whether the browser stores verdicts when the page is closed. */
export const persistent = signal(true);

const cards = content.cards.length;
const history: [anomaly: number, verdict: Verdict | null | undefined][] = [];

const keyOf = (run: string): string => `geosiam:verdicts:${run}`;

export function verdictOf(anomaly: number): Verdict | null {
  const own = decisions.value.get(anomaly);
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

export function setVerdict(anomaly: number, verdict: Verdict | null): void {
  history.push([anomaly, decisions.value.get(anomaly)]);
  store(anomaly, verdict);
}

/** Undo the last verdict; return its anomaly. */
export function undoDecision(): number | null {
  const last = history.pop();
  if (!last) return null;
  store(...last);
  return last[0];
}

function store(anomaly: number, verdict: Verdict | null | undefined): void {
  const next = new Map(decisions.value);
  if (verdict === undefined || (verdict === (content.anomalies.review[anomaly] ?? null) && !next.has(anomaly))) {
    next.delete(anomaly);
  } else {
    next.set(anomaly, verdict);
  }
  decisions.value = next;
  save(pairOf(anomaly).run ?? "");
}

function byPolygon(run: string): Record<string, Verdict | null> {
  const own = [...decisions.value].filter(([anomaly]) => pairOf(anomaly).run === run);
  return Object.fromEntries(own.map(([anomaly, verdict]) => [String(content.anomalies.id[anomaly]), verdict]));
}

function save(run: string): void {
  try {
    localStorage.setItem(keyOf(run), JSON.stringify(byPolygon(run)));
  } catch {
    persistent.value = false; // a private window, or a full one
  }
}

/** Read the verdicts that this browser has stored for these runs, also from an earlier page. */
export function restore(): void {
  const restored = new Map<number, Verdict | null>();
  const byRun = new Map<string, Record<string, unknown>>();
  for (let anomaly = 0; anomaly < cards; anomaly++) {
    const run = pairOf(anomaly).run ?? "";
    if (!byRun.has(run)) byRun.set(run, stored(run));
    const verdict = byRun.get(run)?.[String(content.anomalies.id[anomaly])];
    if (verdict === null || content.verdicts.includes(verdict as Verdict)) {
      restored.set(anomaly, verdict as Verdict | null);
    }
  }
  decisions.value = restored;
}

function stored(run: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(keyOf(run)) ?? "{}");
    return value && typeof value === "object" ? (value as Record<string, unknown>) : {};
  } catch {
    persistent.value = false;
    return {};
  }
}

/** Follow verdicts given in another tab. */
export function onStorage(event: StorageEvent): void {
  if (event.key?.startsWith(keyOf(""))) restore();
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
