// The browser client: a page's state, changed by the messages of its session. Importing this file
// does nothing; openSession() does.
//
//   const session = openSession({ initial: { total: 0 }, reducer });
//   session.subscribe(({ state, connection }) => draw(state, connection));
//   await session.publish({ tag: "add", amount: 3 });

import { asksForNew, returnUrl, socketUrl } from "./address.js";
import { CONNECTING } from "./connection.js";
import { converse } from "./conversation.js";
import { browserEnvironment } from "./environment.js";
import { PublishError } from "./errors.js";
import { BINARY_TAG, assignedKey, encodeBody, isMessage, utf8Length } from "./message.js";
import { Mirror } from "./mirror.js";
import { longestBody } from "./protocol.js";
import { Receipts } from "./receipts.js";
import { openStore } from "./store.js";

export { PublishError };

/** @typedef {import("./message.js").Message} Message */
/** @typedef {import("./connection.js").Connection} Connection */
/** @typedef {import("./environment.js").Environment} Environment */
/** @typedef {import("./channel.js").DiscardReason} DiscardReason */
/** @typedef {import("./protocol.js").Welcome} Welcome */

/**
 * @template State
 * @typedef {object} View
 * @property {State} state the page's
 * @property {Connection} connection
 * @property {number} unacknowledged messages that the session has not yet applied for good
 * @property {Welcome["durability"] | null} durability of the session; null before the first welcome
 * @property {string | null} session its token, or its id where ids are not signed
 */

/**
 * The session answers: at first, after each loss of the connection, and when it has another owner.
 * @typedef {object} WelcomeEvent
 * @property {string} session
 * @property {number} epoch number of the ownership
 * @property {number | null} worker index of the worker that has the session; null if it is not told
 * @property {boolean} resumed nothing is missing; else the page's mirror was discarded
 * @property {boolean} attached over a new connection; else the session has another owner
 * @property {boolean} replaced another owner than before
 */

/** How long the echo of an assign may come after its acknowledgement. */
export const ECHO_MS = 250;

/**
 * Opens the session that the page's `?session=`, this tab or the cookie names, or a new one.
 *
 * Every published message is applied to the session exactly once and in order, however often the
 * connection, the gateway or the worker is lost, and also over a reload of the page.
 *
 * @template State
 * @param {object} options
 * @param {State} options.initial the page's state before any message
 * @param {(state: State, message: Message) => State} options.reducer pure: the next state, nothing
 *   else. Binary data comes as `{ tag: "_binary", bytes }`.
 * @param {(state: State, reason: DiscardReason) => State} [options.onReset] pure: what the page
 *   keeps when all that its session has said is discarded, because a full picture follows; default:
 *   nothing but `initial`
 * @param {(event: WelcomeEvent) => void} [options.onWelcome]
 * @param {string} [options.url] of the websocket; default: `/ws` on the page's own host
 * @param {string} [options.name] distinguishes several frames of one tab that use one session
 * @param {Environment} [options.environment] for tests; default: the browser's
 */
export function openSession({
  initial,
  reducer,
  onReset = () => initial,
  onWelcome = () => {},
  url = socketUrl(location.href),
  name = "",
  environment = browserEnvironment(),
}) {
  const mirror = new Mirror();
  const receipts = new Receipts();
  /** @type {Set<(view: View<State>) => void>} */
  const listeners = new Set();
  let longest = Infinity;
  /** @type {string[]} */
  let late = [];
  /** @type {any} */
  let lateTimer = null;
  let lastTicket = 0;

  const { store, release } = openStore(environment, `single-state:${name}:${returnUrl(url)}`);
  // A fresh session was asked for: what this tab has kept is of another one.
  if (asksForNew(url)) store.clear();
  const saved = asksForNew(url) ? null : store.load();
  const unacked = (saved?.inputs ?? []).map(({ number, body }) => {
    const size = typeof body === "string" ? utf8Length(body) : body.byteLength;
    return { ticket: ++lastTicket, number, body, size, key: keyIn(body) };
  });

  /** @type {View<State>} */
  let view = {
    state: initial,
    connection: CONNECTING,
    unacknowledged: unacked.length,
    durability: null,
    session: store.session,
  };

  const conversation = converse({
    url,
    store,
    restored: saved && { channel: { ...saved, unacked }, open: saved.open },
    environment,
    page: {
      onConnection(connection) {
        if (connection.status === "closed") {
          environment.clearTimeout(lateTimer);
          conversation.end(connection.code ?? 1000);
          release();
        }
        show({ connection });
      },
      onOutput: receive,
      onDiscard: discard,
      onSettled(inputs, problem) {
        receipts.settle(inputs, problem);
        const { now, later } = mirror.settle(inputs);
        now.forEach(take);
        if (problem === null && later.length > 0) awaitEchoes(later);
        show({});
      },
      onWelcome(welcome, { attached, replaced }) {
        const { session, epoch, worker = null, resumed, durability, limits } = welcome;
        longest = longestBody(limits);
        show({ session, durability });
        safely("onWelcome", () => onWelcome({ session, epoch, worker, resumed, attached, replaced }));
      },
    },
  });

  /** @param {Partial<View<State>>} changes */
  function show(changes) {
    view = { ...view, ...changes, unacknowledged: conversation.unacked.length };
    for (const listener of [...listeners]) safely("a listener", () => listener(view));
  }

  /** @param {Message} message */
  function dispatch(message) {
    const state = reducer(view.state, message);
    if (state !== view.state) show({ state });
  }

  /** A reducer that fails must not stop what follows. @param {Message} message */
  function take(message) {
    safely("the reducer", () => dispatch(message));
  }

  /** @param {unknown} body */
  function receive(body) {
    const message = body instanceof Uint8Array ? { tag: BINARY_TAG, bytes: body } : body;
    if (!isMessage(message)) console.error("single-state: not a message", body);
    else if (mirror.receive(message)) take(message);
  }

  /** @param {DiscardReason} reason */
  function discard(reason) {
    if (mirror.isEmpty && (reason === "rolled_back" || reason === "overflow")) return;
    mirror.discard();
    late = [];
    safely("onReset", () => show({ state: onReset(view.state, reason) }));
    takeOwn();
  }

  /** Shows what this page has assigned and the session has not acknowledged. */
  function takeOwn() {
    for (const { key, ticket, body } of conversation.unacked) {
      if (key === null || typeof body !== "string") continue;
      mirror.assigned(key, ticket);
      take(JSON.parse(body));
    }
  }

  /** @param {string[]} keys */
  function awaitEchoes(keys) {
    late.push(...keys);
    lateTimer ??= environment.setTimeout(() => {
      const messages = mirror.unanswered(late);
      [late, lateTimer] = [[], null];
      messages.forEach(take);
    }, ECHO_MS);
  }

  takeOwn();
  conversation.start();

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
     * Sends a message to the session, now or when there is a connection. An `assign` is applied to
     * this page's own state at once.
     *
     * @param {Message | ArrayBuffer | ArrayBufferView} message
     * @returns {Promise<void>} resolves when the session has applied it for good (in the durability
     *   `memory`: applied it); rejects with a PublishError when it is not taken or given up. Who
     *   does not look at the promise is not bothered.
     */
    publish(message) {
      const { body, size, key } = encodeBody(message);
      const ticket = ++lastTicket;
      const problem = whyNot(size);
      const receipt = receipts.open(ticket);
      if (problem) {
        const details = problem === "too_long" ? `${size} bytes, at most ${longest}` : "";
        receipts.settle([{ ticket }], problem, details);
        return receipt;
      }
      conversation.publish({ ticket, body, size, key });
      if (key !== null && typeof body === "string") {
        mirror.assigned(key, ticket);
        take(JSON.parse(body));
      }
      show({});
      return receipt;
    },

    /**
     * Applies a message to this page's state only; nothing is sent.
     *
     * @param {Message} message
     */
    dispatch,

    /**
     * Ends the connection for good, and gives up what is not acknowledged. The session itself
     * goes on.
     */
    close() {
      conversation.close();
    },
  };

  /** @param {number} size */
  function whyNot(size) {
    if (view.connection.status === "closed") return "closed";
    if (size > longest) return "too_long";
    return conversation.isFull(size) ? "full" : null;
  }
}

/**
 * @template State
 * @typedef {ReturnType<typeof openSession<State>>} Session
 */

/** @param {string | Uint8Array} body */
function keyIn(body) {
  return typeof body === "string" ? assignedKey(JSON.parse(body)) : null;
}

/**
 * @param {string} what is the page's own
 * @param {() => void} call
 */
function safely(what, call) {
  try {
    call();
  } catch (error) {
    console.error(`single-state: ${what} failed`, error);
  }
}
