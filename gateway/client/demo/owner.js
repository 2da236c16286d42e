// The card that says where the session is, lets its user disturb that, and lists what came of it.

import { ask, countWorkers } from "./dev.js";
import { Card } from "./cards.js";
import { html } from "./html.js";
import { handoffInWords } from "./words.js";

/** @typedef {import("./cards.js").CardProps} CardProps */

/** As many as `gateway dev` runs. */
const MOST_WORKERS = 64;

/** @param {CardProps & { gateway: string }} props */
export function Where({ state, send, dispatch, gateway }) {
  const { owner, handoffs } = state;
  const note = "Kill the worker that owns your session: the page stays connected.";
  const facts = /** @type {const} */ ([
    ["session", owner?.session],
    ["worker", owner && `${owner.worker}, process ${owner.process}`],
    ["epoch", owner?.epoch],
    ["gateway", gateway],
  ]);
  return html`<${Card} title="Where am I?" note=${note}>
    <dl class="facts">
      ${facts.map(([name, value]) => html`<dt>${name}</dt><dd id=${`where-${name}`}>${value ?? "…"}</dd>`)}
    </dl>
    <div class="row">
      <button id="where-run" class="quiet" onClick=${() => send({ tag: "where" })}>Ask again</button>
      <button id="broken-run" class="quiet" onClick=${() => send({ tag: "broken" })}
        title="Sends a message whose handler fails">Break a handler</button>
    </div>
    <${Disturb} state=${state} dispatch=${dispatch} />
    <h3>Handoffs</h3>
    ${handoffs.length === 0 && html`<p class="note">None since this page was loaded.</p>`}
    <ol id="handoffs" class="handoffs" hidden=${handoffs.length === 0}>
      ${handoffs.map((handoff) => html`<li key=${handoff.epoch}>${handoffInWords(handoff)}</li>`)}
    </ol>
  <//>`;
}

/** @param {Pick<CardProps, "state" | "dispatch">} props */
function Disturb({ state, dispatch }) {
  const { owner, dev } = state;
  if (dev === null) {
    return html`<p class="note">With <code>gateway dev</code> there are buttons here that kill and
      drain workers.</p>`;
  }
  const { workers, asked } = dev;

  /** @param {() => Promise<number>} how returns how many workers there are then */
  async function disturb(how) {
    dispatch({ tag: "_dev", dev: { workers, asked: true } });
    dispatch({ tag: "_disturbed" });
    let count = workers;
    try {
      count = await how();
    } catch (error) {
      dispatch({ tag: "_failed", error: error instanceof Error ? error.message : String(error) });
    }
    dispatch({ tag: "_dev", dev: { workers: count, asked: false } });
  }

  const index = owner?.worker ?? 0;
  /** @param {"kill" | "drain"} what */
  const hit = (what) => disturb(() => ask(what, index).then(() => workers));
  // Another tab may have changed how many there are, so that is asked anew.
  /** @param {number} more */
  const scale = (more) => disturb(async () => {
    const wanted = ((await countWorkers()) ?? workers) + more;
    await ask("scale", wanted);
    return wanted;
  });
  return html`<div class="row" role="group" aria-label="Disturb the workers">
    <button id="dev-kill" disabled=${asked || !owner} onClick=${() => hit("kill")}>
      Kill worker ${index}</button>
    <button id="dev-drain" disabled=${asked || !owner} onClick=${() => hit("drain")}>
      Drain worker ${index}</button>
    <button id="dev-add" class="quiet" disabled=${asked || workers >= MOST_WORKERS}
      onClick=${() => scale(1)}>Add a worker</button>
    <button id="dev-remove" class="quiet" disabled=${asked || workers <= 1}
      onClick=${() => scale(-1)}>Remove one</button>
    <span id="dev-workers" class="value">${workers} ${workers === 1 ? "worker" : "workers"}</span>
  </div>`;
}
