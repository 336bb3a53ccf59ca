import { content, notices } from "../content";

export function Footer() {
  return (
    <footer>
      <p>
        Made by geosiam {content.version}. This page loads nothing from the network; verdicts stay in this browser until
        you export them.
      </p>
      <details>
        <summary>Software in this page</summary>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable with keys */}
        <pre tabIndex={0}>{notices}</pre>
      </details>
    </footer>
  );
}
