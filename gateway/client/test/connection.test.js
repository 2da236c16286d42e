import assert from "node:assert/strict";
import { test } from "node:test";
import { CONNECTING, LASTING_MS, connectionReducer } from "../connection.js";

/** @typedef {import("../connection.js").ConnectionEvent} ConnectionEvent */

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
 * @param {Partial<import("../connection.js").Lost>} fields
 */
const lost = (now = 0, code = 1006, fields = {}) => {
  const event = { now, random: 1, code, reason: "why", bye: null, renewed: false };
  return { type: /** @type {const} */ ("lost"), ...event, ...fields };
};

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

test("a code that ends a channel does not end the client that has begun another one", () => {
  assert.equal(after(opened(), lost(0, 4409, { renewed: true })).status, "waiting");
});

test("a gateway that goes says when to come again, and the client keeps to it", () => {
  const bye = { reason: "restart", after_ms: 2_000, spread_ms: 10_000 };
  assert.equal(after(opened(), lost(0, 1012, { bye })).retryIn, 12_000);
  assert.equal(after(opened(), lost(0, 1012, { bye, random: 0.5 })).retryIn, 7_000);
});

test("a close without a reason gets a sentence", () => {
  assert.match(after(opened(), lost(0, 4409, { reason: "" })).reason, /taken over/);
  assert.equal(after(opened(), lost(0, 1006, { reason: "" })).reason, "");
});

test("another welcome over an open connection does not make it younger", () => {
  assert.equal(after(opened(1), opened(2)).openedAt, 1);
});

test("nothing leaves closed", () => {
  const closed = after({ type: "closed", code: 1000, reason: "" });
  for (const event of [opened(), lost(), retry]) {
    assert.equal(connectionReducer(closed, event), closed);
  }
});
