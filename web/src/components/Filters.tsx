import { content } from "../content";
import { count, score } from "../format";
import {
  clearFilters,
  minScore,
  type Order,
  onlyPair,
  order,
  shown,
  type VerdictFilter,
  verdictFilter,
} from "../review";

const NARROW = matchMedia("(max-width: 700px)");
const VERDICTS: [VerdictFilter, string][] = [
  ["all", "All"],
  ["unreviewed", "Unreviewed"],
  ["confirmed", "Confirmed"],
  ["rejected", "Rejected"],
  ["unsure", "Unsure"],
];
const ORDERS: [Order, string][] = [
  ["score", "Score"],
  ["area", "Area"],
  ["pair", "Pair"],
];

export function Filters() {
  const means = content.anomalies.mean.slice(0, content.cards.length);
  const lowest = Math.floor(Math.min(...means) * 100) / 100;
  const withCards = new Set(content.anomalies.pair.slice(0, content.cards.length));
  const filtered = shown.value.length < content.cards.length;
  return (
    <details class="filter-box" open={!NARROW.matches}>
      <summary>Filters{filtered && ` (${count(shown.value.length)} of ${count(content.cards.length)} shown)`}</summary>
      <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
        <label>
          <span>Verdict</span>
          <select
            value={verdictFilter.value}
            onChange={(e) => (verdictFilter.value = e.currentTarget.value as VerdictFilter)}
          >
            {VERDICTS.map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </select>
        </label>
        {withCards.size > 1 && (
          <label>
            <span>Pair</span>
            <select
              value={onlyPair.value ?? ""}
              onChange={({ currentTarget: { value } }) => (onlyPair.value = value === "" ? null : Number(value))}
            >
              <option value="">All</option>
              {content.pairs.map((pair, index) =>
                withCards.has(index) ? (
                  <option key={pair.name} value={index}>
                    {pair.name}
                  </option>
                ) : null,
              )}
            </select>
          </label>
        )}
        <label class="least">
          <span>Score from {score(Math.max(minScore.value, lowest))}</span>
          <input
            type="range"
            min={lowest}
            max={1}
            step={0.01}
            value={Math.max(minScore.value, lowest)}
            onInput={({ currentTarget: { value } }) => (minScore.value = Number(value) <= lowest ? 0 : Number(value))}
          />
        </label>
        <label>
          <span>Order</span>
          <select value={order.value} onChange={(e) => (order.value = e.currentTarget.value as Order)}>
            {ORDERS.map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </select>
        </label>
        {filtered && (
          <button type="button" class="plain" onClick={clearFilters}>
            Clear filters
          </button>
        )}
      </form>
    </details>
  );
}
