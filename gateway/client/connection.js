// The state of a client's connection, as a pure reducer: no socket, no timer, no clock in here.
//
//              opened                     lost, final code | close()
//   connecting ──────> open ─────────────────────────────────> closed
//     ^    │            │
//     │    │ lost       │ lost
//     │    v            v
//     └── waiting <─────┘
//   retry
//
// Every state can go to `closed`; nothing leaves it. Open means welcomed: the session answers.

import { backoff } from "./backoff.js";
import { FINAL_CODES } from "./protocol.js";

/**
 * @typedef {object} Connection
 * @property {"connecting" | "open" | "waiting" | "closed"} status
 * @property {number} failures tries in a row that brought no lasting connection
 * @property {number} openedAt when it last became open, by the shell's clock, in ms
 * @property {number} retryIn while waiting: how long, in ms; else 0
 * @property {number | null} code close code of the last socket that ended
 * @property {string} reason a sentence that goes with it
 *
 * @typedef {object} Lost
 * @property {"lost"} type
 * @property {number} now
 * @property {number} random
 * @property {number} code
 * @property {string} reason
 * @property {import("./protocol.js").Bye | null} bye what the gateway has asked for before
 * @property {boolean} renewed another channel was begun: no code is final for it
 *
 * @typedef {{ type: "opened", now: number }
 *   | Lost
 *   | { type: "retry" }
 *   | { type: "closed", code: number, reason: string }} ConnectionEvent
 */

/**
 * A connection counts as lasting after this long. One that opens and falls at once must not start
 * the backoff over, or a gateway in trouble would be asked twice a second by everyone.
 */
export const LASTING_MS = 5_000;

/** What a close code means, where the server has said nothing itself. */
const SENTENCES = new Map([
  [4400, "the server and this page do not understand each other"],
  [4401, "the session's token is not valid here"],
  [4403, "this session belongs to somebody else"],
  [4409, "another connection has taken over"],
  [4410, "the session has ended"],
  [4429, "the session is open in too many places"],
  [4503, "the session is quarantined; start a new one"],
  [1012, "the server restarts"],
  [1013, "the server is not available now"],
]);

/** @type {Readonly<Connection>} */
export const CONNECTING = Object.freeze({
  status: "connecting",
  failures: 0,
  openedAt: 0,
  retryIn: 0,
  code: null,
  reason: "",
});

/**
 * @param {Connection} connection
 * @param {ConnectionEvent} event
 * @returns {Connection} the same object when the event changes nothing
 */
export function connectionReducer(connection, event) {
  if (connection.status === "closed") return connection;
  switch (event.type) {
    case "opened":
      // A new owner answers over a connection that is open already.
      if (connection.status === "open") return connection;
      return { ...connection, status: "open", openedAt: event.now };
    case "lost":
      return lost(connection, event);
    case "retry":
      return { ...connection, status: "connecting", retryIn: 0 };
    case "closed":
      return ended(connection, event.code, event.reason);
  }
}

/**
 * @param {Connection} connection
 * @param {Lost} event
 * @returns {Connection}
 */
function lost(connection, { now, random, code, bye, renewed, ...event }) {
  const reason = event.reason || (SENTENCES.get(code) ?? "");
  if (FINAL_CODES.includes(code) && !renewed) return ended(connection, code, reason);
  const failures = lasted(connection, now) ? 0 : connection.failures;
  const retryIn = bye ? bye.after_ms + random * bye.spread_ms : backoff(failures, random);
  return { ...connection, status: "waiting", failures: failures + 1, retryIn, code, reason };
}

/**
 * @param {Connection} connection
 * @param {number} now
 */
function lasted(connection, now) {
  return connection.status === "open" && now - connection.openedAt >= LASTING_MS;
}

/**
 * @param {Connection} connection
 * @param {number} code
 * @param {string} reason
 * @returns {Connection}
 */
function ended(connection, code, reason) {
  return { ...connection, status: "closed", retryIn: 0, code, reason };
}
