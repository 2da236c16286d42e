// The whole page: one state, one reducer, one socket.

import htm from "htm";
import { h, render } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";

const html = htm.bind(h);

const initial = { connected: false, yaks: 0, result_vector: [], items: [], error: null };

function reducer(state, message) {
  switch (message.tag) {
    case "connected":
      return { ...state, connected: true };
    case "disconnected":
      return { ...state, connected: false };
    case "shave":
      return { ...state, yaks: state.yaks + 1 };
    case "assign":
      return { ...state, [message.key]: message.value };
    case "items":
      return { ...state, items: message.items };
    case "error":
      return { ...state, error: message };
    default:
      return state;
  }
}

const numbers = (text) => text.split(",").map(Number);

function App() {
  const [state, dispatch] = useReducer(reducer, initial);
  const [a, setA] = useState("2");
  const [x, setX] = useState("1, 2, 3");
  const [y, setY] = useState("10, 20, 30");
  const [item, setItem] = useState("");
  const socket = useRef(null);

  useEffect(() => {
    socket.current = new WebSocket("ws://" + location.host + "/ws");
    socket.current.onopen = () => dispatch({ tag: "connected" });
    socket.current.onclose = () => dispatch({ tag: "disconnected" });
    socket.current.onmessage = (event) => dispatch(JSON.parse(event.data));
    return () => socket.current.close();
  }, []);

  const send = (message) => socket.current.send(JSON.stringify(message));

  return html`
    <p id="connection">${state.connected ? "connected" : "not connected"}</p>
    ${state.error && html`<p id="error" role="alert">${state.error.error}: ${state.error.details}</p>`}

    <section>
      <h2>Yaks</h2>
      <p id="yak-count">${state.yaks}</p>
      <button id="yak-shave" onClick=${() => dispatch({ tag: "shave" })}>Shave a yak</button>
    </section>

    <section>
      <h2>a · x + y</h2>
      <input id="axpy-a" value=${a} onInput=${(e) => setA(e.target.value)} />
      <input id="axpy-x" value=${x} onInput=${(e) => setX(e.target.value)} />
      <input id="axpy-y" value=${y} onInput=${(e) => setY(e.target.value)} />
      <button
        id="axpy-run"
        onClick=${() => send({ tag: "axpy", a: Number(a), x: numbers(x), y: numbers(y) })}
      >
        Compute
      </button>
      <p id="axpy-result">${state.result_vector.join(", ")}</p>
    </section>

    <section>
      <h2>Items</h2>
      <input id="append-item" value=${item} onInput=${(e) => setItem(e.target.value)} />
      <button id="append-run" onClick=${() => send({ tag: "append", item })}>Append</button>
      <button id="items-run" onClick=${() => send({ tag: "items" })}>Show</button>
      <p id="count">${state.count ?? 0}</p>
      <ul id="items">
        ${state.items.map((text) => html`<li>${text}</li>`)}
      </ul>
    </section>

    <section>
      <button id="broken-run" onClick=${() => send({ tag: "broken" })}>Broken</button>
    </section>
  `;
}

document.getElementById("loading").remove();
render(html`<${App} />`, document.body);
