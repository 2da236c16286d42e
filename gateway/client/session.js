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
// Every state can go to `closed`; nothing leaves it.

import { backoff } from "./backoff.js";
import { FINAL_CODES } from "./protocol.js";

/**
 * @typedef {object} Connection
 * @property {"connecting" | "open" | "waiting" | "closed"} status
 * @property {number} failures tries in a row that brought no lasting connection
 * @property {number} openedAt when it last became open, by the shell's clock, in ms
 * @property {number} retryIn while waiting: how long, in ms; else 0
 * @property {number | null} code close code of the last socket that ended
 * @property {string} reason the reason that came with it
 *
 * @typedef {{ type: "opened", now: number }
 *   | { type: "lost", now: number, random: number, code: number, reason: string }
 *   | { type: "retry" }
 *   | { type: "closed", code: number, reason: string }} ConnectionEvent
 */

/**
 * A connection counts as lasting after this long. One that opens and falls at once must not start
 * the backoff over, or a gateway in trouble would be asked twice a second by everyone.
 */
export const LASTING_MS = 5_000;

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
      return { ...connection, status: "open", openedAt: event.now };
    case "lost": {
      const { code, reason } = event;
      if (FINAL_CODES.includes(code)) return ended(connection, code, reason);
      const failures = lasted(connection, event.now) ? 0 : connection.failures;
      const retryIn = backoff(failures, event.random);
      return { ...connection, status: "waiting", failures: failures + 1, retryIn, code, reason };
    }
    case "retry":
      return { ...connection, status: "connecting", retryIn: 0 };
    case "closed":
      return ended(connection, event.code, event.reason);
  }
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
