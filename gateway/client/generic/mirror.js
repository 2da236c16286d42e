// The session's mirrored keys, each drawn as what its form says it is.

import { Bars, Plot, Sparkline } from "./charts.js";
import { useNow, useObjectUrl } from "./hooks.js";
import { html } from "./html.js";
import { durationInWords, kindOf, numberInWords, progressOf, sizeInWords, timeLeft } from "./values.js";

/** @typedef {import("./reducer.js").GenericState} GenericState */
/** @typedef {import("./values.js").Sample} Sample */

/** No news for so long is said: work may be paused. */
const QUIET_MS = 5_000;

/** @param {{ state: GenericState }} props */
export function Mirror({ state }) {
  const keys = Object.keys(state.entries).sort();
  return html`<section class="card wide" aria-labelledby="mirror-title">
    <h2 id="mirror-title">What the session shows</h2>
    ${keys.length === 0 && state.picture === null && html`<${Nothing} />`}
    <div class="keys">
      ${keys.map((key) => html`<${Key} key=${key} name=${key} entry=${state.entries[key]}
        samples=${Object.hasOwn(state.samples, key) ? state.samples[key] : []} />`)}
      ${state.picture && html`<${Picture} ...${state.picture} />`}
    </div>
  </section>`;
}

function Nothing() {
  return html`<p class="note" id="nothing">
    Nothing yet. Each key that the app assigns appears here by itself, in every tab.
    Send the session a message to see it at work.
  </p>`;
}

/**
 * @param {{ name: string, entry: import("./reducer.js").Entry, samples: readonly Sample[] }} props
 */
function Key({ name, entry: { value, bytes }, samples }) {
  const kind = kindOf(name, value);
  return html`<article class="key" data-key=${name} data-kind=${kind}>
    <h3>${name} <small>${sizeInWords(bytes)}</small></h3>
    <${Value} kind=${kind} name=${name} value=${value} samples=${samples} />
  </article>`;
}

/**
 * @param {{ kind: import("./values.js").Kind, name: string, value: any,
 *   samples: readonly Sample[] }} props
 */
function Value({ kind, name, value, samples }) {
  switch (kind) {
    case "number":
      return html`<p class="big"><output>${numberInWords(value)}</output></p>
        <${Sparkline} values=${samples.map((sample) => sample.value)} />`;
    case "progress":
      return html`<${Progress} name=${name} value=${value} samples=${samples} />`;
    case "vector":
      return html`<${Plot} values=${value} />`;
    case "bars":
      return html`<${Bars} parts=${value} />`;
    case "image":
      return html`<img src=${value} alt=${`The image ${name}`} />`;
    case "text":
      return html`<p class="text"><output>${String(value)}</output></p>`;
    case "json":
      return html`<pre tabindex="0">${JSON.stringify(value, null, 2)}</pre>`;
  }
}

/** @param {{ name: string, value: any, samples: readonly Sample[] }} props */
function Progress({ name, value, samples }) {
  const { done, total } = progressOf(name, value) ?? { done: 0, total: 0 };
  const isOver = done >= total;
  const quiet = useNow(!isOver) - (samples[samples.length - 1]?.at ?? 0);
  return html`<progress aria-label=${name} value=${done} max=${total || 1}></progress>
    <p class="text"><output>${stand(done, total)}</output>, ${
      isOver ? "done" : pace(timeLeft(samples, total), quiet)
    }</p>`;
}

/**
 * @param {number} done
 * @param {number} total
 */
function stand(done, total) {
  const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
  return total === 1 ? `${percent} %` : `${numberInWords(done)} of ${numberInWords(total)}`;
}

/**
 * @param {number | null} left ms
 * @param {number} quiet ms without news
 */
function pace(left, quiet) {
  if (quiet >= QUIET_MS) return `no news for ${durationInWords(quiet)}`;
  return left === null ? "just begun" : `about ${durationInWords(left)} left`;
}

/** @param {{ bytes: Uint8Array, type: string }} props */
function Picture({ bytes, type }) {
  const url = useObjectUrl(bytes, type);
  return html`<article class="key" data-kind="picture">
    <h3>last binary message <small>${type}, ${sizeInWords(bytes.byteLength)}</small></h3>
    <img src=${url} alt="The image that the session has sent" />
  </article>`;
}
