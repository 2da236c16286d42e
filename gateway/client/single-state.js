// The browser client: a page's state, changed by the messages of its session. Importing this file
// does nothing; openSession() does.
//
//   const session = openSession({ initial: { total: 0 }, reducer });
//   session.subscribe(({ state, connection }) => draw(state, connection));
//   session.publish({ tag: "add", amount: 3 });

import { decode, encode, socketUrl } from "./protocol.js";
import { CONNECTING } from "./session.js";
import { browserEnvironment, keepOpen } from "./socket.js";

/** @typedef {import("./protocol.js").Message} Message */
/** @typedef {import("./session.js").Connection} Connection */
/** @typedef {import("./socket.js").Environment} Environment */

/**
 * @template State
 * @typedef {{ state: State, connection: Connection }} View
 */

/**
 * Opens the session that the page's `?session=` or the cookie names, or a new one.
 *
 * The gateway keeps what it has received and the session what it was told, so faults behind the
 * gateway stay invisible. What the plain protocol cannot promise is the way to the gateway: a
 * message that was on its way when the page's own connection broke may be lost.
 *
 * @template State
 * @param {object} options
 * @param {State} options.initial the page's state before any message
 * @param {(state: State, message: Message) => State} options.reducer pure: the next state, nothing else
 * @param {string} [options.url] of the websocket; default: `/ws` on the page's own host
 * @param {Environment} [options.environment] for tests; default: the browser's
 */
export function openSession({
  initial,
  reducer,
  url = socketUrl(location.href),
  environment = browserEnvironment(),
}) {
  /** @type {View<State>} */
  let view = { state: initial, connection: CONNECTING };
  /** @type {Set<(view: View<State>) => void>} */
  const listeners = new Set();

  /** @param {View<State>} next */
  function show(next) {
    view = next;
    for (const listener of [...listeners]) listener(view);
  }

  /** @param {Message} message */
  function dispatch(message) {
    const state = reducer(view.state, message);
    if (state !== view.state) show({ ...view, state });
  }

  const socket = keepOpen({
    url,
    environment,
    onConnection: (connection) => show({ ...view, connection }),
    onData(data) {
      const message = decode(data);
      if (message) dispatch(message);
      else console.error("single-state: not a message", data);
    },
  });

  return {
    /** The page's state and its connection, now. */
    get view() {
      return view;
    },

    /**
     * Calls the listener now and after each change.
     *
     * @param {(view: View<State>) => void} listener
     * @returns {() => void} ends the subscription
     */
    subscribe(listener) {
      listeners.add(listener);
      listener(view);
      return () => void listeners.delete(listener);
    },

    /**
     * Sends a message to the session.
     *
     * @param {Message} message
     * @returns {boolean} true: given to an open connection. false: there is none, and the message is
     *   NOT kept; the page decides whether to say so, to try again, or to forget it.
     */
    publish(message) {
      return socket.send(encode(message));
    },

    /**
     * Applies a message to this page's state only; nothing is sent.
     *
     * @param {Message} message
     */
    dispatch,

    /** Ends the connection for good. The session itself goes on. */
    close() {
      socket.close();
    },
  };
}
