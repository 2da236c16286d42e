import assert from "node:assert/strict";
import { test } from "node:test";
import { returnUrl, socketUrl } from "../address.js";

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
