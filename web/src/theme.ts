/** Light or dark, as the system has it unless this browser was told otherwise. */

import { signal } from "@preact/signals";

type Theme = "light" | "dark";

const KEY = "geosiam:theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<Theme>(chosen() ?? (system.matches ? "dark" : "light"));

export function applyTheme(): void {
  document.documentElement.dataset.theme = theme.value;
  system.addEventListener("change", () => {
    if (!chosen()) set(system.matches ? "dark" : "light");
  });
}

export function switchTheme(): void {
  const next = theme.value === "dark" ? "light" : "dark";
  set(next);
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // then it holds until the page is closed
  }
}

function set(next: Theme): void {
  theme.value = next;
  document.documentElement.dataset.theme = next;
}

function chosen(): Theme | null {
  try {
    const told = localStorage.getItem(KEY);
    return told === "light" || told === "dark" ? told : null;
  } catch {
    return null;
  }
}
