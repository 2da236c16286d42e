import assert from "node:assert/strict";
import { test } from "node:test";
import { CONNECTING, LASTING_MS, connectionReducer } from "../session.js";

/** @typedef {import("../session.js").ConnectionEvent} ConnectionEvent */

/** @param {ConnectionEvent[]} events */
const after = (...events) => events.reduce(connectionReducer, CONNECTING);

/**
 * @param {number} now
 * @returns {ConnectionEvent}
 */
const opened = (now = 0) => ({ type: "opened", now });

/**
 * @param {number} now
 * @param {number} code
 * @returns {ConnectionEvent}
 */
const lost = (now = 0, code = 1006) => ({ type: "lost", now, random: 1, code, reason: "why" });

/** @type {ConnectionEvent} */
const retry = { type: "retry" };

test("a client connects, opens, waits after a loss, and connects again", () => {
  assert.equal(CONNECTING.status, "connecting");
  assert.equal(after(opened()).status, "open");
  assert.equal(after(opened(), lost()).status, "waiting");
  assert.equal(after(opened(), lost(), retry).status, "connecting");
});

test("close code and reason of the last loss are shown", () => {
  const { code, reason } = after(opened(), lost(0, 1012));
  assert.deepEqual({ code, reason }, { code: 1012, reason: "why" });
});

test("waits grow from failure to failure", () => {
  assert.equal(after(lost()).retryIn, 500);
  assert.equal(after(lost(), retry, lost()).retryIn, 1000);
  assert.equal(after(lost(), retry, lost(), retry, lost()).retryIn, 2000);
});

test("a connection that falls at once does not start the backoff over", () => {
  assert.equal(after(lost(), retry, opened(100), lost(200)).retryIn, 1000);
});

test("a connection that lasted starts the backoff over", () => {
  assert.equal(after(lost(), retry, opened(100), lost(100 + LASTING_MS)).retryIn, 500);
});

test("a try that never opened does not count as lasting, however long ago the last one opened", () => {
  assert.equal(after(opened(0), lost(LASTING_MS), retry, lost(60_000)).retryIn, 1000);
});

for (const code of [4400, 4401, 4403, 4409, 4503]) {
  test(`close code ${code} ends the client for good`, () => {
    const connection = after(opened(), lost(0, code));
    assert.equal(connection.status, "closed");
    assert.equal(connection.code, code);
  });
}

for (const code of [1000, 1001, 1006, 1009, 1012, 1013, 4410, 4429]) {
  test(`the client comes back after close code ${code}`, () => {
    assert.equal(after(opened(), lost(0, code)).status, "waiting");
  });
}

test("nothing leaves closed", () => {
  const closed = after({ type: "closed", code: 1000, reason: "" });
  for (const event of [opened(), lost(), retry]) {
    assert.equal(connectionReducer(closed, event), closed);
  }
});
