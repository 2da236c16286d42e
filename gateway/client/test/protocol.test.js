import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode, returnUrl, socketUrl } from "../protocol.js";

test("a message survives encode and decode", () => {
  const message = { tag: "axpy", a: 2, x: [1], y: [3] };
  assert.deepEqual(decode(encode(message)), message);
});

test("what is no object with a string tag is not decoded", () => {
  for (const data of ["", "{", "null", "3", "[]", '{"tag":3}', "{}", new ArrayBuffer(2)]) {
    assert.equal(decode(data), null);
  }
});

test("what is no object with a string tag is not sent", () => {
  const wrong = /** @type {any} */ ({ a: 2 });
  assert.throws(() => encode(wrong), TypeError);
});

test("the socket's address is /ws on the page's host", () => {
  assert.equal(socketUrl("http://127.0.0.1:8000/some/page.html?x=1#y"), "ws://127.0.0.1:8000/ws");
});

test("a page under TLS opens a socket under TLS", () => {
  assert.equal(socketUrl("https://example.org/"), "wss://example.org/ws");
});

test("the session in the page's address goes into the socket's", () => {
  assert.equal(socketUrl("http://h/?session=a+b%26c"), "ws://h/ws?session=a+b%26c");
});

test("a named session stays named when the client comes back", () => {
  assert.equal(returnUrl("ws://h/ws?session=abc"), "ws://h/ws?session=abc");
});

test("a fresh session is asked for once, not again when the client comes back", () => {
  assert.equal(returnUrl("ws://h/ws?session=new"), "ws://h/ws");
});
