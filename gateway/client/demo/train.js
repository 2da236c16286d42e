// The card in which a model learns to read digits, while its user looks on and interferes.

import { useEffect, useState } from "preact/hooks";
import { Card } from "./cards.js";
import { Confusion, Losses } from "./chart.js";
import { html } from "./html.js";
import { percent, timeInWords } from "./words.js";

/** @typedef {import("./cards.js").CardProps} CardProps */

const STEPS = 1000;
/** The session's own, until it says otherwise. */
const DEFAULTS = { rate: 0.2, decay: 0, batch: 32 };
const DECAYS = [0, 0.0001, 0.001, 0.01, 0.1];
const BATCHES = [1, 8, 32, 128];

/** The slider goes in tenths of a power of ten. @param {number} rate */
const tenths = (rate) => Math.round(Math.log10(rate) * 10);
/** @param {number} tenths */
const rateOf = (tenths) => Number((10 ** (tenths / 10)).toPrecision(2));

/** @param {CardProps} props */
export function Train({ state, send }) {
  const { training, progress, loss, test_loss, accuracy, curve, confusion } = state.assigned;
  const note = "A small network learns to read handwritten digits, on the worker. It goes on without this page.";
  const left = training === "running" && timeInWords(progress?.left_ms);
  /** @param {string} tag */
  const say = (tag) => () => send({ tag });
  return html`<${Card} title="Train a model" note=${note} wide>
    <${Settings} settings=${{ ...DEFAULTS, ...state.assigned.settings }} send=${send} />
    <div class="row">
      <button id="train-run" onClick=${() => send({ tag: "train", steps: STEPS })}>
        ${training ? "Train anew" : "Train"}</button>
      <button id="train-pause" class="quiet" disabled=${training !== "running"}
        onClick=${say("pause")}>Pause</button>
      <button id="train-continue" class="quiet" disabled=${training !== "paused"}
        onClick=${say("continue")}>Continue</button>
      <button id="train-reset" class="quiet" disabled=${!training} onClick=${say("reset")}>Reset</button>
    </div>
    <progress id="train-progress" aria-label="Training progress"
      value=${progress?.done ?? 0} max=${progress?.total || 1}></progress>
    <p class="value">
      <output id="train-state">${training ?? "not started"}</output>
      ${progress && html`, step <span id="train-done">${progress.done}</span> of ${progress.total}`}
      ${left && html`, <span id="train-left">${left} left</span>`}
    </p>
    <dl class="figures">
      <div><dt>loss in training</dt><dd id="train-loss">${loss?.toFixed(4) ?? "–"}</dd></div>
      <div><dt>loss in the test</dt><dd id="train-test-loss">${test_loss?.toFixed(4) ?? "–"}</dd></div>
      <div><dt>read right in the test</dt><dd id="train-accuracy">${percent(accuracy)}</dd></div>
    </dl>
    <div class="pictures">
      <${Losses} curve=${curve} handoffs=${state.handoffs} />
      <${Confusion} confusion=${confusion} />
    </div>
  <//>`;
}

/**
 * What may be changed while it trains. All tabs show what the session has.
 *
 * @param {{ settings: typeof DEFAULTS, send: CardProps["send"] }} props
 */
function Settings({ settings, send }) {
  const [dragged, setDragged] = useState(/** @type {number | null} */ (null));
  /** @param {{ currentTarget: HTMLInputElement | HTMLSelectElement }} event */
  const number = ({ currentTarget }) => Number(currentTarget.value);
  /** @param {{ currentTarget: HTMLInputElement }} event */
  const onInput = (event) => setDragged(number(event));
  // `change` comes once, when the slider is let go; `input` would be a message for each pixel.
  /** @param {{ currentTarget: HTMLInputElement }} event */
  const onRate = (event) => void send({ tag: "set", rate: rateOf(number(event)) });
  // What was dragged is shown until the session has it.
  useEffect(() => setDragged(null), [settings.rate]);
  /** @param {"decay" | "batch"} key */
  const choose = (key) => (/** @type {{ currentTarget: HTMLSelectElement }} */ event) =>
    void send({ tag: "set", [key]: number(event) });
  const rate = dragged === null ? settings.rate : rateOf(dragged);
  return html`<div class="settings">
    <div class="setting">
      <label for="train-rate">learning rate <span id="train-rate-value" class="value">${rate}</span></label>
      <input id="train-rate" type="range" min="-30" max="10" step="1" value=${dragged ?? tenths(rate)}
        aria-valuetext=${String(rate)} onInput=${onInput} onChange=${onRate} />
    </div>
    <${Choice} id="train-decay" label="regularisation" value=${settings.decay} choices=${DECAYS}
      onChange=${choose("decay")} />
    <${Choice} id="train-batch" label="batch size" value=${settings.batch} choices=${BATCHES}
      onChange=${choose("batch")} />
  </div>`;
}

/**
 * @param {{ id: string, label: string, value: number, choices: number[], onChange: (event: any) => void }} props
 */
function Choice({ id, label, value, choices, onChange }) {
  // Somebody may have set another one from a console.
  const all = choices.includes(value) ? choices : [...choices, value];
  return html`<div class="setting">
    <label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${onChange}>
      ${all.map((choice) => html`<option value=${choice}>${choice}</option>`)}
    </select>
  </div>`;
}
