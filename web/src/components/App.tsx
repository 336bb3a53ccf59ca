import { content } from "../content";
import { announcement, gallery } from "../review";
import { Failures } from "./Failures";
import { Filters } from "./Filters";
import { Footer } from "./Footer";
import { Gallery } from "./Gallery";
import { Header } from "./Header";
import { Help } from "./Help";
import { MapPanel } from "./MapPanel";
import { PairTable } from "./PairTable";
import { Progress } from "./Progress";
import { Review } from "./Review";
import { Unmatched } from "./Unmatched";

export function App() {
  const cards = content.cards.length > 0;
  return (
    <>
      <a class="skip" href="#review">
        Skip to the review
      </a>
      <Header />
      <main>
        <Failures />
        <Progress />
        <div class={`work ${cards ? (gallery.value ? "wide" : "") : "calm"}`}>
          <section id="review" class="panel" aria-labelledby="review-heading" tabIndex={-1}>
            <div class="panel-head">
              <h2 id="review-heading">Review</h2>
              {cards && (
                <button type="button" onClick={() => (gallery.value = !gallery.value)} aria-pressed={gallery.value}>
                  All cards
                </button>
              )}
              {cards && <Filters />}
            </div>
            {cards ? gallery.value ? <Gallery /> : <Review /> : <Nothing />}
          </section>
          <MapPanel />
        </div>
        <PairTable />
        <Unmatched />
      </main>
      <Footer />
      <Help />
      <div class="said" role="status" aria-live="polite">
        {announcement.value}
      </div>
    </>
  );
}

function Nothing() {
  return (
    <p class="empty">
      {content.total > 0
        ? "This page was made without cards: the anomalies are on the map and in the GeoPackages."
        : "Nothing was found: no place differs enough between the two dates."}
    </p>
  );
}
