// The demo page: opens the session, draws the header and the cards after each change.

import { render } from "preact";
import { openSession } from "../single-state.js";
import { Axpy, Notes, Train, Yak } from "./cards.js";
import { html } from "./html.js";
import { initial, reducer } from "./reducer.js";
import { watchOwner } from "./where.js";
import { changeInWords, connectionInWords, ownerInWords } from "./words.js";

/** @typedef {import("../protocol.js").Message} Message */

const session = openSession({ initial, reducer });

/** @param {Message} message */
function send(message) {
  const sent = session.publish(message);
  if (!sent) session.dispatch({ tag: "_unsent" });
  return sent;
}

/**
 * What interrupts is said at once; what is calm waits its turn, also with a screen reader.
 *
 * @param {{ id: string, text: string, calm?: boolean, onDismiss: () => void }} props
 */
function Banner({ id, text, calm = false, onDismiss }) {
  // The live region is there before its text is, else a screen reader may miss the text.
  return html`<div role=${calm ? "status" : "alert"}>
    ${text &&
    html`<div class=${calm ? "banner calm" : "banner"}>
      <p id=${id}>${text}</p>
      <button class="quiet" id=${`${id}-dismiss`} onClick=${onDismiss}>Dismiss</button>
    </div>`}
  </div>`;
}

/** @param {import("../single-state.js").View<import("./reducer.js").DemoState>} view */
function Page({ state, connection }) {
  const { dispatch } = session;
  const change = state.change ? changeInWords(state.change) : "";
  const lost = state.change?.lost ?? false;
  const dismissChange = () => dispatch({ tag: "_dismiss_change" });
  const card = { state, send, dispatch };
  return html`
    <header>
      <h1>single-state</h1>
      <p id="connection" role="status" data-status=${connection.status}>
        ${connectionInWords(connection)}
      </p>
      <p id="owner">${ownerInWords(state, connection)}</p>
      <nav class="row">
        <a href="/?session=new">Start a new session</a>
        <button id="broken-run" class="quiet" onClick=${() => send({ tag: "broken" })}
          title="Sends a message whose handler fails">Break a handler</button>
      </nav>
    </header>
    <div class="banners">
      <${Banner} id="lost-banner" text=${lost ? change : ""} onDismiss=${dismissChange} />
      <${Banner} id="notice" calm text=${lost ? "" : change} onDismiss=${dismissChange} />
      <${Banner} id="error" text=${state.error}
        onDismiss=${() => dispatch({ tag: "_dismiss_error" })} />
    </div>
    <main class="cards">
      <${Yak} ...${card} />
      <${Axpy} ...${card} />
      <${Train} ...${card} />
      <${Notes} ...${card} />
    </main>
  `;
}

/** `/?session=new` was a wish; a reload of the page must not make it again. */
function forgetNewSession() {
  const url = new URL(location.href);
  if (url.searchParams.get("session") !== "new") return;
  url.searchParams.delete("session");
  history.replaceState(null, "", url);
}

const root = /** @type {HTMLElement} */ (document.getElementById("app"));
session.subscribe((view) => {
  render(html`<${Page} ...${view} />`, root);
  // Not before something else can be seen: the page is never blank.
  document.getElementById("fallback")?.remove();
  if (view.connection.status === "open") forgetNewSession();
});
watchOwner(session, { document, setInterval: (tick, ms) => setInterval(tick, ms) });
