// A session as a hook, for pages that are drawn by Preact.

import { useEffect, useState } from "preact/hooks";
import { openSession } from "./single-state.js";

/**
 * What a session shows, drawn anew after each change.
 *
 * @template State
 * @param {import("./single-state.js").Session<State>} session that was opened outside components
 * @returns {import("./single-state.js").View<State>}
 */
export function useView(session) {
  const [view, setView] = useState(session.view);
  useEffect(() => session.subscribe(setView), [session]);
  return view;
}

/**
 * A session that is open for as long as the component is there. The options count once.
 *
 * @template State
 * @param {Parameters<typeof openSession<State>>[0]} options
 * @returns {import("./single-state.js").View<State>
 *   & Pick<import("./single-state.js").Session<State>, "publish" | "dispatch">}
 */
export function useSession(options) {
  const [session] = useState(() => openSession(options));
  useEffect(() => () => session.close(), []);
  const { publish, dispatch } = session;
  return { ...useView(session), publish, dispatch };
}
