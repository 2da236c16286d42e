// The hooks, in components that Preact draws into a small DOM.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { h, render } from "preact";
import { act } from "preact/test-utils";
import undom from "undom";
import { useSession, useView } from "../preact.js";
import { fakeBrowser } from "./fake.js";
import { fate, initial, openWelcomed, reducer } from "./page.js";

/** @typedef {import("./page.js").State} State */
/** @typedef {import("../single-state.js").Session<State>} Session */

const document = undom();
Object.assign(globalThis, { document });

/** Where the components of a test are. */
const root = document.createElement("main");

afterEach(() => void draw(null));

/** @param {import("preact").ComponentChild} what */
const draw = (what) => act(() => render(what, root));

/** What is seen: how much, and whether there is a connection. */
const seen = () => root.children[0]?.getAttribute("title");

/** @param {import("../single-state.js").View<State>} view */
const picture = ({ state, connection, unacknowledged }) =>
  h("p", { title: `${state.total}, ${unacknowledged} unacknowledged, ${connection.status}` });

/** A component with a session of its own; what its hook has returned last is in `last`. */
function owner() {
  const browser = fakeBrowser();
  const { environment } = browser;
  /** @type {{ last: ReturnType<typeof useSession<State>> | undefined, drawn: number }} */
  const hook = { last: undefined, drawn: 0 };
  function Owner() {
    // Other options each time, as a component that writes them in place has them.
    hook.last = useSession({ initial, reducer: (...args) => reducer(...args), url: "ws://h/ws", environment });
    hook.drawn += 1;
    return picture(hook.last);
  }
  return { browser, hook, Owner };
}

/** @param {{ session: Session }} props */
const Viewer = ({ session }) => picture(useView(session));

test("a component draws its session as it is, and anew after each change", async () => {
  const { browser, Owner } = owner();
  await draw(h(Owner, null));
  assert.equal(seen(), "0, 0 unacknowledged, connecting");
  await act(() => browser.socket.welcome());
  assert.equal(seen(), "0, 0 unacknowledged, open");
  await act(() => browser.socket.say(1, { tag: "add", amount: 3 }));
  assert.equal(seen(), "3, 0 unacknowledged, open");
  await act(() => browser.socket.fall());
  assert.equal(seen(), "3, 0 unacknowledged, waiting");
});

test("publish and dispatch of the hook are those of the session, and stay the same", async () => {
  const { browser, hook, Owner } = owner();
  await draw(h(Owner, null));
  await act(() => browser.socket.welcome());
  const { publish, dispatch } = hook.last ?? assert.fail("it was not drawn");
  const receipt = publish({ tag: "add", amount: 1 });
  await act(() => {});
  assert.equal(seen(), "0, 1 unacknowledged, open");
  await act(() => browser.socket.say("ack", 1));
  assert.equal(await fate(receipt), "resolved");
  await act(() => dispatch({ tag: "add", amount: 2 }));
  assert.equal(seen(), "2, 0 unacknowledged, open");
  assert.deepEqual(browser.socket.inputs, [[1, { tag: "add", amount: 1 }]]);
  assert.deepEqual([hook.last?.publish, hook.last?.dispatch], [publish, dispatch]);
});

test("a component that is drawn again keeps its session", async () => {
  const { browser, hook, Owner } = owner();
  await draw(h(Owner, { key: "same" }));
  await act(() => browser.socket.welcome());
  await draw(h(Owner, { key: "same" }));
  assert.equal(browser.sockets.length, 1);
  assert.ok(hook.drawn >= 3);
  await act(() => browser.socket.say(1, { tag: "add", amount: 3 }));
  assert.equal(seen(), "3, 0 unacknowledged, open");
});

test("a component that goes closes its session and leaves nothing behind", async () => {
  const { browser, hook, Owner } = owner();
  await draw(h(Owner, null));
  await act(() => browser.socket.welcome());
  const drawn = hook.drawn;
  await draw(null);
  assert.equal(browser.socket.closedWith, 1000);
  assert.deepEqual([browser.listening, browser.timers.size], [0, 0]);
  assert.equal(await fate(hook.last?.publish({ tag: "add", amount: 1 }) ?? assert.fail()), "closed");
  assert.equal(hook.drawn, drawn, "it is not drawn any more");
});

test("a component that comes back opens its session again", async () => {
  const { browser, Owner } = owner();
  await draw(h(Owner, null));
  await act(() => browser.socket.welcome());
  await draw(null);
  await draw(h(Owner, null));
  assert.equal(browser.sockets.length, 2);
  await act(() => browser.socket.welcome());
  await act(() => browser.socket.say(1, { tag: "add", amount: 5 }));
  assert.equal(seen(), "5, 0 unacknowledged, open");
});

test("a viewer shows what has come between its drawing and its subscription", async () => {
  const { browser, session } = openWelcomed();
  await act(() => {
    render(h(Viewer, { session }), root);
    browser.socket.say(1, { tag: "add", amount: 3 });
  });
  assert.equal(seen(), "3, 0 unacknowledged, open");
});

test("a viewer that is given another session shows that one, and hears the first no more", async () => {
  const [one, other] = [openWelcomed(), openWelcomed()];
  one.browser.socket.say(1, { tag: "add", amount: 1 });
  other.browser.socket.say(1, { tag: "add", amount: 2 });
  await draw(h(Viewer, { session: one.session }));
  assert.equal(seen(), "1, 0 unacknowledged, open");
  await draw(h(Viewer, { session: other.session }));
  assert.equal(seen(), "2, 0 unacknowledged, open");
  await act(() => one.browser.socket.say(2, { tag: "add", amount: 10 }));
  assert.equal(seen(), "2, 0 unacknowledged, open");
  await act(() => other.browser.socket.say(2, { tag: "add", amount: 10 }));
  assert.equal(seen(), "12, 0 unacknowledged, open");
});

test("a viewer that goes leaves the session open, which is somebody else's", async () => {
  const { browser, session } = openWelcomed();
  await draw(h(Viewer, { session }));
  await draw(null);
  browser.socket.say(1, { tag: "add", amount: 3 });
  assert.deepEqual([session.view.state.total, browser.socket.closedWith], [3, undefined]);
  await draw(h(Viewer, { session }));
  assert.equal(seen(), "3, 0 unacknowledged, open");
});
