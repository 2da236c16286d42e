// Assigns of several tabs, and what each of them shows.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ECHO_MS } from "../single-state.js";
import { openWelcomed } from "./page.js";

/** @param {any} value */
const assign = (value, key = "name") => ({ tag: "assign", key, value });

test("an assign is shown at once, and echoes of older values do not undo it", () => {
  const { browser, session } = openWelcomed();
  void session.publish(assign("a"));
  void session.publish(assign("ab"));
  assert.equal(session.view.state.keys.name, "ab");
  browser.socket.say(1, assign("a"));
  assert.equal(session.view.state.keys.name, "ab");
  browser.socket.say("ack", 1);
  assert.equal(session.view.state.keys.name, "ab", "one of its own is still on the way");
  browser.socket.say(2, assign("ab"));
  browser.socket.say("ack", 2);
  assert.equal(session.view.state.keys.name, "ab");
});

test("other keys and other tabs are not held up", () => {
  const { browser, session } = openWelcomed();
  void session.publish(assign("mine"));
  browser.socket.say(1, assign(5, "other"));
  assert.equal(session.view.state.keys.other, 5);
});

test("two tabs that assign one key at once end on the same value", () => {
  const { browser, session } = openWelcomed();
  void session.publish(assign("mine"));
  browser.socket.say(1, assign("mine"));
  browser.socket.say(2, assign("theirs"));
  assert.equal(session.view.state.keys.name, "mine");
  browser.socket.say("ack", 1);
  assert.equal(session.view.state.keys.name, "theirs");
});

test("an assign that the session refuses or changes is taken back when it is acknowledged", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(1, assign("before"));
  void session.publish(assign("refused"));
  void session.publish(assign("never there", "new"));
  browser.socket.say("ack", 2);
  assert.equal(session.view.state.keys.name, "refused", "its echo may still come");
  browser.advance(ECHO_MS);
  assert.deepEqual(session.view.state.keys, { name: "before", new: undefined });
  void session.publish(assign(11));
  browser.socket.say(2, assign(10));
  browser.socket.say("ack", 3);
  assert.equal(session.view.state.keys.name, 10);
});

test("an echo that comes after the acknowledgement makes nothing flicker", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(1, assign("before"));
  /** @type {string[]} */
  const shown = [];
  void session.publish(assign("after"));
  session.subscribe(({ state }) => shown.push(state.keys.name));
  browser.socket.say("ack", 1);
  browser.socket.say(2, assign("after"));
  browser.advance(ECHO_MS);
  assert.deepEqual([...new Set(shown)], ["after"]);
});

test("a reset shows the full picture, and on it what this page has assigned since", () => {
  const { browser, session } = openWelcomed();
  browser.socket.say(1, assign("old", "other"));
  void session.publish(assign("mine"));
  browser.socket.say("reset", { reason: "rolled_back" });
  assert.deepEqual(session.view.state.keys, { name: "mine" });
  browser.socket.say(1, assign("theirs"));
  assert.deepEqual(session.view.state.keys, { name: "mine" });
  browser.socket.fall();
  browser.advance(500);
  browser.socket.welcome({ applied: 1, resumed: true });
  assert.deepEqual(session.view.state.keys, { name: "theirs" });
});
