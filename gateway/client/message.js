// What pages and sessions say to each other, whatever carries it.

/**
 * An app message: a JSON object with a string `tag`. Tags that begin with `_` never come from a
 * session; pages use them for messages of their own.
 * @typedef {{ tag: string, [field: string]: any }} Message
 */

/**
 * The message with which a reducer gets binary data of its session: `{ tag, bytes: Uint8Array }`.
 */
export const BINARY_TAG = "_binary";

/**
 * @param {any} value
 * @returns {value is Message}
 */
export function isMessage(value) {
  return typeof value === "object" && value !== null && typeof value.tag === "string";
}

/**
 * What is sent for a message or for bytes. Bytes are copied: a page may go on writing into its
 * buffer while they wait to be sent again.
 *
 * @param {Message | ArrayBuffer | ArrayBufferView} message
 * @returns {{ body: string | Uint8Array, size: number, key: string | null }} `key`: of an `assign`
 */
export function encodeBody(message) {
  if (message instanceof ArrayBuffer) return binary(new Uint8Array(message.slice(0)));
  if (ArrayBuffer.isView(message)) {
    const { buffer, byteOffset, byteLength } = message;
    return binary(new Uint8Array(buffer, byteOffset, byteLength).slice());
  }
  if (!isMessage(message)) {
    throw new TypeError("a message is an object with a string tag, an ArrayBuffer or a view of one");
  }
  const body = JSON.stringify(message);
  return { body, size: utf8Length(body), key: assignedKey(message) };
}

/** @param {Uint8Array} body */
function binary(body) {
  return { body, size: body.byteLength, key: null };
}

/**
 * The key that a message assigns, if it does.
 *
 * @param {any} message
 * @returns {string | null}
 */
export function assignedKey(message) {
  const assigns = isMessage(message) && message.tag === "assign" && typeof message.key === "string";
  return assigns ? message.key : null;
}

/**
 * Bytes of a text on the wire, which is what limits count.
 *
 * @param {string} text
 */
export function utf8Length(text) {
  return new TextEncoder().encode(text).byteLength;
}
