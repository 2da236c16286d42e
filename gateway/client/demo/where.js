// Asks the session who owns it: after each open and every 2 s. A hidden tab asks nothing. While an
// answer is out, it is not asked again for some ticks: the gateway would only have to keep the
// questions for a worker that is away.

export const TICK_MS = 2_000;
const ASK_AGAIN_TICKS = 5;

/** @typedef {import("./reducer.js").DemoState} DemoState */
/** @typedef {ReturnType<typeof import("../single-state.js").openSession<DemoState>>} Session */

/**
 * What the browser provides. Tests hand in their own.
 * @typedef {object} Surroundings
 * @property {Pick<Document, "hidden" | "addEventListener">} document
 * @property {(callback: () => void, ms: number) => any} setInterval
 */

/**
 * @param {Pick<Session, "view" | "subscribe" | "publish" | "dispatch">} session
 * @param {Surroundings} surroundings
 */
export function watchOwner(session, { document, setInterval }) {
  let open = false;

  const ask = () => void session.publish({ tag: "where" });

  function tick() {
    if (!open || document.hidden) return;
    const { unanswered } = session.view.state;
    if (unanswered % ASK_AGAIN_TICKS === 0) ask();
    session.dispatch({ tag: "_unanswered" });
  }

  session.subscribe(({ connection }) => {
    const was = open;
    open = connection.status === "open";
    if (!open || was) return;
    session.dispatch({ tag: "_opened" });
    tick();
  });
  document.addEventListener("visibilitychange", tick);
  setInterval(tick, TICK_MS);
}
