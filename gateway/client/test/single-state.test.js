import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { fakeBrowser } from "./fake.js";
import { fate, openPage, openWelcomed } from "./page.js";

/** @param {number} amount */
const add = (amount) => ({ tag: "add", amount });

test("a page asks for single-state.v1 and says hello with a channel and its first attach", () => {
  const { browser } = openPage();
  browser.socket.open();
  assert.deepEqual(browser.socket.protocols, ["single-state.v1"]);
  const { channel, ...rest } = browser.socket.hello;
  assert.match(channel, /^[A-Za-z0-9_-]{8,64}$/);
  assert.deepEqual(rest, { attach: 1 });
});

test("each message that arrives goes through the reducer, and listeners see the result", () => {
  const { browser, session } = openWelcomed();
  /** @type {number[]} */
  const seen = [];
  session.subscribe(({ state }) => seen.push(state.total));
  browser.socket.say(1, add(2));
  browser.socket.say(2, add(3));
  assert.deepEqual(seen, [0, 2, 5]);
});

test("listeners are told how the connection is; open means that the session answers", () => {
  const { browser, session } = openPage();
  /** @type {string[]} */
  const seen = [];
  session.subscribe(({ connection }) => {
    if (connection.status !== seen.at(-1)) seen.push(connection.status);
  });
  browser.socket.open();
  assert.deepEqual(seen, ["connecting"]);
  browser.socket.welcome();
  browser.socket.fall(1012, "restart");
  browser.advance(500);
  assert.deepEqual(seen, ["connecting", "open", "waiting", "connecting"]);
});

test("a listener that unsubscribed is told nothing more", () => {
  const { browser, session } = openPage();
  let told = 0;
  session.subscribe(() => told++)();
  browser.socket.welcome();
  assert.equal(told, 1);
});

test("a listener or a reducer that fails stops nothing", () => {
  const report = mock.method(console, "error", () => {});
  const { browser, session } = openWelcomed({
    reducer: (state, message) => ({ ...state, total: message.amount.value }),
  });
  session.subscribe(({ state }) => state.total > 0 && fail());
  browser.socket.say(1, { tag: "broken" });
  browser.socket.say(2, { tag: "add", amount: { value: 1 } });
  browser.socket.say(3, { tag: "add", amount: { value: 2 } });
  report.mock.restore();
  assert.equal(session.view.state.total, 2);
  assert.equal(report.mock.callCount(), 3);
});

function fail() {
  throw new Error("on purpose");
}

test("publish resolves when the session has applied the message for good", async () => {
  const { browser, session } = openWelcomed();
  const first = session.publish(add(1));
  const second = session.publish(add(2));
  assert.deepEqual(browser.socket.inputs, [[1, add(1)], [2, add(2)]]);
  assert.deepEqual([await fate(first), session.view.unacknowledged], ["pending", 2]);
  browser.socket.say("ack", 1);
  assert.deepEqual([await fate(first), await fate(second)], ["resolved", "pending"]);
  browser.socket.say("ack", 2);
  assert.deepEqual([await fate(second), session.view.unacknowledged], ["resolved", 0]);
});

test("publish without a connection keeps the message and sends it later", async () => {
  const { browser, session } = openPage();
  const receipt = session.publish(add(1));
  browser.socket.welcome();
  assert.deepEqual(browser.socket.inputs, [[1, add(1)]]);
  browser.socket.say("ack", 1);
  assert.equal(await fate(receipt), "resolved");
});

test("too much that is unacknowledged is refused at once, and not taken", async () => {
  const { browser, session } = openPage();
  for (let i = 0; i < 1024; i++) void session.publish(add(i));
  assert.equal(await fate(session.publish(add(1024))), "full");
  assert.equal(session.view.unacknowledged, 1024);
  browser.socket.welcome();
  browser.socket.say("ack", 1);
  assert.equal(await fate(session.publish(add(1024))), "pending");
  assert.deepEqual(browser.socket.inputs.at(-1), [1025, add(1024)]);

  const large = openPage().session;
  void large.publish(new ArrayBuffer(1024 * 1024 - 10));
  assert.equal(await fate(large.publish(new ArrayBuffer(11))), "full");
});

test("a message that is longer than the server takes is refused at once", async () => {
  const { browser, session } = openPage();
  browser.socket.welcome({ limits: { message_bytes: 100 } });
  assert.equal(await fate(session.publish({ tag: "ä".repeat(45) })), "too_long");
  assert.equal(await fate(session.publish({ tag: "ä".repeat(30) })), "pending");
});

test("a message that does not fit into one frame is refused in words, and the socket stays", async () => {
  const { browser, session } = openPage();
  browser.socket.welcome({ limits: { message_bytes: 1000, frame_bytes: 119 } });
  assert.equal(await fate(session.publish(new ArrayBuffer(100))), "pending");
  await assert.rejects(session.publish(new ArrayBuffer(101)), {
    code: "too_long",
    message: "not sent: this message is longer than the server takes (101 bytes, at most 100)",
  });
  assert.equal(session.view.connection.status, "open");
  assert.equal(browser.socket.sent.length, 2, "the hello, and what was short enough");
});

test("what was published before the server said how long messages may be is refused when it says so", async () => {
  const { browser, session } = openPage();
  const [short, long, next] = [add(1), new ArrayBuffer(101), add(2)].map((message) => session.publish(message));
  browser.socket.welcome({ limits: { message_bytes: 1000, frame_bytes: 119 } });
  assert.equal(await fate(long), "too_long");
  assert.deepEqual(browser.socket.inputs, [[1, add(1)], [2, add(2)]], "nobody has seen its number");
  browser.socket.say("ack", 2);
  assert.deepEqual([await fate(short), await fate(next)], ["resolved", "resolved"]);
  assert.equal(session.view.unacknowledged, 0);
  void session.publish(add(3));
  assert.deepEqual(browser.socket.inputs.at(-1), [3, add(3)]);

  browser.signal("hide");
  const reloaded = openPage({}, fakeBrowser({ storage: browser.storage }));
  reloaded.browser.socket.welcome({ applied: 2 });
  assert.deepEqual(reloaded.browser.socket.inputs, [[3, add(3)]], "the storage knows it too");
});

test("a message that some server refuses for its length does not come again for ever", async () => {
  const { browser, session } = openWelcomed();
  const receipt = session.publish(add(1));
  browser.socket.fall(1009);
  assert.equal(await fate(receipt), "too_long");
  browser.advance(500);
  browser.socket.welcome();
  assert.deepEqual(browser.socket.inputs, []);
});

test("who does not look at the promise is not bothered when the message is given up", async () => {
  const { session } = openPage();
  void session.publish(add(1));
  session.close();
  // An unhandled rejection would end this test.
  await new Promise((resolve) => setTimeout(resolve, 1));
});

test("what is no message is the page's mistake, and said loudly", () => {
  const wrong = /** @type {any} */ ({ a: 2 });
  assert.throws(() => openPage().session.publish(wrong), TypeError);
});

test("binary data goes out with its number, from buffers and from views of them, as it was", () => {
  const { browser, session } = openPage();
  const bytes = Uint8Array.of(1, 2, 3);
  void session.publish(bytes.buffer);
  void session.publish(bytes.subarray(1));
  bytes.fill(9);
  browser.socket.welcome();
  const sent = browser.socket.sent.slice(1).map((frame) => [...frame]);
  assert.deepEqual(sent, [[0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3], [0, 0, 0, 0, 0, 0, 0, 2, 2, 3]]);
});

test("binary data of the session comes through the reducer", () => {
  const { browser, session } = openWelcomed();
  browser.socket.receive(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 1, 7, 8).buffer);
  assert.deepEqual(session.view.state.bytes, [7, 8]);
  assert.equal(browser.socket.binaryType, "arraybuffer");
});

test("dispatch changes the page's state and sends nothing", () => {
  const { browser, session } = openWelcomed();
  session.dispatch(add(4));
  assert.equal(session.view.state.total, 4);
  assert.deepEqual(browser.socket.inputs, []);
});

test("a page learns which session it has, how durable it is, and what each welcome means", () => {
  /** @type {any[]} */
  const welcomes = [];
  const { browser, session } = openPage({ onWelcome: (event) => welcomes.push(event) });
  browser.socket.welcome({ epoch: 7 });
  assert.deepEqual([session.view.session, session.view.durability], ["token", "relaxed"]);
  browser.socket.welcome({ epoch: 8, resumed: true, worker: 2 });
  browser.socket.fall();
  browser.advance(500);
  browser.socket.welcome({ epoch: 8, resumed: true, worker: 2 });
  const told = welcomes.map(({ epoch, resumed, attached, replaced }) => [epoch, resumed, attached, replaced]);
  assert.deepEqual(told, [[7, false, true, false], [8, true, false, true], [8, true, true, false]]);
  assert.deepEqual(welcomes.map(({ worker }) => worker), [null, 2, 2], "an older gateway does not say");
});

test("a reset takes back all that the session has said, and the page keeps what it wants", () => {
  const onReset = (/** @type {any} */ state) => ({ total: 0, keys: {}, bytes: [], local: state.local });
  const { browser, session } = openWelcomed({ onReset });
  session.dispatch({ tag: "_local" });
  browser.socket.say(1, { tag: "assign", key: "gone", value: 1 });
  browser.socket.say("reset", { reason: "rolled_back" });
  browser.socket.say(1, { tag: "assign", key: "there", value: 2 });
  assert.deepEqual(session.view.state, { total: 0, keys: { there: 2 }, bytes: [], local: 1 });
});

test("a page is reset once for each full picture, and not by its first welcome", () => {
  let resets = 0;
  const { browser, session } = openWelcomed({
    onReset: () => (resets++, { total: 0, keys: {}, local: 0, bytes: [] }),
  });
  assert.equal(resets, 0);
  browser.socket.say(1, add(5));
  browser.socket.welcome({ epoch: 2 });
  browser.socket.say("reset", { reason: "rolled_back" });
  browser.socket.say(1, add(3));
  assert.deepEqual([session.view.state.total, resets], [3, 1]);
});

test("a picture that was cut off before its reset came is still taken for a new one", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(9, { tag: "assign", key: "gone", value: 1 });
  browser.socket.welcome({ epoch: 2 });
  browser.socket.fall();
  browser.advance(500);
  browser.socket.open();
  assert.equal(browser.socket.hello.seen, undefined);
  browser.socket.welcome({ epoch: 2 });
  browser.socket.say(3, { tag: "assign", key: "there", value: 2 });
  assert.deepEqual(session.view.state.keys, { there: 2 });
});

test("what is no message is reported and changes nothing", () => {
  const report = mock.method(console, "error", () => {});
  const { browser, session } = openWelcomed();
  browser.socket.say(1, "no object");
  browser.socket.say(2, add(2));
  report.mock.restore();
  assert.equal(report.mock.callCount(), 1);
  assert.equal(session.view.state.total, 2);
});

test("a server that is not understood is left for good", () => {
  const report = mock.method(console, "error", () => {});
  const { browser, session } = openWelcomed();
  browser.socket.receive("not an envelope");
  report.mock.restore();
  assert.equal(session.view.connection.status, "closed");
  assert.equal(browser.socket.closedWith, 4400);
});
