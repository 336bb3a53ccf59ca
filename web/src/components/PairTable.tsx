import {
  createColumnHelper,
  createSortedRowModel,
  rowSortingFeature,
  sortFns,
  tableFeatures,
  useTable,
} from "@tanstack/preact-table";
import { content, type Pair } from "../content";
import { area, count, score } from "../format";
import { gallery, onlyPair } from "../review";
import { reviewedByPair } from "../verdicts";

interface Row extends Pair {
  index: number;
}

const features = tableFeatures({ rowSortingFeature, sortedRowModel: createSortedRowModel(), sortFns });
const helper = createColumnHelper<typeof features, Row>();
const last = { sortUndefined: "last" as const, sortDescFirst: true };
const columns = helper.columns([
  helper.accessor("name", { header: "Pair", sortFn: "alphanumeric" }),
  helper.accessor("status", { header: "Result", sortFn: "text" }),
  helper.accessor("count", { header: "Anomalies", ...last }),
  helper.accessor("area", { header: "Area", ...last }),
  helper.accessor((row) => row.strongest ?? undefined, { id: "strongest", header: "Strongest", ...last }),
  helper.accessor((row) => row.shift ?? undefined, { id: "shift", header: "Shift", ...last }),
  helper.display({ id: "reviewed", header: "Reviewed" }),
]);
const data: Row[] = content.pairs.map((pair, index) => ({ ...pair, index }));
const SORTED = { asc: "ascending", desc: "descending" } as const;

export function PairTable() {
  const table = useTable({ features, columns, data });
  if (data.length === 0) return null;
  return (
    <section class="panel" aria-labelledby="pairs-heading">
      <div class="panel-head">
        <h2 id="pairs-heading">Pairs</h2>
      </div>
      {/* The roles say again what the elements are: laid out as blocks on a phone they would lose it. */}
      <table class="pairs" role="table">
        <thead role="rowgroup">
          {table.getHeaderGroups().map((group) => (
            <tr key={group.id} role="row">
              {group.headers.map(({ id, column }) => {
                const sorted = column.getIsSorted();
                const label = String(column.columnDef.header);
                return (
                  <th
                    key={id}
                    class={id}
                    scope="col"
                    role="columnheader"
                    aria-sort={sorted ? SORTED[sorted] : undefined}
                  >
                    {column.getCanSort() ? (
                      <button type="button" onClick={column.getToggleSortingHandler()}>
                        {label}
                        <span aria-hidden="true">{sorted ? (sorted === "asc" ? " ↑" : " ↓") : ""}</span>
                      </button>
                    ) : (
                      label
                    )}
                  </th>
                );
              })}
            </tr>
          ))}
        </thead>
        <tbody role="rowgroup">
          {table.getRowModel().rows.map(({ id, original }) => (
            <PairRow key={id} pair={original} />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function PairRow({ pair }: { pair: Row }) {
  const { reviewed, cards } = reviewedByPair.value[pair.index] ?? { reviewed: 0, cards: 0 };
  const choose = () => {
    onlyPair.value = pair.index;
    gallery.value = false;
    document.getElementById("review")?.scrollIntoView();
  };
  return (
    <tr role="row" class={pair.error ? "failed" : undefined}>
      <th scope="row" role="rowheader" class="name">
        {cards > 0 ? (
          <button type="button" class="name" onClick={choose} aria-label={`Review ${pair.name}`}>
            {pair.name}
          </button>
        ) : (
          pair.name
        )}
        <Details pair={pair} />
      </th>
      <Cell class="status" label="Result" value={pair.status} />
      <Cell class="count" label="Anomalies" value={pair.count === undefined ? null : count(pair.count)} />
      <Cell class="area" label="Area" value={pair.area === undefined ? null : area(pair.area)} />
      <Cell class="strongest" label="Strongest" value={pair.strongest == null ? null : score(pair.strongest)} />
      <Cell class="shift" label="Shift" value={pair.shift == null ? null : `${pair.shift.toFixed(1)} px`} />
      <Cell class="reviewed" label="Reviewed" value={cards === 0 ? null : `${count(reviewed)} of ${count(cards)}`} />
    </tr>
  );
}

function Cell({ class: name, label, value }: { class: string; label: string; value: string | null }) {
  return (
    <td role="cell" class={name} data-label={label}>
      {value ?? <span class="muted">–</span>}
    </td>
  );
}

function Details({ pair }: { pair: Row }) {
  const remarks = [pair.note, ...(pair.warnings ?? [])].filter((remark) => remark != null);
  return (
    <>
      {pair.error && <p class="error">{pair.error}</p>}
      {remarks.length > 0 && (
        <ul class="remarks">
          {remarks.map((remark) => (
            <li key={remark}>{remark}</li>
          ))}
        </ul>
      )}
      <details>
        <summary>
          Details <span class="hidden">of {pair.name}</span>
        </summary>
        <dl>
          {pair.facts.map(([label, value]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </details>
    </>
  );
}
