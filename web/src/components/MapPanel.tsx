import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { content, nameOf } from "../content";
import { area, score } from "../format";
import { PageMap } from "../map";
import { announcement, mapFollows, onlyPair, show, shown, shownAnomaly } from "../review";
import { Score } from "./Score";

export function MapPanel() {
  const target = useRef<HTMLDivElement>(null);
  const map = useRef<PageMap | null>(null);
  const plane = useSignal(0);
  /** The anomaly beyond the cards that was picked on the map. */
  const withoutCard = useSignal<number | null>(null);

  useEffect(() => {
    if (!target.current) return undefined;
    const pageMap = new PageMap(target.current, (anomaly) => {
      const card = anomaly < content.cards.length;
      withoutCard.value = card ? null : anomaly;
      if (card) show(anomaly);
      announcement.value = nameOf(anomaly);
    });
    map.current = pageMap;
    pageMap.plane = plane.value;
    const watcher = new ResizeObserver(() => pageMap.resize());
    watcher.observe(target.current);
    return () => watcher.disconnect();
  }, [withoutCard, plane]);

  useSignalEffect(() => {
    const visible = new Set(shown.value);
    const cards = content.cards.length;
    const selected = withoutCard.value ?? shownAnomaly.value;
    map.current?.update({ selected, faint: (anomaly) => anomaly < cards && !visible.has(anomaly) });
  });
  useSignalEffect(() => {
    const anomaly = shownAnomaly.value;
    if (!mapFollows.value || anomaly === null) return;
    const pairPlane = content.pairs[content.anomalies.pair[anomaly] ?? -1]?.plane;
    if (pairPlane != null) plane.value = pairPlane;
    withoutCard.value = null;
    if (!map.current || pairPlane == null) return;
    map.current.plane = pairPlane;
    map.current.showAnomaly(anomaly);
  });
  useSignalEffect(() => {
    if (onlyPair.value === null || !map.current) return;
    const pairPlane = content.pairs[onlyPair.value]?.plane;
    if (pairPlane != null) {
      plane.value = pairPlane;
      map.current.plane = pairPlane;
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
          Zoom to all
        </button>
      </div>
      <div
        class="map"
        ref={target}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: the map moves with the arrow keys and zooms with + and -
        tabIndex={0}
        role="application"
        aria-label="Map of the results: arrow keys move it, plus and minus zoom. The table of pairs has the same in words."
      />
      <Legend />
      {withoutCard.value !== null && (
        <p class="other">
          {nameOf(withoutCard.value)}: <Score anomaly={withoutCard.value} />,{" "}
          {area(content.anomalies.area[withoutCard.value] ?? 0)}. It is not among the {content.cards.length} with a
          card; look at it in QGIS.
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
        {content.colors.map((color) => (
          <i key={color} style={{ background: color }} />
        ))}
      </span>
      <span>1</span>
    </p>
  );
}
