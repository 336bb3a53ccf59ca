/** What keys do. Single letters can be switched off: they get in the way of speech input and of some screen readers. */

import { signal } from "@preact/signals";
import { decide, gallery, outlines, scores, step, takeBack, type View, view } from "./review";
import { exportFile } from "./verdicts";

export const helpOpen = signal(false);
export const letters = signal(remembered());
/** Counts how often the user asked to see the other date. */
export const flips = signal(0);

interface Key {
  keys: string[];
  shown: string[];
  does: string;
  action: () => void;
}

const look = (how: View) => (): void => {
  gallery.value = false;
  view.value = how;
};

export const KEYS: Key[] = [
  {
    keys: ["c", "a"],
    shown: ["C", "A"],
    does: "Confirm (accept), and on to the next",
    action: () => decide("confirmed"),
  },
  { keys: ["r"], shown: ["R"], does: "Reject, and on to the next", action: () => decide("rejected") },
  { keys: ["u"], shown: ["U"], does: "Unsure, and on to the next", action: () => decide("unsure") },
  { keys: ["Backspace", "x"], shown: ["⌫", "X"], does: "Clear the verdict", action: () => decide(null) },
  { keys: ["z"], shown: ["Z"], does: "Take the last decision back", action: takeBack },
  { keys: ["ArrowRight", "j"], shown: ["→", "J"], does: "Next", action: () => step(1) },
  { keys: ["ArrowLeft", "k"], shown: ["←", "K"], does: "Previous", action: () => step(-1) },
  { keys: [" "], shown: ["Space"], does: "Flip between before and after", action: () => flip() },
  { keys: ["1"], shown: ["1"], does: "Side by side", action: look("side") },
  { keys: ["2"], shown: ["2"], does: "Swipe", action: look("swipe") },
  { keys: ["3"], shown: ["3"], does: "Blink", action: look("blink") },
  { keys: ["o"], shown: ["O"], does: "Outline on or off", action: () => toggle(outlines) },
  { keys: ["s"], shown: ["S"], does: "Scores over the pictures on or off", action: () => toggle(scores) },
  { keys: ["g"], shown: ["G"], does: "All cards, or one at a time", action: () => toggle(gallery) },
  { keys: ["e"], shown: ["E"], does: "Export the verdicts", action: exportFile },
  { keys: ["?"], shown: ["?"], does: "This list", action: () => toggle(helpOpen) },
];

const toggle = (which: { value: boolean }): void => {
  which.value = !which.value;
};

function flip(): void {
  if (view.value !== "blink" || gallery.value) look("blink")();
  flips.value++;
}

export function setLetters(on: boolean): void {
  letters.value = on;
  try {
    localStorage.setItem("geosiam:letters", on ? "on" : "off");
  } catch {
    // then it holds until the page is closed
  }
}

function remembered(): boolean {
  try {
    return localStorage.getItem("geosiam:letters") !== "off";
  } catch {
    return true;
  }
}

export function onKey(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || helpOpen.value) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!letters.value && key !== "?") return;
  const found = KEYS.find(({ keys }) => keys.includes(key));
  if (!found || taken(event.target as Element | null, key)) return;
  event.preventDefault();
  found.action();
}

/** Whether what has the focus wants the key for itself. */
function taken(target: Element | null, key: string): boolean {
  if (!target?.closest) return false;
  if (target.closest("select, textarea, input:not([type=range], [type=checkbox], [type=radio])")) return true;
  if (key === " ") return target.closest("button, a, input, summary") !== null;
  return key.startsWith("Arrow") && target.closest("input, .map") !== null;
}
