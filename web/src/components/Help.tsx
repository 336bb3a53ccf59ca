import { useEffect, useRef } from "preact/hooks";
import { helpOpen, KEYS, letters, setLetters } from "../keys";

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = helpOpen.value;
  useEffect(() => {
    if (open && !dialog.current?.open) dialog.current?.showModal();
    if (!open) dialog.current?.close();
  }, [open]);
  return (
    <dialog ref={dialog} aria-labelledby="help-heading" onClose={() => (helpOpen.value = false)}>
      <div class="dialog-head">
        <h2 id="help-heading">Keys</h2>
        <button type="button" onClick={() => (helpOpen.value = false)}>
          Close
        </button>
      </div>
      <table class="keys">
        <thead class="hidden">
          <tr>
            <th scope="col">Key</th>
            <th scope="col">Does</th>
          </tr>
        </thead>
        <tbody>
          {KEYS.map(({ labels, description }) => (
            <tr key={description}>
              <td>
                {labels.map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </td>
              <td>{description}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <label class="switch">
        <input type="checkbox" checked={letters.value} onChange={(event) => setLetters(event.currentTarget.checked)} />
        Use these keys. Switch them off if they get in the way of speech input.
      </label>
      <p class="muted">
        Verdicts stay in this browser until you export them. <code>geosiam review verdicts.json anomalies.gpkg</code>{" "}
        writes them into the GeoPackage, where QGIS shows them in the column <code>review</code>.
      </p>
    </dialog>
  );
}
