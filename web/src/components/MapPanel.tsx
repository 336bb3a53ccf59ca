import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { content, nameOf } from "../content";
import { area, score } from "../format";
import { SurveyMap } from "../map";
import { moved, onlyPair, present, said, show, shown } from "../review";
import { Score } from "./Score";

export function MapPanel() {
  const target = useRef<HTMLDivElement>(null);
  const map = useRef<SurveyMap | null>(null);
  const plane = useSignal(0);
  /** An anomaly without a card, picked on the map. */
  const other = useSignal<number | null>(null);

  useEffect(() => {
    if (!target.current) return undefined;
    const made = new SurveyMap(target.current, (anomaly) => {
      const card = anomaly < content.cards.length;
      other.value = card ? null : anomaly;
      if (card) show(anomaly);
      said.value = nameOf(anomaly);
    });
    map.current = made;
    made.plane = plane.value;
    const watcher = new ResizeObserver(() => made.resize());
    watcher.observe(target.current);
    return () => watcher.disconnect();
  }, [other, plane]);

  useSignalEffect(() => {
    const visible = new Set(shown.value);
    const cards = content.cards.length;
    const selected = other.value ?? present.value;
    map.current?.update({ selected, faint: (anomaly) => anomaly < cards && !visible.has(anomaly) });
  });
  useSignalEffect(() => {
    const anomaly = present.value;
    if (!moved.value || anomaly === null) return;
    const own = content.pairs[content.anomalies.pair[anomaly] ?? -1]?.plane;
    if (own != null) plane.value = own;
    other.value = null;
    if (!map.current || own == null) return;
    map.current.plane = own;
    map.current.showAnomaly(anomaly);
  });
  useSignalEffect(() => {
    if (onlyPair.value === null || !map.current) return;
    const own = content.pairs[onlyPair.value]?.plane;
    if (own != null) {
      plane.value = own;
      map.current.plane = own;
      map.current.showPair(onlyPair.value);
    }
  });

  const choose = (value: number) => {
    plane.value = value;
    if (map.current) map.current.plane = value;
  };
  if (content.planes.length === 0) return null;
  return (
    <section class="panel map-panel" aria-labelledby="map-heading">
      <div class="panel-head">
        <h2 id="map-heading">Map</h2>
        {content.planes.length > 1 && (
          <label>
            <span>Map of</span>
            <select value={plane.value} onChange={(event) => choose(Number(event.currentTarget.value))}>
              {content.planes.map(({ name, earth }, index) => (
                <option key={name} value={index}>
                  {earth ? "all pairs on the earth" : name}
                </option>
              ))}
            </select>
          </label>
        )}
        <button type="button" onClick={() => map.current?.showAll()}>
          Whole survey
        </button>
      </div>
      <div
        class="map"
        ref={target}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: the map moves with the arrow keys and zooms with + and -
        tabIndex={0}
        role="application"
        aria-label="Map of the survey: arrow keys move it, plus and minus zoom. The table of pairs has the same in words."
      />
      <Legend />
      {other.value !== null && (
        <p class="other">
          {nameOf(other.value)}: <Score anomaly={other.value} />, {area(content.anomalies.area[other.value] ?? 0)}. It
          is not among the {content.cards.length} with a card; look at it in QGIS.
        </p>
      )}
    </section>
  );
}

function Legend() {
  const thresholds = new Set(content.pairs.flatMap(({ threshold }) => (threshold === undefined ? [] : [threshold])));
  const [lowest] = thresholds;
  const from = thresholds.size === 1 && lowest !== undefined ? score(lowest) : "threshold";
  return (
    <p class="legend">
      <span>Mean score</span> <span>{from}</span>
      <span class="swatches" aria-hidden="true">
        {content.colours.map((colour) => (
          <i key={colour} style={{ background: colour }} />
        ))}
      </span>
      <span>1</span>
    </p>
  );
}
