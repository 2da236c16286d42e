// The demo page: opens the session, draws the header and the cards after each change.

import { render } from "preact";
import { useEffect } from "preact/hooks";
import { useView } from "../preact.js";
import { openSession } from "../single-state.js";
import { Axpy, Notes, Train, Yak } from "./cards.js";
import { html } from "./html.js";
import { initial, onReset, reducer } from "./reducer.js";
import { changeInWords, connectionInWords, ownerInWords, savingInWords } from "./words.js";

/** @typedef {import("../message.js").Message} Message */

const session = openSession({
  initial,
  reducer,
  onReset,
  // Who owns the session is asked when it may be another one, and not otherwise.
  onWelcome({ epoch }) {
    if (session.view.state.owner?.epoch !== epoch) send({ tag: "where" });
  },
});
// For the console: session.publish({ tag: "append", item: "from the console" })
Object.assign(window, { session });

/** @param {Message} message */
function send(message) {
  session.publish(message).catch(({ message }) => session.dispatch({ tag: "_unsent", reason: message }));
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

function Page() {
  const view = useView(session);
  const { state, connection } = view;
  const { dispatch } = session;
  useEffect(() => {
    if (connection.status === "open") forgetNewSession();
  }, [connection.status]);
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
      <div class="soft">
        <p id="owner">${ownerInWords(state)}</p>
        <p id="saving">${savingInWords(view)}</p>
      </div>
      <nav class="row">
        <a href="/?session=new">Start a new session</a>
        <button id="where-run" class="quiet" onClick=${() => send({ tag: "where" })}
          title="Asks the session who owns it">Where is it?</button>
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

render(html`<${Page} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
// Not before something else can be seen: the page is never blank.
document.getElementById("fallback")?.remove();
