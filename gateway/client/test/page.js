// A page for tests: it adds up amounts, and keeps what is assigned.

import { openSession } from "../single-state.js";
import { fakeBrowser } from "./fake.js";

/** @typedef {import("../message.js").Message} Message */
/** @typedef {{ total: number, keys: Record<string, any>, local: number, bytes: number[] }} State */

/** @type {State} */
export const initial = { total: 0, keys: {}, local: 0, bytes: [] };

/** @param {State} state @param {Message} message @returns {State} */
export function reducer(state, message) {
  switch (message.tag) {
    case "add":
      return { ...state, total: state.total + message.amount };
    case "assign":
      return { ...state, keys: { ...state.keys, [message.key]: message.value } };
    case "_local":
      return { ...state, local: state.local + 1 };
    case "_binary":
      return { ...state, bytes: [...message.bytes] };
    default:
      return state;
  }
}

/**
 * @param {Partial<Parameters<typeof openSession<State>>[0]>} [options]
 * @param {ReturnType<typeof fakeBrowser>} [browser]
 */
export function openPage(options = {}, browser = fakeBrowser()) {
  const { environment } = browser;
  const session = openSession({ initial, reducer, url: "ws://h/ws", environment, ...options });
  return { browser, session };
}

/** A page whose session has answered. @param {Parameters<typeof openPage>} given */
export function openWelcomed(...given) {
  const page = openPage(...given);
  page.browser.socket.welcome();
  return page;
}

/**
 * What became of a promise so far.
 *
 * @param {Promise<void>} promise
 * @returns {Promise<string>} "pending", "resolved" or an error's code
 */
export function fate(promise) {
  const settled = promise.then(() => "resolved", (error) => error.code ?? String(error));
  return Promise.race([settled, new Promise((resolve) => setImmediate(resolve, "pending"))]);
}

/** Lets promises and locks come to rest. @returns {Promise<void>} */
export const rest = () => new Promise((resolve) => setImmediate(resolve));
