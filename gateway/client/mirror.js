// Own assigns and their echoes. Every tab gets each assign, the sender too; but what comes back may
// be older than what this page has assigned since, and would undo it under the user's fingers. So
// while a key has unacknowledged assigns of its own, what the session says of it is only remembered,
// and shown when they are acknowledged: then the page shows what every other tab shows.

import { assignedKey } from "./message.js";

/** @typedef {import("./message.js").Message} Message */

export class Mirror {
  /**
   * The newest assign of each key, as the session has said it.
   * @type {Map<string, Message>}
   */
  told = new Map();

  /**
   * The newest unacknowledged assign of its own, for each key, and whether the session has said
   * something of the key since.
   * @type {Map<string, { ticket: number, echoed: boolean }>}
   */
  own = new Map();

  /** Whether anything was shown since it was last discarded. */
  isEmpty = true;

  /**
   * A message of the session has arrived.
   *
   * @param {Message} message
   * @returns {boolean} whether to show it
   */
  receive(message) {
    this.isEmpty = false;
    const key = assignedKey(message);
    if (key === null) return true;
    this.told.set(key, message);
    const own = this.own.get(key);
    if (own) own.echoed = true;
    return !own;
  }

  /**
   * @param {string} key
   * @param {number} ticket of the input that assigns it
   */
  assigned(key, ticket) {
    this.own.set(key, { ticket, echoed: false });
  }

  /**
   * Inputs are acknowledged or given up.
   *
   * @param {readonly { key: string | null, ticket: number }[]} inputs
   * @returns {{ now: Message[], later: string[] }} what to show now, and keys of which the echo may
   *   still be on its way
   */
  settle(inputs) {
    /** @type {{ now: Message[], later: string[] }} */
    const result = { now: [], later: [] };
    for (const { key, ticket } of inputs) {
      const own = key === null ? undefined : this.own.get(key);
      if (key === null || own?.ticket !== ticket) continue;
      this.own.delete(key);
      if (own.echoed) result.now.push(this.say(key));
      else result.later.push(key);
    }
    return result;
  }

  /**
   * No echo has come: the session has refused the assign, or had the value already.
   *
   * @param {string[]} keys as `settle` gave them
   * @returns {Message[]} what to show
   */
  unanswered(keys) {
    return keys.filter((key) => !this.own.has(key)).map((key) => this.say(key));
  }

  /** Nothing that the session has said counts any more. */
  discard() {
    this.told.clear();
    this.isEmpty = true;
  }

  /**
   * @param {string} key
   * @returns {Message} as the session has it; a key that it does not have is `undefined`
   */
  say(key) {
    return this.told.get(key) ?? { tag: "assign", key, value: undefined };
  }
}
