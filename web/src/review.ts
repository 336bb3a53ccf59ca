/** Which anomalies are looked at, in which order, and which one now. */

import { computed, signal } from "@preact/signals";
import { content, nameOf, type Verdict } from "./content";
import { give, given, undo, verdictOf } from "./verdicts";

export type Wanted = "all" | "unreviewed" | Verdict;
export type Order = "score" | "area" | "pair";
export type View = "side" | "swipe" | "blink";

export const wanted = signal<Wanted>("all");
export const least = signal(0);
export const onlyPair = signal<number | null>(null);
export const order = signal<Order>("score");

export const view = signal<View>(matchMedia("(max-width: 700px)").matches ? "swipe" : "side");
export const outlines = signal(true);
export const scores = signal(false);
export const gallery = signal(false);

/** The anomaly that is shown. */
export const current = signal(0);
/** Whether the map follows: not before the first step, so that it begins with the whole survey. */
export const moved = signal(false);
/** What a screen reader says. */
export const said = signal("");

const all = content.cards.map((_, anomaly) => anomaly);

export const shown = computed(() => {
  const { pair, mean, area, id } = content.anomalies;
  const at = (column: number[], anomaly: number): number => column[anomaly] ?? 0;
  const found = all.filter((anomaly) => {
    const verdict = verdictOf(anomaly);
    const fits = wanted.value === "all" || (wanted.value === "unreviewed" ? !verdict : verdict === wanted.value);
    return fits && at(mean, anomaly) >= least.value && (onlyPair.value ?? pair[anomaly]) === pair[anomaly];
  });
  if (order.value === "area") found.sort((a, b) => at(area, b) - at(area, a));
  if (order.value === "pair") found.sort((a, b) => at(pair, a) - at(pair, b) || at(id, a) - at(id, b));
  return found;
});

/** The one that is shown, or the nearest that the filters let through; null where they let nothing through. */
export const present = computed<number | null>(() => {
  const list = shown.value;
  return list.includes(current.value) ? current.value : (list.find((a) => a > current.value) ?? list.at(-1) ?? null);
});

export function show(anomaly: number): void {
  current.value = anomaly;
  moved.value = true;
}

export function step(by: number): void {
  if (present.value === null) return;
  const next = shown.value[shown.value.indexOf(present.value) + by];
  if (next === undefined) {
    said.value = by > 0 ? "This is the last one." : "This is the first one.";
    return;
  }
  show(next);
  said.value = `${nameOf(next)}, ${shown.value.indexOf(next) + 1} of ${shown.value.length}`;
}

/** Decide on the one that is shown and go on to the next. */
export function decide(verdict: Verdict | null): void {
  const anomaly = present.value;
  if (anomaly === null) return;
  const place = shown.value.indexOf(anomaly);
  const next = shown.value[place + 1];
  give(anomaly, verdict);
  if (verdict !== null && next !== undefined) show(next);
  said.value = `${nameOf(anomaly)}: ${verdict ?? "not reviewed"}.`;
}

export function takeBack(): void {
  const anomaly = undo();
  if (anomaly === null) {
    said.value = "There is nothing to take back.";
    return;
  }
  show(anomaly);
  said.value = `${nameOf(anomaly)}: ${verdictOf(anomaly) ?? "not reviewed"} again.`;
}

export function clearFilters(): void {
  wanted.value = "all";
  least.value = 0;
  onlyPair.value = null;
}

/** Whether there is anything to hand out. */
export const decided = computed(() => given.value.size);
