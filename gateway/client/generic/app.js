// The generic page: shows any app's session and sends it anything, with no code of the app's author.

import { render } from "preact";
import { useEffect } from "preact/hooks";
import { useView } from "../preact.js";
import { openSession } from "../single-state.js";
import { useNow, useOnline, useUnsavedSince } from "./hooks.js";
import { html } from "./html.js";
import { Mirror } from "./mirror.js";
import { initial, mirroredBytes, onReset, reducerOf } from "./reducer.js";
import { Send } from "./send.js";
import { troubleIn } from "./troubles.js";
import { sizeInWords } from "./values.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {import("./reducer.js").Line} Line */

/** @type {import("../single-state.js").Session<import("./reducer.js").GenericState>} */
const session = openSession({
  initial,
  reducer: reducerOf(Date.now),
  onReset,
  onWelcome: (welcome) => session.dispatch({ ...welcome, tag: "_welcome" }),
});
// For the console: session.publish({ tag: "add", n: 1 })
Object.assign(window, { session });

let sendings = 0;

/**
 * @param {Message | Uint8Array} content
 * @param {string} text how it is listed
 */
function publish(content, text) {
  const id = ++sendings;
  const message = content instanceof Uint8Array ? null : content;
  session.dispatch({ tag: "_publish", id, text, message });
  const settled = (/** @type {string} */ outcome) => session.dispatch({ tag: "_settled", id, outcome });
  session.publish(content).then(
    () => settled(session.view.durability === "memory" ? "handled" : "saved"),
    (error) => settled(error.message),
  );
}

/** @param {Message} message */
const send = (message) => publish(message, JSON.stringify(message));

/** @param {File} file */
async function sendFile(file) {
  publish(new Uint8Array(await file.arrayBuffer()), `${file.name}, ${sizeInWords(file.size)}`);
}

function Page() {
  const view = useView(session);
  const { state, connection } = view;
  useEffect(() => {
    if (connection.status === "open") forgetNewSession();
  }, [connection.status]);
  return html`
    <header>
      <h1>${location.host}</h1>
      <p id="connection" role="status" data-status=${connection.status}>${STATUS[connection.status]}</p>
      <dl>
        <dt>session</dt>
        <dd id="session">${idOf(view.session)}</dd>
        <dt>owner</dt>
        <dd id="owner">${ownerInWords(state.owner)}</dd>
        <dt>mirrored</dt>
        <dd id="size">
          ${keysInWords(Object.keys(state.entries).length)}, ${sizeInWords(mirroredBytes(state))}
        </dd>
        <dt>saved</dt>
        <dd id="saved">${savedInWords(view)}</dd>
      </dl>
      <p><a id="fresh" href="?session=new">Start a new session</a></p>
    </header>
    <div class="banners">
      <${Trouble} view=${view} />
      <div role="alert">
        ${state.notice !== "" &&
        html`<div class="banner">
          <p id="error">${state.notice}</p>
          <button class="quiet" id="error-dismiss"
            onClick=${() => session.dispatch({ tag: "_dismiss" })}>Dismiss</button>
        </div>`}
      </div>
    </div>
    <main class="cards">
      <${Mirror} state=${state} />
      <${Send} sent=${state.sent} send=${send} sendFile=${sendFile} />
      <${Lines} id="errors" title="Errors" none="None so far." lines=${state.errors}
        onForget=${() => session.dispatch({ tag: "_forget_errors" })} />
      <${Lines} id="events" title="Events" none="Messages of the app that are no assign appear here."
        lines=${state.events} onForget=${() => session.dispatch({ tag: "_forget_events" })} />
    </main>
    <footer>
      <p>
        This page comes with the gateway and works for every app. To serve your own, give${" "}
        <code>--web DIR</code>; <a href="/client/README.md">what its pages can import</a>.
      </p>
    </footer>
  `;
}

const STATUS = Object.freeze({
  connecting: "connecting…",
  open: "connected",
  waiting: "no connection",
  closed: "closed",
});

/** @param {{ view: import("../single-state.js").View<unknown> }} props */
function Trouble({ view: { connection, unacknowledged } }) {
  const online = useOnline();
  const since = useUnsavedSince(unacknowledged);
  const now = useNow(unacknowledged > 0);
  const waitedFor = since === null ? 0 : now - since;
  const trouble = troubleIn({ connection, online, unacknowledged, waitedFor });
  // The live region is there before its text is, else a screen reader may miss the text.
  return html`<div role="alert">
    ${trouble &&
    html`<div class="banner" id="trouble" data-code=${connection.code}>
      <div>
        <p><strong>${trouble.title}</strong></p>
        <p>${trouble.advice}</p>
      </div>
      ${trouble.help === "new" && html`<a class="button" id="start-fresh" href="?session=new">Start fresh</a>`}
      ${trouble.help === "reload" &&
      html`<button id="reload" onClick=${() => location.reload()}>Reload</button>`}
    </div>`}
  </div>`;
}

/**
 * @param {{ id: string, title: string, none: string, lines: readonly Line[],
 *   onForget: () => void }} props
 */
function Lines({ id, title, none, lines, onForget }) {
  return html`<section class="card" aria-labelledby=${`${id}-title`}>
    <div class="row apart">
      <h2 id=${`${id}-title`}>${title}</h2>
      ${lines.length > 0 && html`<button class="quiet small" onClick=${onForget}
        aria-label=${`Clear ${title}`}>Clear</button>`}
    </div>
    ${lines.length === 0
      ? html`<p class="note">${none}</p>`
      : html`<ol class="lines" id=${id} tabindex="0">
          ${lines.map(
            (line) => html`<li key=${line.id}>
              <time class="soft">${new Date(line.at).toLocaleTimeString()}</time>
              <strong>${line.title}</strong>
              ${line.times > 1 && html`<span class="soft">× ${line.times}</span>`}
              ${line.body !== "" && html`<code>${line.body}</code>`}
            </li>`,
          )}
        </ol>`}
  </section>`;
}

/** A token is the id, and then what proves it: that is nobody's business. @param {string | null} token */
function idOf(token) {
  return token === null ? "not known yet" : token.split(".")[0];
}

/** @param {number} keys */
const keysInWords = (keys) => (keys === 1 ? "1 key" : `${keys} keys`);

/** @param {import("./reducer.js").GenericState["owner"]} owner */
function ownerInWords(owner) {
  if (owner === null) return "not known yet";
  const who = owner.worker === null ? "a worker" : `worker ${owner.worker}`;
  return `${who}, epoch ${owner.epoch}`;
}

/** @param {import("../single-state.js").View<unknown>} view */
function savedInWords({ unacknowledged, durability }) {
  if (durability === null) return unacknowledged === 0 ? "–" : `${unacknowledged} not sent yet`;
  if (durability === "memory") return "no: it ends with its worker";
  return unacknowledged === 0 ? `all (${durability})` : `${unacknowledged} not yet`;
}

/** `?session=new` was a wish; a reload of the page must not make it again. */
function forgetNewSession() {
  const url = new URL(location.href);
  if (url.searchParams.get("session") !== "new") return;
  url.searchParams.delete("session");
  history.replaceState(null, "", url);
}

render(html`<${Page} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
// Not before something else can be seen: the page is never blank.
document.getElementById("fallback")?.remove();
