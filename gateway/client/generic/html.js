// HTM bound to Preact: markup in template strings, no build step.

import htm from "htm";
import { h } from "preact";

export const html = htm.bind(h);
