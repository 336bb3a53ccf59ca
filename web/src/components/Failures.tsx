import { content } from "../content";
import { plural } from "../format";

export function Failures() {
  const failed = content.pairs.filter((pair) => pair.error);
  if (failed.length === 0) return null;
  return (
    <details class="failures" open={failed.length <= 3}>
      <summary>
        <strong>{plural(failed.length, "pair")} failed</strong>
      </summary>
      <ul>
        {failed.map((pair) => (
          <li key={pair.name}>
            <strong>{pair.name}</strong> {pair.error}
          </li>
        ))}
      </ul>
    </details>
  );
}
