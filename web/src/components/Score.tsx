import { content } from "../content";
import { score } from "../format";

/** The mean score beside the color it has on the map and in QGIS. */
export function Score({ anomaly }: { anomaly: number }) {
  const color = content.colors[content.anomalies.color[anomaly] ?? 0] ?? "";
  return (
    <span class="score">
      <i style={{ background: color }} aria-hidden="true" />
      {score(content.anomalies.mean[anomaly] ?? 0)}
    </span>
  );
}
