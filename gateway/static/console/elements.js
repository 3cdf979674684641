/** Elements made from values: nothing a user said ever becomes markup. */

export const $ = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** The time alone for today, else with its day. */
export function when(text) {
  if (!text) return "";
  const date = new Date(text);
  return date.toDateString() === new Date().toDateString() ? clock.format(date) : moment.format(date);
}

export const exactly = (text) => (text ? moment.format(new Date(text)) : "");

export const count = (number) => number.toLocaleString();
