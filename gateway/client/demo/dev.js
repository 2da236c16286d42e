// What this page may ask of `gateway dev`: to kill, drain, start and stop workers. A gateway of
// another kind says that it obeys nobody.

/**
 * How many workers there are, or null where nobody obeys pages.
 *
 * @returns {Promise<number | null>}
 */
export async function countWorkers() {
  const response = await fetch("/client/gateway.json");
  if (!response.ok) return null;
  const { dev, workers } = await response.json();
  return dev ? workers : null;
}

/**
 * Returns when it is under way; throws what stands in the way, in words.
 *
 * @param {"kill" | "drain" | "scale"} what
 * @param {number} number index of a worker; for `scale`: how many to run
 */
export async function ask(what, number) {
  const name = what === "scale" ? "workers" : "worker";
  const response = await fetch(`/dev/${what}?${name}=${number}`, { method: "POST" });
  if (!response.ok) throw new Error(`gateway dev says: ${(await response.text()).trim()}`);
}
