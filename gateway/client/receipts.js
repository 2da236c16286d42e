// The promises that publish() has given out.

import { PublishError } from "./errors.js";

export class Receipts {
  /** @type {Map<number, { resolve: () => void, reject: (error: Error) => void }>} */
  waiting = new Map();

  /**
   * @param {number} ticket
   * @returns {Promise<void>}
   */
  open(ticket) {
    /** @type {Promise<void>} */
    const receipt = new Promise((resolve, reject) => this.waiting.set(ticket, { resolve, reject }));
    // Who does not look at it must not find "unhandled rejection" in the console.
    receipt.catch(() => {});
    return receipt;
  }

  /**
   * @param {readonly { ticket: number }[]} inputs of an earlier life of the page have no promise
   * @param {import("./errors.js").PublishProblem | null} problem null: applied for good
   * @param {string} [details] of the problem
   */
  settle(inputs, problem, details) {
    for (const { ticket } of inputs) {
      const receipt = this.waiting.get(ticket);
      this.waiting.delete(ticket);
      if (problem === null) receipt?.resolve();
      else receipt?.reject(new PublishError(problem, details));
    }
  }
}
