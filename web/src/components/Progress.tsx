import { content } from "../content";
import { count } from "../format";
import { decidedCount } from "../review";
import { counts, persistent } from "../verdicts";

export function Progress() {
  const { reviewed, all, confirmed, rejected, unsure } = counts.value;
  if (all === 0) return null;
  const share = (value: number) => ({ flexGrow: value });
  const left = content.total - all;
  return (
    <section class="progress" aria-label="Progress">
      <p>
        <strong>
          Reviewed {count(reviewed)} of {count(all)}
        </strong>
        {left > 0 && <span class="muted">; {count(left)} weaker ones are in the GeoPackages</span>}
      </p>
      <ul>
        <li class="confirmed">{count(confirmed)} confirmed</li>
        <li class="rejected">{count(rejected)} rejected</li>
        <li class="unsure">{count(unsure)} unsure</li>
      </ul>
      <div class="bar" aria-hidden="true">
        <span class="confirmed" style={share(confirmed)} />
        <span class="rejected" style={share(rejected)} />
        <span class="unsure" style={share(unsure)} />
        <span style={share(all - reviewed)} />
      </div>
      {reviewed === all && decidedCount.value > 0 && (
        <p>
          <strong>All done.</strong> Export the verdicts, then bring them into the GeoPackages with{" "}
          <code>geosiam review verdicts.json</code>.
        </p>
      )}
      {!persistent.value && (
        <p class="warning" role="alert">
          This browser does not keep verdicts: export them before you close the page.
        </p>
      )}
    </section>
  );
}
