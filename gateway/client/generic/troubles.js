// What stands between the page and its session, in words, and what its user can do about it. Pure.

/** @typedef {import("../connection.js").Connection} Connection */

/**
 * @typedef {object} Trouble
 * @property {string} title what is the matter
 * @property {string} advice what follows from it, and what can be done
 * @property {"new" | "reload" | null} help what the button does: a new session, or the page again
 */

/**
 * What is known of the connection and of what was sent.
 * @typedef {object} Situation
 * @property {Connection} connection
 * @property {boolean} online whether the browser has a network
 * @property {number} unacknowledged messages that are not saved
 * @property {number} waitedFor how long nothing of them was saved, in ms
 */

/** Saves take a second; who waits longer should know why. */
export const SLOW_SAVE_MS = 5_000;

/**
 * @param {Situation} situation
 * @returns {Trouble | null} null: all is well
 */
export function troubleIn(situation) {
  const { connection, unacknowledged, waitedFor } = situation;
  switch (connection.status) {
    case "closed":
      return closed(connection);
    case "waiting":
      return away(situation);
    case "connecting":
      // The first try takes no time to speak of; a later one belongs to what was told before.
      return connection.failures > 0 ? away(situation) : null;
    case "open":
      return unacknowledged > 0 && waitedFor >= SLOW_SAVE_MS ? notSaved(situation) : null;
  }
}

/**
 * @param {Connection} connection
 * @returns {Trouble}
 */
function closed({ code, reason }) {
  switch (code) {
    case 4503:
      return {
        title: "This session is quarantined",
        advice:
          "It has ended its worker again and again, or its saved state cannot be read. What was saved is " +
          "kept, and an operator can release it (`sessions release`). Until then, start fresh.",
        help: "new",
      };
    case 4401:
      return {
        title: "This session's token is not valid here",
        advice: "It has expired, or another server has signed it. Start fresh.",
        help: "new",
      };
    case 4403:
      return { title: "This session belongs to somebody else", advice: "Start fresh.", help: "new" };
    case 4409:
      return {
        title: "Another connection has taken over",
        advice: "The session goes on there. Reload this page to have it here too.",
        help: "reload",
      };
    default:
      return {
        title: "The connection is closed for good",
        advice: `${upper(reason || "the page has closed it")} (${code ?? "no code"}). Reload the page.`,
        help: "reload",
      };
  }
}

/**
 * @param {Situation} situation
 * @returns {Trouble}
 */
function away({ connection: { code, status, retryIn }, online, unacknowledged }) {
  const kept = unacknowledged === 0 ? "" : ` ${countOf(unacknowledged)} kept and sent then.`;
  const again = status === "waiting" ? `Trying again within ${Math.ceil(retryIn / 1000)} s.` : "Trying again.";
  if (!online) {
    return {
      title: "This computer is offline",
      advice: `The page goes on when there is a network.${kept}`,
      help: null,
    };
  }
  switch (code) {
    case 1012:
      return { title: "Reconnecting", advice: `The server restarts. ${again}${kept}`, help: null };
    case 1013:
      return {
        title: "No worker can be reached",
        advice: `The server is there, the app behind it is not: is it starting, or does it fail to? ${again}${kept}`,
        help: null,
      };
    case 4429:
      return {
        title: "This session is open in too many places",
        advice: `Close tabs of it that you do not need. ${again}`,
        help: "new",
      };
    default:
      return { title: "The server is away", advice: `${again}${kept}`, help: null };
  }
}

/**
 * @param {Situation} situation
 * @returns {Trouble}
 */
function notSaved({ unacknowledged, waitedFor }) {
  return {
    title: "Not saved",
    advice:
      `${countOf(unacknowledged)} not saved yet, for ${Math.floor(waitedFor / 1000)} s: a handler takes ` +
      "long, or the database is away. The session goes on; leave this page open, it sends again what is needed.",
    help: null,
  };
}

/** @param {number} messages */
function countOf(messages) {
  return messages === 1 ? "1 message is" : `${messages} messages are`;
}

/** @param {string} text */
function upper(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
