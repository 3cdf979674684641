/** Format numbers, times and durations in the browser's locale and time zone. */

const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const timeFormat = new Intl.DateTimeFormat(undefined, TIME);
const dateTimeFormat = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium",
  timeStyle: "medium",
  hourCycle: "h23",
});

/** Units of a duration, in seconds, the longest first. */
export const UNITS = [
  [86_400, "days"],
  [3600, "hours"],
  [60, "minutes"],
  [1, "seconds"],
];

/** Format the time of a timestamp of today, and date and time of any other. */
export function formatTime(timestamp) {
  if (!timestamp) return "";
  const date = new Date(timestamp);
  return date.toDateString() === new Date().toDateString() ? timeFormat.format(date) : dateTimeFormat.format(date);
}

export const formatDateTime = (timestamp) => (timestamp ? dateTimeFormat.format(new Date(timestamp)) : "");

export const formatCount = (number) => number.toLocaleString();

/** Format a count with its noun: "1 device", "1,234 devices". */
export const formatQuantity = (number, noun) => `${formatCount(number)} ${noun}${number === 1 ? "" : "s"}`;

export function formatShare(part, total) {
  if (!total) return "–";
  return `${((100 * part) / total).toFixed(part === total || !part ? 0 : 1)} %`;
}

/** Format a measured duration, rounded to two or three digits: "850 ms", "1.2 s", "14 min", "3 days". */
export function formatDuration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return ms < 172_800_000 ? `${Math.round(ms / 3_600_000)} h` : `${Math.round(ms / 86_400_000)} days`;
}

/** Format a configured duration exactly, in the largest unit of which it is a multiple: "3 days", "90 minutes". */
export function formatSeconds(seconds) {
  const [unit, plural] = UNITS.find(([length]) => seconds && seconds % length === 0) ?? UNITS.at(-1);
  return formatQuantity(seconds / unit, plural.slice(0, -1));
}
