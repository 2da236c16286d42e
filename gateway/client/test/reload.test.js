// A page that is loaded again, and copies of it.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { PATIENCE_MS } from "../claim.js";
import { FakeLocks, fakeBrowser } from "./fake.js";
import { fate, openPage, openWelcomed, rest } from "./page.js";

/** @param {number} amount */
const add = (amount) => ({ tag: "add", amount });

/**
 * The page is gone and another one comes, with its storage; locks go with the page.
 *
 * @param {ReturnType<typeof openPage>} page
 * @param {{ crashed?: boolean, options?: Parameters<typeof openPage>[0] }} [how]
 */
function reload({ browser }, { crashed = false, options = {} } = {}) {
  if (!crashed) browser.signal("hide");
  return openPage(options, fakeBrowser({ storage: browser.storage }));
}

test("a reload goes on with channel, numbers and unacknowledged input, but has seen nothing", () => {
  const before = openWelcomed();
  const { channel } = before.browser.socket.hello;
  before.browser.socket.say(7, add(9));
  void before.session.publish(add(1));
  void before.session.publish(add(2));
  void before.session.publish(Uint8Array.of(200, 3));
  before.browser.socket.say("ack", 1);
  before.browser.socket.fall();
  void before.session.publish(add(4));

  const { browser, session } = reload(before);
  assert.equal(session.view.unacknowledged, 3);
  browser.socket.open();
  assert.deepEqual(browser.socket.hello, { session: "token", channel, attach: 2 });
  browser.socket.welcome({ applied: 1 });
  void session.publish(add(5));
  assert.deepEqual(browser.socket.inputs, [[2, add(2)], [4, add(4)], [5, add(5)]]);
  const binary = browser.socket.sent.find((data) => typeof data !== "string");
  assert.deepEqual([...binary], [0, 0, 0, 0, 0, 0, 0, 3, 200, 3]);
  assert.equal(session.view.state.total, 0, "its mirror is what the full picture says");
});

test("numbers are not used again after a reload, also when all were acknowledged", () => {
  const before = openWelcomed();
  void before.session.publish(add(1));
  before.browser.socket.say("ack", 1);
  const { browser, session } = reload(before);
  browser.socket.welcome({ applied: 1 });
  void session.publish(add(2));
  assert.deepEqual(browser.socket.inputs, [[2, add(2)]]);
});

test("a reload shows what the page itself had assigned and is not acknowledged", () => {
  const before = openWelcomed();
  void before.session.publish({ tag: "assign", key: "name", value: "new" });
  const { browser, session } = reload(before);
  assert.deepEqual(session.view.state.keys, { name: "new" });
  browser.socket.welcome({ applied: 0 });
  browser.socket.say(1, { tag: "assign", key: "name", value: "old" });
  assert.deepEqual(session.view.state.keys, { name: "new" });
});

test("a reload of a page that asked for a fresh session stays in that one", () => {
  const before = openWelcomed({ url: "ws://h/ws?session=new" });
  const { browser } = reload(before);
  browser.socket.open();
  assert.deepEqual([browser.socket.hello.session, browser.socket.hello.attach], ["token", 2]);
});

test("who asks for a fresh session leaves behind what the tab had kept of another", () => {
  const before = openWelcomed();
  void before.session.publish(add(1));
  const { browser, session } = reload(before, { options: { url: "ws://h/ws?session=new" } });
  assert.equal(session.view.unacknowledged, 0);
  browser.socket.open();
  assert.deepEqual(Object.keys(browser.socket.hello), ["channel", "attach"]);
});

test("two sessions of one page, and pages of other sessions, keep theirs apart", () => {
  const browser = fakeBrowser();
  const pages = [{}, {}, { url: "ws://h/ws?session=other" }, { name: "frame" }];
  const opened = pages.map((options) => openPage(options, browser).session);
  opened.forEach((session, i) => void session.publish(add(i)));
  const again = fakeBrowser({ storage: browser.storage });
  browser.signal("hide");
  pages.forEach((options) => openPage(options, again));
  again.sockets.forEach((socket) => socket.welcome({ applied: 0 }));
  const amounts = again.sockets.map(({ inputs }) => inputs.map(([, { amount }]) => amount));
  assert.deepEqual(amounts, [[0], [1], [2], [3]]);
});

test("a page that was closed by its own will leaves no input behind, but its session", () => {
  const before = openWelcomed();
  void before.session.publish(add(1));
  before.session.close();
  const { browser } = reload(before);
  browser.socket.open();
  assert.equal(browser.socket.hello.attach, 1);
  assert.equal(browser.socket.hello.session, "token");
});

test("after a token that is not valid any more, a reload asks without it", () => {
  const before = openWelcomed();
  before.browser.socket.fall(4401);
  const { browser } = reload(before);
  browser.socket.open();
  assert.equal(browser.socket.hello.session, undefined);
});

// Copies of a tab.

test("a reload waits until the page before it has let go of the channel", async () => {
  const locks = new FakeLocks();
  const before = openPage({}, fakeBrowser({ locks }));
  await rest();
  before.browser.socket.welcome();
  void before.session.publish(add(1));
  const again = openPage({}, fakeBrowser({ locks, storage: before.browser.storage.copy() }));
  await rest();
  assert.equal(again.browser.sockets.length, 0);
  locks.held.clear();
  const late = openPage({}, fakeBrowser({ locks, storage: before.browser.storage.copy() }));
  await rest();
  late.browser.socket.welcome({ applied: 0 });
  assert.deepEqual(late.browser.socket.inputs, [[1, add(1)]]);
});

test("with Web Locks a tab that crashed finds its numbers and its input again", async () => {
  const before = openPage({}, fakeBrowser({ locks: new FakeLocks() }));
  await rest();
  before.browser.socket.welcome();
  void before.session.publish(add(1));
  before.browser.socket.say("ack", 1);
  for (const input of [[], [add(2)]]) {
    input.forEach((message) => void before.session.publish(message));
    const storage = before.browser.storage.copy();
    const { browser, session } = openPage({}, fakeBrowser({ locks: new FakeLocks(), storage }));
    await rest();
    browser.socket.welcome({ applied: 1 });
    void session.publish(add(3));
    const numbers = browser.socket.inputs.map(([number, { amount }]) => [number, amount]);
    assert.deepEqual(numbers, input.length === 0 ? [[2, 3]] : [[2, 2], [3, 3]]);
  }
});

test("a copy of a tab begins its own channel, without the input that is the other's", async () => {
  const locks = new FakeLocks();
  const first = openPage({}, fakeBrowser({ locks }));
  await rest();
  first.browser.socket.welcome();
  void first.session.publish({ tag: "assign", key: "name", value: "the other's" });
  const copy = openPage({}, fakeBrowser({ locks, storage: first.browser.storage.copy() }));
  const receipt = copy.session.publish(add(2));
  copy.browser.advance(PATIENCE_MS);
  await rest();
  copy.browser.socket.welcome();
  const { channel, attach, session } = copy.browser.socket.hello;
  assert.notEqual(channel, first.browser.socket.hello.channel);
  assert.deepEqual([attach, session], [1, "token"], "it is the same session");
  assert.deepEqual(copy.browser.socket.inputs, [[1, add(2)]]);
  assert.deepEqual(copy.session.view.state.keys, {});
  copy.browser.socket.say("ack", 1);
  assert.equal(await fate(receipt), "resolved");
});

test("without Web Locks a copy is told by the mark of a page that still runs", () => {
  const first = openWelcomed();
  void first.session.publish(add(1));
  const copy = openPage({}, fakeBrowser({ storage: first.browser.storage.copy() }));
  copy.browser.socket.welcome();
  assert.notEqual(copy.browser.socket.hello.channel, first.browser.socket.hello.channel);
  assert.deepEqual(copy.browser.socket.inputs, []);
});

test("without Web Locks a tab that crashed begins anew; its input may have been applied or not", () => {
  const before = openWelcomed();
  void before.session.publish(add(1));
  const { browser } = reload(before, { crashed: true });
  browser.socket.welcome();
  assert.deepEqual(browser.socket.inputs, []);
});

test("a page that comes back from the browser's cache of pages bears its mark again", () => {
  const first = openWelcomed();
  first.browser.signal("hide");
  first.browser.signal("show");
  const copy = openPage({}, fakeBrowser({ storage: first.browser.storage.copy() }));
  copy.browser.socket.open();
  assert.notEqual(copy.browser.socket.hello.channel, first.browser.socket.hello.channel);
});

// Storages that are not what they should be.

test("a storage that was put back to an older time does not make numbers come twice", () => {
  const before = openWelcomed();
  void before.session.publish(add(1));
  before.browser.signal("hide");
  const { browser, session } = openPage({}, fakeBrowser({ storage: before.browser.storage.copy() }));
  void session.publish(add(3));
  browser.socket.welcome({ applied: 2 });
  assert.deepEqual(browser.socket.inputs, []);
  browser.advance(500);
  browser.socket.welcome();
  assert.deepEqual(browser.socket.inputs, [[1, add(3)]]);
});

test("a reload whose attach is too low begins another channel instead of giving up", () => {
  const { browser, session } = reload(openWelcomed());
  void session.publish(add(3));
  browser.socket.open();
  browser.socket.fall(4409);
  browser.advance(500);
  browser.socket.welcome();
  assert.equal(browser.socket.hello.attach, 1);
  assert.deepEqual(browser.socket.inputs, [[1, add(3)]]);
  browser.socket.fall(4409);
  assert.equal(session.view.connection.status, "closed", "but not of a channel that is its own");
});

test("when the storage is full, the page goes on in memory and says so once", async () => {
  const warn = mock.method(console, "warn", () => {});
  const before = openWelcomed();
  before.browser.storage.quota = 300;
  const receipts = [add(1), { tag: "x".repeat(300) }, add(3)].map((m) => before.session.publish(m));
  assert.equal(before.browser.socket.inputs.length, 3);
  before.browser.socket.say("ack", 3);
  assert.deepEqual(await Promise.all(receipts.map(fate)), Array(3).fill("resolved"));
  warn.mock.restore();
  assert.equal(warn.mock.callCount(), 1);
  assert.equal(before.browser.storage.length, 0, "a record with a hole would be worse than none");
  const { browser } = reload(before);
  browser.socket.open();
  assert.equal(browser.socket.hello.attach, 1);
});

const KEY = "single-state::ws://h/ws";

for (const [what, break_] of /** @type {[string, (items: Map<string, string>) => void][]} */ ([
  ["a hole", (items) => items.delete(`${KEY}/2`)],
  ["half of a text", (items) => items.set(KEY, "{")],
  ["numbers that are none", (items) => items.set(KEY, '{"id":"channel-1","attach":-1,"last":3}')],
])) {
  test(`a record with ${what} is not used`, () => {
    const warn = mock.method(console, "warn", () => {});
    const before = openWelcomed();
    for (const amount of [1, 2, 3]) void before.session.publish(add(amount));
    before.browser.signal("hide");
    break_(before.browser.storage.items);
    const { browser } = openWelcomed({}, fakeBrowser({ storage: before.browser.storage }));
    warn.mock.restore();
    assert.equal(browser.socket.hello.attach, 1);
    assert.deepEqual(browser.socket.inputs, []);
  });
}

test("where pages may not store anything, everything works but a reload", async () => {
  const browser = fakeBrowser();
  browser.environment.storage = null;
  const { session } = openWelcomed({}, browser);
  const receipt = session.publish(add(1));
  browser.socket.say("ack", 1);
  assert.equal(await fate(receipt), "resolved");
});
