// Notices that the world may have changed behind a connection's back: the network is another one,
// or the computer slept for so long that the gateway has given the connection up.

/** @typedef {import("./environment.js").Environment} Environment */

const TICK_MS = 30_000;
/** Browsers slow the timers of hidden pages down to one a minute; that is no sleep. */
const ASLEEP_MS = 90_000;

/**
 * @param {Environment} environment
 * @param {() => void} onWake
 * @returns {() => void} ends it
 */
export function listenForWake(environment, onWake) {
  let last = environment.wall();
  let timer = environment.setTimeout(tick, TICK_MS);

  function look() {
    const slept = environment.wall() - last;
    last = environment.wall();
    if (slept > ASLEEP_MS) onWake();
  }

  function tick() {
    timer = environment.setTimeout(tick, TICK_MS);
    look();
  }

  const ends = [
    environment.listen("online", onWake),
    // Timers may be late after a sleep, and someone is looking at the page now.
    environment.listen("visible", look),
    environment.listen("show", onWake),
  ];
  return () => {
    environment.clearTimeout(timer);
    ends.forEach((end) => end());
  };
}
