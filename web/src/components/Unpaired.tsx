import { content } from "../content";
import { plural } from "../format";

/** Scenes that were compared with nothing: nobody should take them for places where nothing changed. */
export function Unpaired() {
  const alone = content.unpaired;
  if (alone.length === 0) return null;
  return (
    <details class="panel unpaired" open={alone.length <= 3}>
      <summary>
        <strong>{plural(alone.length, "scene")} without a partner</strong>
      </summary>
      <ul>
        {alone.map(({ scene, reason }, index) => (
          <li key={index}>
            <strong>{scene}</strong> {reason}
          </li>
        ))}
      </ul>
    </details>
  );
}
