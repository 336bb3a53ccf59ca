import { content } from "../content";
import { score } from "../format";

/** The mean score beside the colour it has on the map and in QGIS. */
export function Score({ anomaly }: { anomaly: number }) {
  const colour = content.colours[content.anomalies.grade[anomaly] ?? 0] ?? "";
  return (
    <span class="score">
      <i style={{ background: colour }} aria-hidden="true" />
      {score(content.anomalies.mean[anomaly] ?? 0)}
    </span>
  );
}
