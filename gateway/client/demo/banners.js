// What interrupts: trouble with the connection or with saving, another owner, errors of handlers.

import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { changeInWords, troubleInWords } from "./words.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {import("./reducer.js").DemoState} DemoState */
/** @typedef {import("../single-state.js").View<DemoState>} View */

/** Saving takes a second at most, unless something stands in its way. */
const LATE_MS = 5_000;

/** @param {{ view: View, dispatch: (message: Message) => void }} props */
export function Banners({ view, dispatch }) {
  const { state, connection, unacknowledged } = view;
  const late = useLasting(connection.status === "open" && unacknowledged > 0, LATE_MS);
  const trouble = troubleInWords(view, late);
  const change = state.change ? changeInWords(state.change) : "";
  const lost = state.change?.lost ?? false;
  const dismiss = (/** @type {string} */ id, /** @type {string} */ tag) => html`<button
      id=${`${id}-dismiss`} class="quiet" onClick=${() => dispatch({ tag })}>Dismiss</button>`;
  return html`<div class="banners">
    <${Banner} id="trouble" text=${trouble?.text ?? ""} calm=${!trouble?.urgent}>
      <${WayOut} way=${trouble?.way} />
    <//>
    <${Banner} id="lost-banner" text=${lost ? change : ""}>
      ${dismiss("lost-banner", "_dismiss_change")}<//>
    <${Banner} id="notice" calm text=${lost ? "" : change}>
      ${dismiss("notice", "_dismiss_change")}<//>
    <${Banner} id="error" text=${state.error}>${dismiss("error", "_dismiss_error")}<//>
  </div>`;
}

/**
 * What is urgent is said at once; what is calm waits its turn, also with a screen reader.
 *
 * @param {{ id: string, text: string, calm?: boolean, children: any }} props
 */
function Banner({ id, text, calm = false, children }) {
  // The live region is there before its text is, else a screen reader may miss the text.
  return html`<div role=${calm ? "status" : "alert"}>
    ${text &&
    html`<div class=${calm ? "banner calm" : "banner"}>
      <p id=${id}>${text}</p>
      <div class="way">${children}</div>
    </div>`}
  </div>`;
}

/** @param {{ way: import("./words.js").Trouble["way"] | undefined }} props */
function WayOut({ way }) {
  if (way === "fresh") return html`<a class="button" id="start-fresh" href="/?session=new">Start fresh</a>`;
  if (way === "reload") {
    return html`<button id="reload" onClick=${() => location.reload()}>Reload</button>`;
  }
  return null;
}

/**
 * Whether something has been so for a while.
 *
 * @param {boolean} is
 * @param {number} ms
 */
function useLasting(is, ms) {
  const [lasts, setLasts] = useState(false);
  useEffect(() => {
    setLasts(false);
    if (!is) return;
    const timer = setTimeout(() => setLasts(true), ms);
    return () => clearTimeout(timer);
  }, [is, ms]);
  return is && lasts;
}
