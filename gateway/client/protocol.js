// The envelopes of `single-state.v1`, in both directions; nothing outside this file knows them.
//
//   → ["hello", {session?, channel, attach, seen?}]      ← ["welcome", {session, epoch, …}]
//   → [n, body]                                          ← ["ack", n]
//   → ["ack", epoch, rev]                                ← [rev, body]
//                                                        ← ["reset", {reason}], ["bye", {…}]
//
// Binary messages are 8 bytes of number, big-endian, then the payload. Every number stands in its
// message; a number that JavaScript cannot hold exactly (2^53 and above) is no number.

/** The websocket subprotocol that the client asks for. */
export const SUBPROTOCOL = "single-state.v1";

/** Bytes before the payload of a binary message. */
const BINARY_HEAD = 8;

/** Bytes that an envelope adds to a body, at most. */
const ENVELOPE_BYTES = String(Number.MAX_SAFE_INTEGER).length + 3;

/**
 * Close codes after which trying again cannot help: protocol, token, identity, superseded,
 * quarantined. After every other code the client comes back.
 */
export const FINAL_CODES = Object.freeze([4400, 4401, 4403, 4409, 4503]);

/** Close codes with a meaning of their own: a peer that breaks the protocol … */
export const PROTOCOL_CODE = 4400;
/** … a token that is not valid … */
export const TOKEN_CODE = 4401;
/** … a newer connection, or another page, has the channel … */
export const SUPERSEDED_CODE = 4409;
/** … the session has ended: what comes next is another one … */
export const ENDED_CODE = 4410;
/** … a message is longer than somebody on its way takes: sending it again would not end. */
export const TOO_LONG_CODE = 1009;

/**
 * What the page has of its session's outputs. One value: an epoch with the revision of another one
 * would be a position that never existed.
 * @typedef {Readonly<{ epoch: number, rev: number }>} Position
 *
 * @typedef {object} Welcome
 * @property {string} session its token, or its plain id where ids are not signed
 * @property {number} epoch number of the ownership
 * @property {boolean} resumed everything after what the page has seen follows
 * @property {number | null} applied last input applied for good; `null`: this channel is not known
 * @property {"relaxed" | "durable" | "memory"} durability
 * @property {{ message_bytes: number, frame_bytes?: number }} limits 0, or absent: none
 * @property {number} [worker] index of the worker that has the session, for people to look at
 *
 * @typedef {"rolled_back" | "overflow" | "channel_expired"} ResetReason
 * @typedef {{ reason: string, after_ms: number, spread_ms: number }} Bye
 *
 * @typedef {{ kind: "welcome", welcome: Welcome }
 *   | { kind: "ack", number: number }
 *   | { kind: "output", rev: number, body: unknown, size: number }
 *   | { kind: "reset", reason: ResetReason }
 *   | { kind: "bye", bye: Bye }
 *   | { kind: "unknown" }} Received `unknown`: a kind that a later gateway has added
 */

/**
 * The longest body that the server takes. A browser may send each message as one frame, so that the
 * longest frame counts too.
 *
 * @param {Welcome["limits"]} limits
 */
export function longestBody({ message_bytes, frame_bytes }) {
  return Math.min(message_bytes || Infinity, frame_bytes || Infinity) - ENVELOPE_BYTES;
}

/**
 * @param {{ session: string | null, channel: string, attach: number, seen: Position | null }} hello
 * @returns {string}
 */
export function encodeHello({ session, channel, attach, seen }) {
  const position = seen ? [seen.epoch, seen.rev] : undefined;
  return JSON.stringify(["hello", { session: session ?? undefined, channel, attach, seen: position }]);
}

/**
 * @param {number} number
 * @param {string | Uint8Array} body a message's JSON, or bytes
 * @returns {string | Uint8Array<ArrayBuffer>}
 */
export function encodeInput(number, body) {
  if (typeof body === "string") return `[${number},${body}]`;
  const frame = new Uint8Array(BINARY_HEAD + body.byteLength);
  new DataView(frame.buffer).setBigUint64(0, BigInt(number));
  frame.set(body, BINARY_HEAD);
  return frame;
}

/**
 * @param {Position} position
 * @returns {string}
 */
export function encodeAck({ epoch, rev }) {
  return `["ack",${epoch},${rev}]`;
}

/**
 * @param {unknown} data what a socket's `message` event carries
 * @returns {Received | null} null when it is nothing of this protocol
 */
export function decode(data) {
  if (data instanceof ArrayBuffer) return decodeBinary(data);
  if (typeof data !== "string") return null;
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    return null;
  }
  if (!Array.isArray(value)) return null;
  if (typeof value[0] === "string") return decodeNamed(value);
  if (value.length !== 2 || !isNumber(value[0])) return null;
  return { kind: "output", rev: value[0], body: value[1], size: data.length };
}

/**
 * @param {ArrayBuffer} data
 * @returns {Received | null}
 */
function decodeBinary(data) {
  if (data.byteLength < BINARY_HEAD) return null;
  const rev = Number(new DataView(data).getBigUint64(0));
  if (!isNumber(rev)) return null;
  return { kind: "output", rev, body: new Uint8Array(data, BINARY_HEAD), size: data.byteLength };
}

const DURABILITIES = ["relaxed", "durable", "memory"];
const RESET_REASONS = ["rolled_back", "overflow", "channel_expired"];

/**
 * @param {any[]} envelope
 * @returns {Received | null}
 */
function decodeNamed([name, fields]) {
  switch (name) {
    case "ack":
      return isLast(fields) ? { kind: "ack", number: fields } : null;
    case "welcome":
      return isWelcome(fields) ? { kind: "welcome", welcome: fields } : null;
    case "reset":
      return RESET_REASONS.includes(fields?.reason) ? { kind: "reset", reason: fields.reason } : null;
    case "bye":
      return isAmount(fields?.after_ms) && isAmount(fields.spread_ms) ? { kind: "bye", bye: fields } : null;
    default:
      return { kind: "unknown" };
  }
}

/**
 * @param {any} fields
 * @returns {fields is Welcome}
 */
function isWelcome(fields) {
  return (
    typeof fields?.session === "string" &&
    isNumber(fields.epoch) &&
    typeof fields.resumed === "boolean" &&
    (fields.applied === null || isLast(fields.applied)) &&
    DURABILITIES.includes(fields.durability) &&
    isAmount(fields.limits?.message_bytes) &&
    (fields.limits.frame_bytes === undefined || isAmount(fields.limits.frame_bytes)) &&
    (fields.worker === undefined || isAmount(fields.worker))
  );
}

/** @param {any} value */
function isNumber(value) {
  return Number.isSafeInteger(value) && value >= 1;
}

/** The last number of those that are done; 0: none is. @param {any} value */
function isLast(value) {
  return value === 0 || isNumber(value);
}

/** @param {any} value */
function isAmount(value) {
  return typeof value === "number" && value >= 0;
}
