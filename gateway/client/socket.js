// The effects: opens sockets, arms the retry timer, and tells what happened. Which state follows is
// session.js's business, what the text on the wire means is protocol.js's.

import { returnUrl } from "./protocol.js";
import { CONNECTING, connectionReducer } from "./session.js";

/** @typedef {import("./session.js").Connection} Connection */
/** @typedef {import("./session.js").ConnectionEvent} ConnectionEvent */

/**
 * What the browser provides. Tests hand in their own.
 * @typedef {object} Environment
 * @property {new (url: string) => WebSocket} WebSocket
 * @property {(callback: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} now monotonic milliseconds
 * @property {() => number} random from 0 up to 1
 */

/** @returns {Environment} */
export function browserEnvironment() {
  return {
    WebSocket,
    setTimeout: (callback, ms) => setTimeout(callback, ms),
    clearTimeout: (timer) => clearTimeout(timer),
    now: () => performance.now(),
    random: Math.random,
  };
}

/**
 * Keeps one websocket open to `url`, for as long as that makes sense.
 *
 * @param {object} options
 * @param {string} options.url
 * @param {(connection: Connection) => void} options.onConnection every change of the connection
 * @param {(data: unknown) => void} options.onData what arrives
 * @param {Environment} options.environment
 */
export function keepOpen({ url, onConnection, onData, environment }) {
  /** @type {Connection} */
  let connection = CONNECTING;
  /** @type {WebSocket | null} */
  let socket = null;
  /** @type {any} */
  let timer = null;

  function connect() {
    const opened = new environment.WebSocket(url);
    socket = opened;
    opened.onopen = () => {
      url = returnUrl(url);
      apply({ type: "opened", now: environment.now() });
    };
    opened.onmessage = ({ data }) => {
      // A socket that close() let go of may still deliver; the page does not expect that any more.
      if (socket === opened) onData(data);
    };
    // No `onerror`: a close event follows each error, and says more.
    opened.onclose = ({ code, reason }) => {
      socket = null;
      const { now, random } = environment;
      apply({ type: "lost", now: now(), random: random(), code, reason });
    };
  }

  /** @param {ConnectionEvent} event */
  function apply(event) {
    const next = connectionReducer(connection, event);
    if (next === connection) return;
    connection = next;
    if (next.status === "waiting") timer = environment.setTimeout(retry, next.retryIn);
    onConnection(next);
  }

  function retry() {
    timer = null;
    apply({ type: "retry" });
    // A listener may have called close() while it was told.
    if (connection.status === "connecting") connect();
  }

  connect();
  return {
    /**
     * @param {string} text
     * @returns {boolean} false when there is no open socket; the text is not kept
     */
    send(text) {
      if (socket?.readyState !== 1 /* OPEN */) return false;
      socket.send(text);
      return true;
    },
    close() {
      environment.clearTimeout(timer);
      const last = socket;
      socket = null;
      apply({ type: "closed", code: 1000, reason: "closed by the page" });
      last?.close(1000);
    },
  };
}
