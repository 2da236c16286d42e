// A tab that is duplicated takes a copy of its `sessionStorage` along, and with it another tab's
// channel and unacknowledged input. So whoever uses a channel holds a Web Lock on it, and who finds
// it held begins another one.
//
// Pages that are not served securely (plain HTTP from another machine) have no Web Locks. There a
// record bears a mark while its page runs, which a copy has too: a marked record is not used. The
// price is that a tab that crashed, and took no leave, does not find its input again either.

/** @typedef {import("./environment.js").Environment} Environment */

/**
 * The page before a reload may hold the lock for a moment longer than it lives.
 */
export const PATIENCE_MS = 1_000;

/**
 * Holds a channel, for as long as the page lives or until it lets go.
 *
 * @param {object} options
 * @param {Pick<Environment, "locks" | "setTimeout" | "clearTimeout">} options.environment
 * @param {string} options.id of the channel
 * @param {boolean} options.marked the record says that its page still runs
 * @param {(isOurs: boolean) => void} options.onDecided once, unless it lets go before
 * @returns {() => void} lets go
 */
export function holdChannel({ environment, id, marked, onDecided }) {
  const { locks } = environment;
  if (!locks) {
    onDecided(!marked);
    return () => {};
  }
  const impatience = new AbortController();
  const timer = environment.setTimeout(() => impatience.abort(), PATIENCE_MS);
  /** @type {() => void} */
  let letGo = () => {};
  let decided = false;
  const held = new Promise((resolve) => (letGo = () => resolve(undefined)));

  /** @param {boolean} isOurs */
  function decide(isOurs) {
    environment.clearTimeout(timer);
    if (decided) return;
    decided = true;
    onDecided(isOurs);
  }

  locks
    .request(`single-state:${id}`, { signal: impatience.signal }, () => {
      decide(true);
      return held;
    })
    .catch(() => decide(false));

  return () => {
    decided = true;
    environment.clearTimeout(timer);
    letGo();
    impatience.abort();
  };
}
