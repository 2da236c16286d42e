// From what is typed into the form to a message, and back. Pure; mistakes are sentences.

/** @typedef {import("../message.js").Message} Message */
/** @typedef {{ name: string, text: string }} Field */

/**
 * The message of a tag and its fields. Fields without a name and a value are passed over.
 *
 * @param {string} tag
 * @param {readonly Field[]} fields
 * @returns {Message}
 */
export function fromFields(tag, fields) {
  /** @type {Message} */
  const message = { tag: checkTag(tag.trim()) };
  for (const { name, text } of fields) {
    if (name.trim() === "" && text.trim() === "") continue;
    if (name.trim() === "") throw new Error(`The field with the value “${text.trim()}” has no name.`);
    if (Object.hasOwn(message, name.trim())) throw new Error(`There are two fields “${name.trim()}”.`);
    message[name.trim()] = valueOf(name.trim(), text);
  }
  return message;
}

/**
 * @param {string} text a message as JSON
 * @returns {Message}
 */
export function fromJson(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${reasonOf(error)}.`);
  }
  if (typeof message !== "object" || message === null || Array.isArray(message)) {
    throw new Error('A message is a JSON object, such as {"tag": "add", "n": 1}.');
  }
  if (typeof message.tag !== "string") {
    throw new Error('The message has no "tag" that is a text, such as {"tag": "add", "n": 1}.');
  }
  checkTag(message.tag);
  return message;
}

/**
 * @param {Message} message
 * @returns {{ tag: string, fields: Field[] }}
 */
export function toFields({ tag, ...fields }) {
  return { tag, fields: Object.entries(fields).map(([name, value]) => ({ name, text: textOf(value) })) };
}

/** @param {string} tag */
function checkTag(tag) {
  if (tag === "") throw new Error("A message needs a tag.");
  if (tag.startsWith("_")) throw new Error("Tags that begin with _ are the session's own.");
  return tag;
}

/**
 * What reads as JSON is that; anything else is a text, unless it was clearly meant to be JSON.
 *
 * @param {string} name
 * @param {string} text
 */
function valueOf(name, text) {
  const trimmed = text.trim();
  try {
    return JSON.parse(trimmed);
  } catch (error) {
    if (!/^[[{"]/.test(trimmed)) return text;
    throw new Error(`${name}: this is not JSON: ${reasonOf(error)}.`);
  }
}

/** The text that `valueOf` reads as this value. @param {any} value */
function textOf(value) {
  if (typeof value !== "string") return JSON.stringify(value);
  try {
    JSON.parse(value.trim());
  } catch {
    if (!/^\s*[[{"]/.test(value)) return value;
  }
  return JSON.stringify(value);
}

/** @param {unknown} error */
function reasonOf(error) {
  const reason = error instanceof Error ? error.message : String(error);
  return reason.replace(/\.$/, "");
}
