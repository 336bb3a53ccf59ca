/** The review: filters, order, the anomaly on the screen, and the verdicts on it. */

import { computed, signal } from "@preact/signals";
import { content, nameOf, type Verdict } from "./content";
import { decisions, setVerdict, undoDecision, verdictOf } from "./verdicts";

export type VerdictFilter = "all" | "unreviewed" | Verdict;
export type Order = "score" | "area" | "pair";
export type View = "side" | "swipe" | "blink";

export const verdictFilter = signal<VerdictFilter>("all");
export const minScore = signal(0);
export const onlyPair = signal<number | null>(null);
export const order = signal<Order>("score");

export const view = signal<View>(matchMedia("(max-width: 700px)").matches ? "swipe" : "side");
export const outlines = signal(true);
export const scores = signal(false);
export const gallery = signal(false);

/** The anomaly that was shown last, even if the filters hide it now. */
export const current = signal(0);
/** Whether the map follows: not before the first step, so that it begins with all pairs. */
export const mapFollows = signal(false);
/** Text for screen readers. */
export const announcement = signal("");

const all = content.cards.map((_, anomaly) => anomaly);

export const shown = computed(() => {
  const { pair, mean, area, id } = content.anomalies;
  const at = (column: number[], anomaly: number): number => column[anomaly] ?? 0;
  const matches = all.filter((anomaly) => {
    const verdict = verdictOf(anomaly);
    const fits =
      verdictFilter.value === "all" ||
      (verdictFilter.value === "unreviewed" ? !verdict : verdict === verdictFilter.value);
    return fits && at(mean, anomaly) >= minScore.value && (onlyPair.value ?? pair[anomaly]) === pair[anomaly];
  });
  if (order.value === "area") matches.sort((a, b) => at(area, b) - at(area, a));
  if (order.value === "pair") matches.sort((a, b) => at(pair, a) - at(pair, b) || at(id, a) - at(id, b));
  return matches;
});

/** The anomaly on the screen: the last one, or the nearest that the filters let through; null if there is none. */
export const shownAnomaly = computed<number | null>(() => {
  const list = shown.value;
  return list.includes(current.value) ? current.value : (list.find((a) => a > current.value) ?? list.at(-1) ?? null);
});

export function show(anomaly: number): void {
  current.value = anomaly;
  mapFollows.value = true;
}

export function step(by: number): void {
  if (shownAnomaly.value === null) return;
  const next = shown.value[shown.value.indexOf(shownAnomaly.value) + by];
  if (next === undefined) {
    announcement.value = by > 0 ? "This is the last one." : "This is the first one.";
    return;
  }
  show(next);
  announcement.value = `${nameOf(next)}, ${shown.value.indexOf(next) + 1} of ${shown.value.length}`;
}

/** Give a verdict on the anomaly on the screen and go on to the next. */
export function decide(verdict: Verdict | null): void {
  const anomaly = shownAnomaly.value;
  if (anomaly === null) return;
  const place = shown.value.indexOf(anomaly);
  const next = shown.value[place + 1];
  setVerdict(anomaly, verdict);
  if (verdict !== null && next !== undefined) show(next);
  announcement.value = `${nameOf(anomaly)}: ${verdict ?? "not reviewed"}.`;
}

export function undoLast(): void {
  const anomaly = undoDecision();
  if (anomaly === null) {
    announcement.value = "There is nothing to undo.";
    return;
  }
  show(anomaly);
  announcement.value = `${nameOf(anomaly)}: ${verdictOf(anomaly) ?? "not reviewed"} again.`;
}

export function clearFilters(): void {
  verdictFilter.value = "all";
  minScore.value = 0;
  onlyPair.value = null;
}

/** Number of verdicts that can be exported. */
export const decidedCount = computed(() => decisions.value.size);
