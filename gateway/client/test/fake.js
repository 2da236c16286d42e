// A browser for tests: sockets that open and close when the test says so, timers that ring when it
// says so, a clock that stands still, and a random that is always 1.

/** @typedef {import("../socket.js").Environment} Environment */

export class FakeSocket {
  readyState = 0;
  /** @type {string[]} */
  sent = [];
  /** @type {number | undefined} */
  closedWith = undefined;
  /** @type {any} */
  onopen;
  /** @type {any} */
  onmessage;
  /** @type {any} */
  onclose;

  /** @param {string} url */
  constructor(url) {
    this.url = url;
  }

  /** @param {string} text */
  send(text) {
    this.sent.push(text);
  }

  /** @param {number} code */
  close(code) {
    this.readyState = 2;
    this.closedWith = code;
  }

  open() {
    this.readyState = 1;
    this.onopen({});
  }

  /** @param {unknown} data */
  receive(data) {
    this.onmessage({ data });
  }

  fall(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

export function fakeBrowser() {
  /** @type {FakeSocket[]} */
  const sockets = [];
  /** @type {Map<number, { callback: () => void, ms: number }>} */
  const timers = new Map();
  let lastTimer = 0;
  const clock = { now: 0 };

  class Recorded extends FakeSocket {
    /** @param {string} url */
    constructor(url) {
      super(url);
      sockets.push(this);
    }
  }

  /** @type {Environment} */
  const environment = {
    WebSocket: /** @type {any} */ (Recorded),
    setTimeout(callback, ms) {
      timers.set(++lastTimer, { callback, ms });
      return lastTimer;
    },
    clearTimeout: (timer) => void timers.delete(timer),
    now: () => clock.now,
    random: () => 1,
  };

  return {
    environment,
    sockets,
    timers,
    clock,
    /** The newest socket. */
    get socket() {
      return sockets[sockets.length - 1];
    },
    /** Rings all timers that are set now. */
    ring() {
      const due = [...timers];
      timers.clear();
      for (const [, { callback }] of due) callback();
    },
  };
}
