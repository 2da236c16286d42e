// Where a page's session is to be had.

/**
 * The websocket's address for a page's address: same host, path `/ws`, and the page's `?session=`
 * taken over. Without one the session is the one that this tab had, or that the cookie names.
 *
 * @param {string} page such as `location.href`
 * @returns {string}
 */
export function socketUrl(page) {
  const url = new URL("/ws", page);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const session = new URL(page).searchParams.get("session");
  if (session) url.searchParams.set("session", session);
  return url.href;
}

/**
 * Whether an address asks for a fresh session.
 *
 * @param {string} address
 */
export function asksForNew(address) {
  return new URL(address).searchParams.get("session") === "new";
}

/**
 * The address for coming back. `?session=new` asks for a fresh session each time it is used, and
 * that session has a name from then on; so it is dropped after it was honoured once.
 *
 * @param {string} address
 * @returns {string}
 */
export function returnUrl(address) {
  const url = new URL(address);
  if (asksForNew(address)) url.searchParams.delete("session");
  return url.href;
}
