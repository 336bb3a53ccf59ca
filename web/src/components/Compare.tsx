import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { type Card, content, nameOf, picture } from "../content";
import { length } from "../format";
import { flips } from "../keys";
import { outlines, scores, type View, view } from "../review";
import { Key } from "./Key";

const BLINK_MS = 700; // between flips: too slow to be harmful
const REDUCED_MOTION = matchMedia("(prefers-reduced-motion: reduce)");
const VIEWS: [View, string][] = [
  ["side", "Side by side"],
  ["swipe", "Swipe"],
  ["blink", "Blink"],
];

export function Compare({ anomaly }: { anomaly: number }) {
  const card = content.cards[anomaly];
  if (!card?.before) return <NoPicture note={card?.note} />;
  return (
    <div class="compare">
      <div class="switches">
        <fieldset class="segments">
          <legend>Comparison</legend>
          {VIEWS.map(([value, label]) => (
            <label key={value}>
              <input type="radio" name="view" checked={view.value === value} onChange={() => (view.value = value)} />
              <span>{label}</span>
            </label>
          ))}
        </fieldset>
        <Switch on={outlines} label="Outline" />
        {card.scores && view.value !== "side" && <Switch on={scores} label="Scores" />}
      </div>
      {view.value === "side" && <Side anomaly={anomaly} card={card} />}
      {view.value === "swipe" && <Swipe anomaly={anomaly} card={card} />}
      {view.value === "blink" && <Blink anomaly={anomaly} card={card} />}
    </div>
  );
}

export function NoPicture({ note }: { note: string | undefined }) {
  return (
    <div class="no-picture">
      <p>No picture</p>
      <p class="muted">{note ?? "The scenes are not at hand."}</p>
    </div>
  );
}

function Switch({ on, label }: { on: { value: boolean }; label: string }) {
  return (
    <label class="switch">
      <input type="checkbox" checked={on.value} onChange={() => (on.value = !on.value)} /> {label}
    </label>
  );
}

interface Shown {
  anomaly: number;
  card: Card;
}

/** One date, with the scores and the outline over it where they are asked for. */
export function Layers({ anomaly, card, which, over }: Shown & { which: "before" | "after"; over?: boolean }) {
  const date = which === "before" ? "Before" : "After";
  return (
    <>
      <img src={picture(card[which] ?? "")} alt={`${date}: ${nameOf(anomaly)}`} decoding="sync" draggable={false} />
      {over && card.scores && <img class="scores" src={picture(card.scores)} alt="" draggable={false} />}
      {outlines.value && card.outline && <Outline path={card.outline} />}
    </>
  );
}

function Outline({ path }: { path: string }) {
  return (
    <svg class="outline" viewBox="0 0 1000 1000" aria-hidden="true">
      <path class="halo" d={path} />
      <path d={path} />
    </svg>
  );
}

function Width({ card }: { card: Card }) {
  return card.meters ? <span class="muted">{length(card.meters)} across</span> : null;
}

function Side({ anomaly, card }: Shown) {
  return (
    <div class="side">
      <figure>
        <div class="frame">
          <Layers anomaly={anomaly} card={card} which="before" />
        </div>
        <figcaption>
          Before <Width card={card} />
        </figcaption>
      </figure>
      <figure>
        <div class="frame">
          <Layers anomaly={anomaly} card={card} which="after" />
        </div>
        <figcaption>After</figcaption>
      </figure>
      {card.scores && (
        <figure>
          <div class="frame faded">
            <img src={picture(card.after ?? "")} alt="" draggable={false} />
            <img class="scores" src={picture(card.scores)} alt={`Scores: ${nameOf(anomaly)}`} draggable={false} />
            {outlines.value && card.outline && <Outline path={card.outline} />}
          </div>
          <figcaption>
            Score{" "}
            <span class="ramp" aria-hidden="true">
              0 <i /> 1
            </span>
          </figcaption>
        </figure>
      )}
    </div>
  );
}

function Swipe({ anomaly, card }: Shown) {
  const at = useSignal(50);
  return (
    <figure class="single">
      <div class="frame">
        <Layers anomaly={anomaly} card={card} which="before" over={scores.value} />
        <div class="upper" style={{ clipPath: `inset(0 0 0 ${at.value}%)` }}>
          <Layers anomaly={anomaly} card={card} which="after" over={scores.value} />
        </div>
        <span class="divider" style={{ left: `${at.value}%` }} aria-hidden="true" />
        <input
          type="range"
          min={0}
          max={100}
          value={at.value}
          aria-label="Where before ends and after begins"
          aria-valuetext={`${at.value} % before`}
          onInput={(event) => (at.value = Number(event.currentTarget.value))}
        />
      </div>
      <figcaption class="ends">
        <span>Before</span> <Width card={card} /> <span>After</span>
      </figcaption>
    </figure>
  );
}

function Blink({ anomaly, card }: Shown) {
  const after = useSignal(false);
  const running = useSignal(!REDUCED_MOTION.matches && flips.peek() === 0);
  const seen = useSignal(flips.peek());
  useSignalEffect(() => {
    if (flips.value === seen.peek()) return;
    seen.value = flips.value;
    running.value = false; // a manual flip stops the blinking
    after.value = !after.peek();
  });
  useEffect(() => {
    if (!running.value) return undefined;
    const timer = setInterval(() => (after.value = !after.peek()), BLINK_MS);
    return () => clearInterval(timer);
  }, [running.value, after]);
  return (
    <figure class="single">
      <div class="frame">
        <Layers anomaly={anomaly} card={card} which="before" over={scores.value} />
        <div class="upper" hidden={!after.value}>
          <Layers anomaly={anomaly} card={card} which="after" over={scores.value} />
        </div>
        <span class="date" aria-hidden="true">
          {after.value ? "After" : "Before"}
        </span>
      </div>
      <figcaption class="ends">
        <button type="button" onClick={() => (running.value = !running.value)}>
          {running.value ? "Pause" : "Blink"}
        </button>
        <Width card={card} />
        <button type="button" onClick={() => flips.value++}>
          Flip <Key name="Space" />
        </button>
      </figcaption>
    </figure>
  );
}
