import { useSignal } from "@preact/signals";
import { content, nameOf, pairOf } from "../content";
import { area, count } from "../format";
import { clearFilters, gallery, show, shown } from "../review";
import { verdictOf } from "../verdicts";
import { Layers } from "./Compare";
import { Score } from "./Score";

const PAGE = 60;

/** All cards that the filters let through, to look over or to print. */
export function Gallery() {
  const most = useSignal(PAGE);
  const list = shown.value;
  const print = () => {
    most.value = list.length;
    requestAnimationFrame(() => requestAnimationFrame(() => window.print()));
  };
  return (
    <>
      <div class="gallery-head">
        <p>
          {list.length === content.cards.length ? `All ${count(list.length)} cards` : `${count(list.length)} cards`}
        </p>
        {list.length < content.cards.length && (
          <button type="button" class="plain" onClick={clearFilters}>
            Show all
          </button>
        )}
        <button type="button" onClick={print}>
          Print
        </button>
      </div>
      <ol class="gallery">
        {list.slice(0, most.value).map((anomaly) => (
          <Small anomaly={anomaly} key={anomaly} />
        ))}
      </ol>
      {most.value < list.length && (
        <button type="button" class="more" onClick={() => (most.value += PAGE)}>
          Show more
        </button>
      )}
    </>
  );
}

function Small({ anomaly }: { anomaly: number }) {
  const card = content.cards[anomaly] ?? {};
  const verdict = verdictOf(anomaly);
  const open = () => {
    show(anomaly);
    gallery.value = false;
    document.getElementById("review")?.focus();
  };
  return (
    <li class={verdict ?? undefined}>
      {card.before ? (
        <div class="two">
          <div class="frame">
            <Layers anomaly={anomaly} card={card} which="before" />
          </div>
          <div class="frame">
            <Layers anomaly={anomaly} card={card} which="after" />
          </div>
        </div>
      ) : (
        <p class="no-picture muted">{card.note}</p>
      )}
      <p>
        <button type="button" class="name" onClick={open} aria-label={`Open ${nameOf(anomaly)}`}>
          {pairOf(anomaly).name} <span class="muted">#{content.anomalies.id[anomaly]}</span>
        </button>
        <span class={`verdict ${verdict ?? ""}`}>{verdict ?? "unreviewed"}</span>
      </p>
      <p class="small">
        <Score anomaly={anomaly} /> <span class="muted">{area(content.anomalies.area[anomaly] ?? 0)}</span>
      </p>
    </li>
  );
}
