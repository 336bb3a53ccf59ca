import { render } from "preact";
import { App } from "./components/App";
import { onKey } from "./keys";
import { applyTheme } from "./theme";
import { onStorage, restore } from "./verdicts";
import "ol/ol.css";
import "./styles.css";

applyTheme();
restore();
const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(<App />, root);
}
addEventListener("keydown", onKey);
addEventListener("storage", onStorage);
document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds, for the benchmark
