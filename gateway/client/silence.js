// A browser's page cannot see pings, so a connection whose other end is gone without a word looks
// open for ever. It is given up when an answer is due and nothing at all has come for long.

/** @typedef {import("./environment.js").Environment} Environment */

/**
 * @param {object} options
 * @param {Environment} options.environment
 * @param {() => void} options.onSilent
 */
export function watchSilence({ environment, onSilent }) {
  let limit = Infinity;
  let since = 0;
  /** @type {any} */
  let timer = null;

  function check() {
    const left = since + limit - environment.now();
    timer = left > 0 ? environment.setTimeout(check, left) : null;
    if (timer === null) onSilent();
  }

  return {
    /**
     * An answer is due: from now on, unless one was due already.
     *
     * @param {number} ms how long silence may last
     */
    expect(ms) {
      if (timer !== null && limit === ms) return;
      limit = ms;
      since = environment.now();
      environment.clearTimeout(timer);
      timer = environment.setTimeout(check, ms);
    },
    /** A sign of life. */
    heard() {
      since = environment.now();
    },
    /** No answer is due. */
    rest() {
      environment.clearTimeout(timer);
      timer = null;
    },
  };
}
