/** Light or dark: as the system, unless the user chose otherwise in this browser. */

import { signal } from "@preact/signals";

type Theme = "light" | "dark";

const KEY = "geosiam:theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<Theme>(storedTheme() ?? (system.matches ? "dark" : "light"));

export function applyTheme(): void {
  document.documentElement.dataset.theme = theme.value;
  system.addEventListener("change", () => {
    if (!storedTheme()) set(system.matches ? "dark" : "light");
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

function storedTheme(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null;
  }
}
