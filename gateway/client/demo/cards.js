// The cards. Each shows a part of the page's state and sends messages; none keeps state of its own
// beside what is typed into its fields.

import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { parseNumber, parseVector, printVector } from "./vector.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {import("./reducer.js").DemoState} DemoState */

/**
 * @typedef {object} CardProps
 * @property {DemoState} state
 * @property {(message: Message) => void} send to the session
 * @property {(message: Message) => void} dispatch to this page's own state
 */

/** @param {{ title: string, note: string, wide?: boolean, children?: any }} props */
export function Card({ title, note, wide = false, children }) {
  return html`<section class=${wide ? "card wide" : "card"}>
    <h2>${title}</h2>
    <p class="note">${note}</p>
    ${children}
  </section>`;
}

/** @param {{ id: string, label: string, value: string, onText: (text: string) => void }} props */
function Field({ id, label, value, onText }) {
  /** @param {{ currentTarget: HTMLInputElement }} event */
  const onInput = (event) => onText(event.currentTarget.value);
  return html`<label for=${id}>${label}</label>
    <input id=${id} type="text" autocomplete="off" value=${value} onInput=${onInput} />`;
}

/** @param {CardProps} props */
export function Yak({ state, dispatch }) {
  return html`<${Card} title="Local state" note="A counter that lives in this page only. No server.">
    <p class="value"><output id="yak-count">${state.yaks}</output> yaks shaved</p>
    <button id="yak-shave" onClick=${() => dispatch({ tag: "_shave" })}>Shave a yak</button>
  <//>`;
}

/** @param {CardProps} props */
export function Axpy({ state, send }) {
  const [a, setA] = useState("2");
  const [x, setX] = useState("1, 2, 3");
  const [y, setY] = useState("10, 20, 30");
  const [problem, setProblem] = useState("");

  /** @param {Event} event */
  function run(event) {
    event.preventDefault();
    try {
      setProblem("");
      send({ tag: "axpy", a: parseNumber("a", a), x: parseVector("x", x), y: parseVector("y", y) });
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  }

  const result = printVector(state.assigned.result_vector);
  return html`<${Card} title="a · x + y" note="The session computes it on its worker.">
    <form class="fields" onSubmit=${run}>
      <${Field} id="axpy-a" label="a" value=${a} onText=${setA} />
      <${Field} id="axpy-x" label="x" value=${x} onText=${setX} />
      <${Field} id="axpy-y" label="y" value=${y} onText=${setY} />
      <button id="axpy-run">Compute</button>
    </form>
    <p class="problem" id="axpy-problem" role="alert">${problem}</p>
    <p class="value">= <output id="axpy-result">${result}</output></p>
  <//>`;
}

/** @param {CardProps} props */
export function Notes({ state, send }) {
  const [item, setItem] = useState("");
  const count = state.assigned.count ?? 0;
  const { items } = state;
  // A list that is shown follows its count, whichever tab the new note came from.
  useEffect(() => {
    if (items !== null && items.length !== count) send({ tag: "items" });
  }, [count]);

  /** @param {Event} event */
  function append(event) {
    event.preventDefault();
    if (item.trim() === "") return;
    send({ tag: "append", item: item.trim() });
    setItem("");
  }

  return html`<${Card} title="Notes" note="Kept by the session. Open a second tab and see both follow.">
    <form class="fields" onSubmit=${append}>
      <${Field} id="append-item" label="note" value=${item} onText=${setItem} />
      <div class="row">
        <button id="append-run">Add</button>
        <button id="items-run" type="button" class="quiet"
          onClick=${() => send({ tag: "items" })}>Show all</button>
      </div>
    </form>
    <p class="value"><output id="count">${count}</output> ${count === 1 ? "note" : "notes"}</p>
    ${items && html`<ol id="items">${items.map((text) => html`<li>${text}</li>`)}</ol>`}
  <//>`;
}
