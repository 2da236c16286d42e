// The demo page: opens the session, draws the header and the cards after each change.

import { render } from "preact";
import { useEffect } from "preact/hooks";
import { useView } from "../preact.js";
import { openSession } from "../single-state.js";
import { Banners } from "./banners.js";
import { Axpy, Notes, Yak } from "./cards.js";
import { countWorkers } from "./dev.js";
import { html } from "./html.js";
import { Where } from "./owner.js";
import { initial, onReset, reducer } from "./reducer.js";
import { Train } from "./train.js";
import { connectionInWords, ownerInWords, savingInWords } from "./words.js";

/** @typedef {import("../message.js").Message} Message */

const session = openSession({
  initial,
  reducer: (state, message) => reducer(state, message, performance.now()),
  onReset,
  // Who owns the session is asked when it may be another one, and not otherwise.
  onWelcome({ epoch, replaced }) {
    if (replaced) session.dispatch({ tag: "_replaced" });
    if (session.view.state.owner?.epoch !== epoch) send({ tag: "where" });
  },
});
// For the console: session.publish({ tag: "append", item: "from the console" })
Object.assign(window, { session });

/** @param {Message} message */
function send(message) {
  session.publish(message).catch(({ message }) => session.dispatch({ tag: "_unsent", reason: message }));
}

function Page() {
  const view = useView(session);
  const { state, connection } = view;
  const { dispatch } = session;
  useEffect(() => {
    if (connection.status === "open") forgetNewSession();
  }, [connection.status]);
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
      <nav aria-label="Sessions"><a href="/?session=new">Start a new session</a></nav>
    </header>
    <${Banners} view=${view} dispatch=${dispatch} />
    <main class="cards">
      <${Train} ...${card} />
      <${Where} ...${card} gateway=${location.host} />
      <${Notes} ...${card} />
      <${Axpy} ...${card} />
      <${Yak} ...${card} />
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

countWorkers().then(
  (workers) => session.dispatch({ tag: "_dev", dev: workers && { workers, asked: false } }),
  () => console.info("who looks after the workers is not known: there are no buttons to disturb them"),
);

render(html`<${Page} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
// Not before something else can be seen: the page is never blank.
document.getElementById("fallback")?.remove();
