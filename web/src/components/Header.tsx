import { content } from "../content";
import { area, count, moment, plural } from "../format";
import { helpOpen } from "../keys";
import { decidedCount } from "../review";
import { switchTheme, theme } from "../theme";
import { exportFile } from "../verdicts";

export function Header() {
  const compared = content.pairs.filter((pair) => !pair.error);
  const ground = compared.reduce((sum, pair) => sum + (pair.area ?? 0), 0);
  const other = theme.value === "dark" ? "light" : "dark";
  return (
    <header>
      <div class="title">
        <h1>{content.title}</h1>
        <p>
          {plural(content.total, "anomaly", "anomalies")} covering {area(ground)} in {plural(compared.length, "pair")} ·{" "}
          <time dateTime={content.created}>{moment(content.created)} UTC</time>
        </p>
      </div>
      <div class="tools">
        <button type="button" class="primary" onClick={exportFile} disabled={decidedCount.value === 0}>
          Export verdicts{decidedCount.value > 0 && <span class="badge">{count(decidedCount.value)}</span>}
        </button>
        <button type="button" onClick={() => (helpOpen.value = true)} aria-haspopup="dialog">
          Keys <kbd>?</kbd>
        </button>
        <button type="button" class="icon" onClick={switchTheme} aria-label={`Switch to ${other} colors`}>
          <span aria-hidden="true">{theme.value === "dark" ? "☀" : "☾"}</span>
        </button>
      </div>
    </header>
  );
}
