import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { openSession } from "../single-state.js";
import { fakeBrowser } from "./fake.js";

/** @typedef {import("../protocol.js").Message} Message */

/**
 * A page that adds up amounts.
 *
 * @param {number} state
 * @param {Message} message
 */
const add = (state, message) => (message.tag === "add" ? state + message.amount : state);

function openPage(url = "ws://h/ws") {
  const browser = fakeBrowser();
  const { environment } = browser;
  const session = openSession({ initial: 0, reducer: add, url, environment });
  return { browser, session };
}

test("each message that arrives goes through the reducer, and listeners see the result", () => {
  const { browser, session } = openPage();
  /** @type {number[]} */
  const seen = [];
  session.subscribe(({ state }) => seen.push(state));
  browser.socket.open();
  browser.socket.receive('{"tag":"add","amount":2}');
  browser.socket.receive('{"tag":"add","amount":3}');
  assert.equal(session.view.state, 5);
  assert.deepEqual([seen[0], ...seen.slice(-2)], [0, 2, 5]);
});

test("listeners are told how the connection is", () => {
  const { browser, session } = openPage();
  /** @type {string[]} */
  const seen = [];
  session.subscribe(({ connection }) => seen.push(connection.status));
  browser.socket.open();
  browser.socket.fall(1012, "restart");
  browser.ring();
  assert.deepEqual(seen, ["connecting", "open", "waiting", "connecting"]);
});

test("a listener that unsubscribed is told nothing more", () => {
  const { browser, session } = openPage();
  let told = 0;
  const unsubscribe = session.subscribe(() => told++);
  unsubscribe();
  browser.socket.open();
  assert.equal(told, 1);
});

test("publish sends JSON on an open connection and says so", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  assert.equal(session.publish({ tag: "add", amount: 1 }), true);
  assert.deepEqual(browser.socket.sent, ['{"tag":"add","amount":1}']);
});

test("publish without an open connection says so, and nothing is sent later", () => {
  const { browser, session } = openPage();
  assert.equal(session.publish({ tag: "add", amount: 1 }), false);
  browser.socket.open();
  assert.deepEqual(browser.socket.sent, []);
  browser.socket.fall();
  assert.equal(session.publish({ tag: "add", amount: 1 }), false);
});

test("publish on a socket that has begun to close says that nothing was sent", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  browser.socket.readyState = 2;
  assert.equal(session.publish({ tag: "add", amount: 1 }), false);
});

test("dispatch changes the page's state and sends nothing", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  session.dispatch({ tag: "add", amount: 4 });
  assert.equal(session.view.state, 4);
  assert.deepEqual(browser.socket.sent, []);
});

test("a lost connection is opened again after the backoff, with the page's state kept", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  browser.socket.receive('{"tag":"add","amount":2}');
  browser.socket.fall();
  assert.deepEqual([...browser.timers.values()].map(({ ms }) => ms), [500]);
  browser.ring();
  browser.socket.open();
  browser.socket.receive('{"tag":"add","amount":2}');
  assert.equal(browser.sockets.length, 2);
  assert.equal(session.view.state, 4);
});

test("a fresh session is asked for until it was given, and not again", () => {
  const { browser } = openPage("ws://h/ws?session=new");
  browser.socket.fall();
  browser.ring();
  browser.socket.open();
  browser.socket.fall();
  browser.ring();
  const fresh = "ws://h/ws?session=new";
  assert.deepEqual(browser.sockets.map(({ url }) => url), [fresh, fresh, "ws://h/ws"]);
});

test("a final close code ends it without another try", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  browser.socket.fall(4409, "superseded");
  assert.equal(browser.timers.size, 0);
  const { status, code, reason } = session.view.connection;
  assert.deepEqual([status, code, reason], ["closed", 4409, "superseded"]);
});

test("close while open closes the socket and does not come back", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  session.close();
  browser.socket.fall(1000);
  assert.equal(browser.socket.closedWith, 1000);
  assert.equal(browser.timers.size, 0);
  assert.equal(session.view.connection.status, "closed");
});

test("close while waiting stops the timer", () => {
  const { browser, session } = openPage();
  browser.socket.fall();
  session.close();
  assert.equal(browser.timers.size, 0);
});

test("close while connecting ignores what the socket does later", () => {
  const { browser, session } = openPage();
  session.close();
  browser.socket.open();
  browser.socket.receive('{"tag":"add","amount":2}');
  assert.equal(session.view.connection.status, "closed");
  assert.equal(session.view.state, 0);
});

test("a listener may close the session when it hears that the connection is lost", () => {
  const { browser, session } = openPage();
  session.subscribe(({ connection }) => {
    if (connection.status === "waiting") session.close();
  });
  browser.socket.fall();
  browser.ring();
  assert.equal(browser.sockets.length, 1);
  assert.equal(browser.timers.size, 0);
});

test("a listener may close the session when it hears that it connects again", () => {
  const { browser, session } = openPage();
  browser.socket.fall();
  session.subscribe(({ connection }) => {
    if (connection.status === "connecting") session.close();
  });
  browser.ring();
  assert.equal(browser.sockets.length, 1);
});

test("what is no message is reported and changes nothing", () => {
  const report = mock.method(console, "error", () => {});
  const { browser, session } = openPage();
  browser.socket.open();
  browser.socket.receive("not JSON");
  browser.socket.receive('{"tag":"add","amount":2}');
  report.mock.restore();
  assert.equal(report.mock.callCount(), 1);
  assert.equal(session.view.state, 2);
});
