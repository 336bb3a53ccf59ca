import { content, pairOf, type Verdict } from "../content";
import { area, count, plural, position, score } from "../format";
import { clearFilters, decide, shown, shownAnomaly, step } from "../review";
import { verdictOf } from "../verdicts";
import { Compare } from "./Compare";
import { Key } from "./Key";
import { Score } from "./Score";

const VERDICTS: [Verdict, string, string, string][] = [
  ["confirmed", "Confirm", "✓", "C"],
  ["rejected", "Reject", "✕", "R"],
  ["unsure", "Unsure", "?", "U"],
];

export function Review() {
  const anomaly = shownAnomaly.value;
  if (anomaly === null) {
    return (
      <div class="empty">
        <p>No card fits the filters.</p>
        <button type="button" onClick={clearFilters}>
          Clear filters
        </button>
      </div>
    );
  }
  return (
    <article class="card" aria-labelledby="card-heading">
      <Turn anomaly={anomaly} />
      <Compare anomaly={anomaly} key={anomaly} />
      <Decision anomaly={anomaly} />
      <Facts anomaly={anomaly} />
    </article>
  );
}

function Turn({ anomaly }: { anomaly: number }) {
  const place = shown.value.indexOf(anomaly);
  return (
    <div class="turn">
      <button type="button" onClick={() => step(-1)} disabled={place === 0} aria-label="Previous">
        <span aria-hidden="true">←</span>
      </button>
      <h3 id="card-heading">
        {pairOf(anomaly).name} <span class="muted">#{content.anomalies.id[anomaly]}</span>
        <small>
          {count(place + 1)} of {count(shown.value.length)}
        </small>
      </h3>
      <button type="button" onClick={() => step(1)} disabled={place === shown.value.length - 1} aria-label="Next">
        <span aria-hidden="true">→</span>
      </button>
    </div>
  );
}

function Decision({ anomaly }: { anomaly: number }) {
  const verdict = verdictOf(anomaly);
  return (
    <fieldset class="decision">
      <legend>Verdict</legend>
      {VERDICTS.map(([value, label, sign, key]) => (
        <button
          type="button"
          key={value}
          class={value}
          aria-pressed={verdict === value}
          aria-keyshortcuts={key}
          onClick={() => decide(value)}
        >
          <span aria-hidden="true">{sign}</span> {label} <Key name={key} />
        </button>
      ))}
      <button type="button" class="plain" disabled={verdict === null} onClick={() => decide(null)}>
        Clear
      </button>
    </fieldset>
  );
}

function Facts({ anomaly }: { anomaly: number }) {
  const { mean, max, area: areas, cells, nodata, at } = content.anomalies;
  const place = at[anomaly];
  const shift = pairOf(anomaly).shift;
  return (
    <dl class="facts">
      <div>
        <dt>Score</dt>
        <dd>
          <Score anomaly={anomaly} /> <span class="muted">highest {score(max[anomaly] ?? mean[anomaly] ?? 0)}</span>
        </dd>
      </div>
      <div>
        <dt>Area</dt>
        <dd>
          {area(areas[anomaly] ?? 0)} <span class="muted">{plural(cells[anomaly] ?? 0, "cell")}</span>
        </dd>
      </div>
      {place && (
        <div>
          <dt>Position</dt>
          <dd>{position(place)}</dd>
        </div>
      )}
      {nodata[anomaly] && (
        <div>
          <dt>Edge</dt>
          <dd>touches ground that could not be compared</dd>
        </div>
      )}
      {shift != null && (
        <div>
          <dt>Shift of the pair</dt>
          <dd>{shift.toFixed(1)} px</dd>
        </div>
      )}
    </dl>
  );
}
