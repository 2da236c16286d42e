// The connection and the owner, in words.

/** @typedef {import("../session.js").Connection} Connection */
/** @typedef {import("./reducer.js").DemoState} DemoState */

/** Ticks without an answer after which the page says that the worker is away. */
const LATE = 2;

/**
 * @param {Connection} connection
 * @returns {string}
 */
export function connectionInWords({ status, retryIn, code, reason }) {
  const why = [code, reason].filter(Boolean).join(" ");
  switch (status) {
    case "connecting":
      return "connecting…";
    case "open":
      return "connected";
    case "waiting":
      return `no connection (${why}); trying again in ${(retryIn / 1000).toFixed(1)} s`;
    case "closed":
      return `closed (${why}); reload the page to start over`;
  }
}

/**
 * @param {DemoState} state
 * @param {Connection} connection
 * @returns {string}
 */
export function ownerInWords({ owner, unanswered }, connection) {
  if (!owner) return "session: not known yet";
  const away = connection.status === "open" && unanswered >= LATE;
  const worker = away ? `waiting for worker ${owner.worker}` : `on worker ${owner.worker}`;
  return `session ${owner.session} ${worker}, epoch ${owner.epoch}`;
}
