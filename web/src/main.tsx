import { render } from "preact";
import { App } from "./components/App";
import { onKey } from "./keys";
import { applyTheme } from "./theme";
import { follow, recall } from "./verdicts";
import "ol/ol.css";
import "./styles.css";

applyTheme();
recall();
const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(<App />, root);
}
addEventListener("keydown", onKey);
addEventListener("storage", follow);
document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds, for the benchmark
