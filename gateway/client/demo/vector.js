// Numbers and vectors between input fields and messages: parse with an error in words, and print.

/**
 * @param {string} name of the field, for the error
 * @param {string} text
 * @returns {number}
 */
export function parseNumber(name, text) {
  const number = Number(text);
  if (text.trim() === "") throw new Error(`${name} is empty; write a number`);
  if (!Number.isFinite(number)) throw new Error(`${name}: “${text.trim()}” is not a number`);
  return number;
}

/**
 * @param {string} name
 * @param {string} text numbers with commas between them
 * @returns {number[]}
 */
export function parseVector(name, text) {
  if (text.trim() === "") throw new Error(`${name} is empty; write numbers with commas between`);
  return text.split(",").map((part, i) => parseNumber(`${name}, number ${i + 1}`, part));
}

/**
 * @param {any} vector
 * @returns {string}
 */
export function printVector(vector) {
  return Array.isArray(vector) ? vector.join(", ") : "";
}
