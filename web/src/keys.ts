/** Keyboard shortcuts. They can be switched off: single letters interfere with speech input and some screen readers. */

import { signal } from "@preact/signals";
import { decide, gallery, outlines, scores, step, undoLast, type View, view } from "./review";
import { exportFile } from "./verdicts";

export const helpOpen = signal(false);
export const letters = signal(storedSetting());
/** Counts how often the user asked to see the other date. */
export const flips = signal(0);

interface Key {
  keys: string[];
  labels: string[];
  description: string;
  action: () => void;
}

const look = (how: View) => (): void => {
  gallery.value = false;
  view.value = how;
};

export const KEYS: Key[] = [
  {
    keys: ["c", "a"],
    labels: ["C", "A"],
    description: "Confirm (accept) and go to the next",
    action: () => decide("confirmed"),
  },
  { keys: ["r"], labels: ["R"], description: "Reject and go to the next", action: () => decide("rejected") },
  { keys: ["u"], labels: ["U"], description: "Unsure and go to the next", action: () => decide("unsure") },
  { keys: ["Backspace", "x"], labels: ["⌫", "X"], description: "Clear the verdict", action: () => decide(null) },
  { keys: ["z"], labels: ["Z"], description: "Undo the last verdict", action: undoLast },
  { keys: ["ArrowRight", "j"], labels: ["→", "J"], description: "Next", action: () => step(1) },
  { keys: ["ArrowLeft", "k"], labels: ["←", "K"], description: "Previous", action: () => step(-1) },
  { keys: [" "], labels: ["Space"], description: "Flip between before and after", action: () => flip() },
  { keys: ["1"], labels: ["1"], description: "Side by side", action: look("side") },
  { keys: ["2"], labels: ["2"], description: "Swipe", action: look("swipe") },
  { keys: ["3"], labels: ["3"], description: "Blink", action: look("blink") },
  { keys: ["o"], labels: ["O"], description: "Outline on or off", action: () => toggle(outlines) },
  { keys: ["s"], labels: ["S"], description: "Scores over the pictures on or off", action: () => toggle(scores) },
  { keys: ["g"], labels: ["G"], description: "All cards, or one at a time", action: () => toggle(gallery) },
  { keys: ["e"], labels: ["E"], description: "Export the verdicts", action: exportFile },
  { keys: ["?"], labels: ["?"], description: "This list", action: () => toggle(helpOpen) },
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

function storedSetting(): boolean {
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
  const shortcut = KEYS.find(({ keys }) => keys.includes(key));
  if (!shortcut || isTaken(event.target as Element | null, key)) return;
  event.preventDefault();
  shortcut.action();
}

/** Whether the focused element uses the key itself. */
function isTaken(target: Element | null, key: string): boolean {
  if (!target?.closest) return false;
  if (target.closest("select, textarea, input:not([type=range], [type=checkbox], [type=radio])")) return true;
  if (key === " ") return target.closest("button, a, input, summary") !== null;
  return key.startsWith("Arrow") && target.closest("input, .map") !== null;
}
