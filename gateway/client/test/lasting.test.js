// What a connection goes through: losses, silence, sleep, ends.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HELLO_PATIENCE_MS, LONGEST_SILENCE_MS, SILENCE_MS } from "../conversation.js";
import { fate, openPage, openWelcomed } from "./page.js";

const message = { tag: "add", amount: 2 };

test("a lost connection is opened again after the backoff, and goes on where it was", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(5, message);
  void session.publish(message);
  browser.socket.fall();
  browser.advance(499);
  assert.equal(browser.sockets.length, 1);
  browser.advance(1);
  browser.socket.open();
  const { attach, seen, session: token } = browser.socket.hello;
  assert.deepEqual([attach, seen, token], [2, [1, 5], "token"]);
  browser.socket.welcome({ resumed: true });
  assert.deepEqual(browser.socket.inputs, [[1, message]]);
  browser.socket.say(5, message);
  assert.equal(session.view.state.total, 2, "a duplicate of an output is not shown");
});

test("a gateway that says bye is left, and come back to when it said", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say("bye", { reason: "restart", after_ms: 1_000, spread_ms: 4_000 });
  browser.socket.fall(1012, "restart");
  assert.equal(session.view.connection.retryIn, 5_000);
  browser.advance(4_999);
  assert.equal(browser.sockets.length, 1);
  browser.advance(1);
  assert.equal(browser.sockets.length, 2);
});

test("a fresh session is asked for until it was given, and not again", () => {
  const { browser } = openPage({ url: "ws://h/ws?session=new" });
  browser.socket.fall();
  browser.advance(500);
  browser.socket.welcome();
  browser.socket.fall();
  browser.advance(1_000);
  browser.socket.open();
  const fresh = "ws://h/ws?session=new";
  assert.deepEqual(browser.sockets.map(({ url }) => url), [fresh, fresh, "ws://h/ws"]);
  assert.equal(browser.socket.hello.session, "token");
});

for (const code of [4400, 4401, 4403, 4409, 4503]) {
  test(`close code ${code} ends it without another try, and gives up what is unacknowledged`, async () => {
    const { browser, session } = openWelcomed();
    const receipt = session.publish(message);
    browser.socket.fall(code);
    assert.equal(await fate(receipt), "closed");
    assert.equal(browser.timers.size, 0);
    assert.equal(browser.listening, 0);
    const { connection, unacknowledged } = session.view;
    assert.deepEqual([connection.status, connection.code, unacknowledged], ["closed", code, 0]);
    assert.notEqual(connection.reason, "");
    assert.equal(await fate(session.publish(message)), "closed");
  });
}

test("a session that has ended rejects what was said to it, and the page begins another channel", async () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(1, message);
  const receipt = session.publish(message);
  const { channel } = browser.socket.hello;
  browser.socket.fall(4410, "the session has ended");
  assert.equal(await fate(receipt), "ended");
  assert.equal(session.view.state.total, 0);
  browser.advance(500);
  browser.socket.open();
  assert.equal(browser.socket.hello.attach, 1);
  assert.notEqual(browser.socket.hello.channel, channel);
});

test("an expired channel rejects what was sent on it, and the page begins another one", async () => {
  const { browser, session } = openWelcomed();
  const receipt = session.publish(message);
  const { channel } = browser.socket.hello;
  browser.socket.say("reset", { reason: "channel_expired" });
  assert.equal(await fate(receipt), "channel_expired");
  assert.equal(browser.socket.closedWith, 1000);
  browser.advance(500);
  browser.socket.welcome();
  assert.equal(browser.socket.hello.attach, 1);
  assert.notEqual(browser.socket.hello.channel, channel);
  void session.publish(message);
  assert.deepEqual(browser.socket.inputs, [[1, message]]);
});

test("a connection that stays silent although an answer is due is given up", () => {
  const { browser, session } = openWelcomed();
  browser.advance(60 * 60_000);
  assert.equal(browser.sockets.length, 1, "nothing is due");
  void session.publish(message);
  browser.advance(SILENCE_MS - 1);
  assert.equal(session.view.connection.status, "open");
  browser.advance(1);
  assert.equal(session.view.connection.status, "waiting");
  browser.advance(500);
  browser.socket.open();
  assert.equal(browser.socket.hello.attach, 2);
});

test("any sign of life puts that off", () => {
  const { browser, session } = openWelcomed();
  void session.publish(message);
  for (let rev = 1; rev < 10; rev++) {
    browser.advance(SILENCE_MS - 1);
    browser.socket.say(rev, message);
  }
  assert.equal(browser.sockets.length, 1);
  assert.equal(session.view.connection.status, "open");
});

test("a session that is silent for long, because its store is away, is asked ever less often", () => {
  const { browser, session } = openWelcomed();
  void session.publish(message);
  /** @type {number[]} */
  const lasted = [];
  for (let i = 0; i < 5; i++) {
    const since = browser.clock.now;
    while (session.view.connection.status === "open") browser.advance(1_000);
    lasted.push(browser.clock.now - since);
    browser.advance(30_000);
    browser.socket.welcome({ resumed: true });
  }
  assert.deepEqual(lasted, [10_000, 20_000, 40_000, LONGEST_SILENCE_MS, LONGEST_SILENCE_MS]);
});

test("a hello that nobody answers is given up, but later than a gateway parks a browser", () => {
  const { browser, session } = openPage();
  browser.socket.open();
  browser.advance(HELLO_PATIENCE_MS - 1);
  assert.equal(browser.sockets.length, 1);
  assert.ok(HELLO_PATIENCE_MS > 60_000);
  browser.advance(1);
  assert.equal(session.view.connection.status, "waiting");
});

test("a new network means a new connection, at once", () => {
  const { browser } = openWelcomed();
  browser.signal("online");
  browser.advance(500);
  assert.equal(browser.sockets.length, 2);
});

test("who waits for a network does not wait longer than it is away", () => {
  const { browser, session } = openPage();
  for (let i = 0; i < 6; i++) {
    browser.socket.fall();
    if (i < 5) browser.advance(30_000);
  }
  assert.equal(session.view.connection.retryIn, 16_000);
  browser.signal("online");
  browser.advance(500);
  assert.equal(browser.sockets.length, 7);
});

test("after a long sleep the connection is not believed; after a short look away it is", () => {
  const { browser } = openWelcomed();
  browser.clock.wall += 60_000;
  browser.signal("visible");
  browser.advance(1_000);
  assert.equal(browser.sockets.length, 1);
  browser.clock.wall += 8 * 60 * 60_000;
  browser.signal("visible");
  browser.advance(1_000);
  assert.equal(browser.sockets.length, 2);
});

test("a connection that was let go of is not heard any more", () => {
  const { browser, session } = openWelcomed();
  const [old] = browser.sockets;
  browser.signal("online");
  browser.advance(500);
  browser.socket.welcome();
  old?.say(7, message);
  old?.fall(4409);
  assert.deepEqual([session.view.state.total, session.view.connection.status], [0, "open"]);
});

test("close while open closes the socket, comes back no more and leaves nothing behind", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(1, message);
  void session.publish(message);
  session.close();
  browser.socket.fall(1000);
  assert.equal(browser.socket.closedWith, 1000);
  assert.equal(browser.timers.size + browser.listening + browser.environment.inUse.size, 0);
  assert.equal(session.view.connection.status, "closed");
});

test("close while waiting, or while connecting, is the end as well", () => {
  const waiting = openPage();
  waiting.browser.socket.fall();
  waiting.session.close();
  assert.equal(waiting.browser.timers.size, 0);
  const connecting = openPage();
  connecting.session.close();
  connecting.browser.socket.open();
  assert.deepEqual(connecting.browser.socket.sent, []);
});

test("a listener may close the session when it hears that the connection is lost, or comes again", () => {
  for (const status of ["waiting", "connecting"]) {
    const { browser, session } = openPage();
    browser.socket.welcome();
    session.subscribe(({ connection }) => connection.status === status && session.close());
    browser.socket.fall();
    browser.advance(60_000);
    assert.equal(browser.sockets.length, 1);
    assert.equal(browser.timers.size, 0);
  }
});
