import { content } from "../content";
import { plural } from "../format";

/** Lists the scenes that were compared with nothing, so that nobody takes them for places without change. */
export function Unmatched() {
  const scenes = content.unmatched;
  if (scenes.length === 0) return null;
  return (
    <details class="panel unmatched" open={scenes.length <= 3}>
      <summary>
        <strong>{plural(scenes.length, "scene")} without a partner</strong>
      </summary>
      <ul>
        {scenes.map(({ scene, reason }, index) => (
          <li key={index}>
            <strong>{scene}</strong> {reason}
          </li>
        ))}
      </ul>
    </details>
  );
}
