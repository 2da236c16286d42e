// Why a message was not taken, or was given up.

/**
 * - `full`: too much is unacknowledged already; the message was not taken.
 * - `too_long`: longer than the server takes.
 * - `channel_expired`: the session does not know any more what it has applied of this page's
 *   messages; this one may have been applied or not.
 * - `ended`: the session has ended.
 * - `closed`: the connection was closed for good, by the page or by a final close code.
 * @typedef {"full" | "too_long" | "channel_expired" | "ended" | "closed"} PublishProblem
 */

/** @type {Readonly<Record<PublishProblem, string>>} */
const SENTENCES = Object.freeze({
  full: "not sent: too many messages are not acknowledged yet; try again when fewer are",
  too_long: "not sent: this message is longer than the server takes",
  channel_expired: "given up: the session does not know any more whether it has applied this message",
  ended: "given up: the session has ended",
  closed: "given up: the connection was closed for good",
});

/** What `publish()` rejects with. */
export class PublishError extends Error {
  /**
   * @param {PublishProblem} code
   * @param {string} [details]
   */
  constructor(code, details = "") {
    super(details ? `${SENTENCES[code]} (${details})` : SENTENCES[code]);
    this.name = "PublishError";
    this.code = code;
  }
}
