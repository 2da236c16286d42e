// What goes over the wire: the plain protocol (no subprotocol, app messages only). The numbered
// protocol `single-state.v1` will stand beside it; nothing outside this file knows the wire format.

/**
 * An app message: a JSON object with a string `tag`.
 * @typedef {{ tag: string, [field: string]: any }} Message
 */

/**
 * Close codes after which trying again cannot help: protocol, token, identity, superseded,
 * quarantined. After every other code the client comes back.
 */
export const FINAL_CODES = Object.freeze([4400, 4401, 4403, 4409, 4503]);

/**
 * @param {Message} message
 * @returns {string}
 */
export function encode(message) {
  if (!isMessage(message)) throw new TypeError("a message is an object with a string tag");
  return JSON.stringify(message);
}

/**
 * @param {unknown} data what a socket's `message` event carries
 * @returns {Message | null} null when it is no message, for instance binary
 */
export function decode(data) {
  if (typeof data !== "string") return null;
  try {
    const value = JSON.parse(data);
    return isMessage(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * @param {any} value
 * @returns {value is Message}
 */
function isMessage(value) {
  return typeof value === "object" && value !== null && typeof value.tag === "string";
}

/**
 * The websocket's address for a page's address: same host, path `/ws`, and the page's `?session=`
 * taken over. Without one the session is the one that the cookie names.
 *
 * @param {string} page such as `location.href`
 * @returns {string}
 */
export function socketUrl(page) {
  const url = new URL("/ws", page);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const session = new URL(page).searchParams.get("session");
  if (session) url.searchParams.set("session", session);
  return url.href;
}

/**
 * The address for coming back. `?session=new` asks for a fresh session each time it is used, and
 * the cookie names that fresh session from then on; so it is dropped after it was honoured once.
 *
 * @param {string} address
 * @returns {string}
 */
export function returnUrl(address) {
  const url = new URL(address);
  if (url.searchParams.get("session") === "new") url.searchParams.delete("session");
  return url.href;
}
