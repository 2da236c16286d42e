// The effects of a connection: opens sockets, arms the retry timer, and tells what happened. Which
// state follows is connection.js's business, what the data means is channel.js's.

import { returnUrl } from "./address.js";
import { backoff } from "./backoff.js";
import { CONNECTING, connectionReducer } from "./connection.js";
import { SUBPROTOCOL } from "./protocol.js";

/** @typedef {import("./connection.js").Connection} Connection */
/** @typedef {import("./connection.js").ConnectionEvent} ConnectionEvent */
/** @typedef {import("./environment.js").Environment} Environment */

/**
 * Keeps one websocket open to `url`, for as long as that makes sense.
 *
 * @param {object} options
 * @param {string} options.url
 * @param {(connection: Connection) => void} options.onConnection every change of the connection
 * @param {() => void} options.onOpen a socket is open, and to be greeted
 * @param {(data: unknown) => void} options.onData what arrives
 * @param {(code: number) => boolean} options.onLost the socket is gone; returns whether to come
 *   again whatever the code says
 * @param {Environment} options.environment
 */
export function keepOpen({ url, onConnection, onOpen, onData, onLost, environment }) {
  /** @type {Connection} */
  let connection = CONNECTING;
  /** @type {WebSocket | null} */
  let socket = null;
  /** @type {import("./protocol.js").Bye | null} */
  let bye = null;
  /** @type {any} */
  let timer = null;

  function connect() {
    const opened = new environment.WebSocket(url, [SUBPROTOCOL]);
    opened.binaryType = "arraybuffer";
    socket = opened;
    // A socket that was let go of may still do things; nobody expects them any more.
    opened.onopen = () => socket === opened && onOpen();
    opened.onmessage = ({ data }) => socket === opened && onData(data);
    // No `onerror`: a close event follows each error, and says more.
    opened.onclose = ({ code, reason }) => socket === opened && lost(code, reason);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  function lost(code, reason) {
    socket = null;
    const renewed = onLost(code);
    const { now, random } = environment;
    apply({ type: "lost", now: now(), random: random(), code, reason, bye, renewed });
    bye = null;
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

  /**
   * Lets go of a socket that may be of no use any more, and comes again.
   *
   * @param {number} code
   * @param {string} reason
   */
  function drop(code, reason) {
    const last = socket;
    if (last === null) return;
    lost(code, reason);
    last.close(1000);
  }

  return {
    connect,
    drop,
    /** @param {string | Uint8Array<ArrayBuffer>} data */
    send(data) {
      socket?.send(data);
    },
    /** The server has answered. */
    welcomed() {
      url = returnUrl(url);
      apply({ type: "opened", now: environment.now() });
    },
    /** @param {import("./protocol.js").Bye} asked before it closes the socket */
    willClose(asked) {
      bye = asked;
    },
    /** There may be a network again: looks soon, but not all browsers of an office at once. */
    wake() {
      drop(1006, "the network has changed");
      if (timer === null) return;
      environment.clearTimeout(timer);
      const soon = Math.min(connection.retryIn, backoff(0, environment.random()));
      timer = environment.setTimeout(retry, soon);
    },
    /**
     * Ends it for good.
     *
     * @param {number} code
     * @param {string} reason
     */
    close(code, reason) {
      environment.clearTimeout(timer);
      timer = null;
      const last = socket;
      socket = null;
      apply({ type: "closed", code, reason });
      last?.close(code, reason);
    },
  };
}
